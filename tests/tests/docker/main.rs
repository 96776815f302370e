//! Docker's driver with real engines, one on each of two hosts.

mod compose;
mod dock;
mod ipv6;
mod options;
mod restarts;
mod walk;
