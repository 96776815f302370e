//! A store in etcd, version 3.
//!
//! etcd keeps this contract by itself: its revisions are ours, its transactions compare and then change, its
//! leases delete their keys, its watches go on from a revision. These modules add what a client must do:
//!
//! * [`members`]: whom to ask, how long to wait, and going on to the next member
//! * [`failure`]: what a failure says about the request, and what it tells the operator to do
//! * [`commit`]: transactions, and finding out what became of one whose answer was lost
//! * [`watch`]: following a prefix across reconnects, compaction and a store that was wiped
//! * [`wire`]: our terms and etcd's

use std::{sync::Arc, time::Duration};

use etcd_client::GetOptions;
use futures::{FutureExt, stream::BoxStream};

use self::{
    failure::Failure,
    members::Members,
    watch::Follower,
    wire::{KeyRange, revision},
};
use super::{
    Entry, LeaseId, LeaseState, Listing, Opening, Outcome, Revision, Store, StoreError, Target, Transaction,
    WatchItem, address::Servers, check,
};

mod commit;
mod failure;
mod members;
mod watch;
mod wire;

/// Where etcd listens for clients by default.
const DEFAULT_PORT: u16 = 2379;

/// So many keys are asked for at once: a listing takes several requests, each with its own deadline.
const PAGE: i64 = 5_000;

/// One client of an etcd cluster.
pub struct EtcdStore(Arc<Client>);

/// What the store and its watches share.
struct Client {
    url: String,
    servers: Servers,
    members: Members,
}

/// Opens `etcd://`.
pub(super) fn open_target(target: Target) -> Opening {
    async move {
        let servers = Servers::parse(&target.url, DEFAULT_PORT)?;
        let members = Members::new(&servers.hosts, &target.access);
        let client = Client { url: servers.to_string(), servers, members };
        match client.present_revision(&client.range("")).await {
            // He may well read a part of it: that is seen when it is read.
            Err(failure) if failure.is_denied() => {}
            first => drop(first.map_err(|f| f.at_first(&target.access).into_error(&client.url, "open"))?),
        }
        Ok(Arc::new(EtcdStore(Arc::new(client))) as Arc<dyn Store>)
    }
    .boxed()
}

impl Client {
    /// The keys below a prefix of ours.
    fn range(&self, prefix: &str) -> KeyRange {
        KeyRange::below(&self.servers.outer(prefix))
    }

    /// The store's revision now. Only who may read the range is told.
    async fn present_revision(&self, range: &KeyRange) -> Result<Revision, Failure> {
        let count = &GetOptions::new().with_range(range.end.as_slice()).with_count_only();
        let ask = self.members.ask(|client| async move {
            client.kv_client().get(range.start.as_slice(), Some(count.clone())).await
        });
        Ok(revision(ask.await?.header()))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Failure> {
        let KeyRange { mut start, end } = self.range(prefix);
        let mut options = GetOptions::new().with_range(end).with_limit(PAGE);
        let mut listing: Option<Listing> = None;
        loop {
            let (from, with) = (start.as_slice(), &options);
            let page = self.members.ask(|client| async move {
                let mut kv = client.kv_client().max_decoding_message_size(wire::LARGEST_ANSWER);
                kv.get(from, Some(with.clone())).await
            });
            let mut page = page.await?;
            let listing = listing
                .get_or_insert_with(|| Listing { revision: revision(page.header()), ..Listing::default() });
            let more = page.more();
            let kvs = page.take_kvs();
            start = kvs.last().map(|last| [last.key(), b"\0"].concat()).unwrap_or_default();
            listing.entries.extend(kvs.into_iter().filter_map(|kv| wire::entry(&self.servers, kv)));
            if !more {
                return Ok(std::mem::take(listing));
            }
            options = options.with_revision(wire::number(listing.revision));
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<LeaseState, Failure> {
        let answer = self
            .members
            .ask(|client| async move { client.lease_client().keep_alive(lease.number()).await })
            .await;
        match answer {
            // Who holds the stream could renew again; without it the next time is another request.
            Ok(_stream) => Ok(LeaseState::Alive),
            Err(Failure::NoLease) => Ok(LeaseState::Gone),
            Err(failure) => Err(failure),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Failure> {
        match self
            .members
            .ask(|client| async move { client.lease_client().revoke(lease.number()).await })
            .await
        {
            Ok(_) | Err(Failure::NoLease) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}

#[async_trait::async_trait]
impl Store for EtcdStore {
    fn url(&self) -> &str {
        &self.0.url
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check::key(key)?;
        let outer = &self.0.servers.outer(key);
        let answer = self
            .0
            .members
            .ask(|client| async move { client.kv_client().get(outer.as_str(), None).await })
            .await;
        let mut answer = answer.map_err(|failure| failure.into_error(&self.0.url, "get"))?;
        Ok(answer.take_kvs().into_iter().find_map(|kv| wire::entry(&self.0.servers, kv)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        check::prefix(prefix)?;
        self.0.list(prefix).await.map_err(|failure| failure.into_error(&self.0.url, "list"))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        check::transaction(&transaction)?;
        self.0.commit(&transaction).await.map_err(|failure| failure.into_error(&self.0.url, "commit"))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = wire::whole_seconds(ttl);
        let answer = self
            .0
            .members
            .ask(|client| async move { client.lease_client().grant(seconds, None).await })
            .await;
        let answer = answer.map_err(|failure| failure.into_error(&self.0.url, "grant a lease"))?;
        Ok(answer.id().into())
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<LeaseState, StoreError> {
        let state = self.0.keep_alive(lease).await;
        state.map_err(|failure| failure.into_error(&self.0.url, "keep a lease alive"))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.revoke(lease).await.map_err(|failure| failure.into_error(&self.0.url, "revoke a lease"))
    }

    async fn watch(
        &self,
        prefix: &str,
        after: Revision,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError> {
        check::prefix(prefix)?;
        let range = self.0.range(prefix);
        Ok(Follower::start(Arc::clone(&self.0), range, after).await?.into_stream())
    }
}
