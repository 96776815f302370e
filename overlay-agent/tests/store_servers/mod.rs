//! What the suites of the single servers have in common: writing, watching, waiting.

use std::{fs, sync::Arc, thread, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
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

/// A process that hangs: alive, its connections open, and not one of its threads runs. Dropped, it goes on.
pub struct Hung(Pid);

impl Hung {
    /// Stops the process, and returns when none of its threads runs any more: a thread that still ran could answer.
    pub fn process(id: u32) -> Self {
        let hung = Self(Pid::from_raw(id.try_into().unwrap()));
        kill(hung.0, Signal::SIGSTOP).unwrap();
        while hung.any_thread_runs() {
            thread::yield_now();
        }
        hung
    }

    fn any_thread_runs(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0)).unwrap();
        // A thread that ended after it was listed has no state to read.
        let states =
            threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("stat")).ok());
        states.into_iter().any(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('T'))
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGCONT).unwrap();
    }
}
