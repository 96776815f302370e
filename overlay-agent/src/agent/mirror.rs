//! The store's content as it is now, kept by a watch; and, while the store cannot be reached, as it was last known.
//!
//! What is known outlives the store. It is kept in a snapshot, from which the next agent starts if it must. When the
//! store is back everything is listed anew; [`super::known`] decides what of the difference to believe, and what the
//! store has lost is written back ([`super::writeback`]).

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{Notify, watch},
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};

use super::{
    follower::Follower,
    known::{Applied, Arrival, Known, is_alive, judge, parse},
    lock,
    outbox::{Outbox, Release},
    snapshot::{self, Entries, Snapshot},
    until,
    writeback::Scope,
};
use crate::{
    model::{Cluster, Name, keys::Key},
    netlink::Netlink,
    service::release,
    store::{Event, Failure, Listing, Outcome, Revision, Store, StoreError},
};

/// Pause before asking a store again that did not answer.
pub(super) const RETRY: Duration = Duration::from_millis(500);
/// How long changes gather before they are written down.
const SNAPSHOT_PAUSE: Duration = Duration::from_millis(500);

/// What a mirror works with.
pub struct Parts {
    /// This node.
    pub node: Name,
    /// The store.
    pub store: Arc<dyn Store>,
    /// Why the store could not be changed when that was last tried.
    pub changes: watch::Receiver<Option<Failure>>,
    /// The devices: only an endpoint that has its own is written back.
    pub netlink: Netlink,
    /// Where the snapshot is kept.
    pub snapshot: PathBuf,
    /// What is detached, but in the store.
    pub outbox: Arc<Outbox>,
}

/// What a mirror starts from; at least one of the two.
pub struct Start {
    /// What an earlier agent knew.
    pub snapshot: Option<Snapshot>,
    /// The store's content, or why it cannot be had.
    pub listing: Result<Listing, StoreError>,
}

impl Start {
    /// The cluster as the store has it, if it can be reached and is the one that was known.
    #[must_use]
    pub fn cluster(&self) -> Option<Cluster> {
        let listing = self.listing.as_ref().ok().filter(|_| !self.is_foreign())?;
        Some(Cluster::from_listing(&listing.entries, listing.revision))
    }

    /// Forgets a snapshot of another cluster than the store's.
    #[must_use]
    pub fn without_foreign_snapshot(self) -> Self {
        if !self.is_foreign() {
            return self;
        }
        tracing::info!("the store is another cluster's than before: joining that one");
        Self { snapshot: None, ..self }
    }

    fn is_foreign(&self) -> bool {
        let (Some(snapshot), Ok(listing)) = (&self.snapshot, &self.listing) else { return false };
        let key = Key::Cluster.to_string();
        let found = listing.entries.iter().find(|entry| entry.key == key).and_then(parse);
        let known = snapshot.entries.get(&key).and_then(parse);
        matches!(judge(known.as_ref(), found.as_ref()), Arrival::Foreign(_))
    }
}

/// A mirror that is kept up to date until dropped.
pub struct Mirror {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 3],
}

impl Mirror {
    /// The cluster's state; the receiver wakes at each change.
    #[must_use]
    pub fn cluster(&self) -> watch::Receiver<Arc<Cluster>> {
        self.shared.cluster.subscribe()
    }

    /// The cluster's state now.
    #[must_use]
    pub fn now(&self) -> Arc<Cluster> {
        Arc::clone(&self.shared.cluster.borrow())
    }

    /// Has everything listed again now, and waits until that, or a change, has been taken over.
    pub async fn list_again(&self) {
        let mut cluster = self.cluster();
        cluster.mark_unchanged();
        self.shared.again.notify_one();
        // Without its sender the agent is stopping.
        let _ = cluster.changed().await;
    }

    /// Everything of ours in the store as it was last known, also what cannot be read.
    #[must_use]
    pub fn entries(&self) -> Arc<Entries> {
        Arc::clone(lock(&self.shared.state).known.entries())
    }

    /// Since when, and why, this is not the store's content as it is now.
    #[must_use]
    pub fn stale(&self) -> watch::Receiver<Option<Failure>> {
        self.shared.stale.subscribe()
    }

    /// Since when, and why, this is not the store's content just now. A copy: a watched value that is borrowed keeps
    /// the mirror from changing it.
    #[must_use]
    pub fn staleness(&self) -> Option<Failure> {
        self.shared.stale.borrow().clone()
    }

