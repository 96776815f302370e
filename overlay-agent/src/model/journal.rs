//! What changed lately in a cluster's state.
//!
//! A pass over ten thousand endpoints for each one that comes or goes would be most of an agent's work. Who knows the
//! state at an earlier revision asks here which endpoints differ, and looks at no others.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::atomic::{AtomicU64, Ordering},
};

use super::{EndpointId, keys::Key};

/// Changes that are remembered. Who is further behind looks at everything.
const CAPACITY: usize = 1024;

/// A place among all changes that this process has seen, of whatever state. Not the store's revision: a listing may
/// bring another state at the same revision, and a store that was put back has lower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

impl Position {
    /// One after all before.
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// The latest changes.
#[derive(Clone)]
pub struct Journal {
    /// The state now.
    position: Position,
    /// Every change after this one is remembered.
    complete_after: Position,
    /// The last change of anything that endpoints stand on: networks, nodes, policies, rules.
    ground: Position,
    endpoints: VecDeque<(Position, EndpointId)>,
}

impl Default for Journal {
    /// A journal of what happens from now on.
    fn default() -> Self {
        let now = Position::next();
        Self { position: now, complete_after: now, ground: now, endpoints: VecDeque::new() }
    }
}

impl Journal {
    /// Where it stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Notes that a key was written or deleted.
    pub fn note(&mut self, key: Key) {
        self.position = Position::next();
        match key {
            Key::Endpoint(_, id) => self.note_endpoint(id),
            // Claims: they decide who may write the others.
            Key::Vni(_) | Key::Subnet(_) | Key::EndpointName(..) | Key::Address(..) | Key::Mac(..) => {}
            _ => self.ground = self.position,
        }
    }

    /// Whether anything that endpoints stand on was written or deleted since then.
    #[must_use]
    pub fn ground_changed_since(&self, known: Position) -> bool {
        known < self.ground
    }

    /// The endpoints that were written or deleted since then; `None` if that is not remembered.
    #[must_use]
    pub fn endpoints_since(&self, known: Position) -> Option<BTreeSet<&EndpointId>> {
        let is_known = known >= self.complete_after;
        let newest_first = self.endpoints.iter().rev();
        is_known.then(|| newest_first.take_while(|(at, _)| *at > known).map(|(_, id)| id).collect())
    }

    fn note_endpoint(&mut self, id: EndpointId) {
        if self.endpoints.len() == CAPACITY
            && let Some((forgotten, _)) = self.endpoints.pop_front()
        {
            self.complete_after = forgotten;
        }
        self.endpoints.push_back((self.position, id));
    }
}

/// It depends on the way to a state, not on the state: two equal states are shown alike.
impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Journal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes a change; where the journal stands then.
    fn note(journal: &mut Journal, key: &str) -> Position {
        journal.note(format!("overlay/v1/{key}").parse().unwrap());
        journal.position()
    }

    fn endpoint(number: usize) -> String {
        format!("endpoints/net/{number:016x}")
    }

    fn since(journal: &Journal, known: Position) -> Option<Vec<String>> {
        Some(journal.endpoints_since(known)?.into_iter().map(|id| id.to_string()).collect())
    }

    #[test]
    fn endpoints_that_changed_since_are_told_once_and_claims_do_not_matter() {
        let mut journal = Journal::default();
        let start = journal.position();
        let first = note(&mut journal, &endpoint(1));
        note(&mut journal, &endpoint(2));
        note(&mut journal, "addresses/net/10.0.0.2");
        let last = note(&mut journal, &endpoint(2));
        let id = |number| format!("{number:016x}");
        assert_eq!(since(&journal, start), Some(vec![id(1), id(2)]));
        assert_eq!(since(&journal, first), Some(vec![id(2)]));
        assert_eq!(since(&journal, last), Some(vec![]));
        assert!(!journal.ground_changed_since(start));
    }

    #[test]
    fn another_state_is_not_a_later_one() {
        let mut before = Journal::default();
        let known = note(&mut before, &endpoint(1));
        assert_eq!(since(&Journal::default(), known), None);
    }

    #[test]
    fn a_change_of_what_endpoints_stand_on_is_told_apart() {
        for key in ["networks/net", "nodes/host1", "alive/host1", "policies/a/b", "rules/a/b/0a1b2c3d"] {
            let mut journal = Journal::default();
            let start = journal.position();
            let ground = note(&mut journal, key);
            note(&mut journal, &endpoint(1));
            assert!(journal.ground_changed_since(start) && !journal.ground_changed_since(ground), "{key}");
            assert_eq!(since(&journal, start).map(|ids| ids.len()), Some(1), "{key}");
        }
    }

    #[test]
    fn what_is_too_long_ago_is_not_remembered() {
        let mut journal = Journal::default();
        let start = journal.position();
        let first = note(&mut journal, &endpoint(0));
        for number in 1..=CAPACITY {
            note(&mut journal, &endpoint(number));
        }
        assert_eq!(since(&journal, start), None);
        assert_eq!(since(&journal, first).map(|ids| ids.len()), Some(CAPACITY));
    }
}
