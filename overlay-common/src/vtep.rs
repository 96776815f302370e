//! Other hosts' tunnel endpoints.

use crate::{assert_layout, wire::OuterHeader};

/// Value of map `vteps`: the outer header, ready made. Index 0 is never used.
///
/// `header.ip.checksum_be` holds the sum over the header's constant fields (not yet complemented), so a
/// packet adds its own length and traffic class only. `header.eth.dst` is zero while the next hop's
/// hardware address is not known.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vtep {
    /// Ethernet, IPv4, UDP and VXLAN headers, and room for the inner Ethernet header.
    pub header: OuterHeader,
    /// Largest IP packet of a container that passes on the way there, in bytes, if that is less than what the underlay device
    /// leaves; else 0.
    pub path_mtu: u16,
    #[doc(hidden)]
    pub pad: [u8; 6],
}
assert_layout!(Vtep, size 72, header @ 0, path_mtu @ 64, pad @ 66);

/// Key of map `vtep_members` (value: [`HOST`] or [`EXTERNAL`]): from where packets of a network may come.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct VtepMemberKey {
    /// The network, or [`ANY_NETWORK`]: the address is some node's VTEP.
    pub vni: u32,
    /// Outer source address.
    pub vtep_addr: [u8; 4],
}
assert_layout!(VtepMemberKey, size 8, vni @ 0, vtep_addr @ 4);

/// Value of map `vtep_members`: a host with an agent, whose programs have checked what its containers send.
pub const HOST: u32 = 1;
/// Value of map `vtep_members`: a machine without an agent. What it sends is checked where it arrives.
pub const EXTERNAL: u32 = 2;

/// Stands for all networks in [`VtepMemberKey`]: tells an unknown VTEP from one outside the network.
pub const ANY_NETWORK: u32 = 0;