    /// What is out of the ordinary, one sentence each.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        self.shared.notices()
    }

    /// Waits, not for longer than this, until the cluster has its record or the store is known not to be there.
    pub async fn identified(&self, patience: Duration) {
        let (cluster, mut stale) = (self.cluster(), self.stale());
        let known = until(cluster, |cluster| cluster.identity.is_some());
        tokio::select! {
            _ = timeout(patience, known) => {}
            _ = stale.wait_for(Option::is_some) => {}
        }
    }

    /// Shows the outbox's endpoints as detached.
    pub fn hide_detached(&self) {
        self.shared.cluster.send_modify(|cluster| self.shared.parts.outbox.hide_in(Arc::make_mut(cluster)));
    }

    /// Writes the snapshot now.
    pub async fn save(&self) {
        self.shared.save().await;
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Starts to follow a store.
#[must_use]
pub fn follow(parts: Parts, start: Start) -> Mirror {
    let (entries, revision, written) = match start.snapshot {
        Some(Snapshot { entries, revision, written, .. }) => (entries, revision, written),
        None => (Arc::default(), Revision::default(), SystemTime::now()),
    };
    let known = Known::new(parts.node.clone(), entries, revision);
    let reason = start.listing.as_ref().err().map_or_else(|| "not yet asked".to_owned(), ToString::to_string);
    let shared = Arc::new(Shared {
        cluster: watch::Sender::new(Arc::default()),
        stale: watch::Sender::new(Some(Failure { since: written, reason })),
        state: Mutex::new(State {
            known,
            loss: None,
            was_current: false,
            lost: BTreeSet::new(),
            trouble: None,
            unsaved: Unsaved::Everything,
        }),
        writer: Mutex::new(snapshot::Writer::new(parts.snapshot.clone())),
        snapshot_trouble: Mutex::new(None),
        changed: Notify::new(),
        again: Notify::new(),
        parts,
    });
    shared.publish(&lock(&shared.state));
    let listed = start.listing.is_ok_and(|listing| shared.absorb(listing));
    let follower = Follower::new(Arc::clone(&shared));
    let tasks = [
        tokio::spawn(follower.run(listed)),
        tokio::spawn(keep_snapshot(Arc::clone(&shared))),
        tokio::spawn(deliver(Arc::clone(&shared))),
    ];
    Mirror { shared, tasks }
}

/// What a mirror and its tasks share.
pub(super) struct Shared {
    pub(super) parts: Parts,
    pub(super) state: Mutex<State>,
    cluster: watch::Sender<Arc<Cluster>>,
    stale: watch::Sender<Option<Failure>>,
    writer: Mutex<snapshot::Writer>,
    snapshot_trouble: Mutex<Option<String>>,
    /// Something came or went that belongs into a snapshot.
    pub(super) changed: Notify,
    /// Everything is to be listed again.
    pub(super) again: Notify,
}

/// What is known, and how far it is settled with the store.
pub(super) struct State {
    pub(super) known: Known,
    /// The store was wiped, and so much is still to be written back.
    pub(super) loss: Option<Scope>,
    /// This agent has seen the store's content itself.
    was_current: bool,
    /// What could not be written back, in a sentence each.
    pub(super) lost: BTreeSet<String>,
    /// Why something could not be written back.
    pub(super) trouble: Option<String>,
    /// What the snapshot and its journal do not hold yet.
    unsaved: Unsaved,
}

/// What is still to be written down.
enum Unsaved {
    /// So many changes, in their order.
    Events(Vec<Event>),
    /// More than changes: a whole snapshot is due.
    Everything,
}

impl Unsaved {
    fn add(&mut self, events: impl IntoIterator<Item = Event>) {
        if let Self::Events(waiting) = self {
            waiting.extend(events);
        }
    }

    /// All of it, for whoever writes it down.
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Events(Vec::new()))
    }
}

impl State {
    /// Other things than the store's events have changed what is known.
    pub(super) fn save_everything(&mut self) {
        self.unsaved = Unsaved::Everything;
    }
}

impl Shared {
    /// Takes a listing over; `false` if it is another cluster's.
    pub(super) fn absorb(&self, listing: Listing) -> bool {
        let state = &mut *lock(&self.state);
        let arrival = state.known.judge(&listing);
        match &arrival {
            Arrival::Foreign(id) => {
                let url = self.parts.store.url();
                self.note_stale(&format!(
                    "store {url} belongs to another cluster ({id}): put this one's back, or take this host's containers away with `overlay-agent --cleanup`"
                ));
                return false;
            }
            Arrival::Wiped => {
                tracing::warn!("the store was wiped: what was in it stays in force, and is written back");
                let saw_it = state.was_current
                    || !listing.entries.iter().any(|entry| entry.key == Key::Cluster.to_string());
                let scope = if saw_it { Scope::Everything } else { Scope::Own };
                state.loss = state.loss.max(Some(scope));
            }
            Arrival::Same => {}
        }
        state.known.absorb(listing, &arrival, Instant::now());
        state.was_current = true;
        state.save_everything();
        self.publish(state);
        self.changed.notify_one();
        self.note_current();
        true
    }

    pub(super) fn publish(&self, state: &State) {
        let mut cluster = Cluster::from_listing(state.known.entries().values(), state.known.revision());
        self.parts.outbox.hide_in(&mut cluster);
        self.cluster.send_replace(Arc::new(cluster));
    }

    /// Takes over what a watch reports; `false` if everything must be listed anew.
    pub(super) fn apply(&self, events: Vec<Event>) -> bool {
        let state = &mut *lock(&self.state);
        let Applied::Changed(changes) = state.known.apply(events) else { return false };
        let revision = state.known.revision();
        self.cluster.send_modify(|cluster| {
            let cluster = Arc::make_mut(cluster);
            changes.iter().for_each(|event| cluster.apply(event));
            cluster.revision = revision;
            self.parts.outbox.hide_in(cluster);
        });
        let mut lasting = changes.into_iter().filter(belongs_into_snapshot).peekable();
        if lasting.peek().is_some() {
            state.unsaved.add(lasting);
            self.changed.notify_one();
        }
        true
    }

