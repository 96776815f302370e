//! A container's attachment, as the source of packets.

use crate::assert_layout;

/// Who sits behind a host veth (map `endpoints`, keyed by the veth's ifindex as `u32`).
///
/// Identity comes from the device a packet arrived on, never from anything a container wrote.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The network it belongs to.
    pub vni: u32,
    /// The only IPv4 source address it may use.
    pub ipv4: [u8; 4],
    /// The only hardware address it may use.
    pub mac: [u8; 6],
    #[doc(hidden)]
    pub pad: [u8; 2],
    /// The IPv6 source address that it may use beside its link-local one, which is made from `mac`
    /// ([`Mac::link_local`](crate::mac::Mac::link_local)). All zero: it has no IPv6.
    pub ipv6: [u8; 16],
}

impl Endpoint {
    /// Whether it has an IPv6 address. No unicast address begins with a zero byte.
    #[inline(always)]
    #[must_use]
    pub const fn has_ipv6(&self) -> bool {
        self.ipv6[0] != 0
    }
}
assert_layout!(Endpoint, size 32, vni @ 0, ipv4 @ 4, mac @ 8, pad @ 14, ipv6 @ 16);
