//! Real Docker engines on this machine, each in a host's namespace.
//!
//! * [`Engine`]: one engine, and how nothing of it stays
//! * [`Packages`]: where its programs are
//! * [`Cgroup`]: what its containers are accounted in

mod cgroup;
mod engine;
mod packages;

pub use self::{
    cgroup::Cgroup,
    engine::{Engine, IMAGE, Running},
    packages::Packages,
};
