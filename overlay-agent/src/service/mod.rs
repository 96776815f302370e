//! What the agent does for its front ends: the operations behind API, CNI and Docker driver alike.
//!
//! Each operation validates everything before it touches anything, and takes back what it did when a
//! later step fails. One that changes something runs in a task of its own: a caller that goes away does
//! not leave it half done.
//!
//! * [`networks`], [`attach`], [`detach`], [`change`], [`policies`], [`rules`], [`publish`], [`external`]: the operations
//! * [`claim`], [`reserve`]: names and addresses, decided by the store
//! * [`default_route`]: which of its networks leads a container out
//! * [`handover`]: endpoints whose container's end a front end moves
//! * [`engines`]: networks as container engines know them
//! * [`front_ends`]: what those need who do it in several steps
//! * [`export`]: the cluster's state as a document
//! * [`verify`]: what is not as it should be
//! * [`mod@trace`]: what would become of a packet
//! * [`nodes`], [`retire`]: nodes that come and go
//! * [`endpoints`], [`views`]: what there is to see

mod attach;
mod change;
pub(crate) mod claim;
mod default_route;
mod detach;
mod endpoints;
mod engines;
mod error;
mod export;
mod external;
mod front_ends;
mod handover;
mod networks;
mod nodes;
mod policies;
mod progress;
mod publish;
mod reserve;
pub(crate) mod retire;
mod rules;
mod trace;
mod verify;
mod views;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use tracing::{Dispatch, instrument::WithSubscriber as _};

pub(crate) use claim::release;
pub use engines::Wanted;
pub use error::ServiceError;
pub use handover::{HandOver, Learned};
pub use progress::InProgress;
pub use reserve::Asked;

use crate::{
    agent::{mirror::Mirror, outbox::Outbox, presence::Absences, reconciler, repairs::Repairs},
    api::types::{
        AddExternal, AttachRequest, AttachResult, ChangeLabels, ChangeLimits, CreateNetwork, DetachOwned,
        DetachRequest, DetachResult, DropView, EndpointView, MapDump, MapView, NetworkView, NewRule,
        NodeDetail, NodeView, PolicyView, PublicationView, RemovedNode, Status,
    },
    config::Config,
    datapath::Datapath,
    metrics::Scrape,
    model::{Cluster, Name, Network, Publication, RuleId, cluster::Versioned},
    netlink::Netlink,
    store::{Failure, Rehearsal, Revision, Store, transfer::Exported},
    trace::{TraceRequest, TraceView},
    verify::Verification,
};

type Result<T> = std::result::Result<T, ServiceError>;

/// What the operations work with.
#[derive(Clone)]
pub struct Context {
    /// The agent's settings.
    pub config: Config,
    /// The cluster's state, to change it.
    pub store: Arc<dyn Store>,
    /// Where changes go that are only rehearsed; `store` is the same then.
    pub rehearsal: Option<Arc<Rehearsal>>,
    /// Why the store could not be changed when that was last tried.
    pub changes: watch::Receiver<Option<Failure>>,
    /// The cluster's state, to read it.
    pub mirror: Arc<Mirror>,
    /// What is detached, but in the store.
    pub outbox: Arc<Outbox>,
    /// Why the last sign of life could not be given.
    pub sign_of_life: watch::Receiver<Option<String>>,
    /// Why names are not answered just now.
    pub names: watch::Receiver<Option<String>>,
    /// Which nodes count as down.
    pub absences: watch::Receiver<Absences>,
    /// The kernel's devices.
    pub netlink: Netlink,
    /// The kernel side, to read counters and maps.
    pub datapath: Arc<Mutex<Datapath>>,
    /// Who makes the maps true.
    pub reconciler: Arc<reconciler::Handle>,
    /// Endpoints that are being made or removed.
    pub in_progress: Arc<InProgress>,
    /// What the agent repaired by itself.
    pub repairs: Arc<Repairs>,
    /// Held while ports of this host are given away.
    pub publishing: Arc<tokio::sync::Mutex<()>>,
    /// What is not as it should be on this host.
    pub warnings: Vec<String>,
}

impl Context {
    /// The cluster's state, with what was rehearsed.
    fn cluster(&self) -> Arc<Cluster> {
        let mut cluster = self.mirror.now();
        for event in self.rehearsal.iter().flat_map(|rehearsal| rehearsal.events()) {
            Arc::make_mut(&mut cluster).apply(&event);
        }
        cluster
    }

