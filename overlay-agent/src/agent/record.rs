//! Changing a node's record: its own agent and people on other hosts do, so what one writes must not
//! undo what the other wrote.

use crate::{
    model::{Name, Node, cluster::Versioned, keys::Key},
    store::{Outcome, Store, StoreError, Transaction},
};

/// How often to try again when somebody else was quicker.
const ATTEMPTS: u32 = 5;

/// Why a record was not changed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// There is none, or none that can be read.
    #[error("the store has no record of node {0}")]
    Missing(Name),
    /// Others change it all the time.
    #[error("the record of node {0} keeps changing: try again")]
    Contended(Name),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A node's record as the store has it now; `None` if there is none that can be read.
///
/// # Errors
/// If the store does not answer.
pub async fn read(store: &dyn Store, name: &Name) -> Result<Option<Versioned<Node>>, StoreError> {
    let entry = store.get(&Key::Node(name.clone()).to_string()).await?;
    Ok(entry.and_then(|entry| {
        let record = serde_json::from_slice(&entry.value).ok()?;
        Some(Versioned { record, revision: entry.revision })
    }))
}

/// Changes a node's record, whoever else does so at the same time, if what `guard` requires holds. `change` may
/// refuse.
///
/// # Errors
/// If there is none, it cannot be written, or `change` refuses.
pub async fn update<E: From<RecordError>>(
    store: &dyn Store,
    name: &Name,
    guard: &Transaction,
    change: impl Fn(&mut Node) -> Result<(), E>,
) -> Result<Versioned<Node>, E> {
    for _ in 0..ATTEMPTS {
        let known = read(store, name).await.map_err(RecordError::from)?;
        let Versioned { mut record, revision } = known.ok_or_else(|| RecordError::Missing(name.clone()))?;
        let before = record.clone();
        change(&mut record)?;
        if record == before {
            return Ok(Versioned { record, revision });
        }
        let transaction = guard.clone().replace(Key::Node(name.clone()), revision, &record);
        if let Outcome::Committed(revision) = store.commit(transaction).await.map_err(RecordError::from)? {
            return Ok(Versioned { record, revision });
        }
    }
    Err(RecordError::Contended(name.clone()).into())
}
