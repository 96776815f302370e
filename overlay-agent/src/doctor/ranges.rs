//! Addresses that mean one thing to the host and another to containers.

use ipnet::Ipv4Net;

use super::{Finding, Patient};
use crate::{
    agent::gateway,
    api::types::NetworkView,
    model::HostRange,
    netlink::{Netlink, Route},
    paths,
};

/// Holds the ranges of networks, and that of host-local addresses, against the host's routes.
pub(super) async fn examine(patient: &Patient, netlink: &Netlink) -> Vec<Finding> {
    let (routes, own) = match (netlink.ipv4_routes().await, netlink.link_by_name(paths::GATEWAY_IFNAME).await)
    {
        (Ok(routes), Ok(own)) => (routes, own.map(|link| link.ifindex)),
        (Err(e), _) | (_, Err(e)) => return vec![Finding::note("ranges", e.to_string(), "try again")],
    };
    let routes = of_others(&routes, own);
    let mut findings = vec![host_range(patient, &routes)];
    if let Ok(agent) = &patient.agent {
        findings.push(subnets(&agent.networks, &routes));
    }
    findings
}

/// What the host reaches in particular, by devices that are not our gateway.
fn of_others(routes: &[Route], own: Option<u32>) -> Vec<Ipv4Net> {
    let leads_elsewhere = |route: &&Route| route.oif.is_some() && route.oif != own;
    let destinations = routes.iter().filter(leads_elsewhere).map(|route| route.destination);
    destinations
        .filter(|net| net.prefix_len() > 0 && !net.addr().is_loopback() && !net.addr().is_multicast())
        .collect()
}

fn host_range(patient: &Patient, routes: &[Ipv4Net]) -> Finding {
    const CHECK: &str = "host-local range";
    if let Some(status) = patient.status() {
        return match (&status.gateway.error, status.gateway.range) {
            (Some(error), _) => {
                Finding::wrong(CHECK, error.clone(), "choose another with --host-range, or see above")
            }
            (None, Some(range)) => Finding::ok(CHECK, range.to_string()),
            (None, None) => Finding::note(CHECK, "there is none yet", "wait for the agent's first pass"),
        };
    }
    let wanted = patient.config.as_ref().ok().and_then(|config| config.host_range).map(HostRange::net);
    match gateway::choose_range(wanted, routes) {
        Ok(range) => Finding::ok(CHECK, format!("{range} is free")),
        Err(e) => Finding::wrong(CHECK, e.to_string(), "choose another with --host-range"),
    }
}

/// Where a network has addresses that the host has a route to, its containers do not reach what is there.
fn subnets(networks: &[NetworkView], routes: &[Ipv4Net]) -> Finding {
    let overlap = |a: &Ipv4Net, b: &Ipv4Net| a.contains(b) || b.contains(a);
    let clashes: Vec<String> = networks
        .iter()
        .filter_map(|network| Some((network, routes.iter().find(|route| overlap(route, &network.subnet))?)))
        .map(|(network, route)| {
            format!("{} ({}) and the host's route to {route}", network.name, network.subnet)
        })
        .collect();
    if clashes.is_empty() {
        return Finding::ok("subnets", "no network has addresses that this host has a route to");
    }
    Finding::note(
        "subnets",
        format!("{} overlap: those containers do not reach what is behind that route", clashes.join(", ")),
        "nothing, if they need not; else make the network anew with another --subnet",
    )
}

#[cfg(test)]
mod tests {
    use overlay_common::vni::Vni;

    use super::*;
    use crate::doctor::Health;

    fn network(subnet: &str) -> NetworkView {
        NetworkView {
            ipv6_subnet: None,
            ipv6_gateway: None,
            name: "net".parse().unwrap(),
            vni: Vni::new(256).unwrap(),
            subnet: subnet.parse().unwrap(),
            gateway: [10, 0, 0, 1].into(),
            ip_range: None,
            mtu: 1450,
            internal: false,
            multicast: false,
            labels: [].into(),
            scope: String::new(),
            endpoints: Vec::new(),
        }
    }

    #[test]
    fn a_network_may_not_have_addresses_of_the_hosts_own_networks() {
        let routes = ["10.0.0.0/16".parse().unwrap()];
        assert_eq!(subnets(&[network("10.1.0.0/24")], &routes).health, Health::Ok);
        let clash = subnets(&[network("10.0.7.0/24")], &routes);
        assert_eq!(clash.health, Health::Note);
        assert!(
            clash.found.contains("net (10.0.7.0/24) and the host's route to 10.0.0.0/16"),
            "{}",
            clash.found
        );
    }

    #[test]
    fn default_routes_and_our_own_device_are_in_nobodys_way() {
        let route = |net: &str, oif| Route { destination: net.parse().unwrap(), oif };
        let routes = [
            route("0.0.0.0/0", Some(2)),
            route("172.18.0.0/16", Some(9)),
            route("127.0.0.0/8", Some(1)),
            route("10.0.0.0/8", Some(2)),
        ];
        assert_eq!(of_others(&routes, Some(9)), ["10.0.0.0/8".parse().unwrap()]);
    }
}
