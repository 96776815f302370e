//! This node in the cluster: its record, which stays, and its sign of life, which a lease keeps.
//!
//! The record is what other hosts forward by. It outlives the agent, as the data path does: an agent that
//! is restarted, or stopped for a while, costs no packet. The sign of life says whether the agent runs, and
//! keeps a second node from taking the same name. An agent that ends in order says goodbye in the record;
//! one that does neither counts as down: see [`super::presence`].

use std::{fs, io, net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    reconciler::Report,
    record::{self, RecordError},
};
use crate::{
    config::Config,
    model::{Cluster, Life, Name, Node, NodeAlive, Timestamp, keys::Key},
    netlink::Link,
    reconcile::desired::Underlay,
    store::{Entry, Failure, LeaseId, LeaseState, Outcome, Revision, Store, StoreError, Transaction},
};

/// Signs of life in each lease.
const SIGNS_OF_LIFE: u32 = 3;
/// How long an agent that ends tries to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
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
        "node {name} has {endpoints} containers under another identity: start it with the state directory that it had, remove it on another node with `overlay node rm {name} --force`, or give this node another name with --node"
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
    /// The node's record cannot be changed.
    #[error(transparent)]
    Record(#[from] RecordError),
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
    /// Time after which it counts as silent.
    lease: Duration,
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
            epoch: 0,
            registered: None,
            life: Life::Running,
            since: None,
            draining: None,
        };
        Ok(Self { record, follows_underlay: config.advertise.is_none(), lease: config.lease })
    }
}

/// A node that is part of the cluster while this is held.
pub struct Membership {
    footing: Footing,
    record: Node,
    lost: oneshot::Receiver<MembershipError>,
    error: watch::Receiver<Option<String>>,
    keeper: JoinHandle<()>,
}

impl Membership {
    /// Why the last sign of life could not be given.
    #[must_use]
    pub fn errors(&self) -> watch::Receiver<Option<String>> {
        self.error.clone()
    }

    /// Waits for the membership to be lost for good; it is renewed through failures of the store.
    pub async fn kept(&mut self) -> MembershipError {
        match (&mut self.lost).await {
            Ok(error) => error,
            Err(_) => std::future::pending().await,
        }
    }

    /// Says goodbye, so that the others leave this node's endpoints where they are. One that cannot be said
    /// in time is not said: the node then counts as down until it is back.
    pub async fn leave(self) {
        self.keeper.abort();
        let said = match timeout(GOODBYE, say_goodbye(&self.footing, &self.record)).await {
            Ok(result) => result.map_err(|e| e.to_string()),
            Err(_) => Err(format!("the store did not answer within {GOODBYE:?}")),
        };
        if let Err(reason) = said {
            tracing::warn!(reason, "goodbye not said: the other nodes will take this one for dead");
        }
    }
}

/// Takes the sign of life back and marks the record, unless they are another's or the node was removed.
async fn say_goodbye(footing: &Footing, record: &Node) -> Result<(), MembershipError> {
    let (store, cluster) = (footing.store.as_ref(), footing.cluster_record(&record.name)?);
    let (name, alive_key) = (&record.name, Key::Alive(record.name.clone()));
    for _ in 0..ATTEMPTS {
        let Some(known) = record::read(store, name).await? else { return Ok(()) };
        if known.record.id != record.id || known.record.life.is_over() {
            return Ok(());
        }
        let stopped = Node { life: Life::Stopped, since: Some(Timestamp::now()), ..known.record };
        let transaction = Transaction::new().unchanged(Key::Cluster, cluster).replace(
            Key::Node(name.clone()),
            known.revision,
            &stopped,
        );
        let transaction = match store.get(&alive_key.to_string()).await? {
            Some(alive) => transaction.delete_unchanged(&alive_key, alive.revision),
            None => transaction.absent(&alive_key),
        };
        if let Outcome::Committed(_) = store.commit(transaction).await? {
            return Ok(());
        }
    }
    Err(MembershipError::Contended(name.clone()))
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
    async fn pause(&mut self, given: bool, Identity { record, lease, .. }: &Identity) {
        let broken = self.changes.borrow().is_some();
        let (cluster, stale, changes) = (&mut self.cluster, &mut self.stale, &mut self.changes);
        stale.mark_unchanged();
        tokio::select! {
            () = sleep(if given && !broken { *lease / SIGNS_OF_LIFE } else { RETRY }) => {}
            // When a store comes back all leases may have run out: the others wait, but not for long.
            () = vanishes(cluster, &record.name) => {}
            _ = stale.changed() => {}
            _ = changes.wait_for(Option::is_some), if !broken => {}
        }
    }
}

/// Waits until this node's sign of life, having been there, is there no more.
async fn vanishes(cluster: &mut watch::Receiver<Arc<Cluster>>, name: &Name) {
    let seen = cluster.wait_for(|cluster| cluster.alive.contains(name)).await.is_ok();
    let gone = seen && cluster.wait_for(|cluster| !cluster.alive.contains(name)).await.is_ok();
    if !gone {
        // The mirror has ended.
        std::future::pending::<()>().await;
    }
}

