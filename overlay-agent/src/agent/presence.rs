//! Which nodes count as down: a matter of time, on this host's monotonic clock alone.
//!
//! A sign of life that is missing proves little. The store may have been away, and every node's lease run
//! out with it; this agent may have just started and seen nothing yet. To withdraw a node that lives cuts
//! connections, to keep one that is dead for some seconds more costs nothing: so a node counts as down only
//! when this agent has seen its sign of life missing for a while, and has followed the store for a whole
//! lease. How long it is down is counted the same way. An agent that restarts begins anew, so what follows
//! from it (collecting) may come late, never early, and clocks that jump change nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::sleep_until};

use crate::{
    model::{Cluster, Name, Timestamp},
    store::Failure,
};

/// For how long a sign of life must be missing.
const CONFIRM: Duration = Duration::from_secs(2);

/// Nodes without a sign of life, as this agent has seen them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Absences {
    nodes: BTreeMap<Name, Absence>,
    /// Since when the store is followed without a gap; `None` while it cannot be reached.
    followed: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Absence {
    since: Instant,
    down: bool,
}

impl Absences {
    /// Nodes that count as down. Which of them said goodbye the store tells.
    #[must_use]
    pub fn down(&self) -> BTreeSet<Name> {
        self.nodes.iter().filter(|(_, absence)| absence.down).map(|(name, _)| name.clone()).collect()
    }

    /// Whether a node counts as down.
    #[must_use]
    pub fn is_down(&self, node: &Name) -> bool {
        self.nodes.get(node).is_some_and(|absence| absence.down)
    }

    /// Since when a node's sign of life is missing: by this host's clock, for people.
    #[must_use]
    pub fn since(&self, node: &Name) -> Option<Timestamp> {
        self.nodes.get(node).map(|absence| Timestamp::now().before(absence.since.elapsed()))
    }

    /// Since when a node has had the chance to give a sign of life, and has not: while the store cannot be
    /// reached nobody has.
    #[must_use]
    pub fn counted_from(&self, node: &Name) -> Option<Instant> {
        Some(self.nodes.get(node)?.since.max(self.followed?))
    }

    /// Takes in what the cluster looks like now, and whether the store is followed.
    ///
    /// While it is not, nothing changes: whoever was down stays so, nobody else becomes it. This is the one
    /// place that decides whether the cluster's state can be trusted that far.
    fn look(&mut self, cluster: &Cluster, is_followed: bool, lease: Duration, now: Instant) {
        if !is_followed {
            self.followed = None;
            return;
        }
        let followed = *self.followed.get_or_insert(now);
        let is_missing = |name: &Name| !cluster.alive.contains(name);
        self.nodes.retain(|name, _| cluster.nodes.contains_key(name) && is_missing(name));
        for name in cluster.nodes.keys().filter(|name| is_missing(name)) {
            let absence = self.nodes.entry(name.clone()).or_insert(Absence { since: now, down: false });
            absence.down |= now >= due(absence.since, followed, lease);
        }
    }

    /// When the next node counts as down if nothing else happens.
    fn next(&self, lease: Duration) -> Option<Instant> {
        let followed = self.followed?;
        let pending = self.nodes.values().filter(|absence| !absence.down);
        pending.map(|absence| due(absence.since, followed, lease)).min()
    }
}

fn due(since: Instant, followed: Instant, lease: Duration) -> Instant {
    (since + CONFIRM).max(followed + lease)
}

/// Watches the nodes' signs of life until the mirror ends. `stale` says why the cluster is not known as it is
/// now.
pub fn watch(
    mut cluster: watch::Receiver<Arc<Cluster>>,
    mut stale: watch::Receiver<Option<Failure>>,
    lease: Duration,
) -> watch::Receiver<Absences> {
    let (sender, receiver) = watch::channel(Absences::default());
    tokio::spawn(async move {
        let mut absences = Absences::default();
        loop {
            let is_followed = stale.borrow_and_update().is_none();
            // Borrowed for the look alone: the mirror would have to copy a state that somebody keeps hold of.
            absences.look(&cluster.borrow_and_update(), is_followed, lease, Instant::now());
            publish(&sender, &absences);
            let next = absences.next(lease);
            let ended = tokio::select! {
                changed = cluster.changed() => changed.is_err(),
                changed = stale.changed() => changed.is_err(),
                () = until(next) => false,
            };
            if ended {
                return;
            }
        }
    });
    receiver
}

fn publish(sender: &watch::Sender<Absences>, absences: &Absences) {
    let before = sender.borrow().down();
    for node in absences.down().difference(&before) {
        tracing::info!(%node, "no sign of life: counts as down");
    }
    sender.send_if_modified(|current| {
        let changed = current != absences;
        current.clone_from(absences);
        changed
    });
}

