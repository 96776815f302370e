//! Forwarding database: where a hardware address lives.

use crate::assert_layout;

/// Key of map `fdb`. The VNI comes first: equal addresses in two networks are two entries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbKey {
    /// The network.
    pub vni: u32,
    /// The destination.
    pub mac: [u8; 6],
    #[doc(hidden)]
    pub pad: [u8; 2],
}
assert_layout!(FdbKey, size 12, vni @ 0, mac @ 4, pad @ 10);

impl FdbKey {
    /// Key of one hardware address in one network.
    #[must_use]
    pub const fn new(vni: u32, mac: [u8; 6]) -> Self {
        Self { vni, mac, pad: [0; 2] }
    }
}

/// Value of map `fdb`: exactly one of `ifindex` and `vtep` is set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FdbEntry {
    /// Moves every other field, as a change of layout would.
    #[cfg(feature = "next-layout")]
    #[doc(hidden)]
    pub moves: u32,
    /// Host veth of a container on this host, else 0.
    pub ifindex: u32,
    /// Index in `vteps` of the host where it is, else 0.
    pub vtep: u32,
    /// Address of that VTEP, for whoever reads the map; the programs use `vtep`.
    pub vtep_addr: [u8; 4],
    /// What else is to be looked at: [`FLAG_LIMITED`], [`FLAG_HOST`].
    pub flags: u32,
}
#[cfg(not(feature = "next-layout"))]
assert_layout!(FdbEntry, size 16, ifindex @ 0, vtep @ 4, vtep_addr @ 8, flags @ 12);
#[cfg(feature = "next-layout")]
assert_layout!(FdbEntry, size 20, moves @ 0, ifindex @ 4, vtep @ 8, vtep_addr @ 12, flags @ 16);

/// What the container receives has a rate: see map `limits`.
pub const FLAG_LIMITED: u32 = 1 << 0;
/// It is the host itself: the other end of the veth is in this namespace.
pub const FLAG_HOST: u32 = 1 << 1;

impl FdbEntry {
    /// What each kind of entry is made from.
    const NOWHERE: Self = Self {
        #[cfg(feature = "next-layout")]
        moves: 0,
        ifindex: 0,
        vtep: 0,
        vtep_addr: [0; 4],
        flags: 0,
    };

    /// A container on this host.
    #[must_use]
    pub const fn local(ifindex: u32) -> Self {
        Self { ifindex, ..Self::NOWHERE }
    }

    /// The same, with these flags.
    #[must_use]
    pub const fn with_flags(self, flags: u32) -> Self {
        Self { flags, ..self }
    }

    /// A container behind another VTEP.
    #[must_use]
    pub const fn remote(vtep: u32, vtep_addr: [u8; 4]) -> Self {
        Self { vtep, vtep_addr, ..Self::NOWHERE }
    }
}
