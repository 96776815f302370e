//! Networks as container engines know them.
//!
//! An engine keeps a list of networks of its own on each host. The network's record says which engines have it, and under
//! which id: engines on all hosts share one network, and one that removes it takes nothing from the others.

use super::{
    ATTEMPTS, Context, Result, ServiceError,
    networks::{self, agreeing, creation, design, in_this_cluster},
};
use crate::{
    api::types::{CreateNetwork, NetworkView},
    model::{Cluster, EngineNetwork, ForeignId, Name, Network, NetworkState, cluster::Versioned, keys::Key},
    store::{Outcome, Transaction},
};

/// A network that an engine on this host wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// How it is to be, if it is not there yet; what is there has to agree.
    pub network: CreateNetwork,
    /// Whether its subnet was chosen for the engine: then no other network may choose it.
    pub subnet_was_chosen: bool,
    /// What the engine knows it by.
    pub engine: EngineNetwork,
}

/// The network that an engine on this host knows by its own id of the network or of the pool.
pub fn known_as<'a>(
    context: &Context,
    cluster: &'a Cluster,
    is_meant: impl Fn(&EngineNetwork) -> bool,
) -> Option<&'a Versioned<Network>> {
    let here = &context.config.node;
    cluster.networks.values().find(|network| network.record.engines.get(here).is_some_and(&is_meant))
}

/// Makes a network known to the engine of this host; creates it if no host has it.
pub async fn join(context: &Context, wanted: &Wanted) -> Result<NetworkView> {
    let name = &wanted.network.name;
    let underlay = context.reconciler.report().underlay.ifindex;
    let host_subnets = context.netlink.ipv4_addresses(underlay).await?;
    networks::check_mtu(context, &wanted.network)?;
    for _ in 0..ATTEMPTS {
        let cluster = context.cluster();
        agreeing(context, &wanted.network)?;
        let transaction = match cluster.networks.get(name) {
            Some(there) => joining(context, there, &wanted.engine)?,
            None => {
                let mut network = design(&cluster, &wanted.network, &host_subnets)?;
                network.engines.insert(context.config.node.clone(), wanted.engine.clone());
                network.made_by_engine = true;
                in_this_cluster(&cluster, creation(&network, wanted.subnet_was_chosen))
            }
        };
        match context.store.commit(transaction).await? {
            Outcome::Committed(revision) => {
                tracing::info!(network = %name, "known to the engine of this host");
                context.in_force(revision).await?;
                return Ok(networks::view(context, &context.network(name)?.record));
            }
            Outcome::Conflict(key) if matches!(key.parse(), Ok(Key::Subnet(_))) => {
                return Err(ServiceError::Conflict(format!(
                    "another host chose the same subnet for a network at the same moment: create {name} again"
                )));
            }
            Outcome::Conflict(_) => context.catch_up(cluster.revision).await,
        }
    }
    Err(busy(name))
}

fn joining(context: &Context, there: &Versioned<Network>, engine: &EngineNetwork) -> Result<Transaction> {
    let Versioned { record, revision } = there;
    let here = &context.config.node;
    let other = record.engines.get(here).and_then(|known| known.network.as_ref());
    if let Some(other) = other.filter(|other| Some(*other) != engine.network.as_ref()) {
        return Err(ServiceError::Conflict(format!(
            "the engine of this host has network {} already, as {other}: use that one",
            record.name
        )));
    }
    let mut record = record.clone();
    record.engines.insert(here.clone(), engine.clone());
    Ok(Transaction::new().replace(Key::Network(record.name.clone()), *revision, &record))
}

/// Takes a network from the engine of this host. It is removed if an engine had it made, no other was asked for it, and
/// it has no endpoints on any host; otherwise it stays for the others.
pub async fn leave(context: &Context, id: &ForeignId) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let cluster = context.cluster();
        let Some(there) = known_as(context, &cluster, |known| known.network.as_ref() == Some(id)) else {
            return Ok(());
        };
        let name = &there.record.name;
        if is_last(&cluster, &context.config.node, &there.record) {
            match networks::remove(context, name).await {
                // Somebody attached to it meanwhile: then it stays.
                Err(ServiceError::Conflict(_)) => context.catch_up(cluster.revision).await,
                other => return other.map(drop),
            }
            continue;
        }
        let mut record = there.record.clone();
        let removed = EngineNetwork { network: None, pool: None, pool_ipv6: None, asked: false };
        record.engines.insert(context.config.node.clone(), removed);
        let transaction = Transaction::new().replace(Key::Network(name.clone()), there.revision, &record);
        if let Outcome::Committed(revision) = context.store.commit(transaction).await? {
            tracing::info!(network = %name, "no longer known to the engine of this host");
            return context.in_force(revision).await;
        }
        context.catch_up(cluster.revision).await;
    }
    Err(ServiceError::Unavailable(format!("network {id} is changed all the time: try again")))
}

