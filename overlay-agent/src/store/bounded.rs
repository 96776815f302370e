//! A store behind deadlines: whatever it does, each call ends in time.
//!
//! The rest of the agent need not know whether the store can be reached. It is opened by the first call that
//! finds it; until then every call fails with the reason. Each call has a deadline, here and nowhere else, so a store
//! that hangs holds nobody up. And how the last change of the store ended is kept, so that who wants to change
//! something can be told at once that it would fail.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::stream::BoxStream;
use tokio::{
    sync::{Mutex, watch},
    time::timeout,
};

use super::{
    Entry, LeaseId, LeaseState, Listing, Opening, Outcome, Revision, Store, StoreError, Transaction,
    WatchItem,
};

/// From asking to the answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Something that fails, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When it began.
    pub since: SystemTime,
    /// Why, as of the last attempt.
    pub reason: String,
}

impl Failure {
    /// The failure that began now, or goes on from an earlier one for this reason.
    #[must_use]
    pub fn now(reason: impl Into<String>, earlier: Option<&Self>) -> Self {
        let since = earlier.map_or_else(SystemTime::now, |failure| failure.since);
        Self { since, reason: reason.into() }
    }
}

/// A store that is opened when it can first be reached, and answers in time.
pub struct Bounded {
    url: String,
    open: Box<dyn Fn() -> Opening + Send + Sync>,
    opened: Mutex<Option<Arc<dyn Store>>>,
    deadline: Duration,
    changes: watch::Sender<Option<Failure>>,
}

impl Bounded {
    /// A store that `open` opens. `url` is its address, without secrets.
    #[must_use]
    pub fn new(url: String, open: impl Fn() -> Opening + Send + Sync + 'static) -> Self {
        let (changes, opened) = (watch::Sender::new(None), Mutex::new(None));
        Self { url, open: Box::new(open), opened, deadline: DEADLINE, changes }
    }

    /// Why the store's content could not be changed when that was last tried; reading may go well all the same.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Option<Failure>> {
        self.changes.subscribe()
    }

    async fn opened(&self) -> Result<Arc<dyn Store>, StoreError> {
        let mut opened = self.opened.lock().await;
        if let Some(store) = opened.as_ref() {
            return Ok(Arc::clone(store));
        }
        let store = (self.open)().await?;
        Ok(Arc::clone(opened.insert(store)))
    }

    async fn read<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let answer = timeout(self.deadline, call).await;
        answer.unwrap_or_else(|_| Err(self.late(operation)))
    }

    /// Like [`Bounded::read`], and keeps how it ended.
    async fn change<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let answer = self.read(operation, call).await;
        match &answer {
            Ok(_) => drop(self.changes.send_if_modified(|failure| failure.take().is_some())),
            // The caller's own fault says nothing of the store.
            Err(StoreError::Invalid { .. } | StoreError::TooLarge { .. }) => {}
            Err(error) => {
                let reason = error.to_string();
                self.changes.send_modify(|failure| *failure = Some(Failure::now(reason, failure.as_ref())));
            }
        }
        answer
    }

    fn late(&self, operation: &'static str) -> StoreError {
        let reason = format!("no answer within {:?}", self.deadline);
        StoreError::Unavailable { url: self.url.clone(), operation, reason }
    }
}

#[async_trait::async_trait]
impl Store for Bounded {
    fn url(&self) -> &str {
        &self.url
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.read("get", async { self.opened().await?.get(key).await }).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.read("list", async { self.opened().await?.list(prefix).await }).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.change("commit", async { self.opened().await?.commit(transaction).await }).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.change("grant a lease", async { self.opened().await?.grant_lease(ttl).await }).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<LeaseState, StoreError> {
        self.change("keep a lease alive", async { self.opened().await?.keep_alive(lease).await }).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.change("revoke a lease", async { self.opened().await?.revoke(lease).await }).await
    }

    async fn watch(
        &self,
        prefix: &str,
        after: Revision,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError> {
        self.read("watch", async { self.opened().await?.watch(prefix, after).await }).await
    }
}

#[cfg(test)]
#[cfg(feature = "sqlite")]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::FutureExt as _;

    use super::*;
    use crate::store::sqlite::SqliteStore;

    /// A store that can be opened once `there` is set; meanwhile `attempt` is what comes of it.
    fn store(there: Arc<AtomicBool>, attempt: fn() -> Opening) -> (Bounded, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let open = move || match there.load(Ordering::Relaxed) {
            true => futures::future::ready(SqliteStore::open(&path).map(|s| Arc::new(s) as Arc<dyn Store>))
                .boxed(),
            false => attempt(),
        };
        let bounded = Bounded::new("test://".to_owned(), open);
        (Bounded { deadline: Duration::from_millis(200), ..bounded }, dir)
    }

    fn refuse() -> Opening {
        let error = StoreError::Unusable { url: "test://".to_owned(), reason: "not there".to_owned() };
        futures::future::ready(Err(error)).boxed()
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_opened_says_why_until_it_can() {
        let there = Arc::new(AtomicBool::new(false));
        let (store, _dir) = store(Arc::clone(&there), refuse);
        let changes = store.changes();
        assert_eq!(store.get("x").await.unwrap_err().to_string(), "store test://: not there");
        assert!(changes.borrow().is_none(), "reading says nothing of changing");
        assert!(store.commit(Transaction::new().put("x", &1)).await.is_err());
        let first = changes.borrow().clone().unwrap();
        assert_eq!(first.reason, "store test://: not there");
        assert!(store.commit(Transaction::new().put("x", &1)).await.is_err());
        assert_eq!(changes.borrow().as_ref().unwrap().since, first.since);

        there.store(true, Ordering::Relaxed);
        assert!(matches!(store.commit(Transaction::new().put("x", &1)).await, Ok(Outcome::Committed(_))));
        assert!(changes.borrow().is_none());
        assert!(store.commit(Transaction::new().put("", &1)).await.is_err());
        assert!(changes.borrow().is_none(), "a wrong key is not the store's fault");
    }

    #[tokio::test]
    async fn a_store_that_hangs_is_given_up_in_time_and_asked_again_the_next_time() {
        let there = Arc::new(AtomicBool::new(false));
        let (store, _dir) = store(Arc::clone(&there), || futures::future::pending().boxed());
        let (get, list) = tokio::join!(store.get("x"), store.list(""));
        assert_eq!(get.unwrap_err().to_string(), "store test://: get: no answer within 200ms");
        assert_eq!(list.unwrap_err().to_string(), "store test://: list: no answer within 200ms");
        there.store(true, Ordering::Relaxed);
        assert_eq!(store.get("x").await.unwrap(), None);
    }
}
