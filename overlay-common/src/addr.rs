//! IP addresses as keys: 16 bytes, an IPv4 address as the IPv6 one that it maps to (`::ffff:a.b.c.d`, RFC 4291
//! section 2.5.5.2), so that one map serves both families.

use crate::assert_layout;

/// An IPv4 or IPv6 address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Addr {
    /// In network order.
    pub bytes: [u8; 16],
}
assert_layout!(Addr, size 16, bytes @ 0);

/// Bits of an [`Addr`] before an IPv4 address.
pub const MAPPED_BITS: u8 = 96;

impl Addr {
    /// An IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn v4(ipv4: [u8; 4]) -> Self {
        let [a, b, c, d] = ipv4;
        Self { bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] }
    }

    /// An IPv6 address.
    #[inline(always)]
    #[must_use]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self { bytes }
    }
}

#[cfg(feature = "user")]
mod std_types {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::Addr;

    impl From<Ipv4Addr> for Addr {
        fn from(ip: Ipv4Addr) -> Self {
            Self::v4(ip.octets())
        }
    }

    impl From<Ipv6Addr> for Addr {
        fn from(ip: Ipv6Addr) -> Self {
            Self::v6(ip.octets())
        }
    }

    impl From<IpAddr> for Addr {
        fn from(ip: IpAddr) -> Self {
            match ip {
                IpAddr::V4(ip) => ip.into(),
                IpAddr::V6(ip) => ip.into(),
            }
        }
    }

    impl From<Addr> for IpAddr {
        fn from(addr: Addr) -> Self {
            Ipv6Addr::from(addr.bytes).to_canonical()
        }
    }

    impl core::fmt::Display for Addr {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            IpAddr::from(*self).fmt(f)
        }
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use std::net::IpAddr;

    use super::Addr;

    #[test]
    fn addresses_of_both_families_round_trip() {
        for text in ["10.0.0.2", "fd00::2", "::1", "0.0.0.0", "255.255.255.255"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Addr::from(ip)), ip);
            assert_eq!(Addr::from(ip).to_string(), text);
        }
    }
}
