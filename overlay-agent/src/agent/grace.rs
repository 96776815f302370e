//! Collecting nodes that do not come back: after a grace their endpoints' names and addresses become free.
//!
//! Every agent does this, for any may be the last one. The transactions are conditional, so it does no harm
//! when several do at once; that it seldom happens, each waits a little longer than the one before it in
//! the order of names.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::sleep};

use super::presence::{self, Absences};
use crate::{
    model::{Cluster, Name, Node, Standing, cluster::Versioned},
    service::retire::{Reason, Retirement, retire},
    store::Store,
};

/// What one agent waits longer than the one before it.
const TURN: Duration = Duration::from_secs(2);
/// Most turns that an agent waits.
const MAX_TURNS: u32 = 30;
/// Pause after a collection that did not come to its end.
const RETRY: Duration = Duration::from_secs(2);

/// What the collection goes by.
pub struct Watched {
    /// This node.
    pub node: Name,
    /// The cluster's state.
    pub cluster: watch::Receiver<Arc<Cluster>>,
    /// Who is away.
    pub absences: watch::Receiver<Absences>,
}

/// Collects nodes that have been away for `after`, until the mirror ends. To be at least a lease: after an
/// outage of the store everybody needs one to come back.
pub async fn collect(store: Arc<dyn Store>, mut watched: Watched, after: Duration) {
    loop {
        let absences = watched.absences.borrow_and_update().clone();
        let due = schedule(&watched.cluster.borrow_and_update(), &absences, &watched.node, after);
        let now = Instant::now();
        for (_, node) in due.iter().filter(|(moment, _)| *moment <= now) {
            take_out(store.as_ref(), node).await;
        }
        if due.iter().any(|(moment, _)| *moment <= now) {
            sleep(RETRY).await;
        }
        let next = due.iter().map(|(moment, _)| *moment).filter(|moment| *moment > now).min();
        let ended = tokio::select! {
            changed = watched.cluster.changed() => changed.is_err(),
            changed = watched.absences.changed() => changed.is_err(),
            () = presence::until(next) => false,
        };
        if ended {
            return;
        }
    }
}

/// Which nodes this agent is to collect, and when. Copies: to keep hold of the cluster's state would make the mirror
/// copy all of it at each change.
fn schedule(
    cluster: &Cluster,
    absences: &Absences,
    here: &Name,
    after: Duration,
) -> Vec<(Instant, Versioned<Node>)> {
    // Without its own record an agent does not know whether this is its store at all.
    if !cluster.nodes.contains_key(here) {
        return Vec::new();
    }
    let earlier = cluster.alive.iter().filter(|name| *name < here).count();
    let turns = u32::try_from(earlier).unwrap_or(MAX_TURNS).min(MAX_TURNS);
    let is_away = |node: &&Versioned<Node>| match cluster.standing(&node.record) {
        Standing::Up => false,
        Standing::Stopped | Standing::Silent => absences.is_down(&node.record.name),
        // Somebody may have begun with this and not ended.
        Standing::Gone => cluster.endpoints_on(&node.record.name).next().is_some(),
    };
    let due = |node: &Versioned<Node>| {
        let from = absences.counted_from(&node.record.name)?;
        // A grace longer than the clock can count never ends.
        let moment = from.checked_add(after)?.checked_add(turns * TURN)?;
        Some((moment, node.clone()))
    };
    let others = cluster.nodes.values().filter(|node| node.record.name != *here);
    others.filter(is_away).filter_map(due).collect()
}

