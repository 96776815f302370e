//! Who changed what: the records that make a watch cheap.
//!
//! Consul tells a watch that something below a prefix changed, and then sends everything below it. So each commit
//! also writes down which keys it changed, in one of a few keys of our own. A watch waits for these alone, and reads
//! what they name.
//!
//! Such a key holds the latest records of a *chain*: each names the index of the one before, and is written only if
//! that one is still the latest. From any index that a chain has had, one can tell whether all later records are
//! there. There are several chains so that few commits want the same one at the same time.

use std::collections::BTreeMap;

use consulrs::api::kv::common::KVPair;
use serde::{Deserialize, Serialize};

use super::{pair, txn::Operation};
use crate::store::{Revision, address::Servers};

/// How many chains there are.
pub(super) const CHAINS: usize = 8;
/// How long a chain's value may become before its oldest records go. All chains are read at each change.
const MOST_BYTES: usize = 1536;

/// Where the chains lie, below the store's prefix.
pub(super) const FOLDER: &str = "overlay-changes/";
/// Where each session that holds a key has a key, below the store's prefix. The key goes with the session.
pub(super) const LEASES: &str = "overlay-leases/";

/// One commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The index of the chain's record before; its own is in the next record, or is the chain's.
    pub(super) after: u64,
    /// The client that committed.
    pub(super) by: String,
    /// Keys that it wrote.
    pub(super) put: Vec<String>,
    /// Keys that it deleted.
    pub(super) deleted: Vec<String>,
}

/// What a chain's key holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Log {
    /// Given when the store was first used: another one means that the store was wiped in between.
    store: String,
    commits: Vec<Record>,
}

/// One chain at one moment.
#[derive(Clone, Debug)]
struct Chain {
    index: u64,
    commits: Vec<Record>,
}

/// All chains at one moment.
#[derive(Clone, Debug)]
pub(super) struct Chains {
    store: String,
    chains: Vec<Chain>,
}

/// How far the chains have been followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    store: String,
    indexes: Vec<u64>,
}

impl Position {
    /// Whether this can be a later position in the same store.
    pub(super) fn follows(&self, other: &Self) -> bool {
        self.store == other.store
            && self.indexes.iter().zip(&other.indexes).all(|(mine, other)| mine >= other)
    }
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Written,
    Deleted,
}

/// What happened at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) revision: Revision,
    pub(super) keys: BTreeMap<String, Fate>,
}

impl Commit {
    fn new(revision: Revision, record: &Record) -> Self {
        let put = record.put.iter().map(|key| (key.clone(), Fate::Written));
        let deleted = record.deleted.iter().map(|key| (key.clone(), Fate::Deleted));
        Self { revision, keys: put.chain(deleted).collect() }
    }
}

impl Chains {
    /// The chains among what was read; `None` if they are not all there.
    pub(super) fn among(servers: &Servers, pairs: &[KVPair]) -> Option<Self> {
        let mut found: BTreeMap<usize, (u64, Log)> = BTreeMap::new();
        for pair in pairs {
            let name = servers.inner(&pair.key).and_then(|key| key.strip_prefix(FOLDER));
            if let Some(number) = name.and_then(|name| name.parse().ok()) {
                let log = serde_json::from_slice(&pair::value(pair)?).ok()?;
                found.insert(number, (pair.modify_index, log));
            }
        }
        let store = found.get(&0)?.1.store.clone();
        let chain = |number: usize| {
            let (index, log) = found.remove(&number)?;
            (log.store == store).then_some(Chain { index, commits: log.commits })
        };
        let chains = (0..CHAINS).map(chain).collect::<Option<Vec<_>>>()?;
        Some(Self { store, chains })
    }

    /// What makes empty chains, where those that were read are not all there.
    pub(super) fn founding(servers: &Servers, pairs: &[KVPair], store: &str) -> Vec<Operation> {
        let log = Log { store: store.to_owned(), commits: Vec::new() };
        let value = serde_json::to_vec(&log).expect("a log has a JSON form");
        let mut operations = vec![Operation::set(&servers.outer(LEASES), b"")];
        for number in 0..CHAINS {
            let key = key(servers, number);
            operations.push(match pairs.iter().find(|pair| pair.key == key) {
                Some(pair) => Operation::check_index(&key, pair.modify_index),
                None => Operation::check_absent(&key),
            });
            operations.push(Operation::set(&key, &value));
        }
        operations
    }

