//! What a transaction means in nodes.
//!
//! The nodes that it concerns are read first, and the steps that lead from there to what is wanted are worked
//! out here, without the server. They are then taken all at once, under the condition that nothing they rest on
//! has changed; otherwise all is read again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use zookeeper_client::Stat;

use super::{
    changelog::{self, Change},
    layout::{Layout, ancestors, parent},
    value,
};
use crate::store::{Condition, LeaseId, Operation, Transaction};

/// A node as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub version: i32,
    pub written: i64,
    pub children: i32,
    /// It holds a value, and is not merely a parent.
    pub valued: bool,
}

impl From<Stat> for Node {
    fn from(stat: Stat) -> Self {
        Self {
            version: stat.version,
            written: stat.mzxid,
            children: stat.num_children,
            valued: stat.data_length > 0,
        }
    }
}

/// A living lease as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lease {
    pub version: i32,
    /// The keys that may be bound to it.
    pub keys: BTreeSet<String>,
}

/// What was read for a transaction.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The nodes that are there.
    pub nodes: HashMap<String, Node>,
    /// Of the nodes that count deletions, their versions.
    pub graves: BTreeMap<u32, i32>,
    /// The leases that live.
    pub leases: HashMap<LeaseId, Lease>,
}

/// One step on a node; all are taken or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is there, and has this version if one is named.
    Check(String, Option<i32>),
    /// It is not there, and then it is, with this data.
    Create(String, Vec<u8>),
    /// It is there, and gets this data.
    Write(String, Vec<u8>),
    /// It is there and has nothing below it, and then it is gone.
    Delete(String),
}

/// Works out the steps.
pub(super) struct Plan<'a> {
    layout: &'a Layout,
    seen: &'a Seen,
    /// The nodes as they are after the steps so far.
    nodes: HashMap<String, Node>,
    leases: HashMap<LeaseId, Lease>,
    checks: Vec<Step>,
    steps: Vec<Step>,
    checked: BTreeSet<String>,
    dug: BTreeSet<u32>,
    changes: Vec<Change>,
}

/// A plan that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    pub steps: Vec<Step>,
    /// What changes. If nothing does, the steps need not be taken.
    pub changes: Vec<Change>,
}

/// The key of the first condition that does not hold.
pub(super) fn conflict(layout: &Layout, seen: &Seen, transaction: &Transaction) -> Option<String> {
    let valued = |key: &str| seen.nodes.get(&layout.node(key)).filter(|node| node.valued);
    let fails = |condition: &&Condition| match condition {
        Condition::Absent(key) => valued(key).is_some(),
        Condition::Unchanged(key, at) => {
            valued(key).is_none_or(|node| changelog::revision(node.written) != *at)
        }
    };
    let unleased = |operation: &&Operation| match operation {
        Operation::Put(_, _, Some(lease)) => !seen.leases.contains_key(lease),
        _ => false,
    };
    let condition = transaction.conditions.iter().find(fails).map(Condition::key);
    condition.or_else(|| transaction.operations.iter().find(unleased).map(Operation::key)).map(str::to_owned)
}

/// The steps of a transaction whose conditions hold.
pub(super) fn plan(layout: &Layout, seen: &Seen, transaction: &Transaction) -> Planned {
    let mut plan = Plan::new(layout, seen);
    let puts: BTreeSet<&str> = transaction.operations.iter().filter_map(put_key).collect();
    for key in transaction.conditions.iter().map(Condition::key) {
        let node = layout.node(key);
        // That a new node was not there, its creation shows.
        if seen.nodes.contains_key(&node) || !puts.contains(key) {
            plan.hold(&node);
        }
    }
    // Deletions come last: what lies below a new key keeps its parents.
    for operation in &transaction.operations {
        if let Operation::Put(key, value, lease) = operation {
            plan.put(key, value, *lease);
        }
    }
    for operation in &transaction.operations {
        if let Operation::Delete(key) = operation {
            plan.delete(key);
        }
    }
    plan.finish()
}

fn put_key(operation: &Operation) -> Option<&str> {
    match operation {
        Operation::Put(key, ..) => Some(key),
        Operation::Delete(_) => None,
    }
}

impl<'a> Plan<'a> {
    pub(super) fn new(layout: &'a Layout, seen: &'a Seen) -> Self {
        Self {
            layout,
            seen,
            nodes: seen.nodes.clone(),
            leases: seen.leases.clone(),
            checks: Vec::new(),
            steps: Vec::new(),
            checked: BTreeSet::new(),
            dug: BTreeSet::new(),
            changes: Vec::new(),
        }
    }

