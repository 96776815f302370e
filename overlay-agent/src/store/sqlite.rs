//! A store in one SQLite file, shared by all agents of one machine.
//!
//! It needs no server: the file is the store, and SQLite's locks order the agents' transactions. What
//! SQLite lacks, these modules add:
//!
//! * [`schema`]: opening the file, its tables, and what is wrong with a file that is not ours
//! * [`tables`]: reading, and writing with a revision and a bounded changelog
//! * [`lease`]: leases on the machine's boot clock
//! * [`worker`]: one thread for each connection, so that no wait for a lock stalls the runtime
//! * [`watch`]: waking when another process has committed, and following the changelog
//!
//! There is one connection for reading and one for writing: reads go on while a write waits for another
//! agent's lock.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, stream::BoxStream};

use self::{lease::Clock, schema::Place, tables::KeyRange, watch::Follower, worker::Worker};
use super::{
    Entry, LeaseId, LeaseState, Listing, Opening, Outcome, Revision, Store, StoreError, Target, Transaction,
    WatchItem, check,
};

mod lease;
mod schema;
mod tables;
#[cfg(test)]
mod tests;
mod watch;
mod worker;

/// One client of a store file.
pub struct SqliteStore(Arc<Client>);

/// What the store and its watches share; the last of them to go ends threads and tasks.
struct Client {
    place: Arc<Place>,
    clock: Clock,
    reader: Arc<Worker>,
    writer: Arc<Worker>,
    pulse: watch::Pulse,
}

impl SqliteStore {
    /// Opens the store in this file; makes the file and its directories if they are not there.
    ///
    /// Blocks, and starts a task: call it within a tokio runtime, on a thread that may block.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let place = Arc::new(Place::new(path));
        let clock = Clock::of_this_boot()
            .map_err(|e| place.unusable(format!("cannot tell the machine's boot: {e}")))?;
        place.make_directory()?;
        let writer = Arc::new(Worker::start(&place, "overlay-store-w")?);
        let reader = Arc::new(Worker::start(&place, "overlay-store-r")?);
        let pulse = watch::Pulse::start(&place, &clock, &reader, &writer);
        Ok(Self(Arc::new(Client { place, clock, reader, writer, pulse })))
    }
}

/// Opens `sqlite://` followed by an absolute path.
pub(super) fn open_target(target: Target) -> Opening {
    async move {
        let url = target.url;
        let unusable = |reason: &str| StoreError::Unusable { url: url.clone(), reason: reason.to_owned() };
        let path = PathBuf::from(url.strip_prefix("sqlite://").unwrap_or_default());
        if !path.is_absolute() || path.file_name().is_none() {
            return Err(unusable("the path of a file is missing: write it as sqlite:///ABSOLUTE/PATH"));
        }
        let opening = tokio::task::spawn_blocking(move || SqliteStore::open(&path));
        let store = opening.await.map_err(|e| unusable(&e.to_string()))??;
        Ok(Arc::new(store) as Arc<dyn Store>)
    }
    .boxed()
}

impl Client {
    /// Runs a job on the writing connection, then tells every process that watches the file.
    async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        job: impl FnOnce(&mut rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = Arc::clone(&self.place);
        let announced = move |open: &mut worker::Open| {
            let answer = job(&mut open.connection)?;
            place.announce();
            Ok(answer)
        };
        self.writer.run(operation, announced).await
    }
}

#[async_trait::async_trait]
impl Store for SqliteStore {
    fn url(&self) -> &str {
        self.0.place.url()
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check::key(key)?;
        let key = key.to_owned();
        self.0.reader.run("get", move |open| tables::get(&open.connection, &key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        check::prefix(prefix)?;
        let range = KeyRange::below(prefix);
        self.0.reader.run("list", move |open| tables::list(&mut open.connection, &range)).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        check::transaction(&transaction)?;
        let clock = self.0.clock.clone();
        self.0.write("commit", move |connection| tables::commit(connection, transaction, &clock)).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let clock = self.0.clock.clone();
        self.0.write("grant a lease", move |connection| lease::grant(connection, ttl, &clock)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<LeaseState, StoreError> {
        let clock = self.0.clock.clone();
        self.0
            .write("keep a lease alive", move |connection| lease::keep_alive(connection, lease, &clock))
            .await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.write("revoke a lease", move |connection| lease::revoke(connection, lease)).await
    }

    async fn watch(
        &self,
        prefix: &str,
        after: Revision,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError> {
        check::prefix(prefix)?;
        let follower = Follower::start(Arc::clone(&self.0), KeyRange::below(prefix), after).await?;
        Ok(follower.into_stream())
    }
}
