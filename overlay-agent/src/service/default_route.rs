//! Which of a container's networks its default route leads through: the one that was asked for, else the first that is not
//! internal, else the first. There is one route of each family; when its network is left, another network's takes its place.

use std::{net::IpAddr, path::Path};

use super::{
    Context,
    endpoints::{is_in, is_local},
};
use crate::{
    api::types::NetnsRef,
    model::{Endpoint, Network},
    netlink::{self, DefaultRoute, Replaces},
    netns::{self, NetnsHandle},
};

/// Which default route that of a new endpoint may take the place of.
pub(super) fn replaces(context: &Context, ns: &NetnsHandle, network: &Network, is_asked: bool) -> Replaces {
    match (is_asked, network.internal) {
        (true, _) => Replaces::Anything,
        (false, true) => Replaces::Nothing,
        // An internal network leads to no world.
        (false, false) => {
            let internal = attachments(context, ns).into_iter().filter(|(_, network)| network.internal);
            Replaces::Through(internal.map(|(endpoint, _)| endpoint.ifname).collect())
        }
    }
}

/// Gives a container that has lost its default route another, if it is still there and in a network. What a front end does
/// with a container's routes stays: only where there is none one is set.
pub(super) async fn hand_on(context: &Context, netns: &Path) {
    if context.rehearses() {
        return;
    }
    // A container that is gone needs no route.
    let Ok(ns) = netns::resolve(&NetnsRef::Path(netns.to_owned())) else { return };
    let mut attachments = attachments(context, &ns);
    // The order of their names is that of `eth0`, `eth1` …
    attachments.sort_by_key(|(e, network)| (network.internal, e.ifname.len(), e.ifname.clone()));
    let first = |gateway: fn(&Endpoint, &Network) -> Option<IpAddr>| {
        attachments.iter().find_map(|(endpoint, network)| {
            Some(DefaultRoute { ifname: endpoint.ifname.clone(), gateway: gateway(endpoint, network)? })
        })
    };
    let ipv4 = first(|_, network| Some(network.gateway.into()));
    let ipv6 = first(|endpoint, network| endpoint.ipv6.and(network.ipv6).map(|ipv6| ipv6.gateway.into()));
    let routes: Vec<_> = ipv4.into_iter().chain(ipv6).collect();
    if routes.is_empty() {
        return;
    }
    match netlink::set_default_routes(&ns, routes, Replaces::Nothing).await {
        Ok(made) if made.is_empty() => {}
        Ok(made) => {
            tracing::info!(netns = %netns.display(), gateway = %made[0].gateway, "default route handed on");
        }
        Err(e) => tracing::warn!(netns = %netns.display(), reason = %e, "no default route is left"),
    }
}

/// The attachments of a container that were made in its namespace, with their networks.
fn attachments(context: &Context, ns: &NetnsHandle) -> Vec<(Endpoint, Network)> {
    let cluster = context.cluster();
    let here = cluster.endpoints.values().map(|endpoint| &endpoint.record);
    let here = here.filter(|endpoint| is_local(context, endpoint) && is_in(endpoint, ns));
    here.filter_map(|endpoint| {
        Some((endpoint.clone(), cluster.networks.get(&endpoint.network)?.record.clone()))
    })
    .collect()
}