/// Registers this node, now if the store can be reached, and from then on keeps its sign of life.
///
/// # Errors
/// If another node has the name.
pub async fn join(mut footing: Footing, identity: Identity) -> Result<Membership, MembershipError> {
    let first = match register(&footing, &identity.record, identity.lease).await {
        Err(e) if e.is_final() => return Err(e),
        other => other,
    };
    let (sender, lost) = oneshot::channel();
    let error = watch::Sender::new(first.as_ref().err().map(ToString::to_string));
    let error_receiver = error.subscribe();
    let (own, record) = (footing.clone(), identity.record.clone());
    let keeper = tokio::spawn(async move {
        let reason = keep(&mut footing, &identity, first.ok(), &error).await;
        // The agent is gone if nobody waits for this.
        let _ = sender.send(reason);
    });
    Ok(Membership { footing: own, record, lost, error: error_receiver, keeper })
}

/// Renews the lease until another node takes the name.
async fn keep(
    footing: &mut Footing,
    identity: &Identity,
    mut lease: Option<LeaseId>,
    error: &watch::Sender<Option<String>>,
) -> MembershipError {
    loop {
        let given = error.borrow().is_none();
        footing.pause(given, identity).await;
        match give(footing, identity, lease).await {
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
async fn give(
    footing: &Footing,
    identity: &Identity,
    lease: Option<LeaseId>,
) -> Result<LeaseId, MembershipError> {
    let Identity { record, lease: ttl, .. } = identity;
    match lease {
        Some(lease) if footing.store.keep_alive(lease).await? == LeaseState::Alive => Ok(lease),
        Some(_) => register(footing, &footing.current(record), *ttl).await,
        None => register(footing, record, *ttl).await,
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
    let Identity { mut record, follows_underlay, .. } = identity;
    while follows_underlay && reports.changed().await.is_ok() {
        let addr = reports.borrow_and_update().underlay.addr;
        if addr == record.vtep {
            continue;
        }
        match put_address(&footing, &record.name, addr).await {
            Ok(()) => {
                tracing::info!(from = %record.vtep, to = %addr, "VTEP address changed");
                record.vtep = addr;
            }
            // The next report, two seconds on, tries again.
            Err(e) => tracing::warn!(reason = %e, "VTEP address not announced"),
        }
    }
}

async fn put_address(footing: &Footing, name: &Name, addr: Ipv4Addr) -> Result<(), MembershipError> {
    let guard = Transaction::new().unchanged(Key::Cluster, footing.cluster_record(name)?);
    let change = |known: &mut Node| {
        known.vtep = addr;
        Ok(())
    };
    record::update::<RecordError>(footing.store.as_ref(), name, &guard, change).await?;
    Ok(())
}

async fn register(footing: &Footing, record: &Node, ttl: Duration) -> Result<LeaseId, MembershipError> {
    let (store, cluster) = (footing.store.as_ref(), footing.cluster_record(&record.name)?);
    check_identity(&footing.now(), record)?;
    check_address(&footing.now(), record)?;
    let lease = store.grant_lease(ttl).await?;
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
    let transaction = transaction.leased(lease).unchanged(Key::Cluster, cluster);
    let node_key = Key::Node(record.name.clone());
    let transaction = match store.get(&node_key.to_string()).await? {
        None => transaction.create(&node_key, &registered(record, None)),
        Some(entry) => {
            let known = serde_json::from_slice(&entry.value).ok();
            transaction.replace(&node_key, entry.revision, &registered(record, known.as_ref()))
        }
    };
    Ok(matches!(store.commit(transaction).await?, Outcome::Committed(_)))
}

/// The record of a node that registers: what it says of itself anew, what others said of it kept.
fn registered(mine: &Node, known: Option<&Node>) -> Node {
    let now = Timestamp::now();
    let same = known.filter(|known| known.id == mine.id);
    Node {
        epoch: known.map_or(0, |known| known.epoch) + 1,
        registered: same.and_then(|known| known.registered).or(Some(now)),
        life: Life::Running,
        since: Some(now),
        draining: same.and_then(|known| known.draining),
        ..mine.clone()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> Node {
        Node {
            name: "a".parse().unwrap(),
            id: id.to_owned(),
            vtep: Ipv4Addr::new(192, 0, 2, 1),
            vxlan_port: 4789,
            version: "2".to_owned(),
            epoch: 0,
            registered: None,
            life: Life::Running,
            since: None,
            draining: None,
        }
    }

    #[test]
    fn a_registration_keeps_what_others_said_of_the_node_and_renews_the_rest() {
        let [long_ago, lately] = [10, 20].map(|second| Some(Timestamp::from_unix(second)));
        let known = Node {
            vtep: Ipv4Addr::new(192, 0, 2, 9),
            version: "1".to_owned(),
            epoch: 7,
            registered: long_ago,
            life: Life::Collected,
            since: lately,
            draining: lately,
            ..node("x")
        };
        let now = registered(&node("x"), Some(&known));
        let expected =
            Node { epoch: 8, registered: long_ago, since: now.since, draining: lately, ..node("x") };
        assert_eq!(now, expected);
        assert!(now.since > lately);

        // Another machine under the name is another node, but no earlier epoch.
        let other = registered(&node("y"), Some(&known));
        let expected = Node { epoch: 8, registered: other.since, since: other.since, ..node("y") };
        assert_eq!(other, expected);
        assert_eq!(registered(&node("y"), None).epoch, 1);
    }
}