    /// The last commit's revision.
    pub(super) fn revision(&self) -> Revision {
        Revision(self.chains.iter().map(|chain| chain.index).max().unwrap_or_default())
    }

    /// Where all of this has been seen.
    pub(super) fn position(&self) -> Position {
        let indexes = self.chains.iter().map(|chain| chain.index).collect();
        Position { store: self.store.clone(), indexes }
    }

    /// The store that they are of.
    pub(super) fn store(&self) -> &str {
        &self.store
    }

    /// A chain's index.
    pub(super) fn index(&self, number: usize) -> u64 {
        self.chains[number].index
    }

    /// Takes over what is newer in others of the same store.
    pub(super) fn merge(&mut self, other: Self) {
        for (mine, theirs) in self.chains.iter_mut().zip(other.chains) {
            if theirs.index > mine.index {
                *mine = theirs;
            }
        }
    }

    /// What continues a chain by a record: fails unless the chain is as it is here.
    pub(super) fn append(&self, servers: &Servers, number: usize, record: &Record) -> [Operation; 2] {
        let key = key(servers, number);
        let log = Log { store: self.store.clone(), commits: self.appended(number, record) };
        let value = serde_json::to_vec(&log).expect("a log has a JSON form");
        [Operation::check_index(&key, record.after), Operation::set(&key, &value)]
    }

    /// A record was written at this index.
    pub(super) fn advance(&mut self, number: usize, record: &Record, index: u64) {
        if self.chains[number].index == record.after {
            let commits = self.appended(number, record);
            self.chains[number] = Chain { index, commits };
        }
    }

    /// A chain's records with one more, the oldest left out so that the value stays small.
    fn appended(&self, number: usize, record: &Record) -> Vec<Record> {
        let mut room = MOST_BYTES.saturating_sub(size(record));
        let fits = |record: &&Record| {
            let fits = size(record) <= room;
            room = room.saturating_sub(size(record));
            fits
        };
        let mut commits: Vec<Record> =
            self.chains[number].commits.iter().rev().take_while(fits).cloned().collect();
        commits.reverse();
        commits.push(record.clone());
        commits
    }

    /// Whether a client's record stands after an index in a chain, and at which one; `None` if that cannot be told.
    pub(super) fn find(&self, number: usize, record: &Record) -> Option<Option<Revision>> {
        let Chain { index, commits } = &self.chains[number];
        if *index == record.after {
            return Some(None);
        }
        let place = commits.iter().position(|other| other.after == record.after)?;
        let revision = commits.get(place + 1).map_or(*index, |next| next.after);
        Some((commits[place].by == record.by).then_some(Revision(revision)))
    }

    /// The commits since a position; `None` if some of their records are gone, or the position is none of this
    /// store: it was wiped, or put back to an older state.
    pub(super) fn since(&self, position: &Position) -> Option<Vec<Commit>> {
        if position.store != self.store {
            return None;
        }
        let chains = self.chains.iter().zip(&position.indexes);
        let commits = chains.map(|(chain, known)| chain.since(*known)).collect::<Option<Vec<_>>>()?;
        Some(commits.concat())
    }
}

impl Chain {
    /// The commits after an index; `None` if some of their records are gone.
    fn since(&self, index: u64) -> Option<Vec<Commit>> {
        if index == self.index {
            return Some(Vec::new());
        }
        let first = self.commits.iter().position(|record| record.after == index)?;
        let own = self.commits.iter().skip(1).map(|next| next.after).chain([self.index]).map(Revision);
        let commits = own.zip(&self.commits).skip(first);
        Some(commits.map(|(revision, record)| Commit::new(revision, record)).collect())
    }
}

/// Roughly what a record takes in JSON.
fn size(record: &Record) -> usize {
    64 + record.put.iter().chain(&record.deleted).map(|key| key.len() + 3).sum::<usize>()
}

fn key(servers: &Servers, number: usize) -> String {
    servers.outer(&format!("{FOLDER}{number}"))
}