async fn take_out(store: &dyn Store, node: &Versioned<Node>) {
    let name = &node.record.name;
    match retire(store, node, Reason::of_mark(node.record.life)).await {
        Ok(Retirement::Done(endpoints)) => {
            tracing::info!(node = %name, endpoints = endpoints.len(), "collected: it was away for too long");
        }
        Ok(Retirement::Overtaken) => tracing::debug!(node = %name, "not collected: somebody was quicker"),
        Err(e) => tracing::warn!(node = %name, reason = %e, "not collected"),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::{
        agent::presence::tests::Bench,
        model::{EndpointId, Life},
        store::{self, Revision},
    };

    const AFTER: Duration = Duration::from_secs(100);

    /// Which nodes host b is to collect, and at which second.
    fn due(bench: &Bench, after: Duration) -> Vec<(u64, String)> {
        let due = schedule(&bench.cluster, &bench.absences, &"b".parse().unwrap(), after);
        due.into_iter().map(|(at, node)| (bench.second(at), node.record.name.to_string())).collect()
    }

    fn live(bench: &mut Bench, life: Life) {
        bench.cluster.nodes.get_mut(&"a".parse::<Name>().unwrap()).unwrap().record.life = life;
    }

    #[test]
    fn a_node_that_is_away_is_collected_after_the_grace() {
        let mut bench = Bench::new();
        bench.down(0, Some(&["a", "b"]));
        bench.down(50, Some(&["b"]));
        assert_eq!(due(&bench, AFTER), [], "it does not count as down yet");
        bench.down(60, Some(&["b"]));
        let expected = [(150, "a".to_owned())];
        assert_eq!(due(&bench, AFTER), expected);
        live(&mut bench, Life::Stopped);
        assert_eq!(due(&bench, AFTER), expected);
        assert_eq!(due(&bench, Duration::MAX), [], "a grace without end");
        bench.down(70, Some(&["a", "b"]));
        assert_eq!(due(&bench, AFTER), []);
    }

    #[test]
    fn those_earlier_in_the_order_of_names_come_first() {
        let mut bench = Bench::new();
        bench.down(60, Some(&["b"]));
        bench.down(90, Some(&["b"]));
        bench.cluster.alive.insert("aa".parse().unwrap());
        assert_eq!(due(&bench, AFTER), [(162, "a".to_owned())]);
    }

    #[test]
    fn a_collection_that_was_broken_off_is_taken_up_and_a_whole_one_is_not() {
        let mut bench = Bench::new();
        bench.down(0, Some(&["b"]));
        bench.down(30, Some(&["b"]));
        live(&mut bench, Life::Collected);
        assert_eq!(due(&bench, AFTER), []);
        let id: EndpointId = "00112233445566ff".parse().unwrap();
        let record = serde_json::from_value(serde_json::json!({
            "id": id, "network": "net", "name": "web", "node": "a", "ipv4": "10.0.0.2",
            "mac": "02:42:0a:00:00:02", "ifname": "eth0", "netns": "/run/netns/web",
        }));
        let endpoint = Versioned { record: record.unwrap(), revision: Revision(1) };
        bench.cluster.endpoints.insert(id, endpoint);
        assert_eq!(due(&bench, AFTER), [(100, "a".to_owned())]);
    }

    #[tokio::test]
    async fn whoever_waits_keeps_no_hold_of_the_clusters_state() {
        let mut bench = Bench::new();
        bench.down(0, Some(&["b"]));
        bench.down(30, Some(&["b"]));
        let (cluster, receiver) = watch::channel(Arc::new(bench.cluster));
        let (_absences, absences) = watch::channel(bench.absences);
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/store.db", dir.path().display());
        let store = store::open(&url.as_str().into()).await.unwrap();
        let watched = Watched { node: "b".parse().unwrap(), cluster: receiver, absences };
        let mut collection = pin!(collect(store, watched, AFTER));
        assert!(futures::poll!(collection.as_mut()).is_pending());
        assert_eq!(Arc::strong_count(&cluster.borrow()), 1);
    }

    #[test]
    fn an_agent_whose_own_record_is_missing_collects_nobody() {
        let mut bench = Bench::new();
        bench.down(0, Some(&[]));
        bench.down(30, Some(&[]));
        bench.cluster.nodes.remove(&"b".parse::<Name>().unwrap());
        assert_eq!(due(&bench, AFTER), []);
    }
}
