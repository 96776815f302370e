//! What ZooKeeper's store must survive: members that die, hang or lose all they held, lost answers, users, TLS,
//! size; and how it looks in ZooKeeper's own tree.
//!
//! What all stores have in common is in `store_conformance`.

#![cfg(feature = "zookeeper")]
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod access;
mod failover;
mod lost_answer;
mod member;
mod proxy;
mod scale;
mod tree;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use overlay_agent::store::{self, Event, Outcome, Revision, Store, StoreError, Transaction, WatchItem};
use xtask::servers::{Kind, Place, Server};

type Watch = BoxStream<'static, Result<WatchItem, StoreError>>;

/// One server; it ends with the test.
fn server(dir: &tempfile::TempDir) -> Server {
    Server::start(Kind::Zookeeper, Place::loopback(dir.path())).unwrap()
}

/// A part of the shared server that nobody else writes in.
async fn anywhere() -> String {
    let server = tokio::task::spawn_blocking(|| Server::shared(Kind::Zookeeper)).await.unwrap();
    format!("{}/test-{:016x}", server.url(), rand::random::<u64>())
}

async fn open(url: &str) -> Arc<dyn Store> {
    store::open(&url.into()).await.unwrap()
}

async fn put(store: &dyn Store, key: &str, value: i32) -> Revision {
    committed(store, Transaction::new().put(key, &value)).await
}

async fn committed(store: &dyn Store, transaction: Transaction) -> Revision {
    match store.commit(transaction).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(key) => panic!("conflict on {key}"),
    }
}

/// Writes as often as it takes. What is not known to have happened may have.
async fn put_at_last(store: &dyn Store, key: &str, value: i32) {
    let write = async {
        while let Err(error) = store.commit(Transaction::new().put(key, &value)).await {
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        }
    };
    in_a_minute(write).await;
}

async fn watch_from_now(store: &dyn Store) -> Watch {
    let now = store.list("t/").await.unwrap().revision;
    store.watch("t/", now).await.unwrap()
}

/// The values that a watch shows as written, up to `last`; it may say on the way that the store cannot be reached.
async fn values_until(watch: &mut Watch, last: i32) -> Vec<i32> {
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        match watch.next().await.unwrap() {
            Ok(WatchItem::Events(events)) => seen.extend(events.iter().map(value)),
            Ok(WatchItem::Reset) => panic!("reset after {seen:?}"),
            Err(StoreError::Unavailable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    seen
}

fn value(event: &Event) -> i32 {
    let Event::Put(entry) = event else { panic!("{event:?}") };
    serde_json::from_slice(&entry.value).unwrap()
}

/// The next item that is no error.
async fn next_item(watch: &mut Watch) -> WatchItem {
    loop {
        if let Ok(item) = watch.next().await.unwrap() {
            return item;
        }
    }
}

/// Waits for what must be so within a minute.
async fn in_a_minute<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it happens within a minute")
}
