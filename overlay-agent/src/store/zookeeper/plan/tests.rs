//! Plans, carried out on a tree that keeps ZooKeeper's rules.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::{Revision, address::Servers};

/// A node of the tree below.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    data: Vec<u8>,
    version: i32,
    written: i64,
}

/// What ZooKeeper holds, and its rules for a multi.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tree {
    nodes: BTreeMap<String, Held>,
    zxid: i64,
}

impl Tree {
    fn new(layout: &Layout) -> Self {
        let mut tree = Self { nodes: BTreeMap::new(), zxid: 0 };
        let graves = (0..super::super::layout::GRAVES).map(|number| layout.grave(number));
        for path in [layout.root().to_owned(), layout.own(), layout.graves()].into_iter().chain(graves) {
            tree.create(path, Vec::new());
        }
        tree
    }

    fn create(&mut self, path: String, data: Vec<u8>) {
        self.nodes.insert(path, Held { data, version: 0, written: self.zxid });
    }

    fn children(&self, path: &str) -> usize {
        self.nodes.keys().filter(|node| parent(node) == Some(path)).count()
    }

    /// All steps or none.
    fn carry_out(&mut self, steps: Vec<Step>) -> Result<(), Step> {
        let mut next = Self { zxid: self.zxid + 1, ..self.clone() };
        for step in steps {
            next.take(step.clone()).ok_or(step)?;
        }
        *self = next;
        Ok(())
    }

    fn take(&mut self, step: Step) -> Option<()> {
        match step {
            Step::Check(path, version) => {
                let node = self.nodes.get(&path)?;
                version.is_none_or(|version| version == node.version).then_some(())
            }
            Step::Create(path, data) => {
                let fits = !self.nodes.contains_key(&path) && self.nodes.contains_key(parent(&path)?);
                fits.then(|| self.create(path, data))
            }
            Step::Write(path, data) => {
                let node = self.nodes.get_mut(&path)?;
                *node = Held { data, version: node.version + 1, written: self.zxid };
                Some(())
            }
            Step::Delete(path) if self.children(&path) == 0 => self.nodes.remove(&path).map(drop),
            Step::Delete(_) => None,
        }
    }

    /// As if all had been read.
    fn seen(&self, layout: &Layout) -> Seen {
        let own = layout.own();
        let nodes = self.nodes.iter().filter(|(path, _)| !path.starts_with(&own) && *path != layout.root());
        let node = |(path, held): (&String, &Held)| {
            let children = i32::try_from(self.children(path)).unwrap();
            let valued = !held.data.is_empty();
            (path.clone(), Node { version: held.version, written: held.written, children, valued })
        };
        let graves = (0..super::super::layout::GRAVES).map(|n| (n, self.nodes[&layout.grave(n)].version));
        Seen { nodes: nodes.map(node).collect(), graves: graves.collect(), ..Seen::default() }
    }

    /// Carries out a transaction as a client that is alone does. Returns the key in conflict.
    fn commit(&mut self, layout: &Layout, transaction: &Transaction) -> Option<String> {
        let seen = self.seen(layout);
        let conflict = conflict(layout, &seen, transaction);
        if conflict.is_none() {
            self.carry_out(plan(layout, &seen, transaction).steps).unwrap();
        }
        conflict
    }

    fn keys(&self, layout: &Layout) -> BTreeMap<String, Vec<u8>> {
        let own = layout.own();
        let nodes = self.nodes.iter().filter(|(path, _)| !path.starts_with(&own));
        nodes
            .filter_map(|(path, held)| {
                let (value, _) = value::decode(&held.data)?;
                Some((layout.key(path)?, value.to_vec()))
            })
            .collect()
    }
}

fn layout() -> Layout {
    Layout::new(&Servers::parse("zookeeper://a/s", 2181).unwrap())
}

fn put(key: &str, value: &[u8]) -> Transaction {
    Transaction {
        operations: vec![Operation::Put(key.to_owned(), value.to_vec(), None)],
        ..Transaction::new()
    }
}

fn absent(key: &str) -> Transaction {
    Transaction { conditions: vec![Condition::Absent(key.to_owned())], ..Transaction::new() }
}

fn revision_of(tree: &Tree, key: &str) -> Revision {
    changelog::revision(tree.nodes[&layout().node(key)].written)
}

const KEYS: [&str; 7] = ["a", "a/b", "a/b/c", "a/b/d", "a/e", "f/g/h", "f/g/i"];

fn transactions() -> impl Strategy<Value = Transaction> {
    let operation = |index: usize| {
        let key = KEYS[index].to_owned();
        prop_oneof![
            any::<u8>().prop_map({
                let key = key.clone();
                move |value| Operation::Put(key.clone(), vec![value; usize::from(value % 3)], None)
            }),
            Just(Operation::Delete(key)),
        ]
    };
    let operations = prop::sample::subsequence((0..KEYS.len()).collect::<Vec<_>>(), 0..5)
        .prop_flat_map(move |keys| keys.into_iter().map(operation).collect::<Vec<_>>());
    let conditions = prop::collection::vec(prop::sample::select(&KEYS[..]), 0..2);
    (conditions, operations).prop_map(|(conditions, operations)| Transaction {
        conditions: conditions.into_iter().map(|key| Condition::Absent(key.to_owned())).collect(),
        operations,
    })
}

