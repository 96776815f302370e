//! Commits: a transaction together with its record in a chain.
//!
//! The record makes a commit answer for itself. It is written only on top of the one that the client knew, so that of
//! two attempts at one commit at most one is carried out; and if an answer is lost, the chain tells whether it was.

use std::{collections::BTreeSet, time::Duration};

use consulrs::api::kv::common::KVPair;
use tokio::time::Instant;

use super::{
    Client,
    api::Failure,
    changes::{CHAINS, Chains, LEASES, Record},
    is_ours, pair,
    txn::{Failed, MOST_OPERATIONS, Operation as Step, Verdict},
};
use crate::store::{Condition, Operation, Outcome, Revision, StoreError, Transaction};

/// How long a commit may try while other clients commit before it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of a record whose answer did not come.
enum Trace {
    /// It was written, and the transaction carried out.
    Written(Revision),
    /// Another one has its place.
    Never,
    /// Its place is free; it may still be on its way.
    Open,
}

/// How an attempt on one chain ended.
enum Attempt {
    /// For good.
    Ended(Outcome),
    /// Somebody else has written to the chain.
    Overtaken,
}

impl Client {
    /// Carries out a transaction, unless it would change nothing.
    pub(super) async fn commit(&self, transaction: &Transaction) -> Result<Outcome, StoreError> {
        if let Some(key) = transaction.operations.iter().map(Operation::key).find(|key| is_ours(key)) {
            let reason = "below this the store keeps its own records";
            return Err(StoreError::Invalid { key: key.to_owned(), reason });
        }
        if may_change_nothing(transaction)
            && let Some(outcome) = self.change_nothing(transaction).await?
        {
            return Ok(outcome);
        }
        self.write(transaction).await
    }

    /// How a transaction ends that changes nothing; `None` if it would change something.
    async fn change_nothing(&self, transaction: &Transaction) -> Result<Option<Outcome>, StoreError> {
        let conditions = transaction.conditions.iter().map(|condition| self.check(condition));
        let absent = transaction.operations.iter().map(|o| Step::check_absent(&self.servers.outer(o.key())));
        let checks: Vec<Step> = conditions.chain(absent).collect();
        self.check_count(checks.len())?;
        if let Verdict::Failed(failed) = self.read("commit", &checks).await? {
            let first = failed.first().map_or(0, |failed| failed.op_index);
            let conflict = transaction.conditions.get(first);
            return Ok(conflict.map(|condition| Outcome::Conflict(condition.key().to_owned())));
        }
        let horizon = self.known().horizon;
        let (chains, _) = self.read_with_chains("commit", Vec::new()).await?;
        Ok(Some(Outcome::Committed(chains.revision().max(horizon))))
    }

