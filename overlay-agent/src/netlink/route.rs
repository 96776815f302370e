//! Routes: the way to a VTEP, and which device leads out of the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType},
};
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;

use super::{Netlink, NetlinkError, request::Mode};

/// What the kernel says when no route leads to an address.
const NO_ROUTE: [Errno; 4] = [Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::EACCES, Errno::EINVAL];

/// The way of a packet to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the device that it leaves by.
    pub oif: u32,
    /// The router that it goes to, if the destination itself is not on the link.
    pub gateway: Option<Ipv4Addr>,
    /// The source address that the kernel would choose.
    pub prefsrc: Option<Ipv4Addr>,
    /// The largest IP packet on this way in bytes, where a route or a path discovery says so.
    pub mtu: Option<u32>,
}

/// A destination that a route, of whatever table and kind, speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whom it leads to.
    pub destination: Ipv4Net,
    /// Index of the device that it leads through, if one.
    pub oif: Option<u32>,
}

impl NextHop {
    /// Whose hardware address the packet gets: the router's, or that of `destination` itself.
    #[must_use]
    pub fn neighbour(&self, destination: Ipv4Addr) -> Ipv4Addr {
        self.gateway.unwrap_or(destination)
    }
}

impl Netlink {
    /// The way to an IPv4 address.
    ///
    /// # Errors
    /// [`NetlinkError::NoRoute`] if there is none over IPv4, or the address is this host's own.
    pub async fn next_hop(&self, destination: Ipv4Addr) -> Result<NextHop, NetlinkError> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(destination, 32).build();
        let operation = format!("find the route to {destination}");
        match self.get(&operation, RouteNetlinkMessage::GetRoute(request)).await {
            Ok(RouteNetlinkMessage::NewRoute(route)) => {
                next_hop_of(&route).ok_or(NetlinkError::NoRoute(destination))
            }
            Ok(_) => Err(NetlinkError::NoAnswer { operation }),
            Err(error) if error.errno().is_some_and(|errno| NO_ROUTE.contains(&errno)) => {
                Err(NetlinkError::NoRoute(destination))
            }
            Err(error) => Err(error),
        }
    }

    /// Index of the device that the best IPv4 default route leads through.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn default_route_device(&self) -> Result<Option<u32>, NetlinkError> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes = self.list("list IPv4 routes", RouteNetlinkMessage::GetRoute(request)).await?;
        let best = routes.into_iter().filter_map(default_route).min_by_key(priority);
        Ok(best.as_ref().and_then(device))
    }

    /// All IPv4 routes of the namespace.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn ipv4_routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes = self.list("list IPv4 routes", RouteNetlinkMessage::GetRoute(request)).await?;
        Ok(routes.into_iter().filter_map(ipv4_route).collect())
    }

    /// Destinations that IPv6 routes through a device lead to.
    pub(super) async fn ipv6_destinations(&self, ifindex: u32) -> Result<Vec<Ipv6Net>, NetlinkError> {
        let routes = self.list_ipv6_routes().await?.into_iter().filter_map(message_of);
        Ok(routes
            .filter(|route| device(route) == Some(ifindex))
            .filter_map(|r| ipv6_destination(&r))
            .collect())
    }

    /// Index of the device that the best IPv6 default route leads through.
    pub(super) async fn default_ipv6_route_device(&self) -> Result<Option<u32>, NetlinkError> {
        let routes = self.list_ipv6_routes().await?;
        let best = routes.into_iter().filter_map(default_route).min_by_key(priority);
        Ok(best.as_ref().and_then(device))
    }

    async fn list_ipv6_routes(&self) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let request = RouteMessageBuilder::<Ipv6Addr>::new().build();
        self.list("list IPv6 routes", RouteNetlinkMessage::GetRoute(request)).await
    }

    /// Makes a default route, in the place of the one that has been made this way before.
    pub(super) async fn set_default_route(&self, ifindex: u32, gateway: IpAddr) -> Result<(), NetlinkError> {
        let message = match gateway {
            IpAddr::V4(gateway) => {
                RouteMessageBuilder::<Ipv4Addr>::new().output_interface(ifindex).gateway(gateway).build()
            }
            IpAddr::V6(gateway) => {
                RouteMessageBuilder::<Ipv6Addr>::new().output_interface(ifindex).gateway(gateway).build()
            }
        };
        let operation = format!("set the default route through {gateway}");
        self.change(&operation, Mode::CreateOrReplace, RouteNetlinkMessage::NewRoute(message)).await
    }
}

