//! SQLite: a file.

use std::{sync::Arc, time::Duration};

use overlay_agent::store::{self, Store, Transaction};

use crate::{Backend, committed};

/// One file in a directory of its own.
pub struct Sqlite {
    dir: tempfile::TempDir,
}

impl Backend for Sqlite {
    const SHORT_TTL: Duration = Duration::from_millis(300);
    const KEEPS_HISTORY: bool = true;

    async fn start() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    async fn client(&self) -> Arc<dyn Store> {
        let url = format!("sqlite://{}/store.db", self.dir.path().display());
        store::open(&url.as_str().into()).await.unwrap()
    }

    async fn forget_history(&self) {
        let client = self.client().await;
        for _ in 0..10_001 {
            committed(&*client, Transaction::new().put("filler", &0)).await;
        }
    }
}
