//! What every store must keep: one suite, run against each backend.
//!
//! A backend joins with an implementation of [`Backend`] below `backends` and one line of [`every_test_of!`].
//! The suite opens several clients of one store, as several agents do. Stores that are servers are real ones.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod backends;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    StreamExt,
    future::{join_all, try_join_all},
    stream::BoxStream,
};
use overlay_agent::store::{
    Condition, Entry, Event, LeaseState, MAX_KEY_LEN, MAX_VALUE_LEN, Operation, Outcome, Revision, Store,
    StoreError, Transaction, WatchItem,
};
use tokio::time::timeout;

/// A store that the suite can reach.
trait Backend {
    /// A lease time that its servers take, short enough to wait for.
    const SHORT_TTL: Duration;
    /// Its watches show every change, from any revision that is not too old.
    const KEEPS_HISTORY: bool;

    /// A new store, or a part of a running one that nobody else writes in.
    async fn start() -> Self;

    /// One more client of this store.
    async fn client(&self) -> Arc<dyn Store>;

    /// Makes the store forget the changes up to now.
    async fn forget_history(&self);
}

/// Runs the suite against one backend.
macro_rules! conformance {
    ($module:ident, $backend:ty, $($test:ident),+ $(,)?) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let test = async { super::$test(&<$backend>::start().await).await };
                    timeout(Duration::from_secs(60), test).await.expect("the test ends within a minute");
                }
            )+
        }
    };
}

/// One line for each backend: all names below.
macro_rules! every_test_of {
    ($module:ident, $backend:ty) => {
        conformance!(
            $module,
            $backend,
            what_is_put_can_be_read,
            a_prefix_lists_exactly_what_lies_below_it,
            a_key_can_be_created_only_once,
            a_replacement_needs_the_latest_revision,
            a_conditional_delete_needs_the_latest_revision,
            a_transaction_happens_wholly_or_not_at_all,
            of_several_conflicts_the_first_condition_is_named,
            revisions_rise_with_each_change_and_only_then,
            a_lease_that_runs_out_deletes_its_keys_and_watches_see_it,
            a_lease_that_is_kept_alive_keeps_its_keys,
            a_revoked_lease_deletes_its_keys_and_stays_gone,
            a_value_written_without_the_lease_outlives_it,
            a_value_cannot_be_bound_to_a_lease_that_is_gone,
            a_watch_shows_what_was_written_as_it_was_written,
            a_watch_sees_only_its_prefix,
            a_watch_under_concurrent_writers_misses_nothing_and_repeats_nothing,
            a_watch_that_is_far_behind_catches_up_without_splitting_a_commit,
            a_watch_from_a_forgotten_revision_is_told_to_list_again,
            a_watch_from_a_revision_that_never_was_is_told_to_list_again,
            of_a_thousand_claims_on_a_hundred_addresses_each_is_won_once,
            the_largest_value_passes_and_a_larger_one_is_refused,
            hostile_keys_are_refused_wherever_they_come_in,
            a_key_in_two_operations_is_refused,
            other_clients_see_a_commit_soon,
        );
    };
}

#[cfg(feature = "etcd")]
every_test_of!(etcd, backends::etcd::Etcd);
#[cfg(feature = "sqlite")]
every_test_of!(sqlite, backends::sqlite::Sqlite);
#[cfg(feature = "consul")]
every_test_of!(consul, backends::consul::Consul);
#[cfg(feature = "zookeeper")]
every_test_of!(zookeeper, backends::zookeeper::Zookeeper);

type Watch = BoxStream<'static, Result<WatchItem, StoreError>>;

async fn commit(store: &dyn Store, transaction: Transaction) -> Outcome {
    store.commit(transaction).await.unwrap()
}

async fn committed(store: &dyn Store, transaction: Transaction) -> Revision {
    match commit(store, transaction).await {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(key) => panic!("conflict on {key}"),
    }
}

async fn value(store: &dyn Store, key: &str) -> Option<String> {
    store.get(key).await.unwrap().map(|entry| String::from_utf8(entry.value).unwrap())
}

