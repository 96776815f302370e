//! Small peers that make traffic in a namespace and count what comes of it. Every wait has a deadline.

pub mod asker;
pub mod bulk;
pub mod flow;
pub mod name_server;
pub mod ping;
pub mod responder;
pub mod segmented;
mod service;
pub mod sessions;
pub mod storm;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address to bind to for traffic with an address: any of its family.
fn unspecified(to: IpAddr) -> IpAddr {
    if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}
