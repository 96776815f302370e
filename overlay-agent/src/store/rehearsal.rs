//! A store before another one: what is written stays here, and what is read is as if it had been written there.
//!
//! So an operation is rehearsed by the very code that carries it out, conditions and conflicts included, and the store
//! behind it is only read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::stream::BoxStream;

use super::{
    Condition, Entry, LeaseId, LeaseState, Listing, Operation, Outcome, Revision, Store, StoreError,
    Transaction, WatchItem, check,
};
use crate::{agent::lock, store::Event};

/// Revisions of what is only rehearsed lie above all that a store has reached.
const FIRST: u64 = 1 << 62;

/// A store that keeps what is written to itself.
pub struct Rehearsal {
    url: String,
    behind: Option<Arc<dyn Store>>,
    written: Mutex<Written>,
    /// One transaction at a time: its conditions hold while it is carried out.
    committing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Written {
    events: Vec<Event>,
    now: BTreeMap<String, Option<Entry>>,
}

impl Rehearsal {
    /// One before this store.
    #[must_use]
    pub fn before(store: &Arc<dyn Store>) -> Self {
        Self { behind: Some(Arc::clone(store)), ..Self::of_nothing(store.url()) }
    }

    /// One in the place of a store that is not there, and is empty.
    #[must_use]
    pub fn of_nothing(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            behind: None,
            written: Mutex::default(),
            committing: tokio::sync::Mutex::default(),
        }
    }

    /// All that was written, in order.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        lock(&self.written).events.clone()
    }

    async fn holds(&self, condition: &Condition) -> Result<bool, StoreError> {
        let entry = self.get(condition.key()).await?;
        Ok(match condition {
            Condition::Absent(_) => entry.is_none(),
            Condition::Unchanged(_, revision) => entry.is_some_and(|entry| entry.revision == *revision),
        })
    }
}

impl Written {
    fn carry_out(&mut self, operations: Vec<Operation>) -> Revision {
        let revision = self.events.last().map_or(Revision(FIRST), |last| Revision(last.revision().0 + 1));
        for operation in operations {
            let key = operation.key().to_owned();
            let entry = match operation {
                Operation::Put(key, value, lease) => Some(Entry { key, value, revision, lease }),
                Operation::Delete(_) => None,
            };
            self.events.push(match &entry {
                Some(entry) => Event::Put(entry.clone()),
                None => Event::Delete { key: key.clone(), revision },
            });
            self.now.insert(key, entry);
        }
        revision
    }
}

#[async_trait::async_trait]
impl Store for Rehearsal {
    fn url(&self) -> &str {
        &self.url
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check::key(key)?;
        if let Some(written) = lock(&self.written).now.get(key) {
            return Ok(written.clone());
        }
        match &self.behind {
            Some(store) => store.get(key).await,
            None => Ok(None),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        check::prefix(prefix)?;
        let behind = match &self.behind {
            Some(store) => store.list(prefix).await?,
            None => Listing::default(),
        };
        let listed = behind.entries.into_iter().map(|entry| (entry.key.clone(), Some(entry)));
        let mut entries: BTreeMap<String, Option<Entry>> = listed.collect();
        let written = lock(&self.written);
        entries.extend(
            written
                .now
                .iter()
                .filter(|(key, _)| key.starts_with(prefix))
                .map(|(k, e)| (k.clone(), e.clone())),
        );
        Ok(Listing { entries: entries.into_values().flatten().collect(), revision: behind.revision })
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        check::transaction(&transaction)?;
        let _one_at_a_time = self.committing.lock().await;
        for condition in &transaction.conditions {
            if !self.holds(condition).await? {
                return Ok(Outcome::Conflict(condition.key().to_owned()));
            }
        }
        Ok(Outcome::Committed(lock(&self.written).carry_out(transaction.operations)))
    }

    /// A lease that never ends: there is nobody to keep it alive.
    async fn grant_lease(&self, _ttl: Duration) -> Result<LeaseId, StoreError> {
        Ok(LeaseId(0))
    }

    async fn keep_alive(&self, _lease: LeaseId) -> Result<LeaseState, StoreError> {
        Ok(LeaseState::Alive)
    }

    async fn revoke(&self, _lease: LeaseId) -> Result<(), StoreError> {
        Ok(())
    }

    /// What is rehearsed happens to nobody, so there is nothing to watch.
    async fn watch(
        &self,
        _prefix: &str,
        _after: Revision,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError> {
        Ok(Box::pin(futures::stream::pending()))
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;

    async fn store_with(keys: &[&str]) -> (tempfile::TempDir, Arc<dyn Store>) {
        let dir = tempfile::tempdir().expect("a directory");
        let url = format!("sqlite://{}", dir.path().join("store.db").display());
        let store = crate::store::open(&url.as_str().into()).await.expect("a store");
        for key in keys {
            store.commit(Transaction::new().create(key, &1)).await.expect("a commit");
        }
        (dir, store)
    }

    async fn keys(store: &dyn Store) -> Vec<String> {
        store.list("").await.expect("a listing").entries.into_iter().map(|entry| entry.key).collect()
    }

    #[tokio::test]
    async fn what_is_written_is_read_here_and_not_behind() {
        let (_dir, store) = store_with(&["a", "b"]).await;
        let rehearsal = Rehearsal::before(&store);
        let committed = rehearsal.commit(Transaction::new().create("c", &1).delete("a")).await.unwrap();
        assert!(matches!(committed, Outcome::Committed(_)));
        assert_eq!(keys(&rehearsal).await, ["b", "c"]);
        assert_eq!(rehearsal.get("a").await.unwrap(), None);
        assert_eq!(rehearsal.events().len(), 2);
        assert_eq!(keys(store.as_ref()).await, ["a", "b"]);
    }

    #[tokio::test]
    async fn conditions_hold_or_fail_as_they_would() {
        let (_dir, store) = store_with(&["a"]).await;
        let revision = store.get("a").await.unwrap().unwrap().revision;
        let rehearsal = Rehearsal::before(&store);
        let taken = rehearsal.commit(Transaction::new().create("a", &2)).await.unwrap();
        assert_eq!(taken, Outcome::Conflict("a".to_owned()));
        let Outcome::Committed(second) =
            rehearsal.commit(Transaction::new().replace("a", revision, &2)).await.unwrap()
        else {
            panic!("the key was unchanged")
        };
        let stale = rehearsal.commit(Transaction::new().replace("a", revision, &3)).await.unwrap();
        assert_eq!(stale, Outcome::Conflict("a".to_owned()));
        let next = rehearsal.commit(Transaction::new().delete_unchanged("a", second)).await.unwrap();
        assert!(matches!(next, Outcome::Committed(third) if third > second));
    }

    #[tokio::test]
    async fn a_store_that_is_not_there_is_empty() {
        let rehearsal = Rehearsal::of_nothing("sqlite:///nowhere");
        assert_eq!(keys(&rehearsal).await, [""; 0]);
        rehearsal.commit(Transaction::new().create("a", &1)).await.unwrap();
        assert_eq!(keys(&rehearsal).await, ["a"]);
    }
}
