//! Neighbour table: which hardware address an address has. The control plane fills it; nothing is learned.

use crate::{addr::Addr, assert_layout};

/// Key of map `neigh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeighKey {
    /// The network.
    pub vni: u32,
    /// A container's or the gateway's address.
    pub addr: Addr,
}
assert_layout!(NeighKey, size 20, vni @ 0, addr @ 4);

/// Value of map `neigh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neigh {
    /// Its hardware address.
    pub mac: [u8; 6],
    #[doc(hidden)]
    pub pad: [u8; 2],
}
assert_layout!(Neigh, size 8, mac @ 0, pad @ 6);

impl Neigh {
    /// The entry that says an address has this hardware address.
    #[must_use]
    pub const fn new(mac: [u8; 6]) -> Self {
        Self { mac, pad: [0; 2] }
    }
}
