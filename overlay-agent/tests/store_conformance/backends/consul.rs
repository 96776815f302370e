//! Consul: one server for all tests, each with a prefix of its own.

use std::{sync::Arc, time::Duration};

use overlay_agent::store::{self, Store, Transaction};
use xtask::servers::{Kind, Server};

use crate::{Backend, committed};

/// A prefix on the shared server.
pub struct Consul {
    url: String,
}

impl Backend for Consul {
    /// Consul's shortest: ten seconds, and as long again until it ends a session.
    const SHORT_TTL: Duration = Duration::from_secs(20);
    const KEEPS_HISTORY: bool = false;

    async fn start() -> Self {
        let server = tokio::task::spawn_blocking(|| Server::shared(Kind::Consul)).await.unwrap();
        Self { url: format!("{}/test-{:016x}", server.url(), rand::random::<u64>()) }
    }

    async fn client(&self) -> Arc<dyn Store> {
        store::open(&self.url.as_str().into()).await.unwrap()
    }

    async fn forget_history(&self) {
        let client = self.client().await;
        for _ in 0..100 {
            committed(&*client, Transaction::new().put("filler", &0)).await;
        }
    }
}
