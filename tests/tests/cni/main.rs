//! The CNI plugin, called as a container runtime calls it, on real hosts: every command, every version, everything that can
//! go wrong.
//!
//! * [`attach`]: ADD and DEL as they go well, on two hosts
//! * [`faults`]: processes that die, agents and stores that are away
//! * [`look`]: CHECK, GC, STATUS, VERSION
//! * [`input`]: wrong input of every kind
//! * [`chain`]: other people's plugins behind this one
//! * [`netavark`]: the same program as netavark calls it
//! * [`runtime`]: the runtime

mod attach;
mod chain;
mod faults;
mod input;
mod look;
mod netavark;
mod runtime;
