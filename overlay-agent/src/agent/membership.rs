//! This node in the cluster: its record, which stays, and its sign of life, which a lease keeps.
//!
//! The record is what other hosts forward by. It outlives the agent, as the data path does: an agent that
//! is restarted, or stopped for an hour, costs no packet. The sign of life says whether the agent runs, and
//! keeps a second node from taking the same name.

use std::{fs, io, net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::sleep,
};

use super::reconciler::Report;

use crate::{
    config::Config,
    model::{Cluster, Name, Node, NodeAlive, keys::Key},
    netlink::Link,
    reconcile::desired::Underlay,
    store::{Entry, Failure, LeaseId, LeaseState, Outcome, Revision, Store, StoreError, Transaction},
};

/// Time after which a silent node counts as down.
pub const LEASE: Duration = Duration::from_secs(15);
/// Three signs of life in each lease.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Pause after a sign of life that was not given.
const RETRY: Duration = Duration::from_millis(500);
/// How often to try to join while the name is taken or the store busy.
const ATTEMPTS: u32 = 5;

/// Why a node is not, or no longer, part of the cluster.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// Another node has the name.
    #[error(
        "a running node is already called {name} (VTEP {vtep}): give this one another name with --node, or stop the other"
    )]
    NameTaken {
        /// The name.
        name: Name,
        /// The other node's VTEP address, if its record can be read.
        vtep: String,
    },
    /// The name belongs to a node that has containers.
    #[error(
        "node {name} has {endpoints} containers under another identity: start it with the state directory that it had, or give this node another name with --node"
    )]
    OtherIdentity {
        /// The name.
        name: Name,
        /// How many.
        endpoints: usize,
    },
    /// Another node has the address.
    #[error(
        "running node {name} has the VTEP address {vtep} already: give this one another with --advertise"
    )]
    AddressTaken {
        /// That node.
        name: Name,
        /// The address.
        vtep: Ipv4Addr,
    },
    /// This host has containers of which nobody knows anything.
    #[error(
        "this host has {veths} containers attached, but neither the store nor a snapshot knows anything of node {name}: put the store or the state directory back, or take the containers away with `overlay-agent --cleanup`"
    )]
    Unknown {
        /// This node.
        name: Name,
        /// How many host veths there are.
        veths: usize,
    },
    /// Half of another store's state is in the store.
    #[error(
        "an import into the store is not finished: run `overlay store import` again with the same export"
    )]
    HalfImported,
    /// The node's identity cannot be read or written.
    #[error("node identity {}: {source}", .path.display())]
    Identity {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not known which cluster's the store is.
    #[error("node {0} waits with its sign of life until it is in step with the store")]
    NotInStep(Name),
    /// The node's keys change under it all the time.
    #[error("node {0} cannot be registered: its keys in the store keep changing")]
    Contended(Name),
}

/// What this node is.
#[derive(Clone, Debug)]
pub struct Identity {
    record: Node,
    /// Its VTEP address is the underlay's, whatever that becomes.
    follows_underlay: bool,
}

impl MembershipError {
    /// Whether to try again makes no sense: somebody has to decide who is who.
    fn is_final(&self) -> bool {
        matches!(self, Self::NameTaken { .. } | Self::OtherIdentity { .. })
    }
}

impl Identity {
    /// The record of this node. Its random identity is made once and kept in the state directory.
    ///
    /// # Errors
    /// If that file cannot be read or written.
    pub fn load(config: &Config, (_, underlay): &(Link, Underlay)) -> Result<Self, MembershipError> {
        let record = Node {
            name: config.node.clone(),
            id: node_id(&config.paths.node_id())?,
            vtep: config.advertise.unwrap_or(underlay.addr),
            vxlan_port: config.vxlan_port,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Ok(Self { record, follows_underlay: config.advertise.is_none() })
    }
}

/// A node that is part of the cluster while this is held.
pub struct Membership {
    lost: oneshot::Receiver<MembershipError>,
    error: watch::Receiver<Option<String>>,
}

impl Membership {
    /// Why the last sign of life could not be given.
    #[must_use]
    pub fn errors(&self) -> watch::Receiver<Option<String>> {
        self.error.clone()
    }

