//! Operations for front ends that make networks and endpoints in several steps of their own.

use std::{net::IpAddr, sync::Arc};

use ipnet::{IpNet, Ipv4Net};
use tokio::sync::watch;

use super::{Result, Service, engines, handover, reserve};
use crate::{
    api::types::{NetnsRef, NetworkView},
    ipam,
    model::{Cluster, Endpoint, EndpointId, EngineNetwork, ForeignId, Name, Network},
    netlink, netns,
    service::{Asked, HandOver, Learned, Wanted},
};

impl Service {
    /// The cluster's state as it is known now.
    #[must_use]
    pub fn cluster(&self) -> Arc<Cluster> {
        self.context.cluster()
    }

    /// The cluster's state from now on.
    #[must_use]
    pub fn follow_cluster(&self) -> watch::Receiver<Arc<Cluster>> {
        self.context.mirror.cluster()
    }

    /// What an endpoint of this host is called in its container; nothing if that cannot be looked into.
    pub async fn interface_of(&self, endpoint: &Endpoint) -> Option<String> {
        let host_veth = *self.context.reconciler.report().host_veths.get(&endpoint.id)?;
        let ns = netns::resolve(&NetnsRef::Path(endpoint.netns.clone().into())).ok()?;
        netlink::interface_of(&ns, host_veth).await.ok().flatten()
    }

    /// Name of this node.
    #[must_use]
    pub fn node_name(&self) -> &Name {
        &self.context.config.node
    }

    /// The network that the engine of this host knows by its own id of the network or of the pool.
    #[must_use]
    pub fn network_of_engine(&self, is_meant: impl Fn(&EngineNetwork) -> bool) -> Option<Network> {
        engines::known_as(&self.context, &self.cluster(), is_meant).map(|network| network.record.clone())
    }

    /// Makes a network known to the engine of this host; creates it if no host has it.
    pub async fn join_network(&self, wanted: Wanted) -> Result<NetworkView> {
        self.change(async move |context| engines::join(&context, &wanted).await).await
    }

    /// Takes a network from the engine of this host; the last one removes it.
    pub async fn leave_network(&self, id: &ForeignId) -> Result<()> {
        let id = id.clone();
        self.change(async move |context| engines::leave(&context, &id).await).await
    }

    /// Gives a network without endpoints another name.
    pub async fn rename_network(&self, from: &Name, to: &Name) -> Result<()> {
        let (from, to) = (from.clone(), to.clone());
        self.change(async move |context| engines::rename(&context, &from, &to).await).await
    }

    /// Destinations of the host's routes, but the default.
    pub async fn host_routes(&self) -> Result<Vec<Ipv4Net>> {
        let routes = self.context.netlink.ipv4_routes().await?;
        Ok(routes.into_iter().map(|route| route.destination).filter(|net| net.prefix_len() > 0).collect())
    }

    /// A subnet that no network has, nor any of `others`.
    pub fn free_subnet(&self, others: impl IntoIterator<Item = Ipv4Net>) -> Result<Ipv4Net> {
        let cluster = self.cluster();
        let used = cluster.networks.values().map(|network| network.record.subnet);
        Ok(ipam::next_subnet(&used.chain(others).collect::<Vec<_>>())?)
    }

    /// Reserves an address for an endpoint that is about to be made.
    pub async fn reserve_address(&self, network: &Name, asked: Asked) -> Result<IpNet> {
        let network = network.clone();
        self.change(async move |context| reserve::reserve(&context, &network, asked).await).await
    }

    /// Gives an address back that was reserved, if no endpoint was made with it.
    pub async fn give_back_address(&self, network: &Name, ip: IpAddr) -> Result<()> {
        let network = network.clone();
        self.change(async move |context| reserve::give_back(&context, &network, ip).await).await
    }

    /// Makes an endpoint whose container's end is moved by somebody else.
    pub async fn hand_over(&self, network: &Name, request: HandOver) -> Result<Endpoint> {
        let network = network.clone();
        self.change(async move |context| handover::hand_over(&context, &network, request).await).await
    }

    /// Writes down what was learned of an endpoint after it was made.
    pub async fn learn(&self, id: &EndpointId, learned: Learned) -> Result<()> {
        let id = id.clone();
        self.change(async move |context| handover::learn(&context, &id, learned).await).await
    }
}
