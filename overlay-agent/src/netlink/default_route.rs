//! A container's default route: one of each family, through one of its interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Netlink, NetlinkError, container::ContainerRoute, request::within};
use crate::netns::NetnsHandle;

/// A default route that a container is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Name of the interface that it leads through.
    pub ifname: String,
    /// Next hop.
    pub gateway: IpAddr,
}

/// What of its family a new default route may take the place of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Replaces {
    /// None: one that is there stays, and the new one is not set.
    #[default]
    Nothing,
    /// One through an interface of these names.
    Through(Vec<String>),
    /// Any.
    Anything,
}

impl Replaces {
    async fn includes(&self, netlink: &Netlink, ifindex: u32) -> Result<bool, NetlinkError> {
        let Self::Through(ifnames) = self else { return Ok(*self == Self::Anything) };
        let link = netlink.link_by_index(ifindex).await?;
        Ok(link.is_some_and(|link| ifnames.contains(&link.name)))
    }
}

/// Sets default routes in a container's namespace, where there is none or it may be replaced; returns those that were set.
///
/// # Errors
/// If there is no such interface or the kernel refuses.
pub async fn set_default_routes(
    ns: &NetnsHandle,
    routes: Vec<DefaultRoute>,
    replaces: Replaces,
) -> Result<Vec<ContainerRoute>, NetlinkError> {
    within(ns, async move |netlink| {
        let mut made = Vec::new();
        for DefaultRoute { ifname, gateway } in routes {
            let ifindex = netlink.existing_link(&ifname).await?.ifindex;
            made.extend(set(&netlink, ifindex, gateway, &replaces).await?);
        }
        Ok(made)
    })
    .await
}

/// The same for one, through an interface of the namespace that `netlink` is of.
pub(super) async fn set(
    netlink: &Netlink,
    ifindex: u32,
    gateway: IpAddr,
    replaces: &Replaces,
) -> Result<Option<ContainerRoute>, NetlinkError> {
    let there = match gateway {
        IpAddr::V4(_) => netlink.default_route_device().await?,
        IpAddr::V6(_) => netlink.default_ipv6_route_device().await?,
    };
    if let Some(there) = there
        && !replaces.includes(netlink, there).await?
    {
        return Ok(None);
    }
    netlink.set_default_route(ifindex, gateway).await?;
    let everywhere = match gateway {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let destination = IpNet::new(everywhere, 0).expect("0 is a length of every family's");
    Ok(Some(ContainerRoute { destination, gateway }))
}
