//! A commit whose answer is lost on the way.

use overlay_agent::store::{Outcome, Transaction};

use crate::{open, proxy::Proxy, put, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_found_to_be_carried_out_and_happens_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let proxy = Proxy::before(server.address()).await;
    let store = open(&format!("consul://{}", proxy.address)).await;
    put(&*store, "t/old", 1).await;

    for transaction in [
        Transaction::new().create("t/key", &1),
        Transaction::new().put("t/key", &2),
        Transaction::new().delete("t/key").put("t/other", &3),
    ] {
        proxy.lose_the_next_answer();
        let Outcome::Committed(revision) = store.commit(transaction).await.unwrap() else {
            panic!("a conflict with itself")
        };
        assert_eq!(store.list("t/").await.unwrap().revision, revision, "nothing was written after it");
    }
    assert_eq!(store.get("t/key").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_whose_answer_is_lost_is_found_to_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let proxy = Proxy::before(server.address()).await;
    let store = open(&format!("consul://{}", proxy.address)).await;
    let old = put(&*store, "t/key", 1).await;
    proxy.lose_the_next_answer();
    let claim = store.commit(Transaction::new().create("t/key", &2)).await;
    // That it was refused leaves no trace; it is never said to be carried out.
    assert!(!matches!(claim, Ok(Outcome::Committed(_))), "{claim:?}");
    assert_eq!(store.get("t/key").await.unwrap().unwrap().revision, old);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_whose_answer_is_lost_is_put_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let proxy = Proxy::before(server.address()).await;
    let store = open(&format!("consul://{}", proxy.address)).await;
    put(&*store, "t/key", 1).await;
    proxy.lose_the_next_answer();
    assert_eq!(store.list("t/").await.unwrap().entries.len(), 1);
}
