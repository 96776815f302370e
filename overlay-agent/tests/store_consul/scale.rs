//! A large cluster's listing, and many agents that watch.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::{join_all, try_join_all};
use overlay_agent::store::{self, MAX_OPERATIONS, Store, Transaction, WatchItem};

use crate::{in_a_minute, next_item, open, put, server, watch_from_now};

/// Keys of 300 bytes, as many as 10,000 endpoints have.
async fn fill(store: &dyn Store, keys: usize) {
    let record = "x".repeat(300);
    for chunk in (0..keys).collect::<Vec<_>>().chunks(MAX_OPERATIONS) {
        let wide = chunk.iter().fold(Transaction::new(), |t, i| t.put(key(*i), &record));
        in_a_minute(async { while store.commit(wide.clone()).await.is_err() {} }).await;
    }
}

fn key(i: usize) -> String {
    format!("t/{i:05}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_thousand_keys_are_listed_in_order_and_soon_and_a_hundred_clients_watch_them() {
    const KEYS: usize = 30_000;
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let url = server.url();
    let store = open(&url).await;
    fill(&*store, KEYS).await;
    let start = Instant::now();
    let listing = store.list("t/").await.unwrap();
    println!("{KEYS} keys of 300 bytes are listed in {:?}", start.elapsed());
    assert!(listing.entries.iter().map(|e| e.key.clone()).eq((0..KEYS).map(key)));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());

    let mut watches = Vec::new();
    for _ in 0..100 {
        let store = in_a_minute(open_patiently(&url)).await;
        watches.push(watch_from_now(&*store).await);
    }
    let (delays, bytes) = (&mut Vec::new(), received());
    for i in 0..10 {
        let start = Instant::now();
        put(&*store, &key(i), 1).await;
        let seen = join_all(watches.iter_mut().map(async |watch| {
            assert!(matches!(next_item(watch).await, WatchItem::Events(_)));
            start.elapsed()
        }));
        delays.extend(seen.await);
    }
    delays.sort_unstable();
    let (median, worst) = (delays[delays.len() / 2], delays[delays.len() - 1]);
    let each = (received() - bytes) / 1000;
    println!("commit to the watches of 100 clients: median {median:?}, worst {worst:?}, {each} bytes each");
    assert!(median < Duration::from_millis(500), "{median:?}");
    assert!(each < 200_000, "a change costs {each} bytes for each that watches");
}

async fn open_patiently(url: &str) -> Arc<dyn Store> {
    loop {
        if let Ok(store) = store::open(&url.into()).await {
            return store;
        }
    }
}

/// Bytes that came over this machine's loopback device so far.
fn received() -> u64 {
    let devices = std::fs::read_to_string("/proc/net/dev").unwrap();
    let line = devices.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_of_many_clients_go_side_by_side() {
    const COMMITS: i32 = 50;
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let url = server.url();
    let stores = join_all((0..10).map(|_| open(&url))).await;
    let alone = Instant::now();
    for i in 0..COMMITS {
        put(&*stores[0], "t/key", i).await;
    }
    let alone = alone.elapsed();
    let together = Instant::now();
    let writers = stores.into_iter().enumerate().map(|(n, store)| {
        tokio::spawn(async move {
            for i in 0..COMMITS {
                // What takes long on a busy machine is measured here, not refused.
                let write = || store.commit(Transaction::new().put(format!("t/{n}"), &i));
                in_a_minute(async { while write().await.is_err() {} }).await;
            }
        })
    });
    try_join_all(writers).await.unwrap();
    let together = together.elapsed();
    let rate = |commits: i32, time: Duration| f64::from(commits) / time.as_secs_f64();
    println!(
        "commits per second: {:.0} of one client, {:.0} of ten",
        rate(COMMITS, alone),
        rate(COMMITS * 10, together)
    );
    // Were each overtaken by all others time and again, it would be near a hundred times as long.
    assert!(together < alone * 30, "{together:?} for ten times what takes {alone:?}");
}
