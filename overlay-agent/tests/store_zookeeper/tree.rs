//! How the store looks to those who look into ZooKeeper themselves.

use std::time::Duration;

use futures::future::join_all;
use overlay_agent::store::{Entry, Event, Outcome, StoreError, Transaction, WatchItem};
use zookeeper_client::{Acls, Client, CreateMode};

use crate::{anywhere, committed, in_a_minute, next_item, open, put, watch_from_now};

/// A client of ZooKeeper itself, below the store's prefix.
async fn browser(url: &str) -> Client {
    Client::connect(url.strip_prefix("zookeeper://").unwrap()).await.unwrap()
}

async fn data(browser: &Client, path: &str) -> String {
    String::from_utf8(browser.get_data(path).await.unwrap().0).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_paths_and_values_their_data() {
    let url = anywhere().await;
    let store = open(&url).await;
    let browser = browser(&url).await;
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    committed(
        &*store,
        Transaction::new().create("overlay/v1/networks/blue", &serde_json::json!({"vni": 256})),
    )
    .await;
    committed(
        &*store,
        Transaction::new().create("overlay/v1/nodes/a", &serde_json::json!({"id": 1})).leased(lease),
    )
    .await;
    assert_eq!(data(&browser, "/overlay/v1/networks/blue").await, r#"{"vni":256}"#);
    assert_eq!(data(&browser, "/overlay/v1/nodes/a").await, format!("{{\"id\":1}}\n# lease {:#x}", lease.0));
    assert_eq!(data(&browser, "/overlay/v1").await, "", "a parent holds nothing");
    assert_eq!(data(&browser, &format!("/overlay-store/leases/{:#x}", lease.0)).await, "overlay/v1/nodes/a");
    let first = data(&browser, "/overlay-store/changes/0000000000").await;
    assert!(first.contains(r#""put":{"key":"overlay/v1/networks/blue","value":"{\"vni\":256}"}"#), "{first}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parents_go_with_their_last_key_and_a_key_can_be_a_parent() {
    let url = anywhere().await;
    let (store, browser) = (open(&url).await, browser(&url).await);
    committed(&*store, Transaction::new().put("a/b/c/1", &1).put("a/b", &2)).await;
    committed(&*store, Transaction::new().delete("a/b")).await;
    assert_eq!(store.get("a/b").await.unwrap(), None);
    assert!(store.get("a/b/c/1").await.unwrap().is_some());
    committed(&*store, Transaction::new().put("a/b", &3)).await;
    committed(&*store, Transaction::new().delete("a/b/c/1")).await;
    assert_eq!(browser.list_children("/a/b").await.unwrap(), [""; 0]);
    committed(&*store, Transaction::new().delete("a/b")).await;
    assert_eq!(browser.list_children("/").await.unwrap(), ["overlay-store"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_add_and_remove_below_one_parent_do_not_disturb_each_other() {
    let url = anywhere().await;
    let stores = join_all((0..4).map(|_| open(&url))).await;
    let churn = stores.iter().enumerate().map(|(i, store)| async move {
        for n in 0..30 {
            let key = format!("p/{i}/{}", n % 2);
            let first = committed(&**store, Transaction::new().create(&key, &n)).await;
            committed(&**store, Transaction::new().replace(&key, first, &"again")).await;
            let stale = store.commit(Transaction::new().delete_unchanged(&key, first)).await.unwrap();
            assert_eq!(stale, Outcome::Conflict(key.clone()));
            committed(&**store, Transaction::new().delete(&key)).await;
        }
    });
    in_a_minute(join_all(churn)).await;
    assert_eq!(stores[0].list("").await.unwrap().entries, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_value_that_is_overwritten_while_a_watch_sleeps_is_shown_once_and_whole() {
    let url = anywhere().await;
    let store = open(&url).await;
    let mut watch = watch_from_now(&*store).await;
    let large = |letter: &str| letter.repeat(100_000);
    committed(&*store, Transaction::new().put("t/large", &large("a")).put("t/small", &1)).await;
    let last = committed(&*store, Transaction::new().put("t/large", &large("b")).put("t/small", &2)).await;
    let WatchItem::Events(events) = in_a_minute(next_item(&mut watch)).await else { panic!("reset") };
    let shown: Vec<(&str, usize)> = events
        .iter()
        .map(|event| match event {
            Event::Put(Entry { key, value, .. }) => (key.as_str(), value.len()),
            Event::Delete { key, .. } => panic!("{key} deleted"),
        })
        .collect();
    assert_eq!(shown, [("t/small", 1), ("t/large", 100_002), ("t/small", 1)]);
    assert_eq!(events[1].revision(), last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_keep_beside_the_keys_is_left_alone() {
    let url = anywhere().await;
    let (store, browser) = (open(&url).await, browser(&url).await);
    put(&*store, "a/b", 1).await;
    let anyone = CreateMode::Persistent.with_acls(Acls::anyone_all());
    for foreign in ["/a/%zz", "/a/%zz/x"] {
        browser.create(foreign, b"1", &anyone).await.unwrap();
    }
    assert_eq!(store.list("").await.unwrap().entries.len(), 1);
    // It stays, and so does what is above it.
    committed(&*store, Transaction::new().delete("a/b")).await;
    assert!(browser.check_stat("/a/%zz/x").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_no_request_can_hold_is_refused_with_the_reason() {
    let store = open(&anywhere().await).await;
    let half = "x".repeat(500_000);
    let fits = Transaction::new().put("t/1", &half).put("t/2", &"x".repeat(400_000));
    committed(&*store, fits).await;
    let error = store.commit(Transaction::new().put("t/1", &half).put("t/2", &half)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Invalid { key, .. } if key == "t/1"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_keys_are_deleted_by_one_commit() {
    let url = anywhere().await;
    let (store, browser) = (open(&url).await, browser(&url).await);
    let key = |i: i32| format!("overlay/v1/addresses/blue/10.0.{}.{}", i / 250, i % 250);
    committed(&*store, (0..300).fold(Transaction::new(), |all, i| all.create(key(i), &i))).await;
    let mut watch = store.watch("overlay/", store.list("").await.unwrap().revision).await.unwrap();
    let revision = committed(&*store, (0..300).fold(Transaction::new(), |all, i| all.delete(key(i)))).await;
    let WatchItem::Events(events) = in_a_minute(next_item(&mut watch)).await else { panic!("reset") };
    assert!(events.iter().all(|event| event.revision() == revision));
    assert_eq!(events.len(), 300);
    assert_eq!(browser.list_children("/").await.unwrap(), ["overlay-store"]);
}
