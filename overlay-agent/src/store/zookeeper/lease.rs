//! Leases: each is a session of its own, with an ephemeral node that shows whether it lives.
//!
//! The keys themselves are no ephemeral nodes. Those could not have others below them, could be made only by
//! the lease's own session, and would vanish without a word in the changelog. Instead a lease's node names the
//! keys bound to it, and when the lease is over, whichever client comes first deletes them, in a commit like
//! any other.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinHandle},
    time::{Instant, sleep, sleep_until, timeout},
};
use zookeeper_client::{AddWatchMode, Client, CreateMode, Error, EventType, PersistentWatcher, WatchedEvent};

use super::{
    changelog,
    commit::{self, carry_out, carry_out_unseen, look},
    fault::{Fault, found},
    link::{Link, Place, REQUEST},
    plan::Plan,
    read,
};
use crate::store::{LeaseId, LeaseState, Operation, Transaction};

/// The server notices a silent client up to a tick late; so it is told to wait that much less.
const TICK: Duration = Duration::from_secs(1);
/// Within this time after a lease's end, one client after the other looks whether its keys are still there.
const STAGGER: Duration = Duration::from_millis(300);

/// The leases of this client.
#[derive(Default)]
pub(super) struct Leases(Mutex<HashMap<LeaseId, Holder>>);

/// Who answers whether a lease lives.
type Answer = oneshot::Sender<Result<LeaseState, Fault>>;

/// The task that holds a lease's session.
struct Holder {
    renewals: mpsc::Sender<Answer>,
    task: AbortHandle,
}

impl Leases {
    /// A new lease, which this client keeps alive.
    pub(super) async fn grant(&self, place: &Place, ttl: Duration) -> Result<LeaseId, Fault> {
        let silence = ttl.saturating_sub(TICK).max(ttl * 3 / 4);
        let client = place.session(silence).await?;
        let lease = LeaseId::from(client.session_id().0);
        let mut writer = client.new_multi_writer();
        writer.add_create(&place.layout.lease(lease), &[], &place.create(CreateMode::Persistent))?;
        writer.add_create(&place.layout.alive(lease), &[], &place.create(CreateMode::Ephemeral))?;
        match writer.commit().await.map_err(Error::from) {
            Err(Error::NoNode) => return Err(Fault::Wiped),
            made => drop(made?),
        }
        let (renewals, asked) = mpsc::channel(1);
        let task = tokio::spawn(hold(client, place.layout.alive(lease), ttl, asked)).abort_handle();
        self.held().insert(lease, Holder { renewals, task });
        Ok(lease)
    }

    /// Starts a lease's time anew. Only its own client can; to others it is gone.
    pub(super) async fn renew(&self, lease: LeaseId) -> Result<LeaseState, Fault> {
        let Some(renewals) = self.held().get(&lease).map(|holder| holder.renewals.clone()) else {
            return Ok(LeaseState::Gone);
        };
        let (answer, answered) = oneshot::channel();
        let state = match renewals.send(answer).await {
            Ok(()) => answered.await.unwrap_or(Ok(LeaseState::Gone)),
            Err(_) => Ok(LeaseState::Gone),
        };
        if state == Ok(LeaseState::Gone) {
            self.forget(lease);
        }
        state
    }