/// Whether nobody but the engine of this node wants a network.
fn is_last(cluster: &Cluster, here: &Name, network: &Network) -> bool {
    let lives = |node: &Name| cluster.nodes.get(node).is_some_and(|node| !node.record.life.is_over());
    let wanted_elsewhere =
        network.engines.iter().any(|(node, engine)| node != here && engine.asked && lives(node));
    let in_use = cluster.endpoints_of(&network.name).next().is_some();
    network.made_by_engine && !wanted_elsewhere && !in_use
}

/// Gives a network without endpoints another name: the engine told it only afterwards.
pub async fn rename(context: &Context, from: &Name, to: &Name) -> Result<()> {
    let network = context.network(from)?;
    if context.cluster().networks.contains_key(to) {
        return Err(networks::name_taken(to));
    }
    let closed = networks::close(context, &network).await?;
    let renamed = move_closed(context, &closed, to).await;
    if renamed.is_err() {
        networks::reopen(context, &closed).await?;
    }
    renamed
}

/// No endpoint can come while it is closed.
async fn move_closed(context: &Context, closed: &Versioned<Network>, to: &Name) -> Result<()> {
    let from = &closed.record.name;
    let endpoints = networks::count_endpoints(context, from).await?;
    if endpoints > 0 {
        return Err(networks::has_endpoints(context, from, endpoints));
    }
    let record = Network { name: to.clone(), state: NetworkState::Active, ..closed.record.clone() };
    let mut transaction = Transaction::new()
        .delete_unchanged(Key::Network(from.clone()), closed.revision)
        .create(Key::Network(to.clone()), &record)
        .put(Key::Vni(record.vni), to);
    if networks::owns_subnet_claim(context, &closed.record).await? {
        transaction = transaction.put(Key::Subnet(record.subnet), to);
    }
    let cluster = context.cluster();
    for ((a, b), policy) in cluster.policies.iter().filter(|((a, b), _)| a == from || b == from) {
        let renamed = |name: &Name| if name == from { to.clone() } else { name.clone() };
        transaction = transaction
            .delete(Key::Policy(a.clone(), b.clone()))
            .put(Key::Policy(renamed(a), renamed(b)), policy);
    }
    match context.store.commit(transaction).await? {
        Outcome::Committed(revision) => {
            tracing::info!(%from, %to, "network renamed");
            context.in_force(revision).await
        }
        Outcome::Conflict(key) if key == Key::Network(to.clone()).to_string() => {
            Err(networks::name_taken(to))
        }
        Outcome::Conflict(_) => Err(busy(from)),
    }
}

fn busy(name: &Name) -> ServiceError {
    ServiceError::Unavailable(format!("network {name} is changed by other hosts all the time: try again"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{Entry, Revision};

    fn entry(key: &str, value: &serde_json::Value) -> Entry {
        let value = value.to_string().into_bytes();
        Entry { key: format!("overlay/v1/{key}"), value, revision: Revision(1), lease: None }
    }

    fn node(name: &str, life: &str) -> Entry {
        let record = json!({"name": name, "id": name, "vtep": "192.0.2.1", "vxlan_port": 4789, "version": "1", "life": life});
        entry(&format!("nodes/{name}"), &record)
    }

    /// Whether host1's engine is the last that wants a network which these engines have.
    fn last_of(engines: &serde_json::Value, made_by_engine: bool, in_use: bool) -> bool {
        let network = json!({"name": "net", "vni": 256, "subnet": "10.0.0.0/24", "gateway": "10.0.0.1",
                             "engines": engines, "made_by_engine": made_by_engine});
        let mut entries = vec![
            node("host1", "running"),
            node("host2", "running"),
            node("gone", "collected"),
            entry("networks/net", &network),
        ];
        let endpoint = json!({"id": "0011223344556677", "network": "net", "name": "a", "node": "host2", "ipv4": "10.0.0.2",
                              "mac": "02:42:0a:00:00:02", "ifname": "eth0", "netns": ""});
        entries.extend(in_use.then(|| entry("endpoints/net/0011223344556677", &endpoint)));
        let cluster = Cluster::from_listing(&entries, Revision(1));
        is_last(
            &cluster,
            &"host1".parse().unwrap(),
            &cluster.networks[&"net".parse::<Name>().unwrap()].record,
        )
    }

    #[test]
    fn a_network_goes_with_the_last_engine_that_asked_for_it_and_not_before() {
        let asked = json!({"network": "aa", "asked": true});
        let copy = json!({"network": "bb", "asked": false});
        assert!(last_of(&json!({"host1": asked}), true, false));
        assert!(last_of(&json!({"host1": asked, "host2": copy}), true, false));
        assert!(last_of(&json!({"host1": asked, "gone": asked}), true, false));
        assert!(!last_of(&json!({"host1": asked, "host2": asked}), true, false));
        assert!(!last_of(&json!({"host1": asked}), true, true), "it has endpoints");
        assert!(!last_of(&json!({"host1": asked}), false, false), "somebody made it by hand");
    }
}
