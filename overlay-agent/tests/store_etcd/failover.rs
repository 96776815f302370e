//! Members that die, hang, or come back empty.

use std::time::{Duration, Instant};

use overlay_agent::store::{self, StoreError, WatchItem};

use crate::{
    Hung, in_a_minute,
    member::{Member, administrator},
    next_item, open, put, server, values_until, watch_from_now,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_member_of_three_can_die_and_nothing_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let mut members = Member::three(dir.path());
    in_a_minute(administrator(&members[0].address(), etcd_client::ConnectOptions::new())).await;
    let hosts: Vec<String> = members.iter().map(Member::address).collect();
    let store = open(&format!("etcd://{}/t", hosts.join(","))).await;
    let mut watch = watch_from_now(&*store).await;
    let mut next = 0;
    for member in &mut members {
        member.kill();
        for _ in 0..5 {
            // A member that is about to learn of its leader's death lets a request wait: that is an error, once.
            in_a_minute(async { while store.get("t/key").await.is_err() {} }).await;
            put(&*store, "t/key", next).await;
            next += 1;
        }
        member.start();
        in_a_minute(administrator(&member.address(), etcd_client::ConnectOptions::new())).await;
    }
    let seen = in_a_minute(values_until(&mut watch, next - 1)).await;
    assert_eq!(seen, (0..next).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_where_nobody_listens_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    for _ in 0..8 {
        // Which of them is asked first is random.
        let store = open(&format!("etcd://127.0.0.1:1,{}", server.address())).await;
        put(&*store, "t/key", 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_when_the_server_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir);
    let store = open(&server.url()).await;
    let mut watch = watch_from_now(&*store).await;
    put(&*store, "t/key", 1).await;
    server.kill();
    let error = store.get("t/key").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    server.resume().unwrap();
    put(&*store, "t/key", 2).await;
    assert_eq!(in_a_minute(values_until(&mut watch, 2)).await, [1, 2]);
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
            put(&*store, "t/other", i).await;
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
    let from_watch = in_a_minute(futures::StreamExt::next(&mut watch)).await.unwrap();
    let silent = start.elapsed();
    drop(hung_server);
    assert!(matches!(hung, Err(StoreError::Unavailable { .. })), "{hung:?}");
    assert!(matches!(opened, Some(StoreError::Unavailable { .. })), "{opened:?}");
    assert!(matches!(from_watch, Err(StoreError::Unavailable { .. })), "{from_watch:?}");
    assert!(waited < Duration::from_secs(7), "{waited:?}");
    println!("a hung server: get fails after {waited:?}, the watch after {silent:?}");
    assert!(silent < Duration::from_secs(20), "{silent:?}");
    // What waited in the server's socket is answered before anything else.
    in_a_minute(async { while store.get("t/key").await.is_err() {} }).await;
    put(&*store, "t/key", 1).await;
    assert_eq!(in_a_minute(values_until(&mut watch, 1)).await, [1]);
}
