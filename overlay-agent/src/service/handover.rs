//! Endpoints whose container's end a front end takes over: Docker moves it, names it and gives it its addresses itself.
//!
//! Both ends are made here, in the host's namespace. The host's end is what an endpoint lives by, as ever: while it is
//! there the endpoint is whole, wherever the other end is, and across restarts of the agent. What nobody comes for is
//! collected: see [`crate::agent::collect`].

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use overlay_common::mac::Mac;

use super::{
    ATTEMPTS, Context, Result, ServiceError,
    attach::{Plan, check_mac, take_back},
    claim::claim,
    nodes::open_node,
};
use crate::{
    api::types::NetnsRef,
    model::{Endpoint, EndpointId, Limits, Name, Network, Owner, cluster::Versioned, keys::Key},
    netlink::ContainerLink,
    paths,
    store::{Outcome, Revision, Transaction},
};

/// What is to be made.
#[derive(Clone, Debug)]
pub struct HandOver {
    /// Identity of the endpoint.
    pub id: EndpointId,
    /// For whom.
    pub owner: Owner,
    /// Name, until a better one is known.
    pub name: Name,
    /// IPv4 address; the next free one if none is given.
    pub ip: Option<Ipv4Addr>,
    /// The same for IPv6, in a network that has it.
    pub ipv6: Option<Ipv6Addr>,
    /// Hardware address; made from the address if none is given.
    pub mac: Option<Mac>,
}

/// Makes an endpoint. The container's end waits, down, under [`paths::container_end`] in the host's namespace.
pub async fn hand_over(context: &Context, network: &Name, request: HandOver) -> Result<Endpoint> {
    check_mac(request.mac)?;
    open_node(&context.cluster(), &context.config.node)?;
    let network = context.network(network)?;
    let _progress = context.in_progress.begin_hand_over(&request.id);
    let plan = Plan {
        ifname: paths::container_end(&request.id),
        id: request.id,
        name: Some(request.name),
        name_may_be_taken: false,
        aliases: Vec::new(),
        labels: BTreeMap::new(),
        netns: NetnsRef::Path(PathBuf::new()),
        ip: request.ip,
        ipv6: request.ipv6,
        reserved_on: Some(context.config.node.clone()),
        mac: request.mac,
        published: Vec::new(),
        owner: Some(request.owner),
        limits: Limits::default(),
    };
    let (endpoint, revision) = claim(context, &network.record.name, &plan, "").await?;
    match plumb(context, &endpoint, &network.record, revision).await {
        Ok(()) => {
            tracing::info!(endpoint = %endpoint.name, network = %endpoint.network, ip = %endpoint.ipv4, "made, to be handed over");
            Ok(endpoint)
        }
        Err(e) => {
            take_back(context, &endpoint, revision).await;
            Err(e)
        }
    }
}

/// Makes the devices. As with every endpoint the host's end comes up when its program is attached and its maps are
/// filled.
async fn plumb(context: &Context, endpoint: &Endpoint, network: &Network, revision: Revision) -> Result<()> {
    let mtu = network.effective_mtu(&context.reconciler.report().underlay);
    let container = ContainerLink { ifname: endpoint.ifname.clone(), mac: endpoint.mac, mtu };
    let ifindex = context.netlink.create_veth_here(&paths::host_veth(&endpoint.id), &container).await?;
    // It stays on wherever the device goes. While both ends are down the host's end learns of it as it comes up.
    context.netlink.set_gro(&endpoint.ifname, true).await?;
    context.in_force(revision).await?;
    context.netlink.set_up(ifindex).await?;
    Ok(())
}

/// What a front end learns of its endpoint after it was made; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// Its name. If another endpoint of the network has it, it becomes an alias.
    pub name: Option<Name>,
    /// Its other names.
    pub aliases: Option<Vec<Name>>,
    /// Labels, beside those that it has.
    pub labels: BTreeMap<String, String>,
    /// Where the container's network namespace is.
    pub netns: Option<String>,
    /// What its interface is called there.
    pub ifname: Option<String>,
}

