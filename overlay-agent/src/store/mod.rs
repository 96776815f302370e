//! Where the cluster's state lives: one contract, several backends.
//!
//! The contract is small enough for every backend to keep it exactly: ordered revisions, small
//! transactions over explicit conditions, leases that delete their keys, and watches from a revision.
//! `tests/store_conformance.rs` holds each backend to it.

use std::{sync::Arc, time::Duration};

use futures::{future::BoxFuture, stream::BoxStream};

#[cfg(any(feature = "consul", feature = "etcd", feature = "zookeeper"))]
mod address;
mod bounded;
mod check;
#[cfg(feature = "consul")]
pub mod consul;
#[cfg(feature = "etcd")]
pub mod etcd;
mod rehearsal;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod target;
pub mod transfer;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

pub use bounded::{Bounded, Failure};
pub use rehearsal::Rehearsal;
pub use target::{Access, Secret, Target, Tls};

/// Position in the store's history. Every commit that changes something has a higher one than all before.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Revision(pub u64);

/// Identity of a lease, wide enough for every backend's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u128);

impl LeaseId {
    /// The number that it was made of, in a store whose leases are numbers; zero if it is none of such a store.
    #[must_use]
    pub fn number(self) -> i64 {
        u64::try_from(self.0).unwrap_or_default().cast_signed()
    }
}

impl From<i64> for LeaseId {
    fn from(number: i64) -> Self {
        Self(u128::from(number.cast_unsigned()))
    }
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value, opaque to the store; up to [`MAX_VALUE_LEN`] bytes.
    pub value: Vec<u8>,
    /// When it was last written.
    pub revision: Revision,
    /// The lease that it goes with, if any.
    pub lease: Option<LeaseId>,
}

/// Longest key in bytes that every backend takes.
pub const MAX_KEY_LEN: usize = 512;

/// Largest value in bytes that every backend takes.
pub const MAX_VALUE_LEN: usize = 512 * 1024;

/// Conditions and operations together that every backend takes in one transaction; Consul takes the fewest.
pub const MAX_OPERATIONS: usize = 30;

/// All keys below a prefix, at one revision.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The entries, sorted by key.
    pub entries: Vec<Entry>,
    /// A watch from here misses nothing and repeats nothing.
    pub revision: Revision,
}

/// What must hold for a transaction to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There is no such key.
    Absent(String),
    /// The key was last written at this revision.
    Unchanged(String, Revision),
}

impl Condition {
    /// The key that it speaks of.
    #[must_use]
    pub fn key(&self) -> &str {
        let (Self::Absent(key) | Self::Unchanged(key, _)) = self;
        key
    }
}

/// One change in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Write a value, with the lease that it goes with.
    Put(String, Vec<u8>, Option<LeaseId>),
    /// Delete a key; nothing happens if there is none.
    Delete(String),
}

impl Operation {
    /// The key that it changes.
    #[must_use]
    pub fn key(&self) -> &str {
        let (Self::Put(key, ..) | Self::Delete(key)) = self;
        key
    }
}

/// Changes that happen together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// Carried out in order. No key stands in two of them.
    pub operations: Vec<Operation>,
}

#[expect(clippy::needless_pass_by_value, reason = "a key is mostly made on the spot")]
impl Transaction {
    /// An empty transaction.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes `value` as JSON if the key does not exist.
    #[must_use]
    pub fn create<T: serde::Serialize>(self, key: impl ToString, value: &T) -> Self {
        self.absent(key.to_string()).put(key, value)
    }

    /// Writes `value` as JSON if the key was last written at `revision`.
    #[must_use]
    pub fn replace<T: serde::Serialize>(self, key: impl ToString, revision: Revision, value: &T) -> Self {
        self.unchanged(key.to_string(), revision).put(key, value)
    }

    /// Writes `value` as JSON.
    ///
    /// # Panics
    /// If `value` has no JSON form; the records of [`crate::model`] all have one.
    #[must_use]
    pub fn put<T: serde::Serialize>(mut self, key: impl ToString, value: &T) -> Self {
        let json = serde_json::to_vec(value).expect("records have a JSON form");
        self.operations.push(Operation::Put(key.to_string(), json, None));
        self
    }

