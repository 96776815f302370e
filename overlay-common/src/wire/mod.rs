//! Wire formats: layouts and arithmetic, without I/O, so that they are tested on the host.
//!
//! Header types have an alignment of at most two and no `packed`, so the BPF back-end loads and stores
//! them in 16-bit pieces or wider instead of byte by byte.

pub mod checksum;
pub mod headers;
pub mod icmp;
pub mod icmpv6;
pub mod ipv6;
pub mod outer;
pub mod tcp;

pub use headers::{Arp, Ethernet, Ipv4, Udp, Vxlan};
pub use ipv6::Ipv6;
pub use outer::OuterHeader;
