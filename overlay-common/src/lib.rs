//! What the BPF programs and the agent must agree on, and nothing else.
//!
//! * [`abi`]: names, capacities and the layout version of the pinned maps
//! * [`vni`], [`mac`], [`addr`]: the identifiers that every key is made of
//! * [`config`], [`endpoint`], [`fdb`], [`flood`], [`flow`], [`gateway`], [`limit`], [`neigh`], [`network`], [`policy`], [`route`], [`vtep`],
//!   [`stats`], [`turns`], [`resolver`]: key and value of each map
//! * [`verdict`]: why a packet did not go on
//! * [`wire`]: headers, checksums and header templates, pure functions over bytes
//!
//! Map types are `repr(C)` without implicit padding, `bool`, `enum` or `Option`: the kernel hands out any
//! bit pattern. Fields that hold network byte order end in `_be`; byte arrays are in network order.
#![cfg_attr(not(any(test, feature = "user")), no_std)]

pub mod abi;
pub mod addr;
pub mod config;
pub mod endpoint;
pub mod fdb;
pub mod flood;
pub mod flow;
pub mod gateway;
pub mod limit;
pub mod mac;
pub mod neigh;
pub mod network;
pub mod policy;
pub mod resolver;
pub mod route;
pub mod stats;
pub mod turns;
pub mod verdict;
pub mod vni;
pub mod vtep;
pub mod wire;

/// Asserts at compile time that a map type has exactly the given size and field offsets, so that no
/// layout change goes unnoticed (and none happens without a new [`abi::VERSION`]).
macro_rules! assert_layout {
    ($ty:ty, size $size:literal, $($field:ident @ $offset:literal),+ $(,)?) => {
        const _: () = {
            assert!(size_of::<$ty>() == $size);
            $(assert!(core::mem::offset_of!($ty, $field) == $offset);)+
        };
        #[cfg(feature = "user")]
        // SAFETY: `repr(C)`, made of integers and byte arrays only, every byte accounted for by the
        // named fields above, so any bit pattern is a value and no byte is uninitialised.
        unsafe impl aya::Pod for $ty {}
    };
}
pub(crate) use assert_layout;
