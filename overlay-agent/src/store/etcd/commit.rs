//! Transactions: conditions are etcd's compares, operations what follows if they hold.
//!
//! Where the answer to a transaction is lost, it is sent once more if that cannot do it twice: if its own changes
//! break one of its conditions. The second answer, or what then stands in the store, tells what became of the first.

use etcd_client::{
    Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};

use super::{
    Client,
    failure::Failure,
    wire::{number, position, revision},
};
use crate::store::{Condition, LeaseId, Operation, Outcome, Revision, Transaction, address::Servers};

impl Client {
    pub async fn commit(&self, transaction: &Transaction) -> Result<Outcome, Failure> {
        let txn = &encode(&self.servers, transaction);
        let mut round = self.members.round();
        let mut lost: Option<Failure> = None;
        loop {
            let answer =
                round.attempt(|client| async move { Ok(client.kv_client().txn(txn.clone()).await?) }).await;
            let failure = match answer {
                Ok(answer) if answer.succeeded() => {
                    return Ok(Outcome::Committed(revision(answer.header())));
                }
                Ok(answer) => return self.conflict(transaction, &answer, lost).await,
                Err(Failure::NoLease) => return self.lease_conflict(transaction, lost).await,
                Err(failure) => failure,
            };
            if failure.leaves_in_doubt() {
                lost = Some(failure.clone());
            }
            let harmless = lost.is_none() || breaks_its_own_condition(transaction);
            if !(failure.may_pass() && harmless && round.goes_on(&failure).await) {
                return Err(lost.unwrap_or(failure));
            }
        }
    }

    /// What it means that a condition did not hold; after a lost answer it may be this transaction that broke it.
    async fn conflict(
        &self,
        transaction: &Transaction,
        answer: &TxnResponse,
        lost: Option<Failure>,
    ) -> Result<Outcome, Failure> {
        if let Some(lost) = lost {
            return self.read_back(transaction).await?.map(Outcome::Committed).ok_or(lost);
        }
        let found = answer.op_responses();
        let broken = transaction.conditions.iter().zip(&found).find(|(condition, found)| {
            let kv = match found {
                TxnOpResponse::Get(found) => found.kvs().first(),
                _ => None,
            };
            !holds(condition, kv)
        });
        broken
            .map(|(condition, _)| Outcome::Conflict(condition.key().to_owned()))
            .ok_or_else(|| Failure::Unknown("it names no condition that does not hold".to_owned()))
    }

    /// The first value that was to be bound to a lease that is gone.
    async fn lease_conflict(
        &self,
        transaction: &Transaction,
        lost: Option<Failure>,
    ) -> Result<Outcome, Failure> {
        if let Some(lost) = lost {
            return Err(lost);
        }
        for operation in &transaction.operations {
            if let Operation::Put(key, _, Some(lease)) = operation
                && !self.is_alive(*lease).await?
            {
                return Ok(Outcome::Conflict(key.clone()));
            }
        }
        Err(Failure::Undone("a lease came back that was gone".to_owned()))
    }

    async fn is_alive(&self, lease: LeaseId) -> Result<bool, Failure> {
        let time_left = self
            .members
            .ask(|client| async move { client.lease_client().time_to_live(lease.number(), None).await })
            .await?;
        // A second that has begun counts as none left; less than none says that there is no such lease.
        Ok(time_left.ttl() >= 0)
    }

    /// When a transaction was carried out, if what it wrote stands in the store as by one commit.
    async fn read_back(&self, transaction: &Transaction) -> Result<Option<Revision>, Failure> {
        let gets: Vec<TxnOp> = transaction
            .operations
            .iter()
            .map(|operation| TxnOp::get(self.servers.outer(operation.key()), None))
            .collect();
        let txn = &Txn::new().and_then(gets);
        let answer =
            self.members.ask(|client| async move { client.kv_client().txn(txn.clone()).await }).await?;
        let found = answer.op_responses().into_iter().map(|found| match found {
            TxnOpResponse::Get(mut found) => found.take_kvs().into_iter().next(),
            _ => None,
        });
        Ok(written_at(&transaction.operations, found))
    }
}

/// The revision that all puts share, if each stands as written and each deleted key is gone.
fn written_at(operations: &[Operation], found: impl Iterator<Item = Option<KeyValue>>) -> Option<Revision> {
    let mut at = None;
    for (operation, found) in operations.iter().zip(found) {
        match (operation, found) {
            (Operation::Delete(_), None) => {}
            (Operation::Put(_, value, _), Some(kv)) if kv.value() == value => {
                if *at.get_or_insert(kv.mod_revision()) != kv.mod_revision() {
                    return None;
                }
            }
            _ => return None,
        }
    }
    at.map(position)
}

fn encode(servers: &Servers, transaction: &Transaction) -> Txn {
    let conditions = || transaction.conditions.iter();
    let key_of = |condition: &Condition| servers.outer(condition.key());
    let compares: Vec<Compare> = conditions().map(|c| compare(key_of(c), c)).collect();
    let look = GetOptions::new().with_keys_only();
    let looks: Vec<TxnOp> = conditions().map(|c| TxnOp::get(key_of(c), Some(look.clone()))).collect();
    let changes: Vec<TxnOp> = transaction.operations.iter().map(|o| change(servers, o)).collect();
    Txn::new().when(compares).and_then(changes).or_else(looks)
}

fn compare(key: String, condition: &Condition) -> Compare {
    match condition {
        Condition::Absent(_) => Compare::create_revision(key, CompareOp::Equal, 0),
        Condition::Unchanged(_, revision) => Compare::mod_revision(key, CompareOp::Equal, written(*revision)),
    }
}

fn change(servers: &Servers, operation: &Operation) -> TxnOp {
    let key = servers.outer(operation.key());
    match operation {
        Operation::Put(_, value, lease) => {
            let bound = lease.map(|lease| PutOptions::new().with_lease(lease.number()));
            TxnOp::put(key, value.as_slice(), bound)
        }
        Operation::Delete(_) => TxnOp::delete(key, None),
    }
}

fn holds(condition: &Condition, found: Option<&KeyValue>) -> bool {
    match condition {
        Condition::Absent(_) => found.is_none(),
        Condition::Unchanged(_, revision) => found.is_some_and(|kv| kv.mod_revision() == written(*revision)),
    }
}

/// The revision of a key that is there: for one that is not, etcd compares with zero.
fn written(revision: Revision) -> i64 {
    match number(revision) {
        0 => -1,
        number => number,
    }
}

/// Whether it cannot be carried out twice in a row.
fn breaks_its_own_condition(transaction: &Transaction) -> bool {
    transaction.conditions.iter().any(|condition| {
        transaction.operations.iter().any(|operation| match (condition, operation) {
            (Condition::Absent(_), Operation::Delete(_)) => false,
            (condition, operation) => condition.key() == operation.key(),
        })
    })
}