    /// Waits for the membership to be lost for good; it is renewed through failures of the store.
    pub async fn kept(self) -> MembershipError {
        match self.lost.await {
            Ok(error) => error,
            Err(_) => std::future::pending().await,
        }
    }
}

/// Fails if this node may not join, before anything is touched: its name or address is another's, or the
/// store has lost what it knew of the `veths` containers on this host, and no snapshot tells.
///
/// # Errors
/// If so, or if the store does not answer.
pub async fn check(
    store: &dyn Store,
    cluster: &Cluster,
    identity: &Identity,
    veths: usize,
) -> Result<(), MembershipError> {
    if cluster.is_half_imported() {
        return Err(MembershipError::HalfImported);
    }
    let record = &identity.record;
    if let Some(alive) = store.get(&Key::Alive(record.name.clone()).to_string()).await? {
        check_owner(store, record, &alive).await?;
    }
    check_address(cluster, record)?;
    check_identity(cluster, record)?;
    match cluster.nodes.get(&record.name) {
        None if veths > 0 => Err(MembershipError::Unknown { name: record.name.clone(), veths }),
        _ => Ok(()),
    }
}

/// The containers of a name are another identity's: to take the name would take them away.
fn check_identity(cluster: &Cluster, record: &Node) -> Result<(), MembershipError> {
    let endpoints = cluster.endpoints.values().filter(|e| e.record.node == record.name).count();
    match cluster.nodes.get(&record.name) {
        Some(known) if known.record.id != record.id && endpoints > 0 => {
            Err(MembershipError::OtherIdentity { name: record.name.clone(), endpoints })
        }
        _ => Ok(()),
    }
}

fn check_address(cluster: &Cluster, record: &Node) -> Result<(), MembershipError> {
    let others = cluster.nodes.values().map(|n| &n.record).filter(|n| n.name != record.name);
    match others.filter(|n| cluster.alive.contains(&n.name)).find(|n| n.vtep == record.vtep) {
        None => Ok(()),
        Some(other) => Err(MembershipError::AddressTaken { name: other.name.clone(), vtep: record.vtep }),
    }
}

/// What a node needs to know of the store to give its sign of life there.
#[derive(Clone)]
pub struct Footing {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The cluster, to join no other.
    pub cluster: watch::Receiver<Arc<Cluster>>,
    /// Why the cluster is not known as it is now.
    pub stale: watch::Receiver<Option<Failure>>,
    /// Why the store could not be changed when that was last tried.
    pub changes: watch::Receiver<Option<Failure>>,
}

impl Footing {
    /// The revision of the cluster's record: what is tied to it can reach no other cluster's store.
    fn cluster_record(&self, node: &Name) -> Result<Revision, MembershipError> {
        let known = self.cluster.borrow().identity.as_ref().map(|record| record.revision);
        let revision = known.filter(|_| self.stale.borrow().is_none());
        revision.ok_or_else(|| MembershipError::NotInStep(node.clone()))
    }

    fn now(&self) -> Arc<Cluster> {
        Arc::clone(&self.cluster.borrow())
    }

    /// This node's record with the address that was last announced.
    fn current(&self, record: &Node) -> Node {
        let cluster = self.cluster.borrow();
        let known = cluster.nodes.get(&record.name).filter(|known| known.record.id == record.id);
        Node { vtep: known.map_or(record.vtep, |known| known.record.vtep), ..record.clone() }
    }

