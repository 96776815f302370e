//! A container's attachment, as the source of packets.

use crate::{assert_layout, fdb};

/// What it sends has a rate: see map `limits`.
pub const FLAG_EGRESS_LIMIT: u16 = 1 << 0;
/// What it receives has a rate.
pub const FLAG_INGRESS_LIMIT: u16 = 1 << 1;

/// It is the host itself: the other end of the veth is in this namespace.
pub const FLAG_HOST: u16 = 1 << 2;

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
    /// What else is to be looked at: [`FLAG_EGRESS_LIMIT`], [`FLAG_INGRESS_LIMIT`], [`FLAG_HOST`].
    pub flags: u16,
    /// The IPv6 source address that it may use beside its link-local one, which is made from `mac`
    /// ([`Mac::link_local`](crate::mac::Mac::link_local)). All zero: it has no IPv6.
    pub ipv6: [u8; 16],
}

impl Endpoint {
    /// Whether what it sends has a rate.
    #[inline(always)]
    #[must_use]
    pub const fn has_egress_limit(&self) -> bool {
        self.flags & FLAG_EGRESS_LIMIT != 0
    }

    /// What is to be looked at before it receives something, as in its entry of map `fdb`.
    #[inline(always)]
    #[must_use]
    pub const fn flags_as_receiver(&self) -> u32 {
        let limited = if self.flags & FLAG_INGRESS_LIMIT == 0 { 0 } else { fdb::FLAG_LIMITED };
        let host = if self.flags & FLAG_HOST == 0 { 0 } else { fdb::FLAG_HOST };
        limited | host
    }

    /// Whether it has an IPv6 address. No unicast address begins with a zero byte.
    #[inline(always)]
    #[must_use]
    pub const fn has_ipv6(&self) -> bool {
        self.ipv6[0] != 0
    }
}
assert_layout!(Endpoint, size 32, vni @ 0, ipv4 @ 4, mac @ 8, flags @ 14, ipv6 @ 16);
