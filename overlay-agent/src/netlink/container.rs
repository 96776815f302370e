//! What is done inside a container's network namespace.

use std::{fs, io, net::Ipv4Addr};

use ipnet::Ipv4Net;
use rtnetlink::LinkUnspec;

use super::{Link, Netlink, NetlinkError, Route, check_ifname, request::within};
use crate::netns::NetnsHandle;

const LOOPBACK: &str = "lo";

/// How a container's interface is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerConfig {
    /// Its name.
    pub ifname: String,
    /// Its address and the length of its subnet's prefix.
    pub address: Ipv4Net,
    /// Where to send what is for no network of the container's; nowhere if absent.
    pub default_gateway: Option<Ipv4Addr>,
    /// Whether the interface does without IPv6 altogether.
    pub disable_ipv6: bool,
    /// Its MTU in bytes.
    pub mtu: u16,
}

/// A route in a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerRoute {
    /// Destination.
    pub destination: Ipv4Net,
    /// Next hop.
    pub gateway: Ipv4Addr,
}

/// Configures an interface in a container's namespace and brings it and `lo` up. Returns the routes that
/// it set: a default route that is there already stays, and is not among them.
///
/// # Errors
/// If there is no such interface or the kernel refuses. What was done stays, but for the loopback
/// device it goes with the interface: removing that takes everything back.
pub async fn configure(
    ns: &NetnsHandle,
    config: ContainerConfig,
) -> Result<Vec<ContainerRoute>, NetlinkError> {
    within(ns, async move |netlink| {
        // The name becomes part of a path.
        check_ifname(&config.ifname)?;
        let link = netlink.existing_link(&config.ifname).await?;
        if config.disable_ipv6 {
            disable_ipv6(&config.ifname)?;
        }
        let loopback = netlink.existing_link(LOOPBACK).await?;
        netlink.set_up(loopback.ifindex).await?;
        netlink.add_ipv4_address(link.ifindex, config.address).await?;
        start(&netlink, &link, config.mtu).await?;
        match config.default_gateway {
            Some(gateway) => add_default_route(&netlink, link.ifindex, gateway).await,
            None => Ok(Vec::new()),
        }
    })
    .await
}

/// An interface of a container as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerState {
    /// The device.
    pub link: Link,
    /// Its addresses.
    pub addresses: Vec<Ipv4Net>,
    /// Destinations that are reached through it.
    pub routes: Vec<Ipv4Net>,
}

/// Looks at an interface in a container's namespace; `None` if there is none of that name.
///
/// # Errors
/// If the kernel cannot be asked.
pub async fn container_state(ns: &NetnsHandle, ifname: &str) -> Result<Option<ContainerState>, NetlinkError> {
    let ifname = ifname.to_owned();
    within(ns, async move |netlink| {
        let Some(link) = netlink.link_by_name(&ifname).await? else { return Ok(None) };
        let addresses = netlink.ipv4_addresses(link.ifindex).await?;
        let through = |route: &Route| route.oif == Some(link.ifindex);
        let routes = netlink.ipv4_routes().await?.into_iter().filter(through);
        let routes = routes.map(|route| route.destination).collect();
        Ok(Some(ContainerState { link, addresses, routes }))
    })
    .await
}

/// Names of the interfaces in a namespace.
///
/// # Errors
/// If they cannot be listed.
pub async fn interfaces(ns: &NetnsHandle) -> Result<Vec<String>, NetlinkError> {
    within(ns, async |netlink| Ok(netlink.links().await?.into_iter().map(|link| link.name).collect())).await
}

/// Name of the interface in a namespace that is the other end of the veth with index `peer`; `None` if it is not there.
///
/// # Errors
/// If the kernel cannot be asked.
pub async fn interface_of(ns: &NetnsHandle, peer: u32) -> Result<Option<String>, NetlinkError> {
    within(ns, async move |netlink| {
        for link in netlink.links().await? {
            if netlink.is_peer(&link.name, peer).await? {
                return Ok(Some(link.name));
            }
        }
        Ok(None)
    })
    .await
}

/// Turns generic receive offload of an interface in a namespace on or off.
///
/// # Errors
/// If there is no such interface or the device refuses.
pub async fn set_gro(ns: &NetnsHandle, ifname: &str, on: bool) -> Result<(), NetlinkError> {
    let ifname = ifname.to_owned();
    within(ns, async move |netlink| netlink.set_gro(&ifname, on).await).await
}

/// Whether generic receive offload of an interface in a namespace is on; `None` if that interface is not the
/// other end of the veth with index `peer`.
///
/// # Errors
/// If the kernel cannot be asked.
pub async fn has_gro(ns: &NetnsHandle, ifname: &str, peer: u32) -> Result<Option<bool>, NetlinkError> {
    let ifname = ifname.to_owned();
    within(ns, async move |netlink| match netlink.is_peer(&ifname, peer).await? {
        true => netlink.has_gro(&ifname).await.map(Some),
        false => Ok(None),
    })
    .await
}

async fn start(netlink: &Netlink, link: &Link, mtu: u16) -> Result<(), NetlinkError> {
    let message = LinkUnspec::new_with_index(link.ifindex).mtu(mtu.into()).up().build();
    netlink.set_link(&format!("bring interface {:?} up with an MTU of {mtu}", link.name), message).await
}

async fn add_default_route(
    netlink: &Netlink,
    ifindex: u32,
    gateway: Ipv4Addr,
) -> Result<Vec<ContainerRoute>, NetlinkError> {
    if netlink.default_route_device().await?.is_some() {
        return Ok(Vec::new());
    }
    netlink.add_default_route(ifindex, gateway).await?;
    Ok(vec![ContainerRoute { destination: Ipv4Net::default(), gateway }])
}

/// `/proc/sys/net` is that of the thread's namespace, wherever `/proc` was mounted.
fn disable_ipv6(ifname: &str) -> Result<(), NetlinkError> {
    let path = format!("/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6");
    match fs::write(&path, "1") {
        // No IPv6 in this kernel: nothing to disable.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|source| NetlinkError::Sysctl { path, source }),
    }
}
