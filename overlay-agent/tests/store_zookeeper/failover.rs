//! Members that die, hang, or come back empty.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use overlay_agent::store::{self, LeaseState, StoreError, Transaction, WatchItem};

use crate::{
    Hung, committed, in_a_minute, member::Member, next_item, open, put, put_at_last, server, values_until,
    watch_from_now,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_member_of_three_can_die_and_nothing_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let mut members = Member::three(dir.path());
    for member in &members {
        in_a_minute(member.serve()).await;
    }
    let hosts: Vec<String> = members.iter().map(Member::address).collect();
    let store = open(&format!("zookeeper://{}/t", hosts.join(","))).await;
    let mut watch = watch_from_now(&*store).await;
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    committed(&*store, Transaction::new().put("leased", &1).leased(lease)).await;
    let mut next = 0;
    for member in &mut members {
        member.kill();
        for _ in 0..5 {
            put_at_last(&*store, "t/key", next).await;
            next += 1;
        }
        member.start();
        in_a_minute(member.serve()).await;
    }
    let mut seen = in_a_minute(values_until(&mut watch, next - 1)).await;
    // One whose outcome was not known was written again.
    seen.dedup();
    assert_eq!(seen, (0..next).collect::<Vec<_>>());
    assert_eq!(store.keep_alive(lease).await.unwrap(), LeaseState::Alive);
    assert!(store.get("leased").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_where_nobody_listens_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    for _ in 0..8 {
        // Which of them is asked first is random.
        let store = open(&format!("zookeeper://127.0.0.1:1,{}", server.address())).await;
        put(&*store, "t/key", 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_down_is_reported_at_once_with_the_reason() {
    let start = Instant::now();
    let error = store::open(&"zookeeper://127.0.0.1:1".into()).await.err().unwrap();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("127.0.0.1:1: Connection refused"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_and_a_lease_go_on_when_the_server_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir);
    let store = open(&server.url()).await;
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    let mut watch = watch_from_now(&*store).await;
    put(&*store, "t/key", 1).await;
    server.kill();
    let error = store.get("t/key").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    server.resume().unwrap();
    put_at_last(&*store, "t/key", 2).await;
    assert_eq!(in_a_minute(values_until(&mut watch, 2)).await, [1, 2]);
    let alive = async { while store.keep_alive(lease).await.is_err() {} };
    in_a_minute(alive).await;
    assert_eq!(store.keep_alive(lease).await.unwrap(), LeaseState::Alive);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_end_while_nobody_looks_are_found_over_later() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir);
    let store = open(&server.url()).await;
    let lease = store.grant_lease(Duration::from_secs(2)).await.unwrap();
    committed(&*store, Transaction::new().put("t/key", &1).leased(lease)).await;
    let mut watch = watch_from_now(&*store).await;
    server.kill();
    server.resume().unwrap();
    let WatchItem::Events(events) = in_a_minute(next_item(&mut watch)).await else { panic!("reset") };
    assert!(matches!(&events[..], [store::Event::Delete { key, .. }] if key == "t/key"), "{events:?}");
    assert_eq!(store.keep_alive(lease).await.unwrap(), LeaseState::Gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_wiped_is_told_from_one_that_was_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir);
    let store = open(&server.url()).await;
    // How many commits the new store holds when the watch finds it: fewer than the old one, or more.
    for commits in [1, 20] {
        let mut watch = watch_from_now(&*store).await;
        for i in 0..5 {
            put(&*store, "t/key", i).await;
        }
        in_a_minute(values_until(&mut watch, 4)).await;
        server.wipe().unwrap();
        for i in 0..commits {
            put_at_last(&*store, "t/other", i).await;
        }
        assert_eq!(in_a_minute(next_item(&mut watch)).await, WatchItem::Reset);
        put(&*store, "t/key", 77).await;
        assert_eq!(in_a_minute(values_until(&mut watch, 77)).await.last(), Some(&77));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_reported_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let store = open(&server.url()).await;
    let mut watch = watch_from_now(&*store).await;
    let hung_server = Hung::process(server.pid().unwrap());
    let start = Instant::now();
    let hung = store.get("t/key").await;
    let waited = start.elapsed();
    let opened = store::open(&server.url().as_str().into()).await.err();
    let from_watch = in_a_minute(watch.next()).await.unwrap();
    let silent = start.elapsed();
    drop(hung_server);
    assert!(matches!(hung, Err(StoreError::Unavailable { .. })), "{hung:?}");
    assert!(matches!(opened, Some(StoreError::Unavailable { .. })), "{opened:?}");
    assert!(matches!(from_watch, Err(StoreError::Unavailable { .. })), "{from_watch:?}");
    println!("a hung server: get fails after {waited:?}, the watch after {silent:?}");
    assert!(waited < Duration::from_secs(7), "{waited:?}");
    assert!(silent < Duration::from_secs(20), "{silent:?}");
    put_at_last(&*store, "t/key", 1).await;
    assert_eq!(in_a_minute(values_until(&mut watch, 1)).await.last(), Some(&1));
}
