//! A large cluster's listing, many agents that watch, many that write.

use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use overlay_agent::store::{Transaction, WatchItem};

use crate::{committed, next_item, open, put, server, watch_from_now};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_thousand_keys_are_listed_in_order_and_soon() {
    const KEYS: usize = 30_000;
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let store = open(&server.url()).await;
    let record = "x".repeat(300);
    let key = |i: usize| format!("t/{i:05}");
    for chunk in (0..KEYS).collect::<Vec<_>>().chunks(100) {
        let wide = chunk.iter().fold(Transaction::new(), |wide, i| wide.put(key(*i), &record));
        committed(&*store, wide).await;
    }
    let start = Instant::now();
    let listing = store.list("t/").await.unwrap();
    println!("{KEYS} keys of 300 bytes are listed in {:?}", start.elapsed());
    assert!(listing.entries.iter().map(|entry| entry.key.clone()).eq((0..KEYS).map(key)));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_clients_see_a_commit_soon() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let url = server.url();
    let stores = join_all((0..100).map(|_| open(&url))).await;
    let mut watches = join_all(stores.iter().map(|store| watch_from_now(&**store))).await;
    let mut delays = Vec::new();
    for store in stores.iter().take(10) {
        let start = Instant::now();
        put(&**store, "t/key", 1).await;
        let seen = join_all(watches.iter_mut().map(async |watch| {
            assert!(matches!(next_item(watch).await, WatchItem::Events(_)));
            start.elapsed()
        }));
        delays.extend(seen.await);
    }
    delays.sort_unstable();
    let (median, worst) = (delays[delays.len() / 2], delays[delays.len() - 1]);
    println!("commit to the watches of 100 clients: median {median:?}, worst {worst:?}");
    assert!(median < Duration::from_millis(500), "{median:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_of_many_clients_go_side_by_side() {
    const COMMITS: i32 = 100;
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
                put(&*store, &format!("t/{n}"), i).await;
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
    assert!(together < alone * 10, "{together:?} for ten times what takes {alone:?}");
}
