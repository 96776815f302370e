//! The containers' ends of our veth pairs, as far as the data path needs them.
//!
//! Addresses, routes and whether it is up are the container's own business. Receive offload is ours: with it
//! the device has the poll loop without which XDP cannot deliver to it, and segments arrive merged.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{reconciler::Report, repairs::Repairs};
use crate::{
    api::types::NetnsRef,
    model::{Cluster, Endpoint},
    netlink::{self, NetlinkError},
    netns::{self, NetnsHandle},
    verify::{Concerns, Difference, Layer},
};

/// Less than the minute within which drift is to be repaired.
const LOOK: Duration = Duration::from_secs(55);
/// Namespaces entered at a time, each by a thread of its own.
const AT_A_TIME: usize = 4;

/// The endpoints of this host whose container's end has its receive offload off.
pub async fn without_gro(cluster: &Cluster, report: &Report) -> Vec<Endpoint> {
    let here = report.host_veths.iter();
    let endpoints = here.filter_map(|(id, ifindex)| Some((&cluster.endpoints.get(id)?.record, *ifindex)));
    let looks = endpoints.map(|(endpoint, ifindex)| async move {
        // A container that cannot be looked into is gone or about to go.
        let on = has_gro(endpoint, ifindex).await.ok().flatten();
        (on == Some(false)).then(|| endpoint.clone())
    });
    stream::iter(looks.collect::<Vec<_>>())
        .buffer_unordered(AT_A_TIME)
        .filter_map(async |found| found)
        .collect()
        .await
}

/// Turns the receive offload of these containers on again; returns what that repaired.
pub async fn give_gro(endpoints: Vec<Endpoint>) -> Vec<Difference> {
    let mut repaired = Vec::new();
    for endpoint in endpoints {
        let Ok(ns) = namespace(&endpoint) else { continue };
        match netlink::set_gro(&ns, &endpoint.ifname, true).await {
            Ok(()) => repaired.push(difference(&endpoint)),
            Err(e) => tracing::warn!(endpoint = %endpoint.name, reason = %e, "receive offload stays off"),
        }
    }
    repaired
}

/// An endpoint without receive offload, as a difference.
#[must_use]
pub fn difference(endpoint: &Endpoint) -> Difference {
    Difference {
        layer: Layer::Device,
        subject: format!("{} in {}", endpoint.ifname, endpoint.netns),
        found: Some("rx-gro off".to_owned()),
        wanted: Some("rx-gro on".to_owned()),
        reason: "XDP cannot deliver to it and segments are not merged: its receive offload is off".to_owned(),
        concerns: Concerns::endpoint(endpoint),
    }
}

/// Looks every minute and repairs, until the reconciler ends.
pub async fn guard(
    cluster: watch::Receiver<Arc<Cluster>>,
    reports: watch::Receiver<Report>,
    repairs: Arc<Repairs>,
) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while reports.has_changed().is_ok() {
        ticks.tick().await;
        let (cluster, report) = (Arc::clone(&cluster.borrow()), reports.borrow().clone());
        repairs.note(give_gro(without_gro(&cluster, &report).await).await);
    }
}

async fn has_gro(endpoint: &Endpoint, host_ifindex: u32) -> Result<Option<bool>, NetlinkError> {
    netlink::has_gro(&namespace(endpoint)?, &endpoint.ifname, host_ifindex).await
}

fn namespace(endpoint: &Endpoint) -> Result<NetnsHandle, NetlinkError> {
    Ok(netns::resolve(&NetnsRef::Path(endpoint.netns.clone().into()))?)
}