    /// Whether nothing outside is to be changed.
    fn rehearses(&self) -> bool {
        self.rehearsal.is_some()
    }

    /// A network, or the sentence that there is none.
    fn network(&self, name: &Name) -> Result<Versioned<Network>> {
        self.cluster().networks.get(name).cloned().ok_or_else(|| {
            ServiceError::NotFound(format!("there is no network {name}: see `overlay network ls`"))
        })
    }

    /// Waits until the maps of this host show a commit.
    async fn in_force(&self, revision: Revision) -> Result<()> {
        if self.rehearses() {
            return Ok(());
        }
        // A store that took a commit, but does not tell of it, has gone meanwhile.
        let synced = timeout(IN_FORCE, self.reconciler.sync(revision)).await;
        let synced =
            synced.unwrap_or_else(|_| Err(format!("nothing was heard of the change for {IN_FORCE:?}")));
        synced.map_err(|reason| {
            ServiceError::Unavailable(format!("the data path could not be brought up to date: {reason}"))
        })
    }

    /// Why the store is known to take no changes just now.
    fn obstacle(&self) -> Option<Failure> {
        self.mirror.staleness().or_else(|| self.changes.borrow().clone())
    }

    /// Fails if the store is known to take no changes: to try would only take time.
    fn check_store(&self) -> Result<()> {
        match self.obstacle() {
            None => Ok(()),
            Some(Failure { reason, .. }) => Err(ServiceError::Unavailable(format!(
                "nothing can be changed just now but to detach: {reason}; containers go on as they are"
            ))),
        }
    }

    /// Waits, not for long, until the mirror has seen a commit.
    async fn seen(&self, revision: Revision) {
        let seen = crate::agent::until(self.mirror.cluster(), |cluster| cluster.revision >= revision);
        // Who needs it looks for it, and fails without.
        let _ = timeout(IN_FORCE, seen).await;
    }

    /// Waits, not for long, until the mirror has seen what another host wrote meanwhile.
    async fn catch_up(&self, known: Revision) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let newer = crate::agent::until(self.mirror.cluster(), |cluster| cluster.revision > known);
        // Whoever waits tries again anyhow, and gives up after some attempts.
        let _ = timeout(PATIENCE, newer).await;
    }
}

/// How long a change may take to arrive in the maps.
const IN_FORCE: Duration = Duration::from_secs(5);

/// How often an allocation is tried again when another host was quicker.
const ATTEMPTS: usize = 50;

/// The operations of one agent.
pub struct Service {
    context: Arc<Context>,
}

