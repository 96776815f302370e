//! ZooKeeper: one server for all tests, each below a prefix of its own.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use overlay_agent::store::{self, Store, Transaction};
use xtask::servers::{Kind, Server};

use crate::{Backend, committed};

/// A prefix on the shared server.
pub struct Zookeeper {
    url: String,
}

impl Backend for Zookeeper {
    const SHORT_TTL: Duration = Duration::from_secs(2);
    const KEEPS_HISTORY: bool = true;

    async fn start() -> Self {
        let server = tokio::task::spawn_blocking(|| Server::shared(Kind::Zookeeper)).await.unwrap();
        Self { url: format!("{}/test-{:016x}", server.url(), rand::random::<u64>()) }
    }

    async fn client(&self) -> Arc<dyn Store> {
        store::open(&self.url.as_str().into()).await.unwrap()
    }

    /// A thousand commits are kept, and one in a hundred removes what is older.
    async fn forget_history(&self) {
        let client = self.client().await;
        let filler = |i| Transaction::new().put(format!("filler/{i}"), &0);
        for _ in 0..12 {
            join_all((0..100).map(|i| committed(&*client, filler(i)))).await;
        }
    }
}
