//! What the programs know of a network.

use crate::assert_layout;

/// Value of map `networks`, keyed by the VNI as `u32`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The gateway's address: source of ICMP errors.
    pub gateway_ipv4: [u8; 4],
    /// The gateway's hardware address: frames to it are routed.
    pub gateway_mac: [u8; 6],
    /// Largest IP packet of the network in bytes.
    pub mtu: u16,
    /// Sum of `FLAG_*`.
    pub flags: u32,
    /// The gateway's IPv6 address; all zero if the network has no IPv6.
    pub gateway_ipv6: [u8; 16],
}
assert_layout!(Network, size 32, gateway_ipv4 @ 0, gateway_mac @ 4, mtu @ 10, flags @ 12, gateway_ipv6 @ 16);

impl Network {
    /// Whether it has IPv6. No unicast address begins with a zero byte.
    #[inline(always)]
    #[must_use]
    pub const fn has_ipv6(&self) -> bool {
        self.gateway_ipv6[0] != 0
    }
}

/// The network has no way to the outside world.
pub const FLAG_INTERNAL: u32 = 1 << 0;
/// Broadcast and multicast are copied to all members.
pub const FLAG_MULTICAST: u32 = 1 << 1;
/// Rules say what passes between it and some other network: what is routed into it is judged here too.
pub const FLAG_RULES: u32 = 1 << 8;