/// Writes down what was learned of an endpoint, and waits until that is in force.
pub async fn learn(context: &Context, id: &EndpointId, learned: Learned) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let cluster = context.cluster();
        let Some(endpoint) = cluster.endpoints.get(id).filter(|e| e.record.node == context.config.node)
        else {
            return Err(ServiceError::NotFound(format!("there is no endpoint {id} on this host")));
        };
        let record = with(&endpoint.record, &learned, |name| {
            cluster.endpoint_names.contains_key(&(endpoint.record.network.clone(), name.clone()))
        });
        if record == endpoint.record {
            return Ok(());
        }
        match context.store.commit(rewriting(endpoint, &record)).await? {
            Outcome::Committed(revision) => {
                tracing::info!(endpoint = %record.name, network = %record.network, netns = record.netns, "learned");
                return context.in_force(revision).await;
            }
            Outcome::Conflict(_) => context.catch_up(cluster.revision).await,
        }
    }
    Err(ServiceError::Unavailable(format!("endpoint {id} is changed all the time: try again")))
}

/// The record with what was learned.
fn with(known: &Endpoint, learned: &Learned, is_taken: impl Fn(&Name) -> bool) -> Endpoint {
    let mut record = known.clone();
    record.aliases = learned.aliases.clone().unwrap_or(record.aliases);
    match &learned.name {
        Some(name) if *name == known.name || !is_taken(name) => record.name = name.clone(),
        Some(name) => record.aliases.insert(0, name.clone()),
        None => {}
    }
    let mut seen = std::collections::BTreeSet::from([record.name.clone()]);
    record.aliases.retain(|alias| seen.insert(alias.clone()));
    for (key, value) in &learned.labels {
        record.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    record.netns = learned.netns.clone().unwrap_or(record.netns);
    record.ifname = learned.ifname.clone().unwrap_or(record.ifname);
    record
}

fn rewriting(endpoint: &Versioned<Endpoint>, record: &Endpoint) -> Transaction {
    let (network, known) = (&record.network, &endpoint.record);
    let key = Key::Endpoint(network.clone(), record.id.clone());
    let transaction = Transaction::new().replace(key, endpoint.revision, record);
    if record.name == known.name {
        return transaction;
    }
    transaction
        .create(Key::EndpointName(network.clone(), record.name.clone()), &record.id)
        .delete(Key::EndpointName(network.clone(), known.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn endpoint() -> Endpoint {
        let id = "00112233445566ff".parse().unwrap();
        Endpoint::sample(id, name("net"), name("001122334455"), name("host1"), [10, 0, 0, 2].into())
    }

    #[test]
    fn a_name_is_taken_over_if_it_is_free_and_is_an_alias_if_not() {
        let learned = Learned {
            name: Some(name("web")),
            aliases: Some(vec![name("www"), name("web"), name("www")]),
            ..Learned::default()
        };
        let free = with(&endpoint(), &learned, |_| false);
        assert_eq!((free.name, free.aliases), (name("web"), vec![name("www")]));
        let taken = with(&endpoint(), &learned, |_| true);
        assert_eq!((taken.name, taken.aliases), (name("001122334455"), vec![name("web"), name("www")]));
    }

    #[test]
    fn what_was_not_learned_stays_and_labels_that_are_there_too() {
        let known = Endpoint { labels: [("app".to_owned(), "db".to_owned())].into(), ..endpoint() };
        let labels = [("app".to_owned(), "web".to_owned()), ("tier".to_owned(), "1".to_owned())].into();
        let now = with(&known, &Learned { labels, ..Learned::default() }, |_| true);
        assert_eq!(now.labels.get("app").map(String::as_str), Some("db"));
        assert_eq!(now.labels.get("tier").map(String::as_str), Some("1"));
        assert_eq!(Endpoint { labels: known.labels.clone(), ..now }, known);
    }
}
