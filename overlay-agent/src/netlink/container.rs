//! What is done inside a container's network namespace.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::LinkUnspec;

use super::{Link, Netlink, NetlinkError, Replaces, Route, check_ifname, default_route, request::within};
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
    /// Its IPv6 side; without one the interface does without IPv6 altogether.
    pub ipv6: Option<ContainerIpv6>,
    /// Which default route its own may take the place of.
    pub replaces: Replaces,
    /// Its MTU in bytes.
    pub mtu: u16,
}

/// How the IPv6 side of a container's interface is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerIpv6 {
    /// Its address and the length of its subnet's prefix.
    pub address: Ipv6Net,
    /// Where to send what is for no network of the container's; nowhere if absent.
    pub default_gateway: Option<Ipv6Addr>,
}

/// A route in a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerRoute {
    /// Destination.
    pub destination: IpNet,
    /// Next hop.
    pub gateway: IpAddr,
}

/// Configures an interface in a container's namespace and brings it and `lo` up. Returns the routes that
/// it set: a default route that is there and stays is not among them.
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
        set_ipv6(&config.ifname, config.ipv6.is_some())?;
        let loopback = netlink.existing_link(LOOPBACK).await?;
        netlink.set_up(loopback.ifindex).await?;
        netlink.add_ipv4_address(link.ifindex, config.address).await?;
        if let Some(ipv6) = config.ipv6 {
            netlink.add_ipv6_address(link.ifindex, ipv6.address).await?;
        }
        start(&netlink, &link, config.mtu).await?;
        let gateways = config.default_gateway.map(IpAddr::from).into_iter();
        let mut routes = Vec::new();
        for gateway in gateways.chain(config.ipv6.and_then(|ipv6| ipv6.default_gateway).map(IpAddr::from)) {
            routes.extend(default_route::set(&netlink, link.ifindex, gateway, &config.replaces).await?);
        }
        Ok(routes)
    })
    .await
}

/// An interface of a container as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerState {
    /// The device.
    pub link: Link,
    /// Its addresses of both families.
    pub addresses: Vec<IpNet>,
    /// Destinations that are reached through it.
    pub routes: Vec<IpNet>,
}

/// Looks at an interface in a container's namespace; `None` if there is none of that name.
///
/// # Errors
/// If the kernel cannot be asked.
pub async fn container_state(ns: &NetnsHandle, ifname: &str) -> Result<Option<ContainerState>, NetlinkError> {
    let ifname = ifname.to_owned();
    within(ns, async move |netlink| {
        let Some(link) = netlink.link_by_name(&ifname).await? else { return Ok(None) };
        let ipv4 = netlink.ipv4_addresses(link.ifindex).await?.into_iter().map(IpNet::V4);
        let ipv6 = netlink.ipv6_addresses(link.ifindex).await?.into_iter().map(IpNet::V6);
        let addresses = ipv4.chain(ipv6).collect();
        let through = |route: &Route| route.oif == Some(link.ifindex);
        let ipv4 = netlink.ipv4_routes().await?.into_iter().filter(through);
        let ipv4 = ipv4.map(|route| IpNet::V4(route.destination));
        let ipv6 = netlink.ipv6_destinations(link.ifindex).await?.into_iter().map(IpNet::V6);
        let routes = ipv4.chain(ipv6).collect();
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

/// Sets the MTU of an interface in a namespace.
///
/// # Errors
/// If there is no such interface or the kernel refuses.
pub async fn set_mtu(ns: &NetnsHandle, ifname: &str, mtu: u16) -> Result<(), NetlinkError> {
    let ifname = ifname.to_owned();
    within(ns, async move |netlink| {
        let link = netlink.existing_link(&ifname).await?;
        netlink.set_mtu(link.ifindex, mtu.into()).await
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

/// Of a container's end what is ours to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerEnd {
    /// Generic receive offload is on.
    pub gro: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// Looks at an interface in a namespace; `None` if it is not the other end of the veth with index `peer`.
///
/// # Errors
/// If the kernel cannot be asked.
pub async fn container_end(
    ns: &NetnsHandle,
    ifname: &str,
    peer: u32,
) -> Result<Option<ContainerEnd>, NetlinkError> {
    let ifname = ifname.to_owned();
    within(ns, async move |netlink| {
        if !netlink.is_peer(&ifname, peer).await? {
            return Ok(None);
        }
        let Some(link) = netlink.link_by_name(&ifname).await? else { return Ok(None) };
        Ok(Some(ContainerEnd { gro: netlink.has_gro(&ifname).await?, mtu: link.mtu }))
    })
    .await
}

async fn start(netlink: &Netlink, link: &Link, mtu: u16) -> Result<(), NetlinkError> {
    let message = LinkUnspec::new_with_index(link.ifindex).mtu(mtu.into()).up().build();
    netlink.set_link(&format!("bring interface {:?} up with an MTU of {mtu}", link.name), message).await
}

/// What an interface is told of IPv6. Its link-local address is the one that its hardware address makes, since the data
/// path lets it use no other; there are no routers to ask, and none to listen to.
const IPV6_ON: [(&str, &str); 4] =
    [("addr_gen_mode", "0"), ("accept_ra", "0"), ("router_solicitations", "0"), ("disable_ipv6", "0")];
const IPV6_OFF: [(&str, &str); 1] = [("disable_ipv6", "1")];

/// `/proc/sys/net` is that of the thread's namespace, wherever `/proc` was mounted.
fn set_ipv6(ifname: &str, on: bool) -> Result<(), NetlinkError> {
    let settings: &[_] = if on { &IPV6_ON } else { &IPV6_OFF };
    for (setting, value) in settings {
        let path = format!("/proc/sys/net/ipv6/conf/{ifname}/{setting}");
        match fs::write(&path, value) {
            // No IPv6 in this kernel: nothing to disable.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !on => {}
            result => result.map_err(|source| NetlinkError::Sysctl { path, source })?,
        }
    }
    Ok(())
}
