//! Names for this host's containers: the resolver, wherever the gateway's range is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;

use super::{lock, presence::Absences, reconciler::Report};
use crate::{
    dns::{Asker, PORT, Resolver, ServerAddress, Sources, Trouble, Upstream, UpstreamError, WhoIs},
    model::{Cluster, Endpoint, EndpointId, Name},
    reconcile::desired::GatewayDevice,
};

/// Those who are asked for other people's names. Resolvers that were named have to be of use; the host's own may be
/// missing: then there are no such names.
///
/// # Errors
/// If those that were named cannot be used.
pub fn upstream(named: &[ServerAddress]) -> Result<Option<Upstream>, UpstreamError> {
    match Upstream::new(named) {
        Ok(upstream) => Ok(Some(upstream)),
        Err(error @ UpstreamError::System(_)) => {
            tracing::warn!(%error, "containers get no names but their own");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What the resolver works with.
pub struct Parts {
    /// This node.
    pub node: Name,
    /// The cluster's state.
    pub cluster: watch::Receiver<Arc<Cluster>>,
    /// Which nodes count as down.
    pub absences: watch::Receiver<Absences>,
    /// Where the gateway's range is, and who has which address of it.
    pub reports: watch::Receiver<Report>,
    /// For other people's names, if there is anybody to ask.
    pub upstream: Option<Upstream>,
}

/// Keeps a resolver at the agent's address, until there are no more reports; tells why names are not answered.
#[must_use]
pub fn serve(parts: Parts) -> watch::Receiver<Option<String>> {
    let (trouble, receiver) = watch::channel(None);
    tokio::spawn(follow(parts, trouble));
    receiver
}

async fn follow(parts: Parts, trouble: Trouble) {
    let Parts { node, cluster, absences, mut reports, upstream } = parts;
    let who_is = who_is(reports.clone(), cluster.clone());
    let sources = Sources { here: node, cluster, absences, who_is, upstream: upstream.map(Arc::new) };
    let mut running: Option<(Ipv4Addr, Resolver)> = None;
    loop {
        let wanted = reports.borrow_and_update().gateway.range.map(GatewayDevice::agent_in);
        if running.as_ref().map(|(address, _)| *address) != wanted {
            // First the old one goes: it may be the same address in a smaller range.
            drop(running.take());
            trouble.send_replace(None);
            let start =
                |address: Ipv4Addr| Resolver::start(sources.clone(), (address, PORT).into(), trouble.clone());
            running = wanted.map(|address| (address, start(address)));
        }
        if reports.changed().await.is_err() {
            return;
        }
    }
}

/// Tells who has which host-local address, by the latest report.
fn who_is(mut reports: watch::Receiver<Report>, cluster: watch::Receiver<Arc<Cluster>>) -> WhoIs {
    reports.mark_changed();
    let known = Mutex::new((reports, HashMap::new()));
    Arc::new(move |address| {
        let mut known = lock(&known);
        let (reports, askers) = &mut *known;
        // An attachment that has just returned is in the report: looked at here, it is known from then on.
        if reports.has_changed().unwrap_or_default() {
            *askers = by_address(&reports.borrow_and_update().host_addrs, &cluster.borrow());
        }
        askers.get(&address).cloned()
    })
}

/// The container behind each address: all endpoints in the same namespace.
fn by_address(addresses: &BTreeMap<EndpointId, Ipv4Addr>, cluster: &Cluster) -> HashMap<Ipv4Addr, Asker> {
    let record = |id| cluster.endpoints.get(id).map(|endpoint| &endpoint.record);
    let local: Vec<(&Endpoint, Ipv4Addr)> =
        addresses.iter().filter_map(|(id, address)| Some((record(id)?, *address))).collect();
    let mut containers: HashMap<&str, BTreeSet<EndpointId>> = HashMap::new();
    for (endpoint, _) in &local {
        containers.entry(&endpoint.netns).or_default().insert(endpoint.id.clone());
    }
    let containers: HashMap<&str, Asker> =
        containers.into_iter().map(|(netns, endpoints)| (netns, Arc::new(endpoints))).collect();
    local
        .into_iter()
        .filter_map(|(endpoint, address)| Some((address, Arc::clone(containers.get(&*endpoint.netns)?))))
        .collect()
}
