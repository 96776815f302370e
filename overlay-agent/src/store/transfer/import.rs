//! Writing a document into a store.
//!
//! A small document goes in as one transaction. A larger one goes in steps, each within the limits of every backend, and
//! a marker in the store ([`Key::Import`]) says so until the last step. Agents do not start on a store with a marker. An
//! import that was interrupted is continued by starting it again with the same document.
//!
//! What refers to others comes after what it refers to, endpoints last, since agents may be looking.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Document, TransferError};
use crate::{
    model::keys::{Key, ROOT},
    store::{Condition, Entry, Operation, Outcome, Revision, Store, Transaction},
};

/// Most keys in a step. With a condition for each and the marker's they stay below Consul's 64 operations.
const STEP_KEYS: usize = 24;
/// Most bytes of values in a step, unless one alone has more: below Consul's 512 KiB for a whole transaction.
const STEP_BYTES: usize = 256 * 1024;

/// What to do with what is in the store already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse a store that is not empty.
    Refuse,
    /// Replace what differs, keep the rest.
    Overwrite,
    /// Replace what differs, delete the rest.
    Replace,
}

/// What an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Keys written.
    pub written: usize,
    /// Keys that had their value already.
    pub unchanged: usize,
    /// Keys deleted.
    pub deleted: usize,
    /// An interrupted import was continued.
    pub continued: bool,
}

/// Value of [`Key::Import`].
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    digest: String,
}

/// Writes a document into a store. `progress` hears how many changes of how many are done.
///
/// # Errors
/// If the store is not fit for it or does not answer. What was done before stays, under the marker.
pub async fn import(
    store: &dyn Store,
    document: &Document,
    existing: Existing,
    mut progress: impl FnMut(usize, usize),
) -> Result<Imported, TransferError> {
    let wanted = document.values()?;
    let listing = store.list(ROOT).await?.entries;
    let own = Marker { digest: Document::digest(&wanted) };
    let marker = marker_in(store, &listing, &own, existing)?;
    let changes = Change::between(&listing, wanted, existing);
    let total = changes.len();
    let done = Imported {
        written: changes.iter().filter(|change| matches!(change.operation, Operation::Put(..))).count(),
        deleted: changes.iter().filter(|change| matches!(change.operation, Operation::Delete(_))).count(),
        unchanged: 0,
        continued: matches!(marker, Found::Own(_)),
    };
    let done = Imported { unchanged: document.len() - done.written, ..done };
    let mut steps = steps(changes);
    if let (true, Found::None) = (steps.len() <= 1, &marker) {
        for step in steps {
            commit(store, step.into_iter().fold(Transaction::new(), Change::add_to)).await?;
        }
        progress(total, total);
        return Ok(done);
    }
    let mut revision = raise(store, &marker, &own).await?;
    let last = steps.pop().unwrap_or_default();
    let mut behind = 0;
    for step in steps {
        behind += step.len();
        let guarded = Transaction::new().replace(Key::Import, revision, &own);
        revision = commit(store, step.into_iter().fold(guarded, Change::add_to)).await?;
        progress(behind, total);
    }
    let finish = Transaction::new().delete_unchanged(Key::Import, revision);
    commit(store, last.into_iter().fold(finish, Change::add_to)).await?;
    progress(total, total);
    Ok(done)
}

/// A marker in the store.
enum Found {
    None,
    Own(Revision),
    Other(Revision),
}

/// Looks for a marker, and refuses a store that may not be written to.
fn marker_in(
    store: &dyn Store,
    listing: &[Entry],
    own: &Marker,
    existing: Existing,
) -> Result<Found, TransferError> {
    let marker = listing.iter().find(|entry| entry.key == Key::Import.to_string());
    let found = match marker {
        None => Found::None,
        Some(entry) => match serde_json::from_slice::<Marker>(&entry.value) {
            Ok(marker) if marker == *own => Found::Own(entry.revision),
            _ => Found::Other(entry.revision),
        },
    };
    let url = || store.url().to_owned();
    match (&found, existing) {
        (Found::None, Existing::Refuse) if !listing.is_empty() => {
            Err(TransferError::NotEmpty { url: url(), keys: listing.len() })
        }
        (Found::Other(_), Existing::Refuse) => Err(TransferError::Unfinished { url: url() }),
        _ => Ok(found),
    }
}