    /// Makes all depend on a node being as it was read: with the same data, or not there.
    pub(super) fn hold(&mut self, node: &str) {
        if !self.checked.insert(node.to_owned()) {
            return;
        }
        match self.seen.nodes.get(node) {
            Some(there) => {
                self.checks.push(Step::Check(node.to_owned(), Some(there.version)));
                self.hold_grave(Layout::grave_of(node));
            }
            None => self.hold_absent(node),
        }
    }

    fn hold_grave(&mut self, number: u32) {
        let grave = self.layout.grave(number);
        if self.checked.insert(grave.clone()) {
            self.checks.push(Step::Check(grave, self.seen.graves.get(&number).copied()));
        }
    }

    /// A node can only be shown to be absent by making it. The highest absent one above it does as well.
    fn hold_absent(&mut self, node: &str) {
        let absent = |node: &&str| !self.seen.nodes.contains_key(*node);
        let highest =
            ancestors(node, self.layout.root()).take_while(absent).last().unwrap_or(node).to_owned();
        if highest == node || self.checked.insert(highest.clone()) {
            self.checks.push(Step::Create(highest.clone(), Vec::new()));
            self.checks.push(Step::Delete(highest));
        }
    }

    fn put(&mut self, key: &str, value: &[u8], lease: Option<LeaseId>) {
        let node = self.layout.node(key);
        self.make_parents(&node);
        let data = value::encode(value, lease);
        match self.nodes.get_mut(&node) {
            Some(there) => {
                there.valued = true;
                self.steps.push(Step::Write(node, data));
            }
            None => self.create(node, data),
        }
        if let Some(lease) = lease {
            self.bind(key, lease);
        }
        self.changes.push(Change::put(key, value, lease));
    }

    fn make_parents(&mut self, node: &str) {
        let missing: Vec<&str> = ancestors(node, self.layout.root())
            .take_while(|above| !self.nodes.contains_key(*above))
            .collect();
        for above in missing.into_iter().rev() {
            self.create(above.to_owned(), Vec::new());
        }
    }

    fn create(&mut self, node: String, data: Vec<u8>) {
        if let Some(above) = parent(&node).and_then(|above| self.nodes.get_mut(above)) {
            above.children += 1;
        }
        let made = Node { version: 0, written: 0, children: 0, valued: !data.is_empty() };
        self.nodes.insert(node.clone(), made);
        self.steps.push(Step::Create(node, data));
    }

    /// A lease that lives on holds the key's name before it holds the key.
    fn bind(&mut self, key: &str, lease: LeaseId) {
        let alive = self.layout.alive(lease);
        if self.checked.insert(alive.clone()) {
            self.checks.push(Step::Check(alive, None));
        }
        let node = self.layout.lease(lease);
        let Some(seen) = self.leases.get_mut(&lease) else { return };
        if !seen.keys.insert(key.to_owned()) {
            return;
        }
        let names = seen.keys.iter().cloned().collect::<Vec<_>>().join("\n");
        if self.checked.insert(node.clone()) {
            self.checks.push(Step::Check(node.clone(), Some(seen.version)));
        }
        self.steps.push(Step::Write(node, names.into_bytes()));
    }

    pub(super) fn delete(&mut self, key: &str) {
        let node = self.layout.node(key);
        match self.nodes.get(&node).copied() {
            Some(there) if there.valued => {
                if there.children > 0 {
                    self.steps.push(Step::Write(node.clone(), Vec::new()));
                    self.nodes.insert(node, Node { valued: false, ..there });
                } else {
                    self.bury(&node);
                }
                self.changes.push(Change::Delete { key: key.to_owned() });
            }
            _ => self.hold(&node),
        }
    }

    /// Deletes a node, and those above it that were there only for it.
    fn bury(&mut self, node: &str) {
        self.steps.push(Step::Delete(node.to_owned()));
        self.nodes.remove(node);
        self.dug.insert(Layout::grave_of(node));
        let Some(above) = parent(node).filter(|above| above.len() > self.layout.root().len()) else { return };
        let Some(left) = self.nodes.get_mut(above) else { return };
        left.children -= 1;
        if left.children == 0 && !left.valued {
            // It may get a value before this is carried out.
            if self.seen.nodes.contains_key(above) {
                self.hold(above);
            }
            self.bury(above);
        }
    }

    /// Deletes a node that is no key, if it still has the version that was read.
    pub(super) fn remove(&mut self, node: String, version: i32) {
        self.checks.push(Step::Check(node.clone(), Some(version)));
        self.steps.push(Step::Delete(node));
    }

    pub(super) fn finish(self) -> Planned {
        let counts = self.dug.iter().map(|number| Step::Write(self.layout.grave(*number), Vec::new()));
        let steps = self.checks.into_iter().chain(self.steps).chain(counts).collect();
        Planned { steps, changes: self.changes }
    }
}

#[cfg(test)]
mod tests;
