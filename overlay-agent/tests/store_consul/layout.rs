//! What people find in Consul, and how much goes in at once.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use overlay_agent::store::{MAX_OPERATIONS, Outcome, StoreError, Transaction};
use xtask::servers::Kind;

use crate::{in_a_minute, open, put, server, watch_from_now};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tree_reads_well_with_consuls_own_commands() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let store = open(&format!("{}/site-a", server.url())).await;
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    store.commit(Transaction::new().create("overlay/v1/alive/one", &"x").leased(lease)).await.unwrap();
    put(&*store, "overlay/v1/vnis/256", 7).await;
    let kv = |arguments: &[&str]| {
        let mut consul = Command::new(Kind::Consul.software().unwrap().join("usr/bin/consul"));
        let address = format!("-http-addr=http://{}", server.address());
        let output = consul.arg("kv").arg(arguments[0]).arg(address).args(&arguments[1..]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(kv(&["get", "site-a/overlay/v1/vnis/256"]).trim(), "7");
    let keys = kv(&["get", "-keys", "-separator=", "site-a/"]);
    let found: Vec<&str> = keys.lines().filter(|key| !key.contains("/overlay-changes/")).collect();
    assert_eq!(found[0], "site-a/overlay-leases/");
    assert!(found[1].starts_with("site-a/overlay-leases/"), "one per session: {found:?}");
    assert_eq!(found[2..], ["site-a/overlay/v1/alive/one", "site-a/overlay/v1/vnis/256"]);
    let record = kv(&["get", "-recurse", "site-a/overlay-changes/"]);
    assert!(record.contains(r#""put":["overlay/v1/vnis/256"],"deleted":[]"#), "{record}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_operations_as_are_promised_fit_and_more_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let store = open(&server.url()).await;
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    let wide = |keys| (0..keys).fold(Transaction::new(), |t, i| t.put(format!("t/{i}"), &i)).leased(lease);
    for _ in 0..2 {
        let outcome = store.commit(wide(MAX_OPERATIONS)).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    }
    let refused = store.commit(wide(64)).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    let ours = store.commit(Transaction::new().put("overlay-changes/0", &1)).await;
    assert!(matches!(ours, Err(StoreError::Invalid { .. })), "{ours:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_sees_a_lease_end_goes_on_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let (store, other) = (open(&server.url()).await, open(&server.url()).await);
    let lease = other.grant_lease(Duration::from_secs(60)).await.unwrap();
    other.commit(Transaction::new().create("t/leased", &1).leased(lease)).await.unwrap();
    let mut watch = watch_from_now(&*store).await;
    let before = store.list("t/").await.unwrap().revision;
    let start = Instant::now();
    other.revoke(lease).await.unwrap();
    let item = in_a_minute(crate::next_item(&mut watch)).await;
    println!("the end of a lease is seen after {:?}: {item:?}", start.elapsed());
    let after = store.list("t/").await.unwrap().revision;
    assert!(after > before, "an end of a lease is a change");
    let later = put(&*other, "t/key", 1).await;
    assert!(later > after);
    let mut from_there = store.watch("t/", after).await.unwrap();
    assert_eq!(crate::values_until(&mut from_there, 1).await, [1]);
    assert_eq!(in_a_minute(crate::values_until(&mut watch, 1)).await, [1]);
}
