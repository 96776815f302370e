//! Ethernet hardware address.

/// An Ethernet hardware address in transmission order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Length in bytes.
    pub const LEN: usize = 6;

    /// The locally administered address that Docker derives from an IPv4 address: `02:42` and its four bytes.
    #[must_use]
    pub const fn from_ipv4(ip: [u8; 4]) -> Self {
        Self([0x02, 0x42, ip[0], ip[1], ip[2], ip[3]])
    }

    /// The link-local IPv6 address that is made from it: `fe80::` and the modified EUI-64 (RFC 4291 appendix A).
    #[inline(always)]
    #[must_use]
    pub const fn link_local(self) -> [u8; 16] {
        let [a, b, c, d, e, f] = self.0;
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
    }

    /// The hardware address that a link-local address was made from, if it was.
    #[inline(always)]
    #[must_use]
    pub const fn of_link_local(ipv6: [u8; 16]) -> Option<Self> {
        match ipv6 {
            [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] => {
                Some(Self([a ^ 2, b, c, d, e, f]))
            }
            _ => None,
        }
    }

    /// Whether this is a group address (broadcast or multicast), which no endpoint may own.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether this is 00:00:00:00:00:00, which stands for "not known".
    #[must_use]
    pub const fn is_zero(self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

#[cfg(feature = "user")]
mod text {
    use super::Mac;

    /// A text that is no hardware address.
    #[derive(Debug, thiserror::Error, PartialEq, Eq)]
    #[error("{0:?} is no MAC address: write six hexadecimal bytes, as in 02:42:0a:00:00:02")]
    pub struct InvalidMac(pub String);

    impl core::str::FromStr for Mac {
        type Err = InvalidMac;
        fn from_str(text: &str) -> Result<Self, InvalidMac> {
            let invalid = || InvalidMac(text.to_owned());
            let mut bytes = [0; 6];
            let mut parts = text.split(':');
            for byte in &mut bytes {
                let part = parts
                    .next()
                    .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
                    .ok_or_else(invalid)?;
                *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
            }
            parts.next().is_none().then_some(Self(bytes)).ok_or_else(invalid)
        }
    }

    impl core::fmt::Display for Mac {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            let [a, b, c, d, e, g] = self.0;
            write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
        }
    }

    impl TryFrom<String> for Mac {
        type Error = InvalidMac;
        fn try_from(text: String) -> Result<Self, InvalidMac> {
            text.parse()
        }
    }

    impl serde::Serialize for Mac {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(self)
        }
    }

    impl<'de> serde::Deserialize<'de> for Mac {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = <String as serde::Deserialize>::deserialize(deserializer)?;
            text.parse().map_err(serde::de::Error::custom)
        }
    }
}
#[cfg(feature = "user")]
pub use text::InvalidMac;

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::Mac;

    #[test]
    fn text_forms_round_trip_and_anything_else_is_refused() {
        let mac: Mac = "02:42:0A:00:00:02".parse().unwrap();
        assert_eq!(mac, Mac::from_ipv4([10, 0, 0, 2]));
        assert_eq!(mac.to_string(), "02:42:0a:00:00:02");
        let link_local = std::net::Ipv6Addr::from(mac.link_local());
        assert_eq!(link_local.to_string(), "fe80::42:aff:fe00:2");
        assert_eq!(Mac::of_link_local(link_local.octets()), Some(mac));
        assert_eq!(Mac::of_link_local([0xfe; 16]), None);
        for bad in [
            "",
            "02:42:0a:00:00",
            "02:42:0a:00:00:02:03",
            "2:42:0a:00:00:02",
            "02:42:0a:00:00:zz",
            "+2:42:0a:00:00:02",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?}");
        }
    }
}
