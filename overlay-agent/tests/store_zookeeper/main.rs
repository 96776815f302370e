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
#[path = "../store_servers/mod.rs"]
mod store_servers;
mod tree;

use overlay_agent::store::{Store, StoreError, Transaction};
use store_servers::{Hung, committed, in_a_minute, next_item, open, put, values_until, watch_from_now};
use xtask::servers::{Kind, Place, Server};

/// One server; it ends with the test.
fn server(dir: &tempfile::TempDir) -> Server {
    Server::start(Kind::Zookeeper, Place::loopback(dir.path())).unwrap()
}

/// A part of the shared server that nobody else writes in.
async fn anywhere() -> String {
    let server = tokio::task::spawn_blocking(|| Server::shared(Kind::Zookeeper)).await.unwrap();
    format!("{}/test-{:016x}", server.url(), rand::random::<u64>())
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