/// `None` for what does not leave the host, and for an IPv6 router: its neighbours are not ours to know.
fn next_hop_of(route: &RouteMessage) -> Option<NextHop> {
    if route.header.kind != RouteType::Unicast
        || route.attributes.iter().any(|a| matches!(a, RouteAttribute::Via(_)))
    {
        return None;
    }
    let mut hop = NextHop { oif: device(route)?, gateway: None, prefsrc: None, mtu: None };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => hop.gateway = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => hop.prefsrc = Some(*address),
            RouteAttribute::Metrics(metrics) => hop.mtu = metrics.iter().find_map(mtu),
            _ => {}
        }
    }
    Some(hop)
}

fn message_of(message: RouteNetlinkMessage) -> Option<RouteMessage> {
    let RouteNetlinkMessage::NewRoute(route) = message else { return None };
    Some(route)
}

fn ipv6_destination(route: &RouteMessage) -> Option<Ipv6Net> {
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(*address),
        _ => None,
    });
    let destination = destination.unwrap_or(Ipv6Addr::UNSPECIFIED);
    Ipv6Net::new(destination, route.header.destination_prefix_length).ok()
}

fn ipv4_route(message: RouteNetlinkMessage) -> Option<Route> {
    let route = message_of(message)?;
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    let destination = destination.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let destination = Ipv4Net::new(destination, route.header.destination_prefix_length).ok()?;
    Some(Route { destination, oif: device(&route) })
}

fn mtu(metric: &RouteMetric) -> Option<u32> {
    match metric {
        RouteMetric::Mtu(bytes) if *bytes != 0 => Some(*bytes),
        _ => None,
    }
}

fn default_route(message: RouteNetlinkMessage) -> Option<RouteMessage> {
    let route = message_of(message)?;
    let header = &route.header;
    let leads_out = header.destination_prefix_length == 0 && header.kind == RouteType::Unicast;
    (leads_out && header.table == RouteHeader::RT_TABLE_MAIN).then_some(route)
}

/// A route without a priority has the best one.
fn priority(route: &RouteMessage) -> u32 {
    let priority = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(value) => Some(*value),
        _ => None,
    });
    priority.unwrap_or(0)
}

/// The device, or the first one of several.
fn device(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(ifindex) => Some(*ifindex),
        RouteAttribute::MultiPath(hops) => hops.first().map(|hop| hop.interface_index),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use netlink_packet_route::route::RouteVia;

    use super::*;

    fn route() -> RouteMessageBuilder<Ipv4Addr> {
        RouteMessageBuilder::<Ipv4Addr>::new()
    }

    #[test]
    fn a_next_hop_has_what_the_route_says() {
        let gateway = Ipv4Addr::new(192, 0, 2, 1);
        let mut message = route().output_interface(3).gateway(gateway).build();
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]));
        let hop = next_hop_of(&message).unwrap();
        assert_eq!(hop, NextHop { oif: 3, gateway: Some(gateway), prefsrc: None, mtu: Some(1400) });
        assert_eq!(hop.neighbour(Ipv4Addr::new(198, 51, 100, 9)), gateway);
    }

    #[test]
    fn on_the_link_the_destination_is_the_neighbour() {
        let hop = next_hop_of(&route().output_interface(3).build()).unwrap();
        let destination = Ipv4Addr::new(192, 0, 2, 9);
        assert_eq!((hop.gateway, hop.neighbour(destination)), (None, destination));
    }

    #[test]
    fn local_addresses_and_ipv6_routers_are_no_next_hop() {
        assert_eq!(next_hop_of(&route().output_interface(1).kind(RouteType::Local).build()), None);
        let mut via = route().output_interface(3).build();
        via.attributes.push(RouteAttribute::Via(RouteVia::Inet6(Ipv6Addr::LOCALHOST)));
        assert_eq!(next_hop_of(&via), None);
    }

    #[test]
    fn only_a_unicast_route_of_the_main_table_to_everywhere_leads_out() {
        let is_default =
            |message: RouteMessage| default_route(RouteNetlinkMessage::NewRoute(message)).is_some();
        assert!(is_default(route().build()));
        assert!(!is_default(route().destination_prefix(Ipv4Addr::new(10, 0, 0, 0), 8).build()));
        assert!(!is_default(route().kind(RouteType::BlackHole).build()));
        assert!(!is_default(route().table_id(100).build()));
    }
}
