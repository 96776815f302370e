//! What the demo, the tests and the benchmarks share with `cargo xtask`: where things lie in the build tree,
//! how other programs are run and downloaded, and the real store servers.

pub mod layout;
pub mod packages;
pub mod process;
pub mod progress;
pub mod servers;
pub mod unpacked;