    async fn write(&self, transaction: &Transaction) -> Result<Outcome, StoreError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let number = self.known().chain;
            let turn = self.turns[number].lock().await;
            if let Attempt::Ended(outcome) = self.attempt(transaction, number).await? {
                return Ok(outcome);
            }
            drop(turn);
            if Instant::now() > deadline {
                let reason = "other clients write all the time".to_owned();
                return Err(self.unavailable(reason));
            }
            // Whoever was quicker goes on with that chain.
            self.known().chain = (number + rand::random_range(1..CHAINS)) % CHAINS;
        }
    }

    /// Tries to carry out a transaction with its record in this chain. When no answer comes it is sent again, to the
    /// next server: its record has one place, so at most one of both is carried out.
    async fn attempt(&self, transaction: &Transaction, number: usize) -> Result<Attempt, StoreError> {
        let deadline = Instant::now() + PATIENCE;
        let chains = self.chains().await?;
        let record = self.record(transaction, chains.index(number));
        let steps = self.steps(transaction, chains.append(&self.servers, number, &record));
        self.check_count(steps.len())?;
        let mut silence = None;
        loop {
            match self.api.write(&steps).await {
                Ok(Verdict::Done(pairs)) => return Ok(self.done(number, &record, &pairs)),
                Ok(Verdict::Failed(failed)) => {
                    if let Some(reason) = silence {
                        match self.trace(&chains, number, &record, reason).await? {
                            (Trace::Written(revision), _) => return Ok(committed(revision)),
                            (Trace::Never, _) => {}
                            (Trace::Open, reason) => return Err(self.unavailable(reason)),
                        }
                    }
                    return self.refused(transaction, failed, &chains, number).await;
                }
                Err(Failure::NoAnswer(reason) | Failure::Unable(reason)) => {
                    match self.trace(&chains, number, &record, reason).await? {
                        (Trace::Written(revision), _) => return Ok(committed(revision)),
                        (Trace::Never, _) => return Ok(Attempt::Overtaken),
                        (Trace::Open, reason) if Instant::now() < deadline => silence = Some(reason),
                        (Trace::Open, reason) => return Err(self.unavailable(reason)),
                    }
                }
                Err(refused) => return self.api.explain("commit", Err(refused)),
            }
        }
    }

    /// The transaction was carried out.
    fn done(&self, number: usize, record: &Record, written: &[KVPair]) -> Attempt {
        let index = written.iter().map(|pair| pair.modify_index).max().unwrap_or_default();
        if let Some(chains) = &mut self.known().chains {
            chains.advance(number, record, index);
        }
        committed(Revision(index))
    }

    /// Why a transaction was not carried out: a condition of its own, or the chain.
    async fn refused(
        &self,
        transaction: &Transaction,
        failed: Vec<Failed>,
        chains: &Chains,
        number: usize,
    ) -> Result<Attempt, StoreError> {
        let owners = self.owners(transaction);
        let owner = failed.iter().find_map(|failed| owners.get(failed.op_index));
        let what = failed.first().map(|failed| failed.what.clone()).unwrap_or_default();
        self.check_permission(&Verdict::Failed(failed))?;
        if let Some(key) = owner {
            return Ok(Attempt::Ended(Outcome::Conflict(key.clone())));
        }
        let (now, _) = self.read_with_chains("commit", Vec::new()).await?;
        if now.store() == chains.store() && now.index(number) == chains.index(number) {
            return Err(self.unavailable(format!("refused for a reason that is not known: {what}")));
        }
        Ok(Attempt::Overtaken)
    }

    /// Looks for a record whose answer did not come, for this reason; fails with the reason if that cannot be told.
    async fn trace(
        &self,
        before: &Chains,
        number: usize,
        record: &Record,
        reason: String,
    ) -> Result<(Trace, String), StoreError> {
        let Ok((now, _)) = self.read_with_chains("commit", Vec::new()).await else {
            return Err(self.unavailable(reason));
        };
        if now.store() != before.store() {
            return Err(self.unavailable(reason));
        }
        match now.find(number, record) {
            Some(Some(revision)) => Ok((Trace::Written(revision), reason)),
            Some(None) if now.index(number) == record.after => Ok((Trace::Open, reason)),
            Some(None) => Ok((Trace::Never, reason)),
            None => Err(self.unavailable(reason)),
        }
    }

    /// The chains as far as they are known; read if they are not.
    async fn chains(&self) -> Result<Chains, StoreError> {
        let known = self.known().chains.clone();
        match known {
            Some(chains) => Ok(chains),
            None => Ok(self.read_with_chains("commit", Vec::new()).await?.0),
        }
    }

    fn record(&self, transaction: &Transaction, after: u64) -> Record {
        let keys = |wanted: fn(&&Operation) -> bool| {
            transaction.operations.iter().filter(wanted).map(|o| o.key().to_owned()).collect()
        };
        let put = keys(|operation| matches!(operation, Operation::Put(..)));
        let deleted = keys(|operation| matches!(operation, Operation::Delete(_)));
        Record { after, by: self.id.clone(), put, deleted }
    }

    /// A transaction in Consul's terms.
    fn steps(&self, transaction: &Transaction, chain: [Step; 2]) -> Vec<Step> {
        let conditions = transaction.conditions.iter().map(|condition| self.check(condition));
        let operations = transaction.operations.iter().flat_map(|o| self.change(transaction, o));
        conditions.chain(operations).chain(self.lease_keys(transaction)).chain(chain).collect()
    }

    /// For each step of a transaction the key that is in conflict if it fails; as [`Client::steps`] orders them.
    fn owners(&self, transaction: &Transaction) -> Vec<String> {
        let conditions = transaction.conditions.iter().map(|condition| condition.key().to_owned());
        let operations = transaction.operations.iter().flat_map(|operation| {
            let steps = self.change(transaction, operation).len();
            std::iter::repeat_n(operation.key().to_owned(), steps)
        });
        conditions.chain(operations).collect()
    }

    fn check(&self, condition: &Condition) -> Step {
        let key = self.servers.outer(condition.key());
        match condition {
            Condition::Absent(_) => Step::check_absent(&key),
            Condition::Unchanged(_, revision) => Step::check_index(&key, revision.0),
        }
    }

    /// One change. A key that may be there is deleted first: else it would stay with the session that holds it.
    fn change(&self, transaction: &Transaction, operation: &Operation) -> Vec<Step> {
        let key = self.servers.outer(operation.key());
        let is_new = transaction.conditions.contains(&Condition::Absent(operation.key().to_owned()));
        let delete = (!is_new).then(|| Step::delete(&key));
        let write = match operation {
            Operation::Delete(_) => None,
            Operation::Put(_, value, None) => Some(Step::set(&key, value)),
            Operation::Put(_, value, Some(lease)) => Some(Step::lock(&key, value, pair::session(*lease))),
        };
        delete.into_iter().chain(write).collect()
    }

    /// A key for each session that a transaction binds keys to, so that watches learn of its end.
    fn lease_keys(&self, transaction: &Transaction) -> Vec<Step> {
        let lease = |operation: &Operation| match operation {
            Operation::Put(_, _, lease) => *lease,
            Operation::Delete(_) => None,
        };
        let leases: BTreeSet<_> = transaction.operations.iter().filter_map(lease).collect();
        let step = |session: String| {
            let key = self.servers.outer(&format!("{LEASES}{session}"));
            Step::lock(&key, b"{}", session)
        };
        leases.into_iter().map(pair::session).map(step).collect()
    }

    fn check_count(&self, steps: usize) -> Result<(), StoreError> {
        if steps <= MOST_OPERATIONS {
            return Ok(());
        }
        let reason =
            format!("{steps} operations at once, and Consul takes {MOST_OPERATIONS}: make several commits");
        Err(StoreError::TooLarge { url: self.api.url().to_owned(), reason })
    }

    fn unavailable(&self, reason: String) -> StoreError {
        StoreError::Unavailable { url: self.api.url().to_owned(), operation: "commit", reason }
    }
}

fn committed(revision: Revision) -> Attempt {
    Attempt::Ended(Outcome::Committed(revision))
}

/// Whether a transaction changes nothing if the keys that it deletes are not there.
fn may_change_nothing(transaction: &Transaction) -> bool {
    let is_there = |key: &str| {
        transaction.conditions.iter().any(|c| matches!(c, Condition::Unchanged(k, _) if k == key))
    };
    transaction.operations.iter().all(|o| matches!(o, Operation::Delete(key) if !is_there(key)))
}
