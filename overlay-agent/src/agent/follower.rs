//! Following the store: list, give back what it lost, watch, and again.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{StreamExt as _, stream::BoxStream};
use tokio::time::{sleep, timeout};

use super::{
    lock,
    mirror::{RETRY, Shared, State},
    writeback::{self, Plan, Scope},
};
use crate::{
    model::{ClusterRecord, keys, keys::Key},
    paths,
    store::{Entry, Outcome, StoreError, Transaction, WatchItem},
};

/// How often everything is listed again, against changes that a watch missed: about so often, since agents that
/// were started together must not all ask at once.
const FULL_LISTING: Duration = Duration::from_secs(300);
/// How often while something is shown that the store does not hold.
const ANXIOUS_LISTING: Duration = Duration::from_secs(5);

/// The task that keeps a mirror true to its store.
pub(super) struct Follower {
    shared: Arc<Shared>,
}

/// How the writing back ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    /// The store holds all that it should.
    Whole,
    /// Somebody else wrote too: list again.
    Raced,
}

impl Follower {
    /// One for this mirror.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Follows the store for ever. `listed` says that its content was taken over just now.
    pub(super) async fn run(self, mut listed: bool) {
        loop {
            if let Err(error) = self.round(std::mem::take(&mut listed)).await {
                self.shared.note_stale(&error.to_string());
                sleep(RETRY).await;
            }
        }
    }

    /// Lists everything, unless that was done just now, and applies changes until it is time to do so again.
    async fn round(&self, listed: bool) -> Result<(), StoreError> {
        let store = &self.shared.parts.store;
        if !listed && !self.shared.absorb(store.list(keys::ROOT).await?) {
            sleep(RETRY).await;
            return Ok(());
        }
        let settled = self.settle().await;
        lock(&self.shared.state).trouble = settled.as_ref().err().map(ToString::to_string);
        match settled {
            // A moment, so that several agents that write back the same do not run in step.
            Ok(Settled::Raced) => {
                sleep(Duration::from_millis(rand::random_range(5..50))).await;
                Ok(())
            }
            Ok(Settled::Whole) => self.watch(FULL_LISTING.mul_f64(rand::random_range(0.75..1.25))).await,
            Err(_) => self.watch(ANXIOUS_LISTING).await,
        }
    }

    async fn watch(&self, patience: Duration) -> Result<(), StoreError> {
        let (known, holds) = {
            let known = &lock(&self.shared.state).known;
            (known.revision(), known.held().next().is_some())
        };
        let patience = if holds { ANXIOUS_LISTING } else { patience };
        let mut broken = self.shared.parts.changes.clone();
        broken.mark_unchanged();
        let changes = self.shared.parts.store.watch(keys::ROOT, known).await?;
        tokio::select! {
            // That time is up is no failure: the listing that follows is what it is for.
            applied = timeout(patience, self.apply(changes)) => applied.unwrap_or(Ok(())),
            () = self.shared.again.notified() => Ok(()),
            // A store that takes no changes may have gone altogether, without a word to the watch.
            _ = broken.wait_for(|failure| failure.is_some()), if self.takes_changes() => Ok(()),
        }
    }

    fn takes_changes(&self) -> bool {
        self.shared.parts.changes.borrow().is_none()
    }

    /// Applies changes until the store has forgotten what followed those we know.
    async fn apply(
        &self,
        mut changes: BoxStream<'static, Result<WatchItem, StoreError>>,
    ) -> Result<(), StoreError> {
        while let Some(item) = changes.next().await {
            let WatchItem::Events(events) = item? else { break };
            if !self.shared.apply(events) {
                break;
            }
        }
        Ok(())
    }

    /// Makes sure that the store holds the cluster's record, and what only this agent can give it.
    async fn settle(&self) -> Result<Settled, StoreError> {
        if !self.identify().await? {
            return Ok(Settled::Raced);
        }
        let settled = if lock(&self.shared.state).known.held().next().is_none() {
            Settled::Whole
        } else {
            // If the kernel does not say which containers live, the next listing decides.
            let Some(plan) = self.plan().await else { return Ok(Settled::Whole) };
            self.carry_out(plan).await?
        };
        if settled == Settled::Whole && lock(&self.shared.state).loss.take().is_some() {
            tracing::info!("what the store lost is written back");
        }
        Ok(settled)
    }

    /// What is to be written back; what cannot be is given up. `None` if the host's devices cannot be listed.
    async fn plan(&self) -> Option<Plan> {
        let links = self.shared.parts.netlink.links().await;
        let links = links.inspect_err(|error| tracing::warn!(%error, "not written back")).ok()?;
        let veths =
            links.into_iter().map(|link| link.name).filter(|name| paths::is_host_veth(name)).collect();
        let state = &mut *lock(&self.shared.state);
        let plan = writeback::plan(&state.known, state.loss.unwrap_or(Scope::Own), &veths);
        self.give_up(state, &plan);
        Some(plan)
    }

    async fn carry_out(&self, plan: Plan) -> Result<Settled, StoreError> {
        let mut settled = Settled::Whole;
        for transaction in plan.transactions {
            if let Outcome::Conflict(key) = self.shared.parts.store.commit(transaction).await? {
                tracing::debug!(key, "written back by another");
                settled = Settled::Raced;
            }
        }
        Ok(settled)
    }

    /// Writes the cluster's record if the store has none; `false` if another agent was faster.
    async fn identify(&self) -> Result<bool, StoreError> {
        let record = {
            let known = &lock(&self.shared.state).known;
            if known.stored(&Key::Cluster).is_some() {
                return Ok(true);
            }
            known.identity().map_or_else(|| ClusterRecord::new(SystemTime::now()), |record| record.restored())
        };
        let transaction = Transaction::new().create(Key::Cluster, &record);
        let outcome = self.shared.parts.store.commit(transaction).await?;
        let Outcome::Committed(revision) = outcome else { return Ok(false) };
        tracing::info!(id = record.id, restored = record.restored, "the cluster has its record");
        let value = serde_json::to_vec(&record).unwrap_or_default();
        let state = &mut *lock(&self.shared.state);
        state.known.adopt(Entry { key: Key::Cluster.to_string(), value, revision, lease: None });
        state.save_everything();
        self.shared.publish(state);
        Ok(true)
    }

    /// Drops what is not written back: endpoints whose container is gone, and what is another's by now.
    fn give_up(&self, state: &mut State, plan: &Plan) {
        for (keys, reason) in &plan.lost {
            tracing::warn!(reason, "lost with the store");
            state.known.forget(keys);
            state.lost.insert(format!("lost with the store: {reason}"));
        }
        state.known.forget(&plan.gone);
        if !plan.lost.is_empty() || !plan.gone.is_empty() {
            self.shared.publish(state);
            state.save_everything();
            self.shared.changed.notify_one();
        }
    }
}