async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    store.list(prefix).await.unwrap().entries.into_iter().map(|entry| entry.key).collect()
}

async fn watch_from_now(store: &dyn Store, prefix: &str) -> Watch {
    let now = store.list(prefix).await.unwrap().revision;
    store.watch(prefix, now).await.unwrap()
}

/// The changes of the next item.
async fn next_events(watch: &mut Watch) -> Vec<Event> {
    match watch.next().await.unwrap().unwrap() {
        WatchItem::Events(events) => events,
        WatchItem::Reset => panic!("reset"),
    }
}

/// Reads the watch up to the change that is wanted, and returns all up to there.
async fn events_until(watch: &mut Watch, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut seen = Vec::new();
    while !seen.iter().any(&wanted) {
        seen.extend(next_events(watch).await);
    }
    seen
}

fn is_delete_of(event: &Event, wanted: &str) -> bool {
    matches!(event, Event::Delete { key, .. } if key == wanted)
}

fn raw_put(key: &str, value: Vec<u8>) -> Transaction {
    Transaction { operations: vec![Operation::Put(key.to_owned(), value, None)], ..Transaction::new() }
}

async fn what_is_put_can_be_read(backend: &impl Backend) {
    let (a, b) = (backend.client().await, backend.client().await);
    assert_eq!(a.get("t/key").await.unwrap(), None);
    // Any bytes: what they mean is no business of the store.
    let bytes = vec![0, 0xff, b'\n', 0xc3];
    let revision = committed(&*a, raw_put("t/key", bytes.clone())).await;
    let entry = Entry { key: "t/key".to_owned(), value: bytes, revision, lease: None };
    assert_eq!(b.get("t/key").await.unwrap(), Some(entry.clone()));
    let listing = b.list("t/").await.unwrap();
    assert_eq!((listing.entries, listing.revision), (vec![entry], revision));
}

async fn a_prefix_lists_exactly_what_lies_below_it(backend: &impl Backend) {
    let store = backend.client().await;
    for key in [
        "a/b",
        "a/b/1",
        "a/b/2/x",
        "a/b0",
        "a/bc",
        "a/b\u{10ffff}",
        "a/c",
        "A/b/1",
        "a/B/1",
        "a/%/1",
        "a/_/1",
    ] {
        committed(&*store, Transaction::new().put(key, &1)).await;
    }
    assert_eq!(keys(&*store, "a/b/").await, ["a/b/1", "a/b/2/x"]);
    assert_eq!(keys(&*store, "a/b").await, ["a/b", "a/b/1", "a/b/2/x", "a/b0", "a/bc", "a/b\u{10ffff}"]);
    assert_eq!(keys(&*store, "a/%").await, ["a/%/1"], "no wildcard");
    assert_eq!(keys(&*store, "a/_").await, ["a/_/1"], "no wildcard");
    assert_eq!(keys(&*store, "none/").await, [""; 0]);
    assert_eq!(keys(&*store, "").await.len(), 11);
}

