//! What only a file can go through. The contract of all stores is in `tests/store_conformance.rs`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use futures::StreamExt;
use tokio::{
    task::{spawn_blocking, yield_now},
    time::timeout,
};

use super::*;
use crate::store::Event;

struct File {
    dir: tempfile::TempDir,
}

impl File {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store.db")
    }

    fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.path()).unwrap()
    }

    /// Why it cannot be opened.
    fn refusal(&self) -> String {
        let error = SqliteStore::open(&self.path()).err().unwrap();
        assert!(matches!(error, StoreError::Unusable { .. }), "{error:?}");
        error.to_string()
    }

    /// Removes it as a careless operator would, with all that SQLite put beside it.
    fn remove(&self) {
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
}

fn transaction(value: u32) -> Transaction {
    Transaction::new().put("key", &value)
}

async fn value(store: &SqliteStore) -> Option<Vec<u8>> {
    store.get("key").await.unwrap().map(|entry| entry.value)
}

/// The next item of a watch, within ten seconds.
async fn next(
    watch: &mut BoxStream<'static, Result<WatchItem, StoreError>>,
) -> Result<WatchItem, StoreError> {
    timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap()
}

/// A closed store with one key, ready to be moved somewhere.
fn closed_store(path: &Path, stored: u32) {
    let mut connection = Place::new(path).connect(schema::Missing::Create).unwrap();
    let clock = Clock::of_this_boot().unwrap();
    tables::commit(&mut connection, transaction(stored), &clock).unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let file = File::new();
    fs::write(file.path(), [b'x'; 8192]).unwrap();
    assert!(file.refusal().contains("damaged or no SQLite database"), "{}", file.refusal());
}

#[tokio::test]
async fn a_database_of_another_program_is_refused_and_left_as_it_was() {
    let file = File::new();
    let foreign = rusqlite::Connection::open(file.path()).unwrap();
    foreign.execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(file.refusal().contains("a database of another program"), "{}", file.refusal());
    let tables: i64 = foreign.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1);
}

