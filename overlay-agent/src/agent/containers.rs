//! The containers' ends of our veth pairs, as far as the data path needs them.
//!
//! Addresses, routes and whether it is up are the container's own business. Two things are ours. Receive offload: with it
//! the device has the poll loop without which XDP cannot deliver to it, and segments arrive merged. And the MTU: it is what
//! the underlay leaves to the network, and follows the underlay's when that changes.

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
    netlink::{self, ContainerEnd, NetlinkError},
    netns::{self, NetnsHandle},
    reconcile::desired::Underlay,
    verify::{Concerns, Difference, Layer},
};

/// Less than the minute within which drift is to be repaired.
const LOOK: Duration = Duration::from_secs(55);
/// Namespaces entered at a time, each by a thread of its own.
const AT_A_TIME: usize = 4;
/// A device with a smaller MTU loses its IPv6 addresses (RFC 8200 section 5), and does not get them back.
const LEAST_IPV6_MTU: u16 = 1280;

/// What of a container's end is not as it should be.
#[derive(Clone, Debug)]
pub struct Fault {
    endpoint: Endpoint,
    kind: FaultKind,
}

#[derive(Clone, Copy, Debug)]
enum FaultKind {
    GroOff,
    Mtu { found: u32, wanted: u16 },
}

/// Looks at the containers' ends of this host's endpoints.
pub async fn faults(cluster: &Cluster, report: &Report) -> Vec<Fault> {
    let here = report.host_veths.iter();
    let endpoints = here.filter_map(|(id, ifindex)| Some((&cluster.endpoints.get(id)?.record, *ifindex)));
    let looks = endpoints.map(|(endpoint, ifindex)| async move {
        // A container that cannot be looked into is gone or about to go.
        let end = look(endpoint, ifindex).await.ok().flatten();
        let wanted = mtu(endpoint, cluster, &report.underlay);
        let fault = |kind| Fault { endpoint: endpoint.clone(), kind };
        stream::iter(end.into_iter().flat_map(|end| faults_of(end, wanted)).map(fault).collect::<Vec<_>>())
    });
    stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(AT_A_TIME).flatten().collect().await
}

fn faults_of(end: ContainerEnd, wanted: Option<u16>) -> impl Iterator<Item = FaultKind> {
    let gro = (!end.gro).then_some(FaultKind::GroOff);
    let wanted = wanted.filter(|wanted| u32::from(*wanted) != end.mtu);
    gro.into_iter().chain(wanted.map(|wanted| FaultKind::Mtu { found: end.mtu, wanted }))
}

/// The MTU that a container's end should have, if its network is known.
fn mtu(endpoint: &Endpoint, cluster: &Cluster, underlay: &Underlay) -> Option<u16> {
    let mtu = cluster.networks.get(&endpoint.network)?.record.effective_mtu(underlay);
    Some(if endpoint.ipv6.is_some() { mtu.max(LEAST_IPV6_MTU) } else { mtu })
}

/// Puts these faults right; returns what that repaired.
pub async fn repair(faults: Vec<Fault>) -> Vec<Difference> {
    let mut repaired = Vec::new();
    for fault in faults {
        let Fault { endpoint, kind } = &fault;
        let Ok(ns) = namespace(endpoint) else { continue };
        let result = match kind {
            FaultKind::GroOff => netlink::set_gro(&ns, &endpoint.ifname, true).await,
            FaultKind::Mtu { wanted, .. } => netlink::set_mtu(&ns, &endpoint.ifname, *wanted).await,
        };
        match result {
            Ok(()) => repaired.push(difference(&fault)),
            Err(e) => {
                tracing::warn!(endpoint = %endpoint.name, reason = %e, "the container's interface stays as it is");
            }
        }
    }
    repaired
}

/// A fault as a difference.
#[must_use]
pub fn difference(Fault { endpoint, kind }: &Fault) -> Difference {
    let (found, wanted, reason) = match kind {
        FaultKind::GroOff => (
            "rx-gro off".to_owned(),
            "rx-gro on".to_owned(),
            "XDP cannot deliver to it and segments are not merged: its receive offload is off",
        ),
        FaultKind::Mtu { found, wanted } => (
            format!("mtu {found}"),
            format!("mtu {wanted}"),
            "what it sends is not as large as its network takes",
        ),
    };
    Difference {
        layer: Layer::Device,
        subject: format!("{} in {}", endpoint.ifname, endpoint.netns),
        found: Some(found),
        wanted: Some(wanted),
        reason: reason.to_owned(),
        concerns: Concerns::endpoint(endpoint),
    }
}

/// Looks every minute and repairs, and has the MTUs follow the underlay's at once, until the reconciler ends.
pub async fn guard(
    cluster: watch::Receiver<Arc<Cluster>>,
    mut reports: watch::Receiver<Report>,
    repairs: Arc<Repairs>,
) {
    // Before the first pass nobody knows where the containers are.
    if reports.wait_for(|report| report.ready).await.is_err() {
        return;
    }
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut mtu = reports.borrow().underlay.mtu;
    loop {
        let is_there = tokio::select! {
            _ = ticks.tick() => reports.has_changed().is_ok(),
            changed = async { reports.wait_for(|report| report.underlay.mtu != mtu).await.is_ok() } => changed,
        };
        if !is_there {
            return;
        }
        let (cluster, report) = (Arc::clone(&cluster.borrow()), reports.borrow().clone());
        let repaired = repair(faults(&cluster, &report).await).await;
        if report.underlay.mtu == mtu {
            repairs.note(repaired);
        } else {
            let (from, to, containers) = (mtu, report.underlay.mtu, repaired.len());
            tracing::info!(from, to, containers, "containers follow the underlay's MTU");
            mtu = to;
        }
    }
}

async fn look(endpoint: &Endpoint, host_ifindex: u32) -> Result<Option<ContainerEnd>, NetlinkError> {
    netlink::container_end(&namespace(endpoint)?, &endpoint.ifname, host_ifindex).await
}

fn namespace(endpoint: &Endpoint) -> Result<NetnsHandle, NetlinkError> {
    Ok(netns::resolve(&NetnsRef::of_endpoint(&endpoint.netns))?)
}
