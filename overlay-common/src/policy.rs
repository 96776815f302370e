//! Which networks may talk. Absence means no.

use crate::assert_layout;

/// Key of map `policy`: one direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyKey {
    /// Network of the sender.
    pub src_vni: u32,
    /// Network of the receiver.
    pub dst_vni: u32,
}
assert_layout!(PolicyKey, size 8, src_vni @ 0, dst_vni @ 4);

/// Value of map `policy`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// [`ALLOW`]; any other value drops.
    pub action: u32,
}
assert_layout!(Policy, size 4, action @ 0);

/// Packets from the source network to the destination network are routed.
pub const ALLOW: u32 = 1;
