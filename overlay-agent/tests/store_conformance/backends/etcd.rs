//! etcd: a server of its own for each test, so that no other test's commits move its revisions.

use std::{sync::Arc, time::Duration};

use overlay_agent::store::{self, Store};
use xtask::servers::{Kind, Place, Server};

use crate::Backend;

/// A cluster of one member.
pub struct Etcd {
    server: Server,
    _dir: tempfile::TempDir,
}

impl Backend for Etcd {
    // The server grants none shorter: one and a half times the time after which it holds an election.
    const SHORT_TTL: Duration = Duration::from_secs(2);
    const KEEPS_HISTORY: bool = true;

    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { dies_with_thread: true, ..Place::loopback(dir.path()) };
        Self { server: Server::start(Kind::Etcd, place).unwrap(), _dir: dir }
    }

    async fn client(&self) -> Arc<dyn Store> {
        store::open(&format!("{}/conformance", self.server.url()).as_str().into()).await.unwrap()
    }

    async fn forget_history(&self) {
        let revision = self.client().await.list("").await.unwrap().revision;
        let mut client =
            etcd_client::Client::connect([self.server.address().to_string()], None).await.unwrap();
        client.compact(i64::try_from(revision.0).unwrap(), None).await.unwrap();
    }
}
