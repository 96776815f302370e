//! From a destination to the network that holds it, as one sender's network sees it.

use crate::{addr::Addr, assert_layout};

/// Data part of the keys of map `routes` (an LPM trie). Prefix lengths count the 32 bits of the VNI.
///
/// Subnets of different networks may overlap, so a destination means nothing without the asker: entries
/// of the asker's own VNI come first (its own subnet and those that policy allows), then those under
/// [`ANY_NETWORK`], which tell a destination in a network that policy keeps apart from one in none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// Network of the sender in network byte order, or [`ANY_NETWORK`].
    pub scope_vni_be: u32,
    /// Destination.
    pub addr: Addr,
}
assert_layout!(RouteKey, size 20, scope_vni_be @ 0, addr @ 4);

/// Scope of the routes that hold for every sender. No VNI is 0.
pub const ANY_NETWORK: u32 = 0;
/// Bits of a [`RouteKey`] before the address.
pub const SCOPE_BITS: u32 = 32;
