//! The gateway device: the one way between containers and this host's own stack.
//!
//! Each container on this host has a *host-local address*, from a range that never leaves the host. Towards the host
//! its packets carry that address as their source, so that networks may overlap; what the host sends to it is
//! rewritten to the container's own address. Both are stateless, and neither can be forged: the address follows from
//! the device that a packet came from.
//!
//! The host itself has one address in the range, the **agent's address**. Containers know it under their gateway's
//! address: a packet for the gateway arrives on the host as one for the agent's address, with the asker's host-local
//! address as its source, and what the agent's address sends looks to the container as if the gateway had. So a socket
//! bound to the agent's address serves all networks, and `host_owners` says who asks. Containers of internal networks
//! reach [`RESOLVER_PORT`] there and nothing else.

use crate::assert_layout;

/// The host's side of the gateway (map `gateway`, index 0). All zero: there is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gateway {
    /// The device that packets for the host's stack seem to come from.
    pub ifindex: u32,
    /// First address of the range of host-local addresses.
    pub range: [u8; 4],
    /// Bits of an address that are equal in the whole range.
    pub mask: [u8; 4],
    /// The host's own address in the range.
    pub agent: [u8; 4],
    /// Hardware address of the device.
    pub mac: [u8; 6],
    #[doc(hidden)]
    pub pad: [u8; 2],
}
assert_layout!(Gateway, size 24, ifindex @ 0, range @ 4, mask @ 8, agent @ 12, mac @ 16, pad @ 22);

impl Gateway {
    /// Whether an address is host-local, the agent's included.
    #[inline(always)]
    #[must_use]
    pub const fn holds(&self, ipv4: [u8; 4]) -> bool {
        u32::from_ne_bytes(ipv4) & u32::from_ne_bytes(self.mask) == u32::from_ne_bytes(self.range)
    }
}

/// Value of map `host_addrs` (by ifindex of the host veth) and key of map `host_owners` (to that ifindex).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostAddr {
    /// A host-local address.
    pub ipv4: [u8; 4],
}
assert_layout!(HostAddr, size 4, ipv4 @ 0);

/// UDP and TCP port at the gateway's address that containers of internal networks may use too: names.
pub const RESOLVER_PORT: u16 = 53;

/// Whether no packet may be sent to an address beyond its own link: this host's loopback, "this network", multicast and
/// what is reserved (RFC 6890). To the host's stack such a packet could mean the host itself.
#[inline(always)]
#[must_use]
pub const fn is_martian(ipv4: [u8; 4]) -> bool {
    matches!(ipv4[0], 0 | 127 | 224..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_holds_its_first_and_last_address_and_no_other() {
        let gateway = Gateway { range: [172, 18, 0, 0], mask: [255, 255, 0, 0], ..Gateway::default() };
        assert!(gateway.holds([172, 18, 0, 0]) && gateway.holds([172, 18, 255, 255]));
        assert!(!gateway.holds([172, 17, 255, 255]) && !gateway.holds([172, 19, 0, 0]));
    }

    #[test]
    fn loopback_multicast_and_reserved_addresses_are_martian() {
        for martian in
            [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [239, 1, 1, 1], [240, 0, 0, 1], [255; 4]]
        {
            assert!(is_martian(martian), "{martian:?}");
        }
        assert!(!is_martian([8, 8, 8, 8]) && !is_martian([223, 255, 255, 255]));
    }
}
