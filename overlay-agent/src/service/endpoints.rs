//! Showing containers, on all nodes.

use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv6Net};

use super::{Context, Result, ServiceError, views};
use crate::{
    agent::lock,
    api::types::{EndpointView, LocalEndpointView, NetnsRef},
    model::{Endpoint, Name, Network, Owner, cluster::Versioned},
    netns::{self, NetnsHandle},
    paths,
};

/// All endpoints.
pub fn list(context: &Context) -> Result<Vec<EndpointView>> {
    views_of(context, |_| true)
}

/// The endpoints of a network.
pub fn of_network(context: &Context, network: &Name) -> Result<Vec<EndpointView>> {
    views_of(context, |e| e.network == *network)
}

/// The endpoints of a node.
pub fn of_node(context: &Context, node: &Name) -> Result<Vec<EndpointView>> {
    views_of(context, |e| e.node == *node)
}

/// The members without an agent.
pub fn externals(context: &Context) -> Result<Vec<EndpointView>> {
    views_of(context, Endpoint::is_external)
}

/// The endpoints with this name or id.
pub fn inspect(context: &Context, name_or_id: &str) -> Result<Vec<EndpointView>> {
    let found = views_of(context, |e| e.name.as_str() == name_or_id || e.id.as_str() == name_or_id)?;
    if found.is_empty() {
        return Err(ServiceError::NotFound(format!(
            "there is no endpoint {name_or_id}: see `overlay endpoint ls`"
        )));
    }
    Ok(found)
}

fn views_of(context: &Context, wanted: impl Fn(&Endpoint) -> bool) -> Result<Vec<EndpointView>> {
    let cluster = context.cluster();
    let (stats, drops) = {
        let datapath = lock(&context.datapath);
        (datapath.maps().endpoint_stats()?, datapath.maps().drops()?)
    };
    let drops = views::drops_by_veth(context, &drops);
    let report = context.reconciler.report();
    let local = |endpoint: &Endpoint| {
        let ifindex = *report.host_veths.get(&endpoint.id)?;
        let stats = stats.get(&ifindex).copied().unwrap_or_default();
        Some(LocalEndpointView {
            host_ifname: paths::host_veth(&endpoint.id),
            host_ifindex: ifindex,
            host_ip: report.host_addrs.get(&endpoint.id).copied(),
            tx_packets: stats.tx_packets,
            tx_bytes: stats.tx_bytes,
            rx_packets: stats.rx_packets,
            rx_bytes: stats.rx_bytes,
            drops: drops.get(&ifindex).cloned().unwrap_or_default(),
        })
    };
    let endpoints = cluster.endpoints.values().map(|e| &e.record).filter(|e| wanted(e));
    let with_network = endpoints.filter_map(|e| Some((e, &cluster.networks.get(&e.network)?.record)));
    let mut views: Vec<_> = with_network.map(|(e, network)| view(e, network, local(e))).collect();
    views.sort_by(|a, b| (&a.network, &a.name).cmp(&(&b.network, &b.name)));
    Ok(views)
}

pub(super) fn view(endpoint: &Endpoint, network: &Network, local: Option<LocalEndpointView>) -> EndpointView {
    EndpointView {
        id: endpoint.id.clone(),
        name: endpoint.name.clone(),
        aliases: endpoint.aliases.clone(),
        labels: endpoint.labels.clone(),
        network: endpoint.network.clone(),
        node: endpoint.node.clone(),
        vtep: endpoint.vtep,
        ip: with_prefix(endpoint.ipv4, network.subnet),
        ipv6: with_prefix_ipv6(endpoint, network),
        mac: endpoint.mac,
        ifname: endpoint.ifname.clone(),
        netns: endpoint.netns.clone(),
        published: endpoint.published.clone(),
        owner: endpoint.owner.clone(),
        limits: endpoint.limits,
        local,
    }
}

pub(super) fn with_prefix(ip: Ipv4Addr, subnet: Ipv4Net) -> Ipv4Net {
    Ipv4Net::new(ip, subnet.prefix_len()).unwrap_or(subnet)
}

pub(super) fn with_prefix_ipv6(endpoint: &Endpoint, network: &Network) -> Option<Ipv6Net> {
    Ipv6Net::new(endpoint.ipv6?, network.ipv6?.subnet.prefix_len()).ok()
}

pub(super) fn is_local(context: &Context, endpoint: &Endpoint) -> bool {
    endpoint.node == context.config.node
}

/// What a front end had attached on this node, under this name of the interface or any.
pub(super) fn owned(context: &Context, owner: &Owner, ifname: Option<&str>) -> Vec<Versioned<Endpoint>> {
    let cluster = context.cluster();
    let is_meant = |e: &Endpoint| {
        is_local(context, e)
            && e.owner.as_ref() == Some(owner)
            && ifname.is_none_or(|ifname| e.ifname == ifname)
    };
    cluster.endpoints.values().filter(|e| is_meant(&e.record)).cloned().collect()
}

pub(super) fn is_in(endpoint: &Endpoint, ns: &NetnsHandle) -> bool {
    let there = netns::resolve(&NetnsRef::of_endpoint(&endpoint.netns));
    there.is_ok_and(|there| there.identity() == ns.identity())
}
