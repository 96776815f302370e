//! Collecting what has lost its other half.
//!
//! An endpoint is a record in the store and a veth pair. A record without its veth is what a container that
//! died leaves, a veth without its record what an agent that died half-way leaves.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tokio::time::timeout;

use super::reconciler::Parts;
use crate::{
    model::{Cluster, Endpoint, cluster::Versioned},
    paths,
    reconcile::Local,
    service::release,
};

/// How long a container's end waits for who is to move it. He does it at once, or he was killed and has forgotten it.
const HAND_OVER: Duration = Duration::from_mins(5);
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

/// Containers' ends that wait on the host to be moved, and since when.
#[derive(Debug, Default)]
pub struct Waiting(BTreeMap<String, Instant>);

impl Waiting {
    /// Removes the endpoints for whose end nobody came. The time counts from when this agent saw it first.
    pub async fn collect(&mut self, parts: &Parts, cluster: &Cluster) {
        let overdue = self.overdue(parts.host.waiting_ends(), Instant::now());
        if parts.stale.borrow().is_some() {
            return;
        }
        for digits in overdue.iter().filter_map(|name| paths::waiting_digits(name)) {
            let Some(id) = cluster.endpoints_from(digits).next().map(|e| e.id.clone()) else { continue };
            if parts.in_progress.contains(&id) {
                continue;
            }
            if let Some(endpoint) = cluster.endpoints.get(&id) {
                collect_record(parts, endpoint).await;
            }
            collect_veth(parts, &paths::host_veth(&id)).await;
        }
    }

    fn overdue<'a>(&mut self, waiting: impl Iterator<Item = &'a str>, now: Instant) -> Vec<String> {
        let before = std::mem::take(&mut self.0);
        let since = |name: &str| before.get(name).copied().unwrap_or(now);
        self.0 = waiting.map(|name| (name.to_owned(), since(name))).collect();
        let is_overdue = |since: &Instant| now.duration_since(*since) >= HAND_OVER;
        self.0.iter().filter(|(_, since)| is_overdue(since)).map(|(name, _)| name.clone()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_overdue_once_it_has_waited_without_a_break() {
        let mut waiting = Waiting::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let (moved, left) = ("ovc000000000001", "ovc000000000002");
        assert_eq!(waiting.overdue([moved, left].into_iter(), start), [""; 0]);
        assert_eq!(waiting.overdue([left].into_iter(), after(10)), [""; 0]);
        // The first comes back, as Docker puts it back when a container ends.
        assert_eq!(waiting.overdue([moved, left].into_iter(), after(299)), [""; 0]);
        assert_eq!(waiting.overdue([moved, left].into_iter(), after(300)), [left]);
        assert_eq!(waiting.overdue([moved].into_iter(), after(599)), [moved]);
    }
}