    /// Deletes the key if it was last written at `revision`.
    #[must_use]
    pub fn delete_unchanged(self, key: impl ToString, revision: Revision) -> Self {
        self.unchanged(key.to_string(), revision).delete(key)
    }

    /// Deletes the key.
    #[must_use]
    pub fn delete(mut self, key: impl ToString) -> Self {
        self.operations.push(Operation::Delete(key.to_string()));
        self
    }

    /// Requires that there is no such key.
    #[must_use]
    pub fn absent(mut self, key: impl ToString) -> Self {
        self.conditions.push(Condition::Absent(key.to_string()));
        self
    }

    /// Requires that the key was last written at `revision`.
    #[must_use]
    pub fn unchanged(mut self, key: impl ToString, revision: Revision) -> Self {
        self.conditions.push(Condition::Unchanged(key.to_string(), revision));
        self
    }

    /// Binds every value written so far to a lease.
    #[must_use]
    pub fn leased(mut self, lease: LeaseId) -> Self {
        for operation in &mut self.operations {
            if let Operation::Put(_, _, slot) = operation {
                *slot = Some(lease);
            }
        }
        self
    }
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Carried out, at this revision.
    Committed(Revision),
    /// A condition did not hold; nothing was changed. The key is that of the first such condition.
    Conflict(String),
}

/// One change, as a watch reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key was written.
    Put(Entry),
    /// A key was deleted, or its lease ran out.
    Delete {
        /// The key.
        key: String,
        /// When.
        revision: Revision,
    },
}

impl Event {
    /// What changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// When it happened.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// What a watch yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// Changes in the order of their revisions, never empty. A commit is never split between two items.
    Events(Vec<Event>),
    /// The history asked for is gone (compaction, a store put back to an older state): list again. The
    /// watch goes on with what changes from now, which the listing may hold already.
    Reset,
}

/// Whether a lease still lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Its time starts anew.
    Alive,
    /// It ran out or was revoked; its keys are gone.
    Gone,
}

/// What can go wrong with any store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store does not answer, or not in time. Whether a commit took effect is not known.
    #[error("store {url}: {operation}: {reason}")]
    Unavailable {
        /// The store.
        url: String,
        /// What was asked of it.
        operation: &'static str,
        /// What it, or the system, said.
        reason: String,
    },
    /// The store's address or what lies there is not usable.
    #[error("store {url}: {reason}")]
    Unusable {
        /// The store.
        url: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// More at once than this store takes; nothing was changed.
    #[error("store {url}: too much at once: {reason}")]
    TooLarge {
        /// The store.
        url: String,
        /// How much it takes, or what to do.
        reason: String,
    },
    /// A key or value that no store takes.
    #[error("key {key:?}: {reason}")]
    Invalid {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// A store of the cluster's state.
#[async_trait::async_trait]
pub trait Store: Send + Sync {
    /// The address that it was opened with, without secrets.
    fn url(&self) -> &str;

    /// The entry under a key.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// All entries whose key starts with `prefix`.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Carries out a transaction if all its conditions hold. That a lease which it binds a value to still
    /// lives is such a condition, on that value's key, after those that it names.
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError>;

    /// A new lease. After `ttl` without [`Store::keep_alive`] the keys bound to it are deleted, at the
    /// latest one second later while any client of the store runs.
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Starts a lease's time anew.
    async fn keep_alive(&self, lease: LeaseId) -> Result<LeaseState, StoreError>;

    /// Ends a lease now and deletes its keys.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Every change below `prefix` after `after`. The stream ends only by being dropped; an error item
    /// means that the store cannot be reached just now, and the stream goes on when it can.
    ///
    /// A store that keeps no history shows, of several writes of one key between two looks, only the last, and
    /// nothing of a key that came and went; the revision of such a change is that of the look. It knows what
    /// followed the latest listing that this client made of the same prefix; from any other revision it says
    /// [`WatchItem::Reset`].
    async fn watch(
        &self,
        prefix: &str,
        after: Revision,
    ) -> Result<BoxStream<'static, Result<WatchItem, StoreError>>, StoreError>;
}

/// Opens a store.
///
/// # Errors
/// [`StoreError::Unusable`] if there is no such store in this build or its address cannot be one,
/// [`StoreError::Unavailable`] if it does not answer.
pub async fn open(target: &Target) -> Result<Arc<dyn Store>, StoreError> {
    (backend(&target.url)?.open)(target.clone()).await
}

/// A store behind deadlines, opened when it can first be reached.
///
/// # Errors
/// If this build has no store of this kind.
pub fn bounded(target: &Target) -> Result<Bounded, StoreError> {
    let (open, target) = (backend(&target.url)?.open, target.clone());
    Ok(Bounded::new(without_secrets(&target.url), move || open(target.clone())))
}

fn backend(url: &str) -> Result<&'static Backend, StoreError> {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    BACKENDS.iter().find(|backend| backend.scheme == scheme).ok_or_else(|| {
        let forms: Vec<&str> = BACKENDS.iter().map(|backend| backend.form).collect();
        let reason = format!("no store of this kind: this build has only {}", forms.join(", "));
        StoreError::Unusable { url: without_secrets(url), reason }
    })
}

