//! A store in ZooKeeper, 3.6 or later.
//!
//! ZooKeeper has small transactions, ephemeral nodes and watches, but it orders and compares by the versions of
//! single nodes, tells a watch of single nodes too, and of a deletion leaves nothing behind. What it lacks,
//! these modules add:
//!
//! * [`layout`] and [`value`]: keys as paths and values as data, so that both read well in `zkCli`
//! * [`link`]: a session with whichever server answers; [`tls`] and [`fault`] go with it
//! * [`changelog`]: a node for each commit, which gives it its revision
//! * [`plan`]: from a transaction to the steps of ZooKeeper's multi; [`commit`] carries them out
//! * [`read`]: lists at one revision
//! * [`lease`]: sessions as leases, and the end of their keys
//! * [`watch`]: following the changelog

use std::{sync::Arc, time::Duration};

use futures::stream::BoxStream;
use tokio::time::timeout;
use zookeeper_client::Client;

use self::{
    fault::Fault,
    lease::{Leases, Sweeper},
    link::{Link, Place, REQUEST},
    watch::Follower,
};
use super::{
    Entry, LeaseId, LeaseState, Listing, Opening, Outcome, Revision, Store, StoreError, Target, Transaction,
    WatchItem, address::Servers, check,
};

mod changelog;
mod commit;
mod fault;
mod layout;
mod lease;
mod link;
mod plan;
mod read;
mod tls;
mod value;
mod watch;

/// Where ZooKeeper listens for clients by default.
const PORT: u16 = 2181;
/// How long a request may take that is several for the server: a commit, which may have to find out what became
/// of it, or a new lease with its session.
const COMPOUND: Duration = Duration::from_secs(2 * REQUEST.as_secs());
/// How long a list may take; one of 30,000 keys takes a second.
const LIST: Duration = Duration::from_secs(20);

/// One client of a ZooKeeper ensemble.
pub struct ZookeeperStore(Arc<Shared>);

/// What the store and its watches share; the last of them to go ends session and tasks.
struct Shared {
    place: Arc<Place>,
    link: Link,
    leases: Leases,
    _sweeper: Sweeper,
}

/// Opens `zookeeper://`.
pub(super) fn open_target(target: Target) -> Opening {
    Box::pin(async move {
        let servers = Servers::parse(&target.url, PORT)?;
        let place = Arc::new(Place::new(&servers, &target.access)?);
        let store = ZookeeperStore::open(place).await?;
        Ok(Arc::new(store) as Arc<dyn Store>)
    })
}

impl ZookeeperStore {
    async fn open(place: Arc<Place>) -> Result<Self, StoreError> {
        let link = Link::start(Arc::clone(&place));
        link.client().await.map_err(|fault| place.error("open", fault))?;
        let sweeper = Sweeper::start(Arc::clone(&place), link.clone());
        Ok(Self(Arc::new(Shared { place, link, leases: Leases::default(), _sweeper: sweeper })))
    }
}

impl Shared {
    /// Asks something that can be asked again.
    async fn read<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        operation: &'static str,
        ask: impl Fn(Client) -> F,
    ) -> Result<T, StoreError> {
        self.within(REQUEST, operation, self.repeat(ask)).await
    }

    async fn repeat<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        ask: impl Fn(Client) -> F,
    ) -> Result<T, Fault> {
        loop {
            let client = self.link.client().await?;
            match ask(client.clone()).await {
                Err(Fault::Raced) => {}
                Err(Fault::Wiped) => self.place.prepare(&client).await?,
                Err(Fault::Lost(_)) if !link::is_connected(&client) => {}
                answer => return answer,
            }
        }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        operation: &'static str,
        answer: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, StoreError> {
        let late = |_| Err(Fault::Lost(format!("no answer within {} s", limit.as_secs())));
        timeout(limit, answer).await.unwrap_or_else(late).map_err(|fault| self.place.error(operation, fault))
    }
}

#[async_trait::async_trait]
impl Store for ZookeeperStore {
    fn url(&self) -> &str {
        &self.0.place.url
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check::key(key)?;
        let layout = &self.0.place.layout;
        let ask = |client: Client| async move {
            client.sync("/").await?;
            read::get(&client, layout, key).await
        };
        self.0.read("get", ask).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        check::prefix(prefix)?;
        let layout = &self.0.place.layout;
        let ask = |client: Client| async move {
            client.sync("/").await?;
            read::list(&client, layout, prefix).await
        };
        self.0.within(LIST, "list", self.0.repeat(ask)).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        check::transaction(&transaction)?;
        let Shared { place, link, .. } = &*self.0;
        let done = timeout(COMPOUND, commit::commit(place, link, &transaction)).await;
        match done
            .unwrap_or_else(|_| Err(Fault::Lost("no answer; whether it took effect is not known".into())))
        {
            Err(Fault::TooLarge) => Err(too_large(&transaction)),
            done => done.map_err(|fault| place.error("commit", fault)),
        }
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let grant = |_| self.0.leases.grant(&self.0.place, ttl);
        self.0.within(COMPOUND, "grant a lease", self.0.repeat(grant)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<LeaseState, StoreError> {
        self.0.within(COMPOUND, "keep a lease alive", self.0.leases.renew(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let place = &self.0.place;
        let revoke = |client: Client| async move { lease::revoke(place, &client, lease).await };
        self.0.read("revoke a lease", revoke).await?;
        self.0.leases.forget(lease);
        Ok(())
    }

    async fn watch(
        &self,
        prefix: &str,
        after: Revision,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError> {
        check::prefix(prefix)?;
        let follower = Follower::start(Arc::clone(&self.0), prefix, after).await?;
        Ok(follower.into_stream())
    }
}

fn too_large(transaction: &Transaction) -> StoreError {
    let key = transaction.operations.first().map(|operation| operation.key().to_owned()).unwrap_or_default();
    StoreError::Invalid {
        key,
        reason: "the transaction is more than the megabyte that ZooKeeper takes at a time",
    }
}