/// Writes the marker, so that whoever else imports at the same time stops.
async fn raise(store: &dyn Store, found: &Found, own: &Marker) -> Result<Revision, TransferError> {
    let transaction = match found {
        Found::None => Transaction::new().create(Key::Import, own),
        Found::Own(revision) | Found::Other(revision) => {
            Transaction::new().replace(Key::Import, *revision, own)
        }
    };
    commit(store, transaction).await
}

async fn commit(store: &dyn Store, transaction: Transaction) -> Result<Revision, TransferError> {
    match store.commit(transaction).await? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Conflict(key) => Err(TransferError::Contended { key }),
    }
}

/// One key to write or delete.
struct Change {
    condition: Condition,
    operation: Operation,
}

impl Change {
    /// What leads from a listing to the wanted values, in the order in which it is done.
    fn between(listing: &[Entry], wanted: BTreeMap<String, Vec<u8>>, existing: Existing) -> Vec<Self> {
        let there: BTreeMap<&str, &Entry> = listing.iter().map(|entry| (entry.key.as_str(), entry)).collect();
        let stays: BTreeSet<String> = wanted.keys().cloned().chain([Key::Import.to_string()]).collect();
        let put = |(key, value): (String, Vec<u8>)| {
            let condition = match there.get(key.as_str()) {
                Some(entry) if entry.value == value => return None,
                Some(entry) => Condition::Unchanged(key.clone(), entry.revision),
                None => Condition::Absent(key.clone()),
            };
            Some(Self { condition, operation: Operation::Put(key, value, None) })
        };
        let mut changes: Vec<Self> = wanted.into_iter().filter_map(put).collect();
        changes.sort_by_key(|change| rank(change.operation.key()));
        if existing == Existing::Replace {
            // Signs of life go with their leases.
            let gone = listing.iter().filter(|entry| entry.lease.is_none() && !stays.contains(&entry.key));
            let delete = |entry: &Entry| Self {
                condition: Condition::Unchanged(entry.key.clone(), entry.revision),
                operation: Operation::Delete(entry.key.clone()),
            };
            let mut deletions: Vec<Self> = gone.map(delete).collect();
            deletions.sort_by_key(|change| std::cmp::Reverse(rank(change.operation.key())));
            changes.extend(deletions);
        }
        changes
    }

    fn add_to(mut transaction: Transaction, change: Self) -> Transaction {
        transaction.conditions.push(change.condition);
        transaction.operations.push(change.operation);
        transaction
    }

    fn bytes(&self) -> usize {
        match &self.operation {
            Operation::Put(_, value, _) => value.len(),
            Operation::Delete(_) => 0,
        }
    }
}

/// What is referred to before what refers to it.
fn rank(key: &str) -> usize {
    const ORDER: [&str; 10] = [
        "cluster",
        "networks",
        "vnis",
        "subnets",
        "nodes",
        "policies",
        "rules",
        "addresses",
        "macs",
        "names",
    ];
    let kind = key.strip_prefix(ROOT).and_then(|rest| rest.split('/').next()).unwrap_or_default();
    match kind {
        "endpoints" => ORDER.len() + 1,
        _ => ORDER.iter().position(|known| *known == kind).unwrap_or(ORDER.len()),
    }
}

