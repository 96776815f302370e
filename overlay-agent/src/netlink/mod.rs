//! The kernel's links, addresses, routes and neighbours, over rtnetlink and ethtool's netlink.
//!
//! Nothing here reads `/sys/class/net`: in a process that was entered with `nsenter --net`, sysfs still
//! shows the namespace of its mount. `/proc/sys/net` does follow the thread.
//!
//! A request that finds its subject gone has succeeded if it was to remove it: see
//! [`NetlinkError::is_gone`].

mod bridge;
mod container;
mod default_route;
mod error;
mod features;
mod gateway;
mod link;
mod monitor;
mod neighbour;
mod request;
mod route;
pub mod sysctl;
mod tunnel;
mod veth;

pub use self::{
    container::{
        ContainerConfig, ContainerEnd, ContainerIpv6, ContainerRoute, ContainerState, configure,
        container_end, container_state, interface_of, interfaces, set_gro, set_mtu,
    },
    default_route::{DefaultRoute, Replaces, set_default_routes},
    error::{NetlinkError, VethSide},
    gateway::GatewayPair,
    link::{InvalidIfname, Link, check_ifname},
    monitor::{EventStream, NetEvent, monitor},
    neighbour::Neighbour,
    request::Netlink,
    route::{NextHop, Route},
    tunnel::TUNNEL_MTU,
    veth::{ContainerLink, HOST_VETH_MTU},
};
