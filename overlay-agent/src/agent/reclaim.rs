//! Claiming again what was collected while this node was away.
//!
//! The containers may have gone on all the time, on a host that the others took for dead. Each gets back
//! what it had if nobody else has it by now, under the same identity. Otherwise it loses its interface and
//! is reported: never do two hold an address.

use std::collections::BTreeSet;

use tokio::time::timeout;

use super::{collect::PATIENCE, reconciler::Parts};
use crate::{
    model::{Cluster, Endpoint, cluster::Versioned},
    paths,
    service::claim::{Reclaim, forget_collected, reclaim},
};

/// Claims everything of this node's that was collected and whose veth is there, and forgets the rest. What
/// cannot be decided now is tried again at the next pass. Says whom it could not help.
pub async fn all(parts: &Parts, cluster: &Cluster) -> Vec<String> {
    let here = parts.host.node();
    let is_back = cluster.nodes.get(here).is_some_and(|node| !node.record.life.is_over());
    let mut lost = Vec::new();
    if !is_back || parts.stale.borrow().is_some() {
        return lost;
    }
    let veths: BTreeSet<&str> = parts.host.veths().map(|veth| veth.name.as_str()).collect();
    for endpoint in cluster.collected_on(here) {
        let has_veth = veths.contains(paths::host_veth(&endpoint.record.id).as_str());
        lost.extend(one(parts, cluster, endpoint, has_veth).await);
    }
    lost
}

async fn one(
    parts: &Parts,
    cluster: &Cluster,
    endpoint: &Versioned<Endpoint>,
    has_veth: bool,
) -> Option<String> {
    let Endpoint { name, network, .. } = &endpoint.record;
    let store = parts.store.as_ref();
    if !has_veth {
        give_up(parts, endpoint).await;
        return None;
    }
    // The maps must not wait for a store that takes its time.
    let claimed = timeout(PATIENCE, reclaim(store, cluster, endpoint)).await.unwrap_or(Ok(Reclaim::Later));
    match claimed {
        Ok(Reclaim::Claimed) => {
            tracing::info!(endpoint = %name, %network, "claimed again after it was collected");
        }
        Ok(Reclaim::Later) => tracing::debug!(endpoint = %name, %network, "not claimed yet"),
        Ok(Reclaim::Taken(reason)) => {
            tracing::warn!(endpoint = %name, %network, reason, "taken off its network");
            give_up(parts, endpoint).await;
            return Some(format!(
                "{name} was taken off {network} when this node came back: {reason}; attach it again"
            ));
        }
        Err(e) => tracing::warn!(endpoint = %name, %network, reason = %e, "not claimed"),
    }
    None
}

/// What nobody remembers, the next pass collects.
async fn give_up(parts: &Parts, endpoint: &Versioned<Endpoint>) {
    match timeout(PATIENCE, forget_collected(parts.store.as_ref(), endpoint)).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => tracing::warn!(endpoint = %endpoint.record.name, reason = %e, "not forgotten"),
        Err(_) => tracing::warn!(endpoint = %endpoint.record.name, "not forgotten: the store is slow"),
    }
}