/// A kind of store that this build has.
struct Backend {
    scheme: &'static str,
    /// How its addresses look, for people.
    form: &'static str,
    open: fn(Target) -> Opening,
}

/// A store that is being opened.
type Opening = BoxFuture<'static, Result<Arc<dyn Store>, StoreError>>;

const BACKENDS: &[Backend] = &[
    #[cfg(feature = "sqlite")]
    Backend { scheme: "sqlite", form: "sqlite:///ABSOLUTE/PATH", open: sqlite::open_target },
    #[cfg(feature = "consul")]
    Backend { scheme: "consul", form: "consul://HOST:PORT,…[/PREFIX]", open: consul::open_target },
    #[cfg(feature = "etcd")]
    Backend { scheme: "etcd", form: "etcd://HOST:PORT,…[/PREFIX]", open: etcd::open_target },
    #[cfg(feature = "zookeeper")]
    Backend { scheme: "zookeeper", form: "zookeeper://HOST:PORT,…[/PREFIX]", open: zookeeper::open_target },
];

/// An address without user, password and parameters, where tokens stand.
fn without_secrets(url: &str) -> String {
    let public = url.split(['?', '#']).next().unwrap_or_default();
    match public.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{host}")
        }
        None => public.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("redis://token:secret@127.0.0.1:8500/x?token=secret", "redis://127.0.0.1:8500/x")]
    #[case("postgres://127.0.0.1:5432", "postgres://127.0.0.1:5432")]
    #[case("/var/lib/overlay/overlay.db", "/var/lib/overlay/overlay.db")]
    #[case("", "")]
    #[tokio::test]
    async fn an_unknown_kind_of_store_is_refused_with_what_there_is_and_without_secrets(
        #[case] url: &str,
        #[case] shown: &str,
    ) {
        let error = open(&url.into()).await.err().unwrap().to_string();
        let reason = "no store of this kind: this build has only sqlite:///ABSOLUTE/PATH";
        assert!(error.starts_with(&format!("store {shown}: {reason}")), "{error}");
    }

    #[rstest]
    #[tokio::test]
    async fn a_sqlite_address_without_an_absolute_path_is_refused(
        #[values("sqlite://", "sqlite:///", "sqlite://overlay.db", "sqlite://../overlay.db")] url: &str,
    ) {
        let error = open(&url.into()).await.err().unwrap().to_string();
        assert!(error.contains("write it as sqlite:///ABSOLUTE/PATH"), "{error}");
    }

    #[tokio::test]
    async fn a_sqlite_address_opens_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", dir.path().join("deep/er/store.db").display());
        let store = open(&url.as_str().into()).await.unwrap();
        assert_eq!(store.url(), url);
        assert!(dir.path().join("deep/er/store.db").exists());
    }
}
