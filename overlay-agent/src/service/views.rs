//! What there is to see of the agent, drops and maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::UNIX_EPOCH,
};

use overlay_common::{
    stats::{DropCount, DropKey},
    verdict::DropReason,
};

use super::{Context, Result, ServiceError};
use crate::{
    agent::lock,
    api::types::{Counts, DropView, MapDump, MapView, StaleView, Status, UnderlayView},
    datapath::dump::{self, Description},
    model::{Cluster, Endpoint, Name},
    store::Failure,
};

/// The agent.
pub fn status(context: &Context) -> Status {
    let cluster = context.cluster();
    let report = context.reconciler.report();
    let node = &context.config.node;
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: node.clone(),
        ready: report.ready,
        store: context.store.url().to_owned(),
        revision: report.revision.0,
        store_error: store_error(context),
        stale: context.mirror.staleness().as_ref().map(stale_view),
        underlay: UnderlayView {
            ifname: report.underlay_ifname,
            ifindex: report.underlay.ifindex,
            mtu: report.underlay.mtu,
            vtep: context.config.advertise.unwrap_or(report.underlay.addr),
            vxlan_port: context.config.vxlan_port,
        },
        xdp: report.xdp,
        gateway: report.gateway,
        counts: Counts {
            networks: cluster.networks.len(),
            endpoints: cluster.endpoints.len(),
            local_endpoints: cluster.endpoints.values().filter(|e| e.record.node == *node).count(),
            nodes: cluster.nodes.len(),
        },
        repaired: context.repairs.count(),
        reconcile_error: report.error,
        quarantined: cluster.quarantined.clone(),
        pin_dir: context.config.paths.maps(),
        warnings: warnings(context, report.lost),
    }
}

/// What is not as it should be, and what was lost.
fn warnings(context: &Context, lost: BTreeSet<String>) -> Vec<String> {
    let names = context.names.borrow().clone();
    context.warnings.iter().cloned().chain(context.mirror.notices()).chain(names).chain(lost).collect()
}

fn store_error(context: &Context) -> Option<String> {
    let obstacle = context.obstacle().map(|failure| failure.reason);
    obstacle.or_else(|| context.sign_of_life.borrow().clone())
}

fn stale_view(Failure { since, reason }: &Failure) -> StaleView {
    let since_unix_s = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    StaleView { since_unix_s, reason: reason.clone() }
}

/// Drop counters that are not zero, most packets first.
pub fn drops(context: &Context) -> Result<Vec<DropView>> {
    let drops = lock(&context.datapath).maps().drops()?;
    let mut views: Vec<_> = drops_by_veth(context, &drops).into_values().flatten().collect();
    views.sort_by_key(|view| std::cmp::Reverse(view.packets));
    Ok(views)
}

/// The maps.
pub fn maps(context: &Context) -> Result<Vec<MapView>> {
    let view = |(map, entries): (Description, usize)| MapView {
        name: map.name.to_owned(),
        entries,
        max_entries: map.max_entries,
        description: map.text.to_owned(),
        bpftool: bpftool(context, map.name),
    };
    let sizes = lock(&context.datapath).sizes()?;
    Ok(sizes.into_iter().map(view).collect())
}

/// One map, decoded.
pub fn dump_map(context: &Context, name: &str) -> Result<MapDump> {
    let entries = lock(&context.datapath).dump(name)?.ok_or_else(|| {
        let names = dump::MAPS.map(|map| map.name).join(", ");
        ServiceError::NotFound(format!("there is no map {name}: there are {names}"))
    })?;
    Ok(MapDump { name: name.to_owned(), bpftool: bpftool(context, name), entries })
}

fn bpftool(context: &Context, map: &str) -> String {
    format!("bpftool map dump pinned {}", context.config.paths.map(map).display())
}

/// Drop counters that are not zero, by the host veth that they concern (0 for none).
pub fn drops_by_veth(
    context: &Context,
    drops: &BTreeMap<DropKey, DropCount>,
) -> BTreeMap<u32, Vec<DropView>> {
    let cluster = context.cluster();
    let endpoints = endpoints_by_veth(&cluster, context);
    let networks: BTreeMap<u32, &Name> =
        cluster.networks.values().map(|n| (n.record.vni.get(), &n.record.name)).collect();
    let reason = |number| DropReason::from_number(number);
    let view = |key: &DropKey, count: &DropCount| DropView {
        reason: reason(key.reason).map_or("?", DropReason::name).to_owned(),
        number: key.reason,
        description: reason(key.reason)
            .map_or("a reason of another version", DropReason::description)
            .to_owned(),
        vni: key.vni,
        network: networks.get(&key.vni).map(|name| (*name).clone()),
        endpoint: endpoints.get(&key.ifindex).map(|e| e.name.clone()),
        packets: count.packets,
        bytes: count.bytes,
    };
    let mut views: BTreeMap<u32, Vec<DropView>> = BTreeMap::new();
    for (key, count) in drops.iter().filter(|(_, count)| count.packets > 0) {
        views.entry(key.ifindex).or_default().push(view(key, count));
    }
    views
}

fn endpoints_by_veth<'a>(cluster: &'a Cluster, context: &Context) -> BTreeMap<u32, &'a Endpoint> {
    let veths = context.reconciler.report().host_veths;
    veths.iter().filter_map(|(id, ifindex)| Some((*ifindex, &cluster.endpoints.get(id)?.record))).collect()
}
