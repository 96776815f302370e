//! The store's content as it is now, kept by a watch.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::BoxStream};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use crate::{
    model::{Cluster, keys},
    store::{Entry, Event, Store, StoreError, WatchItem},
};

/// How often everything is listed again, against changes that a watch missed.
const FULL_LISTING: Duration = Duration::from_secs(60);
/// Pause before asking a store again that did not answer.
const RETRY: Duration = Duration::from_millis(500);

/// Everything of ours in the store, by key.
pub type Entries = BTreeMap<String, Entry>;

/// A mirror that is kept up to date until dropped.
pub struct Mirror {
    cluster: watch::Receiver<Arc<Cluster>>,
    error: watch::Receiver<Option<String>>,
    entries: watch::Receiver<Arc<Entries>>,
    again: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Mirror {
    /// The cluster's state; the receiver wakes at each change.
    #[must_use]
    pub fn cluster(&self) -> watch::Receiver<Arc<Cluster>> {
        self.cluster.clone()
    }

    /// The cluster's state now.
    #[must_use]
    pub fn now(&self) -> Arc<Cluster> {
        Arc::clone(&self.cluster.borrow())
    }

    /// Has everything listed again now, and waits until that, or a change, has been taken over.
    pub async fn list_again(&self) {
        let mut cluster = self.cluster();
        cluster.mark_unchanged();
        self.again.notify_one();
        // Without its sender the agent is stopping.
        let _ = cluster.changed().await;
    }

    /// Everything of ours in the store as it was last known, also what cannot be read.
    #[must_use]
    pub fn entries(&self) -> Arc<Entries> {
        Arc::clone(&self.entries.borrow())
    }

    /// Why the store cannot be reached just now.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        self.error.borrow().clone()
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Lists a store and starts to follow it.
///
/// # Errors
/// If the store does not answer the first listing. Later failures keep what is known: [`Mirror::error`].
pub async fn follow(store: Arc<dyn Store>) -> Result<Mirror, StoreError> {
    let listing = store.list(keys::ROOT).await?;
    let first = Arc::new(Cluster::from_listing(&listing.entries, listing.revision));
    let (cluster, cluster_receiver) = watch::channel(first);
    let (entries, entries_receiver) = watch::channel(Arc::new(by_key(listing.entries)));
    let (error, error_receiver) = watch::channel(None);
    let again = Arc::new(Notify::new());
    let follower = Follower { store, cluster, entries, error, again: Arc::clone(&again) };
    let task = tokio::spawn(follower.run());
    Ok(Mirror { cluster: cluster_receiver, entries: entries_receiver, error: error_receiver, again, task })
}

fn by_key(entries: Vec<Entry>) -> Entries {
    entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect()
}

fn apply_to(entries: &mut Entries, events: &[Event]) {
    for event in events {
        match event {
            Event::Put(entry) => drop(entries.insert(entry.key.clone(), entry.clone())),
            Event::Delete { key, .. } => drop(entries.remove(key)),
        }
    }
}

struct Follower {
    store: Arc<dyn Store>,
    cluster: watch::Sender<Arc<Cluster>>,
    entries: watch::Sender<Arc<Entries>>,
    error: watch::Sender<Option<String>>,
    again: Arc<Notify>,
}

impl Follower {
    async fn run(self) {
        loop {
            let round = self.watch_and_list().await;
            self.note(round.as_ref().err());
            if round.is_err() {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Applies changes until it is time to list everything again, then does so.
    async fn watch_and_list(&self) -> Result<(), StoreError> {
        let known = self.cluster.borrow().revision;
        let changes = self.store.watch(keys::ROOT, known).await?;
        // An elapsed time is no failure: the listing that follows is what it is for.
        let _ = tokio::time::timeout(FULL_LISTING, async {
            tokio::select! {
                () = self.apply(changes) => {}
                () = self.again.notified() => {}
            }
        })
        .await;
        let listing = self.store.list(keys::ROOT).await?;
        let cluster = Cluster::from_listing(&listing.entries, listing.revision);
        // The entries first: whoever has seen a revision in the cluster finds it in them.
        self.entries.send_replace(Arc::new(by_key(listing.entries)));
        self.cluster.send_replace(Arc::new(cluster));
        self.note(None);
        Ok(())
    }

    /// Applies changes until the store has forgotten what followed those we know.
    async fn apply(&self, mut changes: BoxStream<'static, Result<WatchItem, StoreError>>) {
        while let Some(item) = changes.next().await {
            match item {
                Ok(WatchItem::Reset) => return,
                Ok(WatchItem::Events(events)) => {
                    self.note(None);
                    self.entries.send_modify(|entries| apply_to(Arc::make_mut(entries), &events));
                    self.cluster.send_modify(|cluster| {
                        let cluster = Arc::make_mut(cluster);
                        events.iter().for_each(|event| cluster.apply(event));
                    });
                }
                Err(e) => self.note(Some(&e)),
            }
        }
    }

    fn note(&self, error: Option<&StoreError>) {
        let text = error.map(ToString::to_string);
        self.error.send_if_modified(|current| {
            let changed = *current != text;
            match (&text, changed) {
                (Some(reason), true) => tracing::warn!(reason, "the store cannot be reached; the maps stay"),
                (None, true) => tracing::info!("the store can be reached again"),
                _ => {}
            }
            *current = text;
            changed
        });
    }
}