    /// Closes the session of a lease that is over.
    pub(super) fn forget(&self, lease: LeaseId) {
        if let Some(holder) = self.held().remove(&lease) {
            holder.task.abort();
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<LeaseId, Holder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds a lease's session until its time is over. The client library keeps the session up by itself, so the
/// time is counted here. It goes on when the store is dropped.
async fn hold(client: Client, alive: String, ttl: Duration, mut renewals: mpsc::Receiver<Answer>) {
    let mut over = Instant::now() + ttl;
    loop {
        let renewal = tokio::select! {
            renewal = renewals.recv() => renewal,
            () = sleep_until(over) => return,
        };
        let Some(answer) = renewal else { return sleep_until(over).await };
        let asked = Instant::now();
        let state = state(&client, &alive).await;
        if state == Ok(LeaseState::Alive) {
            over = asked + ttl;
        }
        let is_gone = state == Ok(LeaseState::Gone);
        // Whoever asked may have stopped waiting.
        let _ = answer.send(state);
        if is_gone {
            return;
        }
    }
}

async fn state(client: &Client, alive: &str) -> Result<LeaseState, Fault> {
    match timeout(REQUEST, client.check_stat(alive)).await {
        Ok(Ok(Some(_))) => Ok(LeaseState::Alive),
        Ok(Ok(None) | Err(Error::SessionExpired | Error::ClientClosed)) => Ok(LeaseState::Gone),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Fault::Lost("no answer on the lease's session".to_owned())),
    }
}

/// Deletes a lease and its keys, if it is over.
pub(super) async fn bury(place: &Arc<Place>, client: &Client, lease: LeaseId) -> Result<(), Fault> {
    finish(place, client, lease, false).await
}

/// Ends a lease and deletes its keys.
pub(super) async fn revoke(place: &Arc<Place>, client: &Client, lease: LeaseId) -> Result<(), Fault> {
    finish(place, client, lease, true).await
}

async fn finish(place: &Arc<Place>, client: &Client, lease: LeaseId, revoked: bool) -> Result<(), Fault> {
    loop {
        match try_finish(place, client, lease, revoked).await {
            Err(Fault::Raced) => {}
            ended => return ended,
        }
    }
}

async fn try_finish(place: &Arc<Place>, client: &Client, lease: LeaseId, revoked: bool) -> Result<(), Fault> {
    let layout = &place.layout;
    client.sync("/").await?;
    let alive = client.check_stat(&layout.alive(lease)).await?;
    let Some((data, stat)) = found(client.get_data(&layout.lease(lease)).await)? else { return Ok(()) };
    if alive.is_some() && !revoked {
        return Ok(());
    }
    let named = commit::keys(&data);
    let operations = named.iter().cloned().map(Operation::Delete).collect();
    let (_, seen) = look(client, layout, &Transaction { operations, ..Transaction::new() }).await?;
    let mut plan = Plan::new(layout, &seen);
    for key in named {
        let Some(entry) = read::get(client, layout, &key).await?.filter(|entry| entry.lease == Some(lease))
        else {
            continue;
        };
        let node = layout.node(&key);
        if seen.nodes.get(&node).is_none_or(|node| changelog::revision(node.written) != entry.revision) {
            return Err(Fault::Raced);
        }
        plan.hold(&node);
        plan.delete(&key);
    }
    if let Some(alive) = alive {
        plan.remove(layout.alive(lease), alive.version);
    }
    plan.remove(layout.lease(lease), stat.version);
    let planned = plan.finish();
    if planned.changes.is_empty() {
        return carry_out_unseen(place, client, planned.steps).await;
    }
    carry_out(place, client, planned, &format!("end of lease {:#x}", lease.0)).await.map(drop)
}

/// The task that deletes what leases leave behind, also those of clients that are gone. It ends when this is
/// dropped.
pub(super) struct Sweeper(JoinHandle<()>);

impl Sweeper {
    pub(super) fn start(place: Arc<Place>, link: Link) -> Self {
        Self(tokio::spawn(async move {
            loop {
                // Whoever uses the store meets the same fault, and reports it.
                if let Err(fault) = sweep(&place, &link).await {
                    tracing::debug!(%fault, store = place.url, "no watch over leases");
                    link.settle().await;
                }
            }
        }))
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Looks after leases as long as one session lasts.
async fn sweep(place: &Arc<Place>, link: &Link) -> Result<(), Fault> {
    let client = link.client().await?;
    // Before the first look: what ends during it is seen too.
    let mut watcher = client.watch(&place.layout.leases(), AddWatchMode::PersistentRecursive).await?;
    for name in client.list_children(&place.layout.leases()).await? {
        if let Some(lease) = place.layout.lease_of(&format!("{}/{name}", place.layout.leases())) {
            bury(place, &client, lease).await?;
        }
    }
    loop {
        let ended = tokio::select! {
            ended = next_ended(place, &mut watcher) => ended,
            () = link.replaced(&client) => return Ok(()),
        };
        let Some(ended) = ended else { return Ok(()) };
        for lease in ended {
            bury(place, &client, lease).await?;
        }
    }
}

/// The leases that end at about the same time; `None` when the session does.
async fn next_ended(place: &Place, watcher: &mut PersistentWatcher) -> Option<BTreeSet<LeaseId>> {
    let mut ended = BTreeSet::new();
    while ended.is_empty() {
        ended.extend(ended_by(place, &watcher.changed().await)?);
    }
    sleep(STAGGER.mul_f64(rand::random())).await;
    while let Some(event) = watcher.changed().now_or_never() {
        ended.extend(ended_by(place, &event)?);
    }
    Some(ended)
}

/// The lease that an event ends, if it does; `None` if it is about the session.
#[expect(clippy::option_option, reason = "an event that says nothing is not the end of the events")]
fn ended_by(place: &Place, event: &WatchedEvent) -> Option<Option<LeaseId>> {
    let lease = place.layout.lease_of(&event.path);
    match event.event_type {
        EventType::Session => None,
        EventType::NodeDeleted => Some(lease.filter(|lease| event.path == place.layout.alive(*lease))),
        _ => Some(None),
    }
}