    /// Carries a release out. An endpoint that is gone, or another by now, is left alone.
    async fn deliver(&self, Release { endpoint, revision }: Release) -> Result<(), StoreError> {
        let outcome = release(self.parts.store.as_ref(), &endpoint, revision).await?;
        tracing::info!(endpoint = %endpoint.name, network = %endpoint.network, ?outcome, "detached in the store too");
        if let Outcome::Committed(revision) = outcome {
            // Shown again before the watch has told of it, it would look like one that lost its container.
            let seen = until(self.cluster.subscribe(), |cluster| cluster.revision >= revision);
            let _ = timeout(RETRY, seen).await;
        }
        let outbox = Arc::clone(&self.parts.outbox);
        // Writes a file.
        let _ = spawn_blocking(move || outbox.remove(&endpoint.id)).await;
        self.publish(&lock(&self.state));
        Ok(())
    }

    pub(super) fn note_stale(&self, reason: &str) {
        self.stale.send_if_modified(|stale| {
            let changed = stale.as_ref().is_none_or(|stale| stale.reason != reason);
            if changed {
                tracing::warn!(reason, "the store cannot be used; what is known stays in force");
            }
            *stale = Some(Failure::now(reason, stale.as_ref()));
            changed
        });
    }

    fn note_current(&self) {
        if self.stale.send_if_modified(|stale| stale.take().is_some()) {
            tracing::info!("in step with the store");
        }
    }

    fn notices(&self) -> Vec<String> {
        let state = lock(&self.state);
        let missing = state.known.missing();
        let held = missing.is_suspicious().then(|| {
            format!(
                "the store's listing lacks {} of the {} endpoints of other nodes: they stay in force for a while, until their owners write them back",
                missing.missing, missing.known
            )
        });
        let wiped =
            state.loss.map(|_| "the store was wiped; what was in it is being written back".to_owned());
        let trouble = state.trouble.as_ref().map(|reason| format!("not written back to the store: {reason}"));
        let snapshot = lock(&self.snapshot_trouble).clone();
        let lost = state.lost.iter().cloned();
        [wiped, held, trouble, snapshot, self.parts.outbox.trouble()]
            .into_iter()
            .flatten()
            .chain(lost)
            .collect()
    }

    /// Writes down what is not yet; that it cannot be written is reported, and no more.
    async fn save(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        let saved = spawn_blocking(move || shared.write_down()).await;
        let trouble = saved.map_err(std::io::Error::other).flatten().err();
        let trouble = trouble.map(|e| format!("snapshot {}: {e}", self.parts.snapshot.display()));
        if let Some(trouble) = &trouble {
            tracing::warn!(trouble, "snapshot not written");
            lock(&self.state).save_everything();
        }
        *lock(&self.snapshot_trouble) = trouble;
    }

    /// Nobody else writes between the look at what is due and its writing: pieces stay in their order. Blocks.
    fn write_down(&self) -> std::io::Result<()> {
        let writer = &mut *lock(&self.writer);
        match self.due(writer.wants_whole()) {
            Due::Whole(snapshot) => writer.save(&snapshot),
            Due::Changes(events, revision) => writer.append(&events, revision),
        }
    }

    fn due(&self, whole: bool) -> Due {
        let state = &mut *lock(&self.state);
        let revision = state.known.revision();
        match state.unsaved.take() {
            Unsaved::Events(events) if !whole => Due::Changes(events, revision),
            _ => Due::Whole(Snapshot {
                store: self.parts.store.url().to_owned(),
                written: SystemTime::now(),
                revision,
                entries: Arc::clone(state.known.entries()),
            }),
        }
    }
}

/// What is written down next.
enum Due {
    Whole(Snapshot),
    Changes(Vec<Event>, Revision),
}

fn belongs_into_snapshot(event: &Event) -> bool {
    match event {
        Event::Put(entry) => entry.lease.is_none(),
        Event::Delete { key, .. } => !is_alive(key),
    }
}

/// Writes a snapshot when something has changed, but not for each change.
async fn keep_snapshot(shared: Arc<Shared>) {
    loop {
        shared.changed.notified().await;
        sleep(SNAPSHOT_PAUSE).await;
        shared.save().await;
    }
}

/// Tells the store of the endpoints that were detached without it.
async fn deliver(shared: Arc<Shared>) {
    let (mut count, mut stale) = (shared.parts.outbox.count(), shared.stale.subscribe());
    while count.wait_for(|count| *count > 0).await.is_ok() && stale.wait_for(Option::is_none).await.is_ok() {
        for release in shared.parts.outbox.releases() {
            if let Err(error) = shared.deliver(release).await {
                tracing::debug!(%error, "detached endpoints stay in the outbox");
                sleep(RETRY).await;
                break;
            }
        }
    }
}
