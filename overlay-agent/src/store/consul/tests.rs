//! The records of commits, without a server.

use consulrs::api::kv::common::KVPair;
use rstest::rstest;
use serde_json::{Value, json};

use super::changes::{CHAINS, Chains, Commit, Fate, LEASES, Record};
use crate::store::{Revision, address::Servers};

fn servers() -> Servers {
    Servers::parse("consul://a/x", 8500).unwrap()
}

/// What Consul holds after these operations, all carried out at one index.
fn carried_out(operations: &impl serde::Serialize, index: u64) -> Vec<KVPair> {
    let operations = serde_json::to_value(operations).unwrap();
    let writes = operations.as_array().unwrap().iter().map(|operation| &operation["KV"]);
    let pair = |kv: &Value| {
        let [create, flags, lock] = [index, 0, 0];
        json!({ "CreateIndex": create, "Flags": flags, "LockIndex": lock, "ModifyIndex": index,
                "Key": kv["Key"], "Value": kv["Value"] })
    };
    let sets = writes.filter(|kv| kv["Verb"] == "set").map(pair);
    sets.map(|pair| serde_json::from_value(pair).unwrap()).collect()
}

/// Chains without commits, made at an index.
fn founded(index: u64) -> Chains {
    let operations = Chains::founding(&servers(), &[], "this one");
    Chains::among(&servers(), &carried_out(&operations, index)).unwrap()
}

fn record(after: u64, put: &str, deleted: &str) -> Record {
    let keys = |text: &str| text.split_whitespace().map(ToOwned::to_owned).collect();
    Record { after, by: "me".to_owned(), put: keys(put), deleted: keys(deleted) }
}

/// Continues a chain as a commit does that is carried out at this index.
fn committed(chains: &mut Chains, number: usize, index: u64, put: &str, deleted: &str) -> Record {
    let record = record(chains.index(number), put, deleted);
    chains.advance(number, &record, index);
    record
}

fn keys(commit: &Commit) -> Vec<(&str, Fate)> {
    commit.keys.iter().map(|(key, fate)| (key.as_str(), *fate)).collect()
}

#[test]
fn a_founding_makes_all_that_is_needed_and_only_if_nobody_else_did() {
    let founding = Chains::founding(&servers(), &[], "this one");
    let pairs = carried_out(&founding, 5);
    assert_eq!(pairs.len(), CHAINS + 1);
    assert!(pairs.iter().any(|pair| pair.key == format!("x/{LEASES}")));
    let checks = serde_json::to_string(&founding).unwrap().matches("check-not-exists").count();
    assert_eq!(checks, CHAINS);
    for missing in 0..CHAINS {
        let some: Vec<KVPair> =
            pairs.iter().filter(|p| !p.key.ends_with(&format!("/{missing}"))).cloned().collect();
        assert!(Chains::among(&servers(), &some).is_none());
        let again = serde_json::to_string(&Chains::founding(&servers(), &some, "another")).unwrap();
        assert_eq!(again.matches("check-index").count(), CHAINS - 1);
    }
}

#[test]
fn what_came_since_a_position_is_told_with_its_revisions() {
    let mut chains = founded(5);
    let start = chains.position();
    assert_eq!(chains.since(&start), Some(Vec::new()));
    committed(&mut chains, 1, 7, "a b", "c");
    let middle = chains.position();
    committed(&mut chains, 1, 9, "b", "");
    committed(&mut chains, 2, 8, "d", "");

    let since = chains.since(&start).unwrap();
    let told: Vec<_> = since.iter().map(|commit| (commit.revision.0, keys(commit))).collect();
    let all = [
        (7, vec![("a", Fate::Written), ("b", Fate::Written), ("c", Fate::Deleted)]),
        (9, vec![("b", Fate::Written)]),
        (8, vec![("d", Fate::Written)]),
    ];
    assert_eq!(told, all);
    assert_eq!(chains.since(&middle).unwrap().len(), 2);
    assert_eq!(chains.revision(), Revision(9));
    assert!(chains.position().follows(&start) && !start.follows(&chains.position()));
}

#[test]
fn what_is_too_long_ago_or_of_another_store_cannot_be_told() {
    let mut chains = founded(5);
    let start = chains.position();
    let wide = "key".repeat(30);
    for index in 6..100 {
        committed(&mut chains, 0, index, &wide, "");
    }
    assert_eq!(chains.since(&start), None);
    let later = chains.position();
    assert_eq!(founded(5).since(&later), None, "put back to an older state");
    let other =
        Chains::among(&servers(), &carried_out(&Chains::founding(&servers(), &[], "other"), 5)).unwrap();
    assert_eq!(other.since(&start), None, "wiped");
    assert!(!other.position().follows(&start));
}

#[test]
fn a_chain_stays_small_and_keeps_its_latest_record() {
    let mut chains = founded(5);
    let long = format!("{}x", "k".repeat(2000));
    for keys in ["a", &long, "b", "c"] {
        let next = chains.index(3) + 1;
        committed(&mut chains, 3, next, keys, "");
    }
    let append = chains.append(&servers(), 3, &record(chains.index(3), "d", ""));
    let value = serde_json::to_string(&append).unwrap();
    assert!(value.len() < 1000, "{value}");
    assert_eq!(chains.index(3), 9);
}

#[rstest]
#[case::written("me", 7, Some(Some(Revision(7))))]
#[case::anothers("other", 7, Some(None))]
#[case::not_yet("me", 5, Some(None))]
fn a_record_is_found_again(#[case] by: &str, #[case] index: u64, #[case] found: Option<Option<Revision>>) {
    let mut chains = founded(5);
    let mine = Record { by: "me".to_owned(), ..record(5, "a", "") };
    if index > 5 {
        chains.advance(0, &Record { by: by.to_owned(), ..mine.clone() }, index);
        let position = chains.index(0);
        committed(&mut chains, 0, position + 1, "b", "");
    }
    assert_eq!(chains.find(0, &mine), found);
}

#[test]
fn a_record_that_may_have_been_pushed_out_is_not_said_to_be_missing() {
    let mut chains = founded(5);
    let mine = committed(&mut chains, 0, 6, "a", "");
    let wide = "key".repeat(100);
    for index in 7..30 {
        committed(&mut chains, 0, index, &wide, "");
    }
    assert_eq!(chains.find(0, &mine), None);
}

#[test]
fn older_chains_do_not_take_the_place_of_newer_ones() {
    let mut ahead = founded(5);
    committed(&mut ahead, 0, 7, "a", "");
    let mut behind = founded(5);
    committed(&mut behind, 1, 8, "b", "");
    ahead.merge(behind);
    assert_eq!((ahead.index(0), ahead.index(1)), (7, 8));
}
