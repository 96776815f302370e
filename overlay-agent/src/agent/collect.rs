//! Collecting what has lost its other half.
//!
//! An endpoint is a record in the store and a veth pair. A record without its veth is what a container that
//! died leaves, a veth without its record what an agent that died half-way leaves.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::timeout;

use super::reconciler::Parts;
use crate::{
    model::{Cluster, Endpoint, cluster::Versioned},
    paths,
    reconcile::Local,
    service::release,
};

/// How long a pass waits for the store to take a change.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Removes records of this node without a veth, and veths without a record, unless an operation is at work
/// on them. What cannot be removed now is tried again at the next pass.
///
/// While the store cannot be reached nothing is: what has no record here may have one there.
pub async fn halves(parts: &Parts, cluster: &Cluster, local: &Local) {
    if parts.stale.borrow().is_some() {
        return;
    }
    for endpoint in cluster.endpoints.values().filter(|e| e.record.node == local.node) {
        let id = &endpoint.record.id;
        if !local.host_veths.contains_key(id) && !parts.in_progress.contains(id) {
            collect_record(parts, endpoint).await;
        }
    }
    // Those that were collected meanwhile are the business of `reclaim`.
    let collected = cluster.collected_on(&local.node).map(|e| paths::host_veth(&e.record.id));
    let left_alone: BTreeSet<String> = collected.chain(parts.in_progress.host_veths()).collect();
    let has_record = |veth: &str| {
        paths::endpoint_digits(veth).is_some_and(|digits| cluster.endpoints_from(digits).next().is_some())
    };
    for veth in parts.host.veths().filter(|veth| !left_alone.contains(&veth.name) && !has_record(&veth.name))
    {
        collect_veth(parts, &veth.name).await;
    }
}

async fn collect_record(parts: &Parts, Versioned { record, revision }: &Versioned<Endpoint>) {
    tracing::info!(endpoint = %record.name, network = %record.network, "collecting: its container is gone");
    // The maps must not wait for a store that takes its time.
    match timeout(PATIENCE, release(parts.store.as_ref(), record, *revision)).await {
        Ok(Ok(_)) => {}
        Ok(Err(e)) => tracing::warn!(endpoint = %record.name, reason = %e, "not collected"),
        Err(_) => tracing::warn!(endpoint = %record.name, "not collected: the store is slow"),
    }
}

async fn collect_veth(parts: &Parts, name: &str) {
    tracing::info!(device = name, "collecting: no endpoint has this veth");
    if let Err(e) = parts.host.netlink().delete_by_name(name).await {
        tracing::warn!(device = name, reason = %e, "not collected");
    }
}