proptest! {
    #[test]
    fn transactions_do_what_they_say_and_leave_no_empty_parents(all in prop::collection::vec(transactions(), 0..20)) {
        let layout = layout();
        let mut tree = Tree::new(&layout);
        let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for transaction in all {
            let taken = transaction.conditions.iter().find(|c| model.contains_key(c.key())).map(|c| c.key().to_owned());
            prop_assert_eq!(tree.commit(&layout, &transaction), taken.clone());
            if taken.is_none() {
                for operation in &transaction.operations {
                    match operation {
                        Operation::Put(key, value, _) => drop(model.insert(key.clone(), value.clone())),
                        Operation::Delete(key) => drop(model.remove(key)),
                    }
                }
            }
            prop_assert_eq!(&tree.keys(&layout), &model);
        }
        let own = layout.own();
        for (path, held) in tree.nodes.iter().filter(|(path, _)| !path.starts_with(&own) && *path != layout.root()) {
            prop_assert!(!held.data.is_empty() || tree.children(path) > 0, "{} is left behind", path);
        }
    }

    /// Whatever another client does between reading and writing: a plan fails, or its conditions still hold.
    #[test]
    fn a_plan_never_overrides_what_came_between(
        before in prop::collection::vec(transactions(), 0..6),
        between in prop::collection::vec(transactions(), 0..6),
        mut late in transactions(),
        pinned in prop::sample::select(&KEYS[..]),
    ) {
        let layout = layout();
        let mut tree = Tree::new(&layout);
        for transaction in before {
            tree.commit(&layout, &transaction);
        }
        if let Some(held) = tree.nodes.get(&layout.node(pinned)).filter(|held| !held.data.is_empty()) {
            late.conditions.push(Condition::Unchanged(pinned.to_owned(), changelog::revision(held.written)));
        }
        let seen = tree.seen(&layout);
        prop_assume!(conflict(&layout, &seen, &late).is_none());
        let planned = plan(&layout, &seen, &late);
        for transaction in between {
            tree.commit(&layout, &transaction);
        }
        let holds = conflict(&layout, &tree.seen(&layout), &late).is_none();
        let mut expected = tree.keys(&layout);
        if tree.carry_out(planned.steps).is_ok() {
            prop_assert!(holds, "carried out though a condition no longer holds");
            for operation in &late.operations {
                match operation {
                    Operation::Put(key, value, _) => drop(expected.insert(key.clone(), value.clone())),
                    Operation::Delete(key) => drop(expected.remove(key)),
                }
            }
        }
        prop_assert_eq!(tree.keys(&layout), expected, "nothing else was touched");
    }
}

#[test]
fn a_key_that_was_deleted_and_made_again_is_not_taken_for_the_old_one() {
    let layout = layout();
    let mut tree = Tree::new(&layout);
    tree.commit(&layout, &put("a/b", b"1"));
    tree.commit(&layout, &put("a/c", b"keeps the parent"));
    let seen = tree.seen(&layout);
    let stale = Transaction::new().delete_unchanged("a/b", revision_of(&tree, "a/b"));
    let planned = plan(&layout, &seen, &stale);
    tree.commit(&layout, &Transaction::new().delete("a/b"));
    tree.commit(&layout, &put("a/b", b"2"));
    assert_eq!(tree.nodes["/s/a/b"].version, seen.nodes["/s/a/b"].version, "ZooKeeper's version is the same");
    let failed = tree.carry_out(planned.steps).unwrap_err();
    assert_eq!(failed, Step::Check(layout.grave(Layout::grave_of("/s/a/b")), Some(0)));
}

#[test]
fn a_claim_takes_few_steps() {
    let layout = layout();
    let mut tree = Tree::new(&layout);
    tree.commit(&layout, &put("t/1", b"1"));
    let claim = Transaction::new().create("t/2", &2);
    let planned = plan(&layout, &tree.seen(&layout), &claim);
    assert_eq!(planned.steps, [Step::Create("/s/t/2".to_owned(), b"2".to_vec())]);
}

#[test]
fn the_absence_of_a_key_is_shown_without_leaving_a_trace() {
    let layout = layout();
    let mut tree = Tree::new(&layout);
    let before = tree.clone();
    let planned = plan(&layout, &tree.seen(&layout), &absent("x/y/z"));
    assert_eq!(planned.changes, []);
    tree.carry_out(planned.steps.clone()).unwrap();
    assert_eq!(tree.nodes, before.nodes);
    tree.commit(&layout, &put("x/y/z", b"1"));
    assert!(tree.carry_out(planned.steps).is_err());
}

#[test]
fn a_value_is_bound_only_to_a_lease_that_lives_and_whose_node_names_its_key() {
    let layout = layout();
    let lease = LeaseId(0x1f);
    let bound = put("t/key", b"1").leased(lease);
    let mut seen = Seen::default();
    assert_eq!(conflict(&layout, &seen, &bound).as_deref(), Some("t/key"));
    let known = Lease { version: 3, keys: BTreeSet::from(["t/a".to_owned()]) };
    seen.leases.insert(lease, known);
    assert_eq!(conflict(&layout, &seen, &bound), None);
    let steps = plan(&layout, &seen, &bound).steps;
    for wanted in [
        Step::Check(layout.alive(lease), None),
        Step::Check(layout.lease(lease), Some(3)),
        Step::Write(layout.lease(lease), b"t/a\nt/key".to_vec()),
        Step::Create("/s/t/key".to_owned(), b"1\n# lease 0x1f".to_vec()),
    ] {
        assert!(steps.contains(&wanted), "{wanted:?} in {steps:?}");
    }
}
