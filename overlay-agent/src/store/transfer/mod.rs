//! Moving a cluster's state from one store to another, unchanged.
//!
//! * [`document`]: the state as a file
//! * [`mod@import`]: writing it into a store

pub mod document;
pub mod import;

use serde::{Deserialize, Serialize};

use super::StoreError;

pub use document::Document;
pub use import::{Existing, Imported, import};

/// Version of the document's format.
const VERSION: u32 = 1;

/// The answer to `GET /v1/store/export`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exported {
    /// The state.
    pub document: Document,
    /// Why it is not the store's own but what the agent last knew of it.
    pub stale: Option<String>,
}

/// Why a store's state cannot be moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// It is no document of ours.
    #[error("this is no export of a store: {0}")]
    NotOurs(String),
    /// Another version wrote it.
    #[error("the export has version {0}, this program knows {VERSION}: upgrade it")]
    Version(u32),
    /// A key or value in it that no store takes.
    #[error("the export's entry {key:?} cannot be stored: {reason}")]
    Entry {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is something in the store.
    #[error(
        "store {url} is not empty: it has {keys} keys; name an empty one, or let --force replace what differs, or --replace also delete what is not in the export"
    )]
    NotEmpty {
        /// The store.
        url: String,
        /// Keys in it.
        keys: usize,
    },
    /// An import is not finished.
    #[error(
        "an import into store {url} was interrupted: run it again with the same export, or another one with --force"
    )]
    Unfinished {
        /// The store.
        url: String,
    },
    /// Somebody else writes too.
    #[error(
        "{key} was changed by somebody else during the import: stop the agents on this store and run the import again; it goes on where it stopped"
    )]
    Contended {
        /// What was changed.
        key: String,
    },
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}