    /// Waits until the next sign of life is due, or it is worth trying at once.
    async fn pause(&mut self, given: bool) {
        let broken = self.changes.borrow().is_some();
        let (stale, changes) = (&mut self.stale, &mut self.changes);
        stale.mark_unchanged();
        tokio::select! {
            () = sleep(if given && !broken { KEEP_ALIVE } else { RETRY }) => {}
            _ = stale.changed() => {}
            _ = changes.wait_for(Option::is_some), if !broken => {}
        }
    }
}

/// Registers this node, now if the store can be reached, and from then on keeps its sign of life.
///
/// # Errors
/// If another node has the name.
pub async fn join(mut footing: Footing, identity: Identity) -> Result<Membership, MembershipError> {
    let first = match register(&footing, &identity.record).await {
        Err(e) if e.is_final() => return Err(e),
        other => other,
    };
    let (sender, lost) = oneshot::channel();
    let error = watch::Sender::new(first.as_ref().err().map(ToString::to_string));
    let error_receiver = error.subscribe();
    tokio::spawn(async move {
        let reason = keep(&mut footing, &identity.record, first.ok(), &error).await;
        // The agent is gone if nobody waits for this.
        let _ = sender.send(reason);
    });
    Ok(Membership { lost, error: error_receiver })
}

/// Renews the lease until another node takes the name.
async fn keep(
    footing: &mut Footing,
    record: &Node,
    mut lease: Option<LeaseId>,
    error: &watch::Sender<Option<String>>,
) -> MembershipError {
    loop {
        let given = error.borrow().is_none();
        footing.pause(given).await;
        match give(footing, record, lease).await {
            Ok(current) => {
                lease = Some(current);
                error.send_replace(None);
            }
            Err(e) if e.is_final() => return e,
            Err(e) => note(error, &e),
        }
    }
}

/// One sign of life. A node whose lease ran out, or that never had one, registers.
async fn give(footing: &Footing, record: &Node, lease: Option<LeaseId>) -> Result<LeaseId, MembershipError> {
    match lease {
        Some(lease) if footing.store.keep_alive(lease).await? == LeaseState::Alive => Ok(lease),
        Some(_) => register(footing, &footing.current(record)).await,
        None => register(footing, record).await,
    }
}

fn note(error: &watch::Sender<Option<String>>, reason: &MembershipError) {
    let text = Some(reason.to_string());
    if *error.borrow() != text {
        tracing::warn!(%reason, "sign of life not given");
    }
    error.send_replace(text);
}

/// Writes the node's record anew when the underlay's address changes, until the reconciler ends.
pub async fn announce(footing: Footing, identity: Identity, mut reports: watch::Receiver<Report>) {
    let Identity { mut record, follows_underlay } = identity;
    while follows_underlay && reports.changed().await.is_ok() {
        let addr = reports.borrow_and_update().underlay.addr;
        if addr == record.vtep {
            continue;
        }
        let moved = Node { vtep: addr, ..record.clone() };
        match put_record(&footing, &moved).await {
            Ok(()) => {
                tracing::info!(from = %record.vtep, to = %moved.vtep, "VTEP address changed");
                record = moved;
            }
            // The next report, two seconds on, tries again.
            Err(e) => tracing::warn!(reason = %e, "VTEP address not announced"),
        }
    }
}

async fn put_record(footing: &Footing, record: &Node) -> Result<(), MembershipError> {
    let cluster = footing.cluster_record(&record.name)?;
    let transaction = Transaction::new().unchanged(Key::Cluster, cluster);
    match footing.store.commit(transaction.put(Key::Node(record.name.clone()), record)).await? {
        Outcome::Committed(_) => Ok(()),
        Outcome::Conflict(_) => Err(MembershipError::NotInStep(record.name.clone())),
    }
}

async fn register(footing: &Footing, record: &Node) -> Result<LeaseId, MembershipError> {
    let (store, cluster) = (footing.store.as_ref(), footing.cluster_record(&record.name)?);
    check_identity(&footing.now(), record)?;
    check_address(&footing.now(), record)?;
    let lease = store.grant_lease(LEASE).await?;
    for _ in 0..ATTEMPTS {
        if try_register(store, record, lease, cluster).await? {
            tracing::info!(node = %record.name, vtep = %record.vtep, "registered");
            return Ok(lease);
        }
    }
    Err(MembershipError::Contended(record.name.clone()))
}

/// Writes sign of life and record; `false` if somebody else wrote in between.
async fn try_register(
    store: &dyn Store,
    record: &Node,
    lease: LeaseId,
    cluster: Revision,
) -> Result<bool, MembershipError> {
    let alive_key = Key::Alive(record.name.clone());
    let alive = NodeAlive { id: record.id.clone() };
    let transaction = match store.get(&alive_key.to_string()).await? {
        None => Transaction::new().create(&alive_key, &alive),
        Some(entry) => {
            check_owner(store, record, &entry).await?;
            Transaction::new().replace(&alive_key, entry.revision, &alive)
        }
    };
    let transaction = transaction.leased(lease).put(Key::Node(record.name.clone()), record);
    let transaction = transaction.unchanged(Key::Cluster, cluster);
    Ok(matches!(store.commit(transaction).await?, Outcome::Committed(_)))
}

/// Whether a sign of life is this node's own, as after a restart.
async fn check_owner(store: &dyn Store, record: &Node, alive: &Entry) -> Result<(), MembershipError> {
    let owner = serde_json::from_slice::<NodeAlive>(&alive.value).ok();
    if owner.is_none_or(|owner| owner.id == record.id) {
        return Ok(());
    }
    let entry = store.get(&Key::Node(record.name.clone()).to_string()).await?;
    let other = entry.and_then(|e| serde_json::from_slice::<Node>(&e.value).ok());
    let vtep = other.map_or_else(|| "unknown".to_owned(), |node| node.vtep.to_string());
    Err(MembershipError::NameTaken { name: record.name.clone(), vtep })
}

fn node_id(path: &std::path::Path) -> Result<String, MembershipError> {
    let fail = |source| MembershipError::Identity { path: path.to_owned(), source };
    match fs::read_to_string(path) {
        Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(fail(e)),
    }
    let id = format!("{:032x}", rand::random::<u128>());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(fail)?;
    }
    fs::write(path, &id).map_err(fail)?;
    Ok(id)
}
