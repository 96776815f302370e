//! What the suites of the single servers have in common: writing, watching, waiting.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use overlay_agent::store::{self, Event, Outcome, Revision, Store, StoreError, Transaction, WatchItem};

pub type Watch = BoxStream<'static, Result<WatchItem, StoreError>>;

pub async fn open(url: &str) -> Arc<dyn Store> {
    store::open(&url.into()).await.unwrap()
}

pub async fn put(store: &dyn Store, key: &str, value: i32) -> Revision {
    committed(store, Transaction::new().put(key, &value)).await
}

pub async fn committed(store: &dyn Store, transaction: Transaction) -> Revision {
    match store.commit(transaction).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(key) => panic!("conflict on {key}"),
    }
}

pub async fn watch_from_now(store: &dyn Store) -> Watch {
    let now = store.list("t/").await.unwrap().revision;
    store.watch("t/", now).await.unwrap()
}

/// The values that a watch shows as written, up to `last`; it may say on the way that the store cannot be reached.
pub async fn values_until(watch: &mut Watch, last: i32) -> Vec<i32> {
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        match watch.next().await.unwrap() {
            Ok(WatchItem::Events(events)) => seen.extend(events.iter().map(value)),
            Ok(WatchItem::Reset) => panic!("reset after {seen:?}"),
            Err(StoreError::Unavailable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    seen
}

fn value(event: &Event) -> i32 {
    let Event::Put(entry) = event else { panic!("{event:?}") };
    serde_json::from_slice(&entry.value).unwrap()
}

/// The next item that is no error.
pub async fn next_item(watch: &mut Watch) -> WatchItem {
    loop {
        if let Ok(item) = watch.next().await.unwrap() {
            return item;
        }
    }
}

/// Waits for what must be so within a minute.
pub async fn in_a_minute<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it happens within a minute")
}
