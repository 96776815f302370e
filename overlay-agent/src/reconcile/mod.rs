//! From the cluster's state to the content of the BPF maps: pure functions, no I/O.
//!
//! * [`tables`]: the content of all maps as one value
//! * [`mod@desired`]: what it should be
//! * [`host_addrs`]: the addresses that containers have on this host
//! * [`rules`]: what may pass between networks
//! * [`plan`]: the ordered changes from what it is to what it should be
//! * [`ledger`]: what it should be, kept from pass to pass
//!
//! Level-triggered: a pass needs no memory of what happened, only of what is.

pub mod desired;
mod flood;
pub mod host_addrs;
pub mod ledger;
pub mod plan;
pub mod rules;
pub mod tables;
#[cfg(test)]
mod tests;

pub use desired::{Kept, Local, desired};
pub use ledger::Ledger;
pub use plan::Plan;
pub use tables::{RouteTarget, Tables};
