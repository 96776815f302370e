//! A store in Consul's key-value store.
//!
//! Consul has revisions (the index of its raft log), transactions and sessions, but no history: a watch is told that
//! something changed and gets everything. These modules add what lacks:
//!
//! * [`api`]: its servers, through `consulrs`, with fail-over, deadlines and errors that say what to do
//! * [`txn`]: transactions, which `consulrs` does not know
//! * [`pair`]: pairs as entries, sessions as leases
//! * [`changes`]: records of what each commit changed, so that a watch need not read everything
//! * [`commit`]: a transaction with its record, carried out exactly once
//! * [`snapshot`]: listings, and what is kept of them for watches
//! * [`watch`]: following the records and the ends of sessions
//!
//! A lease is a session. Its keys are bound to it by Consul's locks and deleted with it, and so is one key more,
//! below [`changes::LEASES`]: that tells watches of sessions that end, and of no others in the data centre.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, stream::BoxStream};

use self::{
    api::Api,
    changes::{CHAINS, Chains, FOLDER, LEASES},
    snapshot::Snapshot,
    txn::{Operation, Verdict},
    watch::Follower,
};
use super::{
    Entry, LeaseId, LeaseState, Listing, Opening, Outcome, Revision, Store, StoreError, Target, Transaction,
    WatchItem, address::Servers, check,
};

mod api;
mod changes;
mod commit;
mod pair;
mod snapshot;
#[cfg(test)]
mod tests;
mod txn;
mod watch;

/// Where Consul listens for HTTP by default.
const PORT: u16 = 8500;
/// Consul ends a session when twice its time has passed without a sign of life.
const TTL_FACTOR: u64 = 2;
/// The shortest and the longest time that Consul gives a session.
const TTL_S: std::ops::RangeInclusive<u64> = 10..=86_400;

/// One client of a store in Consul.
pub struct ConsulStore(Arc<Client>);

/// What the store and its watches share.
struct Client {
    servers: Servers,
    api: Api,
    /// Told from other clients by this in the records of commits.
    id: String,
    known: Mutex<Known>,
    /// Held by who writes to a chain: this client's commits do not get in each other's way.
    turns: [tokio::sync::Mutex<()>; CHAINS],
}

/// What a client remembers.
#[derive(Default)]
struct Known {
    /// The chains as last seen.
    chains: Option<Chains>,
    /// The latest end of a session that a watch has shown; no commit says it.
    horizon: Revision,
    /// The chain that this client writes to, as long as nobody else does.
    chain: usize,
    /// The latest listings, for watches that begin where they end.
    listings: VecDeque<Arc<Snapshot>>,
}

/// Opens `consul://`.
pub(super) fn open_target(target: Target) -> Opening {
    async move {
        let servers = Servers::parse(&target.url, PORT)?;
        let api = Api::new(&servers, &target.access)?;
        let known = Known { chain: rand::random_range(0..CHAINS), ..Known::default() };
        let client = Client {
            servers,
            api,
            id: format!("{:08x}", rand::random::<u32>()),
            known: Mutex::new(known),
            turns: Default::default(),
        };
        // Only to see that somebody answers: nothing is written before it must be.
        let look = [Operation::get_tree(&client.servers.outer(FOLDER))];
        client.read("open", &look).await?;
        Ok(Arc::new(ConsulStore(Arc::new(client))) as Arc<dyn Store>)
    }
    .boxed()
}

impl Client {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out a transaction that only reads.
    async fn read(&self, what: &'static str, operations: &[Operation]) -> Result<Verdict, StoreError> {
        let verdict = self.api.read(what, operations).await?;
        self.check_permission(&verdict)?;
        Ok(verdict)
    }

    /// Consul says that a token does not suffice among the reasons why a transaction failed.
    fn check_permission(&self, verdict: &Verdict) -> Result<(), StoreError> {
        let Verdict::Failed(failed) = verdict else { return Ok(()) };
        let denied = failed.iter().find(|failed| failed.what.to_lowercase().contains("permission denied"));
        denied.map_or(Ok(()), |denied| Err(self.api.denied(&denied.what)))
    }

    /// An answer that no server of Consul's gives.
    fn garbled(&self, operation: &'static str) -> StoreError {
        let reason = "an answer that cannot be".to_owned();
        StoreError::Unavailable { url: self.api.url().to_owned(), operation, reason }
    }
}

impl Known {
    /// Remembers chains that were read, as far as they are news.
    fn note(&mut self, chains: &Chains) {
        match &mut self.chains {
            Some(known) if known.store() == chains.store() => known.merge(chains.clone()),
            _ => {
                self.chains = Some(chains.clone());
                self.horizon = Revision::default();
                self.listings.clear();
            }
        }
    }
}

/// Whether this key is one of our own, which no user of the store sees.
fn is_ours(key: &str) -> bool {
    key.starts_with(FOLDER) || key.starts_with(LEASES)
}

#[async_trait::async_trait]
impl Store for ConsulStore {
    fn url(&self) -> &str {
        self.0.api.url()
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check::key(key)?;
        let get = [Operation::get(&self.0.servers.outer(key))];
        match self.0.read("get", &get).await? {
            Verdict::Failed(_) => Ok(None),
            Verdict::Done(pairs) if is_ours(key) || pairs.is_empty() => Ok(None),
            Verdict::Done(pairs) => {
                pair::entry(&self.0.servers, &pairs[0]).map(Some).ok_or_else(|| self.0.garbled("get"))
            }
        }
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        check::prefix(prefix)?;
        let (snapshot, entries) = self.0.snapshot(prefix).await?;
        let revision = snapshot.revision;
        self.0.remember(snapshot);
        Ok(Listing { entries, revision })
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        check::transaction(&transaction)?;
        self.0.commit(&transaction).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl_s = ttl.as_secs().div_ceil(TTL_FACTOR).clamp(*TTL_S.start(), *TTL_S.end());
        let session = self.0.api.create_session(ttl_s).await?;
        pair::lease(&session).ok_or_else(|| self.0.garbled("grant a lease"))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<LeaseState, StoreError> {
        let alive = self.0.api.renew_session(&pair::session(lease)).await?;
        Ok(if alive { LeaseState::Alive } else { LeaseState::Gone })
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.api.destroy_session(&pair::session(lease)).await
    }

    async fn watch(
        &self,
        prefix: &str,
        after: Revision,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError> {
        check::prefix(prefix)?;
        let follower = Follower::start(Arc::clone(&self.0), prefix, after).await?;
        Ok(follower.into_stream().boxed())
    }
}
