//! Taking a node out of the cluster: its record is marked, its endpoints' names and addresses become free.
//!
//! The mark comes first, and everything after it holds only while the record is unchanged: a node that
//! registers meanwhile writes it anew and keeps what it still has. So any number of agents may do this at
//! once, and none can take anything from a node that is back.

use super::claim::releasing;
use crate::{
    model::{
        Endpoint, Life, Name, Node, Timestamp,
        cluster::Versioned,
        keys::{Key, ROOT},
    },
    store::{Outcome, Revision, Store, StoreError, Transaction},
};

/// Why a node is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It has been away for too long, as far as others can tell: its endpoints are remembered, so that it
    /// can claim them again when it returns.
    Absent,
    /// Somebody who knows said so.
    Removed,
}

impl Reason {
    /// What the record then says.
    fn mark(self) -> Life {
        match self {
            Self::Absent => Life::Collected,
            Self::Removed => Life::Removed,
        }
    }

    /// Why a node was taken out that has such a mark.
    pub(crate) fn of_mark(life: Life) -> Self {
        if life == Life::Removed { Self::Removed } else { Self::Absent }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Retirement {
    /// The node is out; these were its endpoints.
    Done(Vec<Endpoint>),
    /// The node registered, or somebody else changed its record, meanwhile.
    Overtaken,
}

/// Takes a node out. One that had endpoints, or still runs, keeps a record that says so: without one its
/// agent would take what it misses for the store's loss and write it back.
///
/// # Errors
/// If the store does not answer.
pub(crate) async fn retire(
    store: &dyn Store,
    node: &Versioned<Node>,
    reason: Reason,
) -> Result<Retirement, StoreError> {
    let name = &node.record.name;
    let ran = store.get(&Key::Alive(name.clone()).to_string()).await?.is_some();
    let Some(gone) = mark(store, node, reason).await? else { return Ok(Retirement::Overtaken) };
    let mut collected = Vec::new();
    for Versioned { record, revision } in endpoints_of(store, name).await? {
        let transaction = collecting(&record, revision, reason).unchanged(Key::Node(name.clone()), gone);
        match store.commit(transaction).await? {
            Outcome::Committed(_) => collected.push(record),
            Outcome::Conflict(key) if key == Key::Node(name.clone()).to_string() => {
                return Ok(Retirement::Overtaken);
            }
            // It was detached meanwhile.
            Outcome::Conflict(_) => {}
        }
    }
    if collected.is_empty() && !ran && !node.record.life.is_over() {
        // Whoever changed the record meanwhile knows better.
        store.commit(Transaction::new().delete_unchanged(Key::Node(name.clone()), gone)).await?;
    }
    Ok(Retirement::Done(collected))
}

/// Deletes the record of a node that is gone, and what is kept of its endpoints. `false` if it is back.
///
/// # Errors
/// If the store does not answer.
pub(crate) async fn forget(store: &dyn Store, node: &Versioned<Node>) -> Result<bool, StoreError> {
    let name = &node.record.name;
    let kept = store.list(&format!("{ROOT}collected/{name}/")).await?;
    let transaction = Transaction::new().delete_unchanged(Key::Node(name.clone()), node.revision);
    let transaction = kept.entries.iter().fold(transaction, |t, entry| t.delete(&entry.key));
    Ok(matches!(store.commit(transaction).await?, Outcome::Committed(_)))
}

/// Marks the record; the revision of the mark, or `None` if the node was quicker.
async fn mark(
    store: &dyn Store,
    node: &Versioned<Node>,
    reason: Reason,
) -> Result<Option<Revision>, StoreError> {
    let Node { name, life, .. } = &node.record;
    if life.is_over() {
        // Somebody began with this and did not end.
        return Ok(Some(node.revision));
    }
    let life = reason.mark();
    let gone = Node { life, since: Some(Timestamp::now()), ..node.record.clone() };
    let transaction = Transaction::new().replace(Key::Node(name.clone()), node.revision, &gone);
    let alive = Key::Alive(name.clone());
    let transaction = match reason {
        Reason::Absent => transaction.absent(alive),
        Reason::Removed => transaction.delete(alive),
    };
    match store.commit(transaction).await? {
        Outcome::Committed(revision) => Ok(Some(revision)),
        Outcome::Conflict(_) => Ok(None),
    }
}

/// The store's own list: this agent's mirror may not know yet what the node did last.
async fn endpoints_of(store: &dyn Store, node: &Name) -> Result<Vec<Versioned<Endpoint>>, StoreError> {
    let listing = store.list(&format!("{ROOT}endpoints/")).await?;
    let parsed = listing.entries.into_iter().filter_map(|entry| {
        let record: Endpoint = serde_json::from_slice(&entry.value).ok()?;
        Some(Versioned { record, revision: entry.revision })
    });
    Ok(parsed.filter(|endpoint| endpoint.record.node == *node).collect())
}

fn collecting(endpoint: &Endpoint, revision: Revision, reason: Reason) -> Transaction {
    let transaction = releasing(endpoint, revision);
    match reason {
        Reason::Absent => {
            transaction.put(Key::Collected(endpoint.node.clone(), endpoint.id.clone()), endpoint)
        }
        Reason::Removed => transaction,
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use serde_json::json;

    use super::*;
    use crate::{
        agent::record,
        model::Cluster,
        service::claim::{Reclaim, reclaim},
        store,
    };

    /// A store with node `a`, its endpoint `web`, and network `net`.
    struct Bench {
        store: Arc<dyn Store>,
        _dir: tempfile::TempDir,
    }

    impl Bench {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let url = format!("sqlite://{}", dir.path().join("store.db").display());
            let store = store::open(&url.as_str().into()).await.unwrap();
            let id = "00112233445566ff";
            let transaction = Transaction::new()
                .put("overlay/v1/nodes/a", &json!({"name": "a", "id": "x", "vtep": "192.0.2.1", "vxlan_port": 4789, "version": "1"}))
                .put("overlay/v1/networks/net", &json!({"name": "net", "vni": 256, "subnet": "10.0.0.0/24", "gateway": "10.0.0.1"}))
                .put(format!("overlay/v1/endpoints/net/{id}"), &json!({"id": id, "network": "net", "name": "web",
                    "node": "a", "ipv4": "10.0.0.2", "mac": "02:42:0a:00:00:02", "ifname": "eth0", "netns": "/run/netns/web"}))
                .put("overlay/v1/names/net/web", &id)
                .put("overlay/v1/macs/net/02:42:0a:00:00:02", &id)
                .put("overlay/v1/addresses/net/10.0.0.2", &json!({"state": "held", "endpoint": id}));
            store.commit(transaction).await.unwrap();
            Self { store, _dir: dir }
        }

        async fn node(&self) -> Versioned<Node> {
            record::read(self.store.as_ref(), &"a".parse().unwrap()).await.unwrap().unwrap()
        }

        async fn cluster(&self) -> Cluster {
            let listing = self.store.list(ROOT).await.unwrap();
            Cluster::from_listing(&listing.entries, listing.revision)
        }

        async fn retire(&self, reason: Reason) -> Retirement {
            retire(self.store.as_ref(), &self.node().await, reason).await.unwrap()
        }

        /// What a returning node does first.
        async fn register(&self) {
            let node = Node { life: Life::Running, ..self.node().await.record };
            self.store.commit(Transaction::new().put("overlay/v1/nodes/a", &node)).await.unwrap();
        }

        async fn keys(&self) -> Vec<String> {
            let listing = self.store.list(ROOT).await.unwrap();
            listing.entries.into_iter().map(|e| e.key.replacen(ROOT, "", 1)).collect()
        }
    }

    fn count(retirement: &Retirement) -> Option<usize> {
        match retirement {
            Retirement::Done(endpoints) => Some(endpoints.len()),
            Retirement::Overtaken => None,
        }
    }

    #[tokio::test]
    async fn what_an_absent_node_had_becomes_free_and_is_remembered() {
        let bench = Bench::new().await;
        assert_eq!(count(&bench.retire(Reason::Absent).await), Some(1));
        let expected = ["addresses/net/10.0.0.2", "collected/a/00112233445566ff", "networks/net", "nodes/a"];
        assert_eq!(bench.keys().await, expected);
        assert_eq!(bench.node().await.record.life, Life::Collected);
        assert!(forget(bench.store.as_ref(), &bench.node().await).await.unwrap());
        assert_eq!(bench.keys().await, ["addresses/net/10.0.0.2", "networks/net"]);
    }

    #[tokio::test]
    async fn of_a_removed_node_only_the_mark_stays_and_without_endpoints_not_even_that() {
        let bench = Bench::new().await;
        assert_eq!(count(&bench.retire(Reason::Removed).await), Some(1));
        assert_eq!(bench.keys().await, ["addresses/net/10.0.0.2", "networks/net", "nodes/a"]);
        assert_eq!(bench.node().await.record.life, Life::Removed);
        bench.register().await;
        assert_eq!(count(&bench.retire(Reason::Removed).await), Some(0));
        assert_eq!(bench.keys().await, ["addresses/net/10.0.0.2", "networks/net"]);
    }

    #[tokio::test]
    async fn a_node_that_gives_a_sign_of_life_or_registers_is_left_alone_unless_removed() {
        let bench = Bench::new().await;
        let lease = bench.store.grant_lease(Duration::from_secs(60)).await.unwrap();
        let alive = Transaction::new().put("overlay/v1/alive/a", &json!({"id": "x"})).leased(lease);
        let known = bench.node().await;
        bench.store.commit(alive).await.unwrap();
        let before = bench.keys().await;
        assert_eq!(bench.retire(Reason::Absent).await, Retirement::Overtaken);
        bench.register().await;
        let stale = retire(bench.store.as_ref(), &known, Reason::Removed).await.unwrap();
        assert_eq!(stale, Retirement::Overtaken);
        assert_eq!(bench.keys().await, before);

        assert_eq!(count(&bench.retire(Reason::Removed).await), Some(1));
        assert_eq!(bench.keys().await, ["addresses/net/10.0.0.2", "networks/net", "nodes/a"]);
    }

    #[tokio::test]
    async fn a_collected_endpoint_is_claimed_again_as_it_was_and_only_once() {
        let bench = Bench::new().await;
        let before = bench.keys().await;
        bench.retire(Reason::Absent).await;
        bench.register().await;
        let cluster = bench.cluster().await;
        let kept = cluster.collected.values().next().unwrap();
        assert_eq!(reclaim(bench.store.as_ref(), &cluster, kept).await.unwrap(), Reclaim::Claimed);
        assert_eq!(bench.keys().await, before);
        // A pass that has not heard of it yet.
        assert_eq!(reclaim(bench.store.as_ref(), &cluster, kept).await.unwrap(), Reclaim::Later);
    }

    #[tokio::test]
    async fn what_another_has_by_now_is_not_claimed() {
        let id = "ffeeddccbbaa0099";
        for (key, value, reason) in [
            ("names/net/web", json!(id), "another endpoint is called web"),
            ("macs/net/02:42:0a:00:00:02", json!(id), "another endpoint has the MAC 02:42:0a:00:00:02"),
            (
                "addresses/net/10.0.0.2",
                json!({"state": "held", "endpoint": id}),
                "address 10.0.0.2 of net belongs to ffeeddccbbaa0099",
            ),
            ("networks/net", json!(null), "network net was removed"),
        ] {
            let bench = Bench::new().await;
            bench.retire(Reason::Absent).await;
            let key = format!("{ROOT}{key}");
            let change = Transaction::new();
            let change = if value.is_null() { change.delete(key) } else { change.put(key, &value) };
            bench.store.commit(change).await.unwrap();
            let cluster = bench.cluster().await;
            let before = bench.keys().await;
            let kept = cluster.collected.values().next().unwrap();
            let claimed = reclaim(bench.store.as_ref(), &cluster, kept).await.unwrap();
            assert_eq!(claimed, Reclaim::Taken(reason.to_owned()));
            assert_eq!(bench.keys().await, before);
        }
    }
}
