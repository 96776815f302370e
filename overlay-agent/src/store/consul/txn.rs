//! Consul's transactions, which `consulrs` has no endpoint for.
//!
//! Reading goes this way too: all reads of one transaction are of one moment, and keys stand in a body, where no
//! character of theirs is special.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use consulrs::api::{
    Features,
    features::{ConsistencyMode, FeaturedEndpoint},
    kv::common::KVPair,
};
use rustify_derive::Endpoint;
use serde::{Deserialize, Serialize};

/// Most operations that Consul takes at once.
pub(super) const MOST_OPERATIONS: usize = 64;

/// `PUT /v1/txn`.
#[derive(Endpoint)]
#[endpoint(path = "txn", method = "PUT", response = "Answer")]
pub(super) struct Request {
    #[endpoint(raw)]
    body: Vec<u8>,
    #[endpoint(skip)]
    consistent: bool,
}

impl Request {
    /// A transaction that writes.
    pub(super) fn write(operations: &[Operation]) -> Self {
        Self { body: json(operations), consistent: false }
    }

    /// A transaction that only reads, and shows at least all that was committed before it was asked for: a leader
    /// that was voted out without knowing does not answer.
    pub(super) fn read(operations: &[Operation]) -> Self {
        Self { body: json(operations), consistent: true }
    }
}

fn json(operations: &[Operation]) -> Vec<u8> {
    serde_json::to_vec(operations).expect("operations have a JSON form")
}

impl FeaturedEndpoint for Request {
    fn features(&self) -> Option<Features> {
        self.consistent.then(|| Features { mode: Some(ConsistencyMode::CONSISTENT), ..Features::default() })
    }
}

/// What one operation does, and to which key.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Operation {
    #[serde(rename = "KV")]
    kv: Kv,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Kv {
    verb: &'static str,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
}

impl Operation {
    fn new(verb: &'static str, key: &str) -> Self {
        Self { kv: Kv { verb, key: key.to_owned(), ..Kv::default() } }
    }

    /// The key's pair; fails if there is none.
    pub(super) fn get(key: &str) -> Self {
        Self::new("get", key)
    }

    /// The pairs of all keys that start so.
    pub(super) fn get_tree(prefix: &str) -> Self {
        Self::new("get-tree", prefix)
    }

    /// Fails if there is such a key.
    pub(super) fn check_absent(key: &str) -> Self {
        Self::new("check-not-exists", key)
    }

    /// Fails unless the key was last written at this index.
    pub(super) fn check_index(key: &str, index: u64) -> Self {
        let Self { kv } = Self::new("check-index", key);
        Self { kv: Kv { index: Some(index), ..kv } }
    }

    /// Writes a value; a session that holds the key goes on holding it.
    pub(super) fn set(key: &str, value: &[u8]) -> Self {
        let Self { kv } = Self::new("set", key);
        Self { kv: Kv { value: Some(BASE64_STANDARD.encode(value)), ..kv } }
    }

    /// Writes a value that goes with a session; fails if there is no such session, or another one holds the key.
    pub(super) fn lock(key: &str, value: &[u8], session: String) -> Self {
        let Self { kv } = Self::set(key, value);
        Self { kv: Kv { verb: "lock", session: Some(session), ..kv } }
    }

    /// Deletes the key, if it is there.
    pub(super) fn delete(key: &str) -> Self {
        Self::new("delete", key)
    }
}

/// What Consul says to a transaction.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Answer {
    results: Option<Vec<Found>>,
    errors: Option<Vec<Failed>>,
}

#[derive(Debug, Deserialize)]
struct Found {
    #[serde(rename = "KV")]
    kv: KVPair,
}

/// An operation that failed, and nothing was done.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Failed {
    /// Its place in the transaction.
    pub(super) op_index: usize,
    /// Why, in Consul's words.
    pub(super) what: String,
}

/// How a transaction ended.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Carried out; what was read and, without values, what was written.
    Done(Vec<KVPair>),
    /// Nothing was done; all that failed, in the order of the operations.
    Failed(Vec<Failed>),
}

impl From<Answer> for Verdict {
    fn from(answer: Answer) -> Self {
        match answer.errors {
            Some(mut errors) if !errors.is_empty() => {
                errors.sort_by_key(|error| error.op_index);
                Self::Failed(errors)
            }
            _ => Self::Done(answer.results.unwrap_or_default().into_iter().map(|found| found.kv).collect()),
        }
    }
}