/// Cuts changes into steps that every backend takes as one transaction.
fn steps(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let mut steps: Vec<Vec<Change>> = Vec::new();
    let mut bytes = 0;
    for change in changes {
        bytes += change.bytes();
        match steps.last_mut() {
            Some(step) if step.len() < STEP_KEYS && bytes <= STEP_BYTES => step.push(change),
            _ => {
                bytes = change.bytes();
                steps.push(vec![change]);
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::{self, MAX_VALUE_LEN, Target};

    /// Where a test's two stores are: from every kind of store to every other, once there are several.
    struct Pair {
        from: Target,
        to: Target,
        _dir: tempfile::TempDir,
    }

    impl Pair {
        fn sqlite() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let target = |name: &str| format!("sqlite://{}/{name}.db", dir.path().display()).as_str().into();
            Self { from: target("from"), to: target("to"), _dir: dir }
        }

        async fn open(&self) -> [Arc<dyn Store>; 2] {
            [store::open(&self.from).await.unwrap(), store::open(&self.to).await.unwrap()]
        }
    }

    async fn put(store: &dyn Store, key: &str, value: &[u8]) {
        let operations = vec![Operation::Put(format!("{ROOT}{key}"), value.to_vec(), None)];
        let transaction = Transaction { conditions: Vec::new(), operations };
        assert!(matches!(store.commit(transaction).await.unwrap(), Outcome::Committed(_)));
    }

    /// A cluster that takes several steps, with values that are no JSON and one that is as large as any may be.
    async fn fill(store: &dyn Store) {
        for number in 0..STEP_KEYS * 3 {
            put(store, &format!("addresses/net/10.0.0.{number}"), br#"{"state":"released"}"#).await;
        }
        put(store, "cluster", br#"{"id":"42"}"#).await;
        put(store, "networks/spaced", b"{ \"spaces\": 1 }").await;
        put(store, "networks/bytes", &[0, 255, 128]).await;
        put(store, "networks/large", &vec![b'x'; MAX_VALUE_LEN]).await;
        let lease = store.grant_lease(std::time::Duration::from_secs(60)).await.unwrap();
        let alive = Transaction::new().put(format!("{ROOT}alive/host1"), &1).leased(lease);
        store.commit(alive).await.unwrap();
    }

    async fn keys(store: &dyn Store) -> usize {
        store.list("").await.unwrap().entries.len()
    }

    async fn import_quietly(
        store: &dyn Store,
        document: &Document,
        existing: Existing,
    ) -> Result<Imported, TransferError> {
        import(store, document, existing, |_, _| {}).await
    }

    async fn round_trip(pair: &Pair) {
        let [from, to] = pair.open().await;
        fill(&*from).await;
        let text = Document::export(&*from).await.unwrap().text();
        assert!(!text.contains("alive") && text.contains("\"cluster\": {"), "{text}");
        let document = Document::parse(text.as_bytes()).unwrap();
        let mut heard = Vec::new();
        let done = import(&*to, &document, Existing::Refuse, |n, of| heard.push((n, of))).await.unwrap();
        assert_eq!(done, Imported { written: document.len(), ..Imported::default() });
        assert!(heard.len() > 2 && heard.last() == Some(&(document.len(), document.len())), "{heard:?}");
        assert_eq!(Document::export(&*to).await.unwrap().text(), text);
        assert_eq!(keys(&*to).await, document.len(), "no marker stays");
    }

    #[tokio::test]
    async fn export_import_export_gives_the_same_bytes() {
        round_trip(&Pair::sqlite()).await;
    }

    #[tokio::test]
    async fn a_store_that_is_not_empty_is_refused_overwritten_or_replaced_as_asked() {
        let pair = Pair::sqlite();
        let [from, to] = pair.open().await;
        put(&*from, "networks/a", b"1").await;
        put(&*from, "networks/same", b"3").await;
        put(&*to, "networks/a", b"2").await;
        put(&*to, "networks/same", b"3").await;
        put(&*to, "networks/extra", b"4").await;
        let document = Document::export(&*from).await.unwrap();
        let refused = import_quietly(&*to, &document, Existing::Refuse).await.unwrap_err();
        assert!(refused.to_string().contains("is not empty: it has 3 keys"), "{refused}");

        let done = import_quietly(&*to, &document, Existing::Overwrite).await.unwrap();
        assert_eq!(done, Imported { written: 1, unchanged: 1, deleted: 0, continued: false });
        assert_eq!(keys(&*to).await, 3);
        let done = import_quietly(&*to, &document, Existing::Replace).await.unwrap();
        assert_eq!(done, Imported { written: 0, unchanged: 2, deleted: 1, continued: false });
        assert_eq!(Document::export(&*to).await.unwrap(), document);
    }

    #[tokio::test]
    async fn an_import_that_was_interrupted_is_seen_and_goes_on_with_the_same_export_only() {
        let pair = Pair::sqlite();
        let [from, to] = pair.open().await;
        fill(&*from).await;
        let document = Document::export(&*from).await.unwrap();
        // Half of it, as an import leaves it that is killed.
        let own = Marker { digest: Document::digest(&document.values().unwrap()) };
        raise(&*to, &Found::None, &own).await.unwrap();
        put(&*to, "cluster", br#"{"id":"42"}"#).await;

        let unfinished = Document::export(&*to).await.unwrap_err();
        assert!(matches!(unfinished, TransferError::Unfinished { .. }), "{unfinished}");
        let other = Document::parse(Document::of("", []).unwrap().text().as_bytes()).unwrap();
        let refused = import_quietly(&*to, &other, Existing::Refuse).await.unwrap_err();
        assert!(matches!(refused, TransferError::Unfinished { .. }), "{refused}");

        let done = import_quietly(&*to, &document, Existing::Refuse).await.unwrap();
        assert_eq!(done, Imported { written: document.len() - 1, unchanged: 1, deleted: 0, continued: true });
        assert_eq!(Document::export(&*to).await.unwrap(), document);
    }

    #[tokio::test]
    async fn whoever_writes_at_the_same_time_stops_the_import_and_keeps_what_he_wrote() {
        let pair = Pair::sqlite();
        let [from, to] = pair.open().await;
        fill(&*from).await;
        let document = Document::export(&*from).await.unwrap();
        let own = Marker { digest: Document::digest(&document.values().unwrap()) };
        let changes = Change::between(&[], document.values().unwrap(), Existing::Refuse);
        let revision = raise(&*to, &Found::None, &own).await.unwrap();
        put(&*to, "cluster", b"\"another\"").await;
        let guarded = Transaction::new().replace(Key::Import, revision, &own);
        let step = steps(changes).remove(0).into_iter().fold(guarded, Change::add_to);
        let stopped = commit(&*to, step).await.unwrap_err();
        assert!(
            matches!(&stopped, TransferError::Contended { key } if key.ends_with("cluster")),
            "{stopped}"
        );
    }

    #[test]
    fn steps_stay_within_the_limits_of_every_backend_and_keep_the_order() {
        let values = |length: usize, count: usize| -> BTreeMap<String, Vec<u8>> {
            (0..count).map(|n| (format!("{ROOT}networks/{n:04}"), vec![b'1'; length])).collect()
        };
        for (length, count) in [(10, 1000), (100 * 1024, 9), (MAX_VALUE_LEN, 3), (0, 0)] {
            let steps = steps(Change::between(&[], values(length, count), Existing::Refuse));
            for step in &steps {
                let bytes: usize = step.iter().map(Change::bytes).sum();
                assert!(2 * step.len() + 2 <= 64 && (bytes <= STEP_BYTES || step.len() == 1));
            }
            let keys: Vec<&str> = steps.iter().flatten().map(|change| change.operation.key()).collect();
            assert!(keys.is_sorted() && keys.len() == count);
        }
    }

    #[test]
    fn endpoints_are_written_after_what_they_refer_to_and_deleted_before_it() {
        let kinds = ["endpoints/n/1", "nodes/h", "networks/n", "cluster", "names/n/e", "unknown/x"];
        let values = kinds.iter().map(|kind| (format!("{ROOT}{kind}"), Vec::new())).collect();
        let order = |changes: Vec<Change>| -> Vec<String> {
            changes.iter().map(|change| change.operation.key().replace(ROOT, "")).collect()
        };
        let written = order(Change::between(&[], values, Existing::Refuse));
        assert_eq!(written, ["cluster", "networks/n", "nodes/h", "names/n/e", "unknown/x", "endpoints/n/1"]);
    }
}
