//! Listings: everything below a prefix and how far the chains were, at one moment.

use std::{collections::BTreeMap, sync::Arc};

use consulrs::api::kv::common::KVPair;

use super::{
    Client,
    changes::{Chains, FOLDER, Position},
    is_ours, pair,
    txn::{Operation, Verdict},
};
use crate::store::{Entry, LeaseId, Revision, StoreError};

/// How many listings are kept for watches to begin at: an agent watches one prefix.
const KEPT: usize = 4;
/// How often founding a store is tried while other clients do the same.
const ATTEMPTS: usize = 5;

/// What a watch must know of a key to tell whether it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) revision: Revision,
    pub(super) lease: Option<LeaseId>,
}

/// The keys below a prefix, at one moment.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) prefix: String,
    pub(super) revision: Revision,
    pub(super) position: Position,
    pub(super) seen: BTreeMap<String, Seen>,
}

impl From<&Entry> for Seen {
    fn from(entry: &Entry) -> Self {
        Self { revision: entry.revision, lease: entry.lease }
    }
}

impl Client {
    /// Everything below a prefix.
    pub(super) async fn snapshot(&self, prefix: &str) -> Result<(Snapshot, Vec<Entry>), StoreError> {
        // Ends of sessions that were seen before are in what is read now, though no chain says so.
        let horizon = self.known().horizon;
        let tree = Operation::get_tree(&self.servers.outer(prefix));
        let (chains, pairs) = self.read_with_chains("list", vec![tree]).await?;
        let mut entries: Vec<Entry> = pairs
            .iter()
            .filter_map(|pair| pair::entry(&self.servers, pair))
            .filter(|entry| entry.key.starts_with(prefix) && !is_ours(&entry.key))
            .collect();
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let seen = entries.iter().map(|entry| (entry.key.clone(), entry.into())).collect();
        // It starts anew with another store.
        let horizon = horizon.min(self.known().horizon);
        let revision = chains.revision().max(horizon);
        let snapshot = Snapshot { prefix: prefix.to_owned(), revision, position: chains.position(), seen };
        Ok((snapshot, entries))
    }

    /// Reads trees, and the chains at the same moment; makes the chains if they are not there.
    pub(super) async fn read_with_chains(
        &self,
        what: &'static str,
        mut operations: Vec<Operation>,
    ) -> Result<(Chains, Vec<KVPair>), StoreError> {
        operations.insert(0, Operation::get_tree(&self.servers.outer(FOLDER)));
        for _ in 0..ATTEMPTS {
            let Verdict::Done(pairs) = self.read(what, &operations).await? else {
                return Err(self.garbled(what));
            };
            if let Some(chains) = Chains::among(&self.servers, &pairs) {
                self.known().note(&chains);
                return Ok((chains, pairs));
            }
            let store = format!("{:016x}", rand::random::<u64>());
            let founding = Chains::founding(&self.servers, &pairs, &store);
            // Another client may be quicker: what it made is as good.
            let verdict = self.api.explain(what, self.api.write(&founding).await)?;
            self.check_permission(&verdict)?;
        }
        Err(self.garbled(what))
    }

    /// Keeps a listing for a watch that begins there.
    pub(super) fn remember(&self, snapshot: Snapshot) {
        let listings = &mut self.known().listings;
        listings.retain(|other| other.prefix != snapshot.prefix);
        listings.truncate(KEPT - 1);
        listings.push_front(Arc::new(snapshot));
    }

    /// The listing of a prefix that had this revision.
    pub(super) fn remembered(&self, prefix: &str, revision: Revision) -> Option<Snapshot> {
        let known = self.known();
        let listing = known.listings.iter().find(|l| l.prefix == prefix && l.revision == revision)?;
        Some(Snapshot::clone(listing))
    }
}