impl Service {
    /// Operations on this context.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self { context: Arc::new(context) }
    }

    /// The same operations, rehearsed: checked and answered as if they were carried out, once each. Nothing is changed.
    #[must_use]
    pub fn rehearsal(&self) -> Self {
        let rehearsal = Arc::new(Rehearsal::before(&self.context.store));
        let store: Arc<dyn Store> = Arc::<Rehearsal>::clone(&rehearsal);
        Self::new(Context { store, rehearsal: Some(rehearsal), ..(*self.context).clone() })
    }

    /// Creates a network.
    pub async fn create_network(&self, request: CreateNetwork) -> Result<NetworkView> {
        self.change(async move |context| networks::create(&context, request).await).await
    }

    /// Creates a network where it is not there; one that is there has to be as asked for.
    pub async fn ensure_network(&self, request: CreateNetwork) -> Result<NetworkView> {
        if let Some(there) = networks::agreeing(&self.context, &request)? {
            return Ok(there);
        }
        self.change(async move |context| networks::ensure(&context, request).await).await
    }

    /// All networks by name, without their endpoints.
    pub async fn networks(&self) -> Result<Vec<NetworkView>> {
        Ok(networks::list(&self.context))
    }

    /// One network with its endpoints on all nodes.
    pub async fn network(&self, name: &Name) -> Result<NetworkView> {
        networks::inspect(&self.context, name)
    }

    /// Removes a network without endpoints.
    pub async fn remove_network(&self, name: &Name) -> Result<NetworkView> {
        let name = name.clone();
        self.change(async move |context| networks::remove(&context, &name).await).await
    }

    /// Attaches a container.
    pub async fn attach(&self, network: &Name, request: AttachRequest) -> Result<AttachResult> {
        let network = network.clone();
        self.change(async move |context| attach::attach(&context, &network, request).await).await
    }

    /// Detaches a container; one that is not attached is no error.
    pub async fn detach(&self, network: &Name, request: DetachRequest) -> Result<DetachResult> {
        let network = network.clone();
        self.finish(async move |context| detach::detach(&context, &network, request).await).await
    }

    /// Detaches what a front end had attached; that there is nothing is no error.
    pub async fn detach_owned(&self, request: DetachOwned) -> Result<DetachResult> {
        self.finish(async move |context| detach::detach_owned(&context, request).await).await
    }

    /// All endpoints, on all nodes.
    pub async fn endpoints(&self) -> Result<Vec<EndpointView>> {
        endpoints::list(&self.context)
    }

    /// The endpoints with this name (one for each network), or the one with this id.
    pub async fn endpoint(&self, name_or_id: &str) -> Result<Vec<EndpointView>> {
        endpoints::inspect(&self.context, name_or_id)
    }

    /// Makes a machine without an agent a member of a network.
    pub async fn add_external(&self, network: &Name, request: AddExternal) -> Result<EndpointView> {
        let network = network.clone();
        self.change(async move |context| external::add(&context, &network, request).await).await
    }

    /// All members without an agent.
    pub async fn externals(&self) -> Result<Vec<EndpointView>> {
        endpoints::externals(&self.context)
    }

    /// Takes a member without an agent out of its network.
    pub async fn remove_external(&self, network: &Name, name: &Name) -> Result<EndpointView> {
        let (network, name) = (network.clone(), name.clone());
        self.change(async move |context| external::remove(&context, &network, &name).await).await
    }

    /// All nodes.
    pub async fn nodes(&self) -> Result<Vec<NodeView>> {
        Ok(nodes::list(&self.context))
    }

    /// One node with its endpoints.
    pub async fn node(&self, name: &Name) -> Result<NodeDetail> {
        nodes::inspect(&self.context, name)
    }

    /// Lets a node take no new endpoints, or take them again.
    pub async fn drain(&self, name: &Name, drain: bool) -> Result<NodeView> {
        let name = name.clone();
        self.change(async move |context| nodes::drain(&context, &name, drain).await).await
    }

    /// Takes a node out of the cluster; by force with its endpoints, and although it runs.
    pub async fn remove_node(&self, name: &Name, force: bool) -> Result<RemovedNode> {
        let name = name.clone();
        self.change(async move |context| nodes::remove(&context, &name, force).await).await
    }

    /// All policies.
    pub async fn policies(&self) -> Result<Vec<PolicyView>> {
        policies::list(&self.context)
    }

    /// Lets two networks talk, in both directions.
    pub async fn allow(&self, a: &Name, b: &Name) -> Result<Vec<PolicyView>> {
        let (a, b) = (a.clone(), b.clone());
        self.change(async move |context| policies::allow(&context, &a, &b).await).await
    }

    /// Adds a rule from one network to another.
    pub async fn add_rule(&self, from: &Name, to: &Name, rule: NewRule) -> Result<PolicyView> {
        let (from, to) = (from.clone(), to.clone());
        self.change(async move |context| rules::add(&context, &from, &to, rule).await).await
    }

    /// Removes a rule.
    pub async fn remove_rule(&self, id: RuleId) -> Result<()> {
        self.change(async move |context| rules::remove(&context, id).await).await
    }

    /// Leaves the decision between two networks to their rules.
    pub async fn enforce(&self, a: &Name, b: &Name) -> Result<Vec<PolicyView>> {
        let (a, b) = (a.clone(), b.clone());
        self.change(async move |context| rules::enforce(&context, &a, &b).await).await
    }

    /// Changes the labels of an endpoint.
    pub async fn change_labels(
        &self,
        network: &Name,
        endpoint: &Name,
        change: ChangeLabels,
    ) -> Result<EndpointView> {
        let (network, endpoint) = (network.clone(), endpoint.clone());
        self.change(async move |context| change::labels(&context, &network, &endpoint, change).await).await
    }

    /// Changes how fast an endpoint may send and receive.
    pub async fn change_limits(
        &self,
        network: &Name,
        endpoint: &Name,
        change: ChangeLimits,
    ) -> Result<EndpointView> {
        let (network, endpoint) = (network.clone(), endpoint.clone());
        self.change(async move |context| change::limits(&context, &network, &endpoint, change).await).await
    }

    /// Keeps two networks apart again.
    pub async fn deny(&self, a: &Name, b: &Name) -> Result<()> {
        let (a, b) = (a.clone(), b.clone());
        self.change(async move |context| policies::deny(&context, &a, &b).await).await
    }

    /// Published ports on all nodes.
    pub async fn publications(&self) -> Result<Vec<PublicationView>> {
        Ok(publish::list(&self.context))
    }

    /// Publishes a port of an endpoint; all that it publishes now.
    pub async fn publish(
        &self,
        network: &Name,
        endpoint: &Name,
        publication: Publication,
    ) -> Result<Vec<PublicationView>> {
        let (network, endpoint) = (network.clone(), endpoint.clone());
        self.change(async move |context| publish::publish(&context, &network, &endpoint, publication).await)
            .await
    }

    /// Takes a published port back; all that the endpoint publishes then.
    pub async fn unpublish(
        &self,
        network: &Name,
        endpoint: &Name,
        publication: Publication,
    ) -> Result<Vec<PublicationView>> {
        let (network, endpoint) = (network.clone(), endpoint.clone());
        self.change(async move |context| publish::unpublish(&context, &network, &endpoint, publication).await)
            .await
    }

    /// The agent's state.
    pub async fn status(&self) -> Result<Status> {
        Ok(views::status(&self.context))
    }

    /// Since when, and why, what is shown is not the store's content as it is now.
    #[must_use]
    pub fn stale(&self) -> Option<Failure> {
        self.context.mirror.staleness()
    }

    /// Keeps what is known for an agent that has to start without the store.
    pub async fn save(&self) {
        self.context.mirror.save().await;
    }

    /// What passes found and did, as they end.
    #[must_use]
    pub fn reports(&self) -> watch::Receiver<reconciler::Report> {
        self.context.reconciler.reports()
    }

    /// Waits until the first pass is done.
    pub async fn ready(&self) -> Result<Status> {
        self.context.reconciler.ready().await;
        self.status().await
    }

    /// The cluster's state, to be imported into another store.
    pub async fn export(&self) -> Result<Exported> {
        export::export(&self.context).await
    }

    /// What is not as it should be on this host.
    pub async fn verify(&self) -> Result<Verification> {
        verify::verify(&self.context).await
    }

    /// Repairs what is not as it should be, as far as the agent can.
    pub async fn repair(&self) -> Result<Verification> {
        if self.context.rehearses() {
            return self.verify().await;
        }
        self.finish(async move |context| verify::repair(&context).await).await
    }

    /// Everything that is measured, now.
    pub async fn metrics(&self) -> Result<Scrape> {
        Ok(Scrape {
            status: self.status().await?,
            drops: self.drops().await?,
            endpoints: self.endpoints().await?,
            nodes: self.nodes().await?,
            maps: self.maps().await?,
            policies: self.policies().await?,
        })
    }

    /// What would become of a packet. Nothing is sent, changed or counted.
    pub async fn trace(&self, request: TraceRequest) -> Result<TraceView> {
        trace::trace(&self.context, &request).await
    }

    /// Drop counters that are not zero, most packets first.
    pub async fn drops(&self) -> Result<Vec<DropView>> {
        views::drops(&self.context)
    }

    /// The BPF maps.
    pub async fn maps(&self) -> Result<Vec<MapView>> {
        views::maps(&self.context)
    }

    /// One BPF map, decoded.
    pub async fn dump_map(&self, name: &str) -> Result<MapDump> {
        views::dump_map(&self.context, name)
    }

    /// Runs an operation that needs the store to take a change.
    async fn change<T, F>(&self, operation: impl FnOnce(Arc<Context>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.context.check_store()?;
        self.finish(operation).await
    }

    /// Runs an operation to its end, even if its caller goes away.
    async fn finish<T, F>(&self, operation: impl FnOnce(Arc<Context>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let operation = operation(Arc::clone(&self.context));
        let task = match self.context.rehearses() {
            // What did not happen is not for the log.
            true => tokio::spawn(operation.with_subscriber(Dispatch::none())),
            false => tokio::spawn(operation),
        };
        task.await
            .unwrap_or_else(|e| Err(ServiceError::Internal(format!("the operation was broken off: {e}"))))
    }
}
