//! A commit whose answer is lost on the way.

use overlay_agent::store::{Outcome, Revision, Store, StoreError, Transaction};

use crate::{open, proxy::Proxy, put, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_answer_is_lost_is_found_to_be_won() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let proxy = Proxy::before(server.address()).await;
    let store = open(&format!("etcd://{}", proxy.address)).await;
    let old = put(&*store, "t/old", 1).await;

    proxy.lose_the_next_answer();
    let claim = Transaction::new().create("t/new", &1).delete_unchanged("t/old", old);
    let outcome = store.commit(claim).await.unwrap();
    assert_eq!(outcome, Outcome::Committed(revision_of(&*store, "t/new").await));
    assert_eq!(revision_of(&*store, "t/new").await, Revision(old.0 + 1), "it was carried out once");
    assert_eq!(store.get("t/old").await.unwrap(), None);

    proxy.lose_the_next_answer();
    let second = store.commit(Transaction::new().create("t/new", &2)).await;
    assert!(
        matches!(second, Err(StoreError::Unavailable { .. })),
        "no false conflict, no false success: {second:?}"
    );
    let again = store.commit(Transaction::new().create("t/new", &2)).await.unwrap();
    assert_eq!(again, Outcome::Conflict("t/new".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_could_happen_twice_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let proxy = Proxy::before(server.address()).await;
    let store = open(&format!("etcd://{}", proxy.address)).await;
    let before = put(&*store, "t/key", 1).await;

    proxy.lose_the_next_answer();
    let lost = store.commit(Transaction::new().put("t/key", &2)).await;
    assert!(matches!(lost, Err(StoreError::Unavailable { .. })), "{lost:?}");
    assert_eq!(revision_of(&*store, "t/key").await, Revision(before.0 + 1), "it was carried out once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_whose_answer_is_lost_is_put_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let proxy = Proxy::before(server.address()).await;
    let store = open(&format!("etcd://{}", proxy.address)).await;
    put(&*store, "t/key", 1).await;
    proxy.lose_the_next_answer();
    assert_eq!(store.list("t/").await.unwrap().entries.len(), 1);
}

async fn revision_of(store: &dyn Store, key: &str) -> Revision {
    store.get(key).await.unwrap().unwrap().revision
}
