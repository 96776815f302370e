//! A commit that is lost on its way, or whose answer is; a client that is cut off.

use std::time::{Duration, Instant};

use overlay_agent::store::{Event, LeaseState, Outcome, StoreError, Transaction, WatchItem};

use crate::{
    committed, in_a_minute, next_item, open,
    proxy::{Loss, Proxy},
    put, server, values_until, watch_from_now,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_found_and_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let proxy = Proxy::before(server.address()).await;
    let store = open(&format!("zookeeper://{}", proxy.address)).await;
    let mut watch = watch_from_now(&*store).await;
    let before = put(&*store, "t/key", 1).await;

    for claim in [Transaction::new().create("t/new", &2), Transaction::new().put("t/key", &3)] {
        proxy.lose_the_next(Loss::Answer);
        let outcome = store.commit(claim.clone()).await.unwrap();
        let written = store.get(claim.operations[0].key()).await.unwrap().unwrap().revision;
        assert_eq!(outcome, Outcome::Committed(written));
        assert!(written > before);
    }
    put(&*store, "t/key", 4).await;
    assert_eq!(in_a_minute(values_until(&mut watch, 4)).await, [1, 2, 3, 4], "each was carried out once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_lost_is_not_reported_as_done_nor_as_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let proxy = Proxy::before(server.address()).await;
    let store = open(&format!("zookeeper://{}", proxy.address)).await;
    proxy.lose_the_next(Loss::Request);
    let lost = store.commit(Transaction::new().create("t/new", &1)).await;
    assert!(matches!(lost, Err(StoreError::Unavailable { .. })), "{lost:?}");
    assert!(lost.unwrap_err().to_string().contains("not known"), "it says so");
    assert_eq!(store.get("t/new").await.unwrap(), None, "a question goes through the next session");
    let again = store.commit(Transaction::new().create("t/new", &1)).await.unwrap();
    assert!(matches!(again, Outcome::Committed(_)), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_of_a_client_that_is_cut_off_ends_in_time() {
    const TTL: Duration = Duration::from_secs(5);
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let proxy = Proxy::before(server.address()).await;
    let cut_off = open(&format!("zookeeper://{}", proxy.address)).await;
    let other = open(&server.url()).await;
    let lease = cut_off.grant_lease(TTL).await.unwrap();
    committed(&*cut_off, Transaction::new().put("t/key", &1).leased(lease)).await;
    let mut watch = watch_from_now(&*other).await;
    proxy.cut();
    let start = Instant::now();
    let WatchItem::Events(events) = in_a_minute(next_item(&mut watch)).await else { panic!("reset") };
    assert!(matches!(&events[..], [Event::Delete { key, .. }] if key == "t/key"), "{events:?}");
    println!("a lease of {TTL:?} of a client that was cut off ended after {:?}", start.elapsed());
    assert!(start.elapsed() < TTL + Duration::from_secs(2), "{:?}", start.elapsed());
    let state = cut_off.keep_alive(lease).await;
    assert!(!matches!(state, Ok(LeaseState::Alive)), "{state:?}");
}
