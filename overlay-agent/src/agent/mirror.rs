//! The store's content as it is now, kept by a watch.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::BoxStream};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    model::{Cluster, keys},
    store::{Store, StoreError, WatchItem},
};

/// How often everything is listed again, against changes that a watch missed.
const FULL_LISTING: Duration = Duration::from_secs(60);
/// Pause before asking a store again that did not answer.
const RETRY: Duration = Duration::from_millis(500);

/// A mirror that is kept up to date until dropped.
pub struct Mirror {
    cluster: watch::Receiver<Arc<Cluster>>,
    error: watch::Receiver<Option<String>>,
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
    let (error, error_receiver) = watch::channel(None);
    let follower = Follower { store, cluster, error };
    Ok(Mirror { cluster: cluster_receiver, error: error_receiver, task: tokio::spawn(follower.run()) })
}

struct Follower {
    store: Arc<dyn Store>,
    cluster: watch::Sender<Arc<Cluster>>,
    error: watch::Sender<Option<String>>,
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
        let _ = tokio::time::timeout(FULL_LISTING, self.apply(changes)).await;
        let listing = self.store.list(keys::ROOT).await?;
        self.cluster.send_replace(Arc::new(Cluster::from_listing(&listing.entries, listing.revision)));
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