/// Waits until a moment, or for ever if there is none.
pub(super) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        model::{Life, Node, cluster::Versioned},
        store::Revision,
    };

    const LEASE: Duration = Duration::from_secs(15);

    /// An agent's view of hosts a and b, driven by hand.
    pub(in crate::agent) struct Bench {
        pub(in crate::agent) absences: Absences,
        pub(in crate::agent) cluster: Cluster,
        start: Instant,
    }

    impl Bench {
        pub(in crate::agent) fn new() -> Self {
            let node = |name: &str| Node {
                name: name.parse().unwrap(),
                id: String::new(),
                vtep: [192, 0, 2, 1].into(),
                vxlan_port: 4789,
                version: String::new(),
                epoch: 1,
                registered: None,
                life: Life::Running,
                since: None,
                draining: None,
            };
            let nodes = ["a", "b"]
                .map(|name| (name.parse().unwrap(), Versioned { record: node(name), revision: Revision(1) }));
            let cluster = Cluster { nodes: nodes.into(), ..Cluster::default() };
            Self { absences: Absences::default(), start: Instant::now(), cluster }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        /// The second of a moment.
        pub(in crate::agent) fn second(&self, moment: Instant) -> u64 {
            (moment - self.start).as_secs()
        }

        /// Who counts as down at a second at which these give signs of life; `None`: the store is away.
        pub(in crate::agent) fn down(&mut self, second: u64, alive: Option<&[&str]>) -> Vec<String> {
            if let Some(alive) = alive {
                self.cluster.alive = alive.iter().map(|name| name.parse().unwrap()).collect();
            }
            let now = self.at(second);
            self.absences.look(&self.cluster, alive.is_some(), LEASE, now);
            self.absences.down().iter().map(ToString::to_string).collect()
        }
    }

    #[test]
    fn a_node_is_down_when_its_sign_of_life_has_been_missing_for_a_while() {
        let mut bench = Bench::new();
        assert!(bench.down(0, Some(&["a", "b"])).is_empty());
        assert!(bench.down(100, Some(&["a"])).is_empty());
        assert_eq!(bench.absences.next(LEASE), Some(bench.at(102)));
        assert!(bench.down(101, Some(&["a"])).is_empty());
        assert_eq!(bench.down(102, Some(&["a"])), ["b"]);
        assert_eq!(bench.absences.next(LEASE), None);
        assert!(bench.down(200, Some(&["a", "b"])).is_empty(), "it is back at once");
    }

    #[test]
    fn a_sign_of_life_in_between_starts_the_count_anew() {
        let mut bench = Bench::new();
        bench.down(0, Some(&["a", "b"]));
        bench.down(100, Some(&["a"]));
        bench.down(101, Some(&["a", "b"]));
        assert!(bench.down(102, Some(&["a"])).is_empty());
        assert!(bench.down(103, Some(&["a"])).is_empty());
        assert_eq!(bench.down(104, Some(&["a"])), ["b"]);
    }

    #[test]
    fn an_agent_that_has_just_started_waits_for_a_whole_lease() {
        let mut bench = Bench::new();
        assert!(bench.down(0, Some(&[])).is_empty());
        assert_eq!(bench.absences.next(LEASE), Some(bench.at(15)));
        assert!(bench.down(14, Some(&["a"])).is_empty());
        assert_eq!(bench.down(15, Some(&["a"])), ["b"]);
    }

    #[test]
    fn after_an_outage_all_get_a_lease_to_come_back_and_the_dead_stay_dead() {
        let mut bench = Bench::new();
        bench.down(0, Some(&["a"]));
        assert_eq!(bench.down(20, Some(&["a"])), ["b"]);
        assert_eq!(bench.down(5000, None), ["b"]);
        assert_eq!(bench.absences.next(LEASE), None);
        // All leases have run out meanwhile.
        assert_eq!(bench.down(6000, Some(&[])), ["b"]);
        assert_eq!(bench.down(6014, Some(&[])), ["b"]);
        assert_eq!(bench.down(6015, Some(&[])), ["a", "b"]);
    }

    #[test]
    fn the_time_of_an_outage_does_not_count() {
        let mut bench = Bench::new();
        let b = "b".parse().unwrap();
        bench.down(0, Some(&["a"]));
        assert_eq!(bench.absences.counted_from(&b), Some(bench.at(0)));
        bench.down(10, None);
        assert_eq!(bench.absences.counted_from(&b), None);
        bench.down(4000, Some(&["a"]));
        assert_eq!(bench.absences.counted_from(&b), Some(bench.at(4000)));
    }

    #[test]
    fn a_node_without_a_record_is_no_node() {
        let mut bench = Bench::new();
        bench.down(0, Some(&["a"]));
        assert_eq!(bench.down(20, Some(&["a"])), ["b"]);
        bench.cluster.nodes.remove(&"b".parse::<Name>().unwrap());
        assert!(bench.down(21, Some(&["a"])).is_empty());
    }
    #[tokio::test]
    async fn whoever_waits_keeps_no_hold_of_the_clusters_state() {
        let (cluster, receiver) = watch::channel(Arc::new(Bench::new().cluster));
        let (_stale, stale) = watch::channel(None);
        let mut absences = watch(receiver, stale, LEASE);
        absences.changed().await.unwrap();
        assert_eq!(Arc::strong_count(&cluster.borrow()), 1);
    }
}