async fn a_key_can_be_created_only_once(backend: &impl Backend) {
    let (a, b) = (backend.client().await, backend.client().await);
    committed(&*a, Transaction::new().create("t/key", &"a")).await;
    let second = commit(&*b, Transaction::new().create("t/key", &"b")).await;
    assert_eq!(second, Outcome::Conflict("t/key".to_owned()));
    assert_eq!(value(&*b, "t/key").await.unwrap(), r#""a""#);
    committed(&*a, Transaction::new().delete("t/key")).await;
    committed(&*b, Transaction::new().create("t/key", &"b")).await;
}

async fn a_replacement_needs_the_latest_revision(backend: &impl Backend) {
    let (a, b) = (backend.client().await, backend.client().await);
    let first = committed(&*a, Transaction::new().put("t/key", &1)).await;
    let second = committed(&*b, Transaction::new().replace("t/key", first, &2)).await;
    let late = commit(&*a, Transaction::new().replace("t/key", first, &3)).await;
    assert_eq!(late, Outcome::Conflict("t/key".to_owned()));
    assert_eq!(value(&*a, "t/key").await.unwrap(), "2");
    let missing = commit(&*a, Transaction::new().replace("t/none", second, &3)).await;
    assert_eq!(missing, Outcome::Conflict("t/none".to_owned()));
}

async fn a_conditional_delete_needs_the_latest_revision(backend: &impl Backend) {
    let store = backend.client().await;
    let first = committed(&*store, Transaction::new().put("t/key", &1)).await;
    let second = committed(&*store, Transaction::new().put("t/key", &2)).await;
    let late = commit(&*store, Transaction::new().delete_unchanged("t/key", first)).await;
    assert_eq!(late, Outcome::Conflict("t/key".to_owned()));
    assert!(value(&*store, "t/key").await.is_some());
    committed(&*store, Transaction::new().delete_unchanged("t/key", second)).await;
    assert_eq!(value(&*store, "t/key").await, None);
}

async fn a_transaction_happens_wholly_or_not_at_all(backend: &impl Backend) {
    let store = backend.client().await;
    let before = committed(&*store, Transaction::new().put("t/old", &1).put("t/taken", &1)).await;
    let mut watch = store.watch("t/", before).await.unwrap();

    let refused = Transaction::new().create("t/new", &2).delete("t/old").create("t/taken", &2);
    assert_eq!(commit(&*store, refused).await, Outcome::Conflict("t/taken".to_owned()));
    assert_eq!(keys(&*store, "t/").await, ["t/old", "t/taken"]);

    let revision = committed(&*store, Transaction::new().create("t/new", &2).delete("t/old")).await;
    assert_eq!(keys(&*store, "t/").await, ["t/new", "t/taken"]);
    let events = next_events(&mut watch).await;
    assert_eq!(events.len(), 2, "only what was carried out, in one item: {events:?}");
    assert!(events.iter().all(|event| event.revision() == revision), "{events:?}");
}

async fn of_several_conflicts_the_first_condition_is_named(backend: &impl Backend) {
    let store = backend.client().await;
    committed(&*store, Transaction::new().put("t/b", &1).put("t/c", &1)).await;
    let transaction = Transaction::new().create("t/a", &2).create("t/c", &2).create("t/b", &2);
    assert_eq!(commit(&*store, transaction).await, Outcome::Conflict("t/c".to_owned()));
}

async fn revisions_rise_with_each_change_and_only_then(backend: &impl Backend) {
    let (a, b) = (backend.client().await, backend.client().await);
    let mut last = a.list("").await.unwrap().revision;
    for i in 0..20 {
        let client = if i % 2 == 0 { &a } else { &b };
        let revision = committed(&**client, Transaction::new().put("t/key", &"same value")).await;
        assert!(revision > last, "{revision:?} after {last:?}");
        last = revision;
    }
    for nothing in [Transaction::new(), Transaction::new().delete("t/none")] {
        assert_eq!(commit(&*a, nothing).await, Outcome::Committed(last));
    }
    assert_eq!(b.list("t/").await.unwrap().revision, last);
    assert_eq!(b.get("t/key").await.unwrap().unwrap().revision, last);
}

async fn a_lease_that_runs_out_deletes_its_keys_and_watches_see_it<B: Backend>(backend: &B) {
    let (a, b) = (backend.client().await, backend.client().await);
    let lease = a.grant_lease(B::SHORT_TTL).await.unwrap();
    let granted = Instant::now();
    let leased = Transaction::new().create("t/1", &1).create("t/2", &2).leased(lease).create("t/kept", &3);
    committed(&*a, leased).await;
    assert_eq!(b.get("t/1").await.unwrap().unwrap().lease, Some(lease));
    let mut watch = watch_from_now(&*b, "t/").await;
    // Its node is gone: only the other client is there to see the end of the lease.
    drop(a);
    events_until(&mut watch, |event| is_delete_of(event, "t/2")).await;
    let lived = granted.elapsed();
    assert!(lived < B::SHORT_TTL + Duration::from_secs(2), "{lived:?}");
    assert_eq!(keys(&*b, "t/").await, ["t/kept"]);
    assert_eq!(b.keep_alive(lease).await.unwrap(), LeaseState::Gone);
}

async fn a_lease_that_is_kept_alive_keeps_its_keys<B: Backend>(backend: &B) {
    let (a, b) = (backend.client().await, backend.client().await);
    let mut watch = watch_from_now(&*b, "t/").await;
    let kept = a.grant_lease(B::SHORT_TTL).await.unwrap();
    // Runs out when the kept one would have run out twice.
    let measure = a.grant_lease(B::SHORT_TTL * 2).await.unwrap();
    committed(&*a, Transaction::new().create("t/kept", &1).leased(kept)).await;
    committed(&*a, Transaction::new().create("t/measure", &1).leased(measure)).await;

    let keep = async {
        loop {
            assert_eq!(a.keep_alive(kept).await.unwrap(), LeaseState::Alive);
            tokio::time::sleep(B::SHORT_TTL / 6).await;
        }
    };
    let events = tokio::select! {
        events = events_until(&mut watch, |event| is_delete_of(event, "t/measure")) => events,
        () = keep => unreachable!("it goes on until the other lease ends"),
    };
    assert!(!events.iter().any(|event| is_delete_of(event, "t/kept")), "{events:?}");
    assert_eq!(keys(&*b, "t/").await, ["t/kept"]);
}

async fn a_revoked_lease_deletes_its_keys_and_stays_gone(backend: &impl Backend) {
    let store = backend.client().await;
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    let other = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    committed(&*store, Transaction::new().create("t/key", &1).leased(lease)).await;
    committed(&*store, Transaction::new().create("t/other", &1).leased(other)).await;
    let mut watch = watch_from_now(&*store, "t/").await;
    store.revoke(lease).await.unwrap();
    assert_eq!(keys(&*store, "t/").await, ["t/other"]);
    assert!(is_delete_of(&next_events(&mut watch).await[0], "t/key"));
    assert_eq!(store.keep_alive(lease).await.unwrap(), LeaseState::Gone);
    store.revoke(lease).await.unwrap();
    assert_eq!(store.keep_alive(other).await.unwrap(), LeaseState::Alive);
}

async fn a_value_written_without_the_lease_outlives_it(backend: &impl Backend) {
    let store = backend.client().await;
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    committed(&*store, Transaction::new().create("t/key", &1).leased(lease)).await;
    committed(&*store, Transaction::new().put("t/key", &2)).await;
    store.revoke(lease).await.unwrap();
    assert_eq!(value(&*store, "t/key").await.unwrap(), "2");
}

async fn a_value_cannot_be_bound_to_a_lease_that_is_gone(backend: &impl Backend) {
    let store = backend.client().await;
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    store.revoke(lease).await.unwrap();
    let bound = Transaction::new().create("t/key", &1).leased(lease).create("t/other", &1);
    assert_eq!(commit(&*store, bound).await, Outcome::Conflict("t/key".to_owned()));
    assert_eq!(keys(&*store, "t/").await, [""; 0]);
}

async fn a_watch_shows_what_was_written_as_it_was_written(backend: &impl Backend) {
    let (a, b) = (backend.client().await, backend.client().await);
    let mut watch = watch_from_now(&*b, "t/").await;
    let lease = a.grant_lease(Duration::from_secs(60)).await.unwrap();
    let first = committed(&*a, Transaction::new().put("t/key", &1).leased(lease)).await;
    let put = Entry { key: "t/key".to_owned(), value: b"1".to_vec(), revision: first, lease: Some(lease) };
    assert_eq!(next_events(&mut watch).await, [Event::Put(put)]);
    let second = committed(&*a, Transaction::new().delete("t/key")).await;
    let delete = Event::Delete { key: "t/key".to_owned(), revision: second };
    assert_eq!(next_events(&mut watch).await, [delete]);
}

async fn a_watch_sees_only_its_prefix(backend: &impl Backend) {
    let store = backend.client().await;
    let mut watch = watch_from_now(&*store, "a/b/").await;
    for key in ["a/b", "a/bc", "a/c/1", "x", "a/b/1"] {
        committed(&*store, Transaction::new().put(key, &1)).await;
    }
    committed(&*store, Transaction::new().delete("a/bc").put("a/b/2", &1)).await;
    let events =
        events_until(&mut watch, |event| matches!(event, Event::Put(entry) if entry.key == "a/b/2")).await;
    let keys: Vec<_> =
        events.iter().map(|event| matches!(event, Event::Put(e) if e.key.starts_with("a/b/"))).collect();
    assert_eq!(keys, [true, true], "{events:?}");
}

const WRITERS: usize = 4;
const COMMITS: usize = 60;

/// Each commit writes two keys and, every third time, deletes one that it wrote before.
async fn write_pairs(store: Arc<dyn Store>, writer: usize) -> Vec<Revision> {
    let mut revisions = Vec::new();
    for i in 0..COMMITS {
        let mut transaction =
            Transaction::new().put(format!("t/{writer}/{}", i % 7), &i).put(format!("t/pair/{writer}"), &i);
        if i % 3 == 2 {
            transaction = transaction.delete(format!("t/{writer}/{}", (i - 1) % 7));
        }
        revisions.push(committed(&*store, transaction).await);
    }
    revisions
}

async fn a_watch_under_concurrent_writers_misses_nothing_and_repeats_nothing<B: Backend>(backend: &B) {
    let reader = backend.client().await;
    let clients = join_all((0..WRITERS).map(|_| backend.client())).await;
    let from_start = watch_from_now(&*reader, "t/").await;
    let writers: Vec<_> =
        clients.into_iter().enumerate().map(|(i, c)| tokio::spawn(write_pairs(c, i))).collect();

    // One more watch begins while they write, from a listing.
    let mut some = reader.watch("t/pair/", reader.list("t/pair/").await.unwrap().revision).await.unwrap();
    next_events(&mut some).await;
    let middle = reader.list("t/").await.unwrap();
    let from_middle = reader.watch("t/", middle.revision).await.unwrap();

    let (seen, seen_later) = tokio::join!(follow(from_start, &[]), follow(from_middle, &middle.entries));
    let mut revisions: Vec<Revision> = try_join_all(writers).await.unwrap().concat();
    revisions.sort_unstable();
    let end = reader.list("t/").await.unwrap().entries;
    assert_eq!(revisions.len(), WRITERS * COMMITS);
    assert_eq!(seen.state, end, "listing and changes from the start make the listing of the end");
    assert_eq!(seen_later.state, end);
    if B::KEEPS_HISTORY {
        assert_eq!(seen.commits, revisions);
        revisions.retain(|revision| *revision > middle.revision);
        assert_eq!(seen_later.commits, revisions);
    }
}

/// What a watch showed until all writers had ended.
struct Seen {
    commits: Vec<Revision>,
    state: Vec<Entry>,
}

/// Applies a watch to a listing until the last commit of every writer. Revisions rise from item to item, and each item
/// ends with whole commits.
async fn follow(mut watch: Watch, listing: &[Entry]) -> Seen {
    let mut state: BTreeMap<String, Entry> = listing.iter().map(|e| (e.key.clone(), e.clone())).collect();
    let mut commits: Vec<Revision> = Vec::new();
    while !(0..WRITERS).all(|writer| last_of(&state, writer) == Some(COMMITS - 1)) {
        let events = next_events(&mut watch).await;
        let mut item: Vec<Revision> = events.iter().map(Event::revision).collect();
        item.dedup();
        assert!(item.is_sorted() && item.first() > commits.last(), "{item:?} after {:?}", commits.last());
        commits.extend(item);
        for event in events {
            match event {
                Event::Put(entry) => drop(state.insert(entry.key.clone(), entry)),
                Event::Delete { key, .. } => drop(state.remove(&key)),
            }
        }
        (0..WRITERS).for_each(|writer| assert_whole(&state, writer));
    }
    Seen { commits, state: state.into_values().collect() }
}

fn number_at(state: &BTreeMap<String, Entry>, key: &str) -> Option<usize> {
    state.get(key).map(|entry| serde_json::from_slice(&entry.value).unwrap())
}

fn last_of(state: &BTreeMap<String, Entry>, writer: usize) -> Option<usize> {
    number_at(state, &format!("t/pair/{writer}"))
}

/// Both keys of a writer's last commit are there, and the one that it deleted is not.
fn assert_whole(state: &BTreeMap<String, Entry>, writer: usize) {
    let Some(i) = last_of(state, writer) else { return };
    assert_eq!(number_at(state, &format!("t/{writer}/{}", i % 7)), Some(i), "a commit was split");
    if i % 3 == 2 {
        assert_eq!(number_at(state, &format!("t/{writer}/{}", (i - 1) % 7)), None, "a commit was split");
    }
}

async fn a_watch_that_is_far_behind_catches_up_without_splitting_a_commit<B: Backend>(backend: &B) {
    const KEYS: usize = 7;
    let store = backend.client().await;
    let start = store.list("").await.unwrap().revision;
    let mut revisions = Vec::new();
    for i in 0..400 {
        let wide = (0..KEYS).fold(Transaction::new(), |transaction, k| transaction.put(format!("t/{k}"), &i));
        revisions.push(committed(&*store, wide).await);
    }
    let mut watch = store.watch("t/", start).await.unwrap();
    if !B::KEEPS_HISTORY {
        // What the last listing of this prefix leaves open, a listing must tell.
        assert_eq!(watch.next().await.unwrap().unwrap(), WatchItem::Reset);
        return;
    }
    let mut count = 0;
    while count < revisions.len() * KEYS {
        let events = next_events(&mut watch).await;
        for (i, event) in events.iter().enumerate() {
            assert_eq!(event.revision(), revisions[(count + i) / KEYS]);
        }
        assert_eq!(events.len() % KEYS, 0, "whole commits");
        count += events.len();
    }
}

async fn a_watch_from_a_forgotten_revision_is_told_to_list_again(backend: &impl Backend) {
    let store = backend.client().await;
    let old = committed(&*store, Transaction::new().put("t/key", &1)).await;
    let mut kept_up = store.watch("t/", old).await.unwrap();
    committed(&*store, Transaction::new().put("t/key", &2)).await;
    assert_eq!(next_events(&mut kept_up).await.len(), 1);
    // It is read all the time, though it shows nothing of what others write elsewhere.
    let kept_up = tokio::spawn(async move { next_events(&mut kept_up).await });
    backend.forget_history().await;

    let mut late = store.watch("t/", old).await.unwrap();
    assert_eq!(late.next().await.unwrap().unwrap(), WatchItem::Reset);
    committed(&*store, Transaction::new().put("t/key", &3)).await;
    for events in [next_events(&mut late).await, kept_up.await.unwrap()] {
        assert!(matches!(&events[..], [Event::Put(entry)] if entry.value == b"3"), "{events:?}");
    }
}

async fn a_watch_from_a_revision_that_never_was_is_told_to_list_again(backend: &impl Backend) {
    let store = backend.client().await;
    let now = committed(&*store, Transaction::new().put("t/key", &1)).await;
    let mut watch = store.watch("t/", Revision(now.0 + 1000)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap(), WatchItem::Reset);
    committed(&*store, Transaction::new().put("t/key", &2)).await;
    assert_eq!(next_events(&mut watch).await.len(), 1);
}

async fn of_a_thousand_claims_on_a_hundred_addresses_each_is_won_once(backend: &impl Backend) {
    const CLIENTS: usize = 10;
    const ADDRESSES: usize = 100;
    let clients = join_all((0..CLIENTS).map(|_| backend.client())).await;
    let claim = |client: usize, address: usize| {
        let store = Arc::clone(&clients[client]);
        tokio::spawn(async move {
            let claim = Transaction::new().create(format!("t/10.0.0.{address}"), &client);
            let won = matches!(commit(&*store, claim).await, Outcome::Committed(_));
            won.then(|| (format!("t/10.0.0.{address}"), client.to_string()))
        })
    };
    let claims = (0..ADDRESSES).flat_map(|address| (0..CLIENTS).map(move |client| (client, address)));
    let won = try_join_all(claims.map(|(client, address)| claim(client, address))).await.unwrap();

    let mut won: Vec<(String, String)> = won.into_iter().flatten().collect();
    won.sort_unstable();
    let entries = clients[0].list("t/").await.unwrap().entries;
    let held: Vec<_> = entries.into_iter().map(|e| (e.key, String::from_utf8(e.value).unwrap())).collect();
    assert_eq!(held.len(), ADDRESSES);
    assert_eq!(won, held, "whoever was told that it won holds the address, and nobody else was");
}

async fn the_largest_value_passes_and_a_larger_one_is_refused(backend: &impl Backend) {
    let store = backend.client().await;
    let mut watch = watch_from_now(&*store, "t/").await;
    let largest: Vec<u8> = (0..MAX_VALUE_LEN).map(|i| (i % 251) as u8).collect();
    committed(&*store, raw_put("t/key", largest.clone())).await;
    assert!(store.get("t/key").await.unwrap().unwrap().value == largest);
    assert!(matches!(&next_events(&mut watch).await[..], [Event::Put(entry)] if entry.value == largest));
    let larger = store.commit(raw_put("t/key", vec![0; MAX_VALUE_LEN + 1])).await;
    assert!(matches!(larger, Err(StoreError::Invalid { .. })), "{larger:?}");
}

async fn hostile_keys_are_refused_wherever_they_come_in(backend: &impl Backend) {
    let store = backend.client().await;
    let too_long = "k".repeat(MAX_KEY_LEN + 1);
    for key in ["", "t/\0", "t/a\nb", "t/\u{1b}[2J", "t/\u{7f}", &too_long] {
        let is_invalid = |error: Option<StoreError>| {
            assert!(matches!(error, Some(StoreError::Invalid { .. })), "{key:?}: {error:?}");
        };
        is_invalid(store.get(key).await.err());
        is_invalid(store.commit(Transaction::new().put(key, &1)).await.err());
        is_invalid(store.commit(Transaction::new().delete(key)).await.err());
        is_invalid(store.commit(Transaction::new().unchanged(key, Revision(1))).await.err());
        let absent =
            Transaction { conditions: vec![Condition::Absent(key.to_owned())], ..Transaction::new() };
        is_invalid(store.commit(absent).await.err());
        if !key.is_empty() {
            is_invalid(store.list(key).await.err());
            is_invalid(store.watch(key, Revision(0)).await.err());
        }
    }
    for odd in ["t/' OR 1=1 --", "t/../..", "t/*?[a]", "t/ä ö", &"k".repeat(MAX_KEY_LEN)] {
        committed(&*store, Transaction::new().create(odd, &odd)).await;
        assert_eq!(keys(&*store, odd).await, [odd]);
    }
}

async fn a_key_in_two_operations_is_refused(backend: &impl Backend) {
    let store = backend.client().await;
    let twice = store.commit(Transaction::new().put("t/key", &1).delete("t/key")).await;
    assert!(matches!(&twice, Err(StoreError::Invalid { key, .. }) if key == "t/key"), "{twice:?}");
}

async fn other_clients_see_a_commit_soon(backend: &impl Backend) {
    let (a, b) = (backend.client().await, backend.client().await);
    let mut watch = watch_from_now(&*b, "t/").await;
    let mut delays = Vec::new();
    for i in 0..21 {
        let write = async {
            // A watch that waits cannot be told from one that is about to: give it the time to.
            tokio::time::sleep(Duration::from_millis(10)).await;
            let start = Instant::now();
            committed(&*a, Transaction::new().put("t/key", &i)).await;
            start
        };
        let see = async {
            next_events(&mut watch).await;
            Instant::now()
        };
        let (start, seen) = tokio::join!(write, see);
        delays.push(seen.duration_since(start));
    }
    delays.sort_unstable();
    let median = delays[delays.len() / 2];
    println!("commit to watch in another client: median {median:?}, worst {:?}", delays[delays.len() - 1]);
    assert!(median < Duration::from_millis(100), "{delays:?}");
}