#[tokio::test]
async fn a_newer_format_is_refused_with_what_to_do() {
    let file = File::new();
    drop(file.open());
    let connection = rusqlite::Connection::open(file.path()).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    let refusal = file.refusal();
    assert!(refusal.contains("a newer agent wrote it (format 99, this one knows 1): upgrade"), "{refusal}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let file = File::new();
    let blocker = file.dir.path().join("blocker");
    fs::write(&blocker, "").unwrap();
    let error = SqliteStore::open(&blocker.join("store.db")).err().unwrap().to_string();
    assert!(error.contains(&format!("cannot make its directory {}", blocker.display())), "{error}");
}

#[tokio::test]
async fn a_directory_in_place_of_the_file_is_refused() {
    let file = File::new();
    fs::create_dir(file.path()).unwrap();
    let error = SqliteStore::open(&file.path()).err().unwrap().to_string();
    assert!(error.contains("see that the agent may write in"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_can_make_the_same_file_at_once() {
    for _ in 0..20 {
        let path = Arc::new(File::new());
        let opening = (0..16).map(|_| {
            let file = Arc::clone(&path);
            spawn_blocking(move || file.open())
        });
        let stores = futures::future::try_join_all(opening).await.unwrap();
        for (i, store) in stores.iter().enumerate() {
            let created = store.commit(Transaction::new().create("key", &i)).await.unwrap();
            assert_eq!(matches!(created, Outcome::Committed(_)), i == 0, "they share one file");
        }
    }
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_restart() {
    let file = File::new();
    let store = file.open();
    let Outcome::Committed(revision) = store.commit(transaction(1)).await.unwrap() else {
        panic!("conflict")
    };
    drop(store);
    let listing = file.open().list("").await.unwrap();
    assert_eq!((listing.revision, listing.entries.len()), (revision, 1));
}

#[tokio::test]
async fn a_removed_file_is_reported_and_another_one_in_its_place_is_taken_up() {
    let file = File::new();
    let store = file.open();
    store.commit(transaction(1)).await.unwrap();
    let mut watch = store.watch("", Revision(0)).await.unwrap();
    assert!(matches!(next(&mut watch).await.unwrap(), WatchItem::Events(_)));

    file.remove();
    let error = next(&mut watch).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("the file cannot be found"), "{error}");
    assert!(matches!(store.get("key").await, Err(StoreError::Unavailable { .. })));
    assert!(matches!(store.commit(transaction(2)).await, Err(StoreError::Unavailable { .. })));
    assert!(!file.path().exists(), "no empty store in its stead");

    let elsewhere = file.dir.path().join("copy");
    closed_store(&elsewhere, 3);
    fs::rename(&elsewhere, file.path()).unwrap();
    assert_eq!(next(&mut watch).await.unwrap(), WatchItem::Reset);
    assert_eq!(value(&store).await.unwrap(), b"3");
    store.commit(transaction(4)).await.unwrap();
    let item = next(&mut watch).await.unwrap();
    assert!(
        matches!(item, WatchItem::Events(events) if matches!(&events[..], [Event::Put(e)] if e.value == b"4"))
    );
}

#[tokio::test]
async fn a_file_put_over_the_open_one_is_taken_up_even_at_the_same_revision() {
    let file = File::new();
    let store = file.open();
    store.commit(transaction(1)).await.unwrap();
    let mut watch = store.watch("", store.list("").await.unwrap().revision).await.unwrap();

    let elsewhere = tempfile::tempdir_in(file.dir.path().parent().unwrap()).unwrap();
    let other = elsewhere.path().join("store.db");
    closed_store(&other, 3);
    file.remove();
    fs::rename(&other, file.path()).unwrap();
    // It may see the moment between the two.
    let mut item = next(&mut watch).await;
    if item.is_err() {
        item = next(&mut watch).await;
    }
    assert_eq!(item.unwrap(), WatchItem::Reset);
    assert_eq!(value(&store).await.unwrap(), b"3");
    store.commit(transaction(4)).await.unwrap();
}

#[tokio::test]
async fn a_locked_file_can_still_be_read() {
    let file = File::new();
    let store = file.open();
    store.commit(transaction(1)).await.unwrap();
    let locker = rusqlite::Connection::open(file.path()).unwrap();
    locker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut writing = store.commit(transaction(2));
    assert!(futures::poll!(&mut writing).is_pending());
    assert_eq!(value(&store).await.unwrap(), b"1");
    locker.execute_batch("COMMIT").unwrap();
    assert!(matches!(writing.await, Ok(Outcome::Committed(_))));
    assert_eq!(value(&store).await.unwrap(), b"2");
}

#[tokio::test]
async fn a_commit_that_nobody_waits_for_any_more_is_not_begun() {
    let file = File::new();
    let store = file.open();
    let locker = rusqlite::Connection::open(file.path()).unwrap();
    locker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let first = store.commit(Transaction::new().put("first", &1));
    let mut given_up = store.commit(transaction(1));
    let mut first = std::pin::pin!(first);
    assert!(futures::poll!(&mut first).is_pending());
    assert!(futures::poll!(&mut given_up).is_pending());
    drop(given_up);
    locker.execute_batch("COMMIT").unwrap();
    first.await.unwrap();
    store.commit(Transaction::new().put("last", &1)).await.unwrap();
    assert_eq!(value(&store).await, None);
}

#[tokio::test]
async fn descriptors_and_their_threads_go_with_the_last_user() {
    let file = File::new();
    let store = file.open();
    let watch = store.watch("", Revision(0)).await.unwrap();
    drop(store);
    drop(watch);
    // Each thread has a connection, and each connection descriptors.
    let is_open = || {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let mut files = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        files.any(|path| path.starts_with(file.dir.path()))
    };
    let gone = async {
        while is_open() {
            yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.unwrap();
}
