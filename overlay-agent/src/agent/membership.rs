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
    store::{Entry, LeaseId, LeaseState, Outcome, Store, StoreError, Transaction},
};

/// Time after which a silent node counts as down.
pub const LEASE: Duration = Duration::from_secs(15);
/// Three signs of life in each lease.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
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
    /// This host has containers of which the store knows nothing.
    #[error(
        "this host has {veths} containers attached, but the store knows nothing of node {name}: it was wiped or is another one; put it back, or take the containers away with `overlay-agent --cleanup`"
    )]
    Wiped {
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
    /// The store has lost the node's record.
    #[error("the store knows nothing of node {0} any more")]
    Forgotten(Name),
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
/// store has lost what it knew of the `veths` containers on this host.
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
    let endpoints = cluster.endpoints.values().filter(|e| e.record.node == record.name).count();
    match cluster.nodes.get(&record.name) {
        Some(known) if known.record.id != record.id && endpoints > 0 => {
            Err(MembershipError::OtherIdentity { name: record.name.clone(), endpoints })
        }
        None if veths > 0 => Err(MembershipError::Wiped { name: record.name.clone(), veths }),
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

/// Registers this node, and from then on keeps its sign of life.
///
/// # Errors
/// If another node has the name, or the store does not answer.
pub async fn join(store: Arc<dyn Store>, identity: Identity) -> Result<Membership, MembershipError> {
    let lease = register(store.as_ref(), &identity.record).await?;
    let (sender, lost) = oneshot::channel();
    let (error, error_receiver) = watch::channel(None);
    tokio::spawn(async move {
        let reason = keep(store.as_ref(), &identity.record, lease, &error).await;
        // The agent is gone if nobody waits for this.
        let _ = sender.send(reason);
    });
    Ok(Membership { lost, error: error_receiver })
}

/// Renews the lease until another node takes the name.
async fn keep(
    store: &dyn Store,
    record: &Node,
    mut lease: LeaseId,
    error: &watch::Sender<Option<String>>,
) -> MembershipError {
    loop {
        sleep(KEEP_ALIVE).await;
        let renewed = match store.keep_alive(lease).await {
            Ok(LeaseState::Alive) => Ok(lease),
            Ok(LeaseState::Gone) => return_to(store, record).await,
            Err(e) => Err(e.into()),
        };
        match renewed {
            Ok(current) => {
                lease = current;
                error.send_replace(None);
            }
            Err(e @ MembershipError::NameTaken { .. }) => return e,
            Err(e) => {
                tracing::warn!(reason = %e, "sign of life not given");
                error.send_replace(Some(e.to_string()));
            }
        }
    }
}

/// Gives a sign of life again after the lease ran out, unless the store has lost this node altogether: then
/// it was wiped, and to go on as if nothing had happened would take the containers away.
async fn return_to(store: &dyn Store, record: &Node) -> Result<LeaseId, MembershipError> {
    match store.get(&Key::Node(record.name.clone()).to_string()).await? {
        Some(_) => register(store, record).await,
        None => Err(MembershipError::Forgotten(record.name.clone())),
    }
}

/// Writes the node's record anew when the underlay's address changes, until the reconciler ends.
pub async fn announce(store: Arc<dyn Store>, identity: Identity, mut reports: watch::Receiver<Report>) {
    let Identity { mut record, follows_underlay } = identity;
    while follows_underlay && reports.changed().await.is_ok() {
        let addr = reports.borrow_and_update().underlay.addr;
        if addr == record.vtep {
            continue;
        }
        let moved = Node { vtep: addr, ..record.clone() };
        match store.commit(Transaction::new().put(Key::Node(moved.name.clone()), &moved)).await {
            Ok(_) => {
                tracing::info!(from = %record.vtep, to = %moved.vtep, "VTEP address changed");
                record = moved;
            }
            // The next report, two seconds on, tries again.
            Err(e) => tracing::warn!(reason = %e, "VTEP address not announced"),
        }
    }
}

async fn register(store: &dyn Store, record: &Node) -> Result<LeaseId, MembershipError> {
    let lease = store.grant_lease(LEASE).await?;
    for _ in 0..ATTEMPTS {
        if try_register(store, record, lease).await? {
            tracing::info!(node = %record.name, vtep = %record.vtep, "registered");
            return Ok(lease);
        }
    }
    Err(MembershipError::Contended(record.name.clone()))
}

/// Writes sign of life and record; `false` if somebody else wrote in between.
async fn try_register(store: &dyn Store, record: &Node, lease: LeaseId) -> Result<bool, MembershipError> {
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
