//! Broadcast and multicast in networks that were made with it: to whom a packet is copied (head-end replication).
//!
//! The sender's host sends a copy to each of its own containers in the network and one to each other VTEP; a host that gets
//! such a copy hands it to its own containers and to no other VTEP.

use crate::{assert_layout, turns::Pace};

/// Key of map `flood`: the receivers of a network's packets, numbered from 0 without a gap.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FloodKey {
    /// The network.
    pub vni: u32,
    /// [`HERE`] or [`THERE`].
    pub side: u32,
    /// Its number.
    pub number: u32,
}
assert_layout!(FloodKey, size 12, vni @ 0, side @ 4, number @ 8);

/// Containers on this host.
pub const HERE: u32 = 0;
/// Other VTEPs with a part in the network.
pub const THERE: u32 = 1;

/// Value of map `flood`: exactly one of the two is set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receiver {
    /// Host veth of a container on this host, else 0.
    pub ifindex: u32,
    /// Address of another VTEP, else 0.
    pub vtep_addr: [u8; 4],
}
assert_layout!(Receiver, size 8, ifindex @ 0, vtep_addr @ 4);

/// Most receivers of a network on each side. Those beyond it get no copies.
pub const MOST: u32 = 128;

/// A thousand packets a second of each sender, whatever number of copies that makes.
pub const PACE: Pace = Pace { interval_ns: 1_000_000, burst: 256 };

/// In keys of map `flood_turns`: this bit and the index of a VTEP without an agent. Without it the key is a host veth's
/// ifindex.
pub const EXTERNAL_SENDER: u32 = 1 << 31;
