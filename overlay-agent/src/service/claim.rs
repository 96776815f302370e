//! Claiming a name and an address for an endpoint, and giving them back: the store decides who is first.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use overlay_common::mac::Mac;

use super::{ATTEMPTS, Context, Result, ServiceError, attach::Plan, nodes::open_node};
use crate::{
    ipam::{self, Choice, IpamError, Rest},
    ipam6,
    model::{
        Address, Cluster, Endpoint, Name, Network, NetworkState, Timestamp, cluster::Versioned, keys::Key,
    },
    store::{Outcome, Revision, Store, StoreError, Transaction},
};

/// Claims name and address in the store, once, however many hosts do the same.
pub(super) async fn claim(
    context: &Context,
    network: &Name,
    plan: &Plan,
    netns: &str,
) -> Result<(Endpoint, Revision)> {
    let (mut name, mut aliases) = (plan.endpoint_name(), plan.aliases.clone());
    for _ in 0..ATTEMPTS {
        let cluster = context.cluster();
        let node = open_node(&cluster, &context.config.node)?;
        let network = context.network(network)?;
        check_open(&network.record)?;
        if cluster.endpoint_names.contains_key(&(network.record.name.clone(), name.clone())) {
            if !plan.name_may_be_taken {
                return Err(name_taken(&network.record.name, &name));
            }
            aliases.insert(0, std::mem::replace(&mut name, plan.name_of_id()));
        }
        let rest = Rest { now: Timestamp::now(), time: context.config.address_rest };
        let choices =
            Choices::make(&cluster, &network.record, plan, rest).map_err(|e| address_refused(&cluster, e))?;
        let endpoint = Endpoint {
            id: plan.id.clone(),
            network: network.record.name.clone(),
            name: name.clone(),
            aliases: aliases.clone(),
            labels: plan.labels.clone(),
            node: context.config.node.clone(),
            vtep: None,
            ipv4: choices.ipv4.ip,
            ipv6: choices.ipv6.map(|choice| choice.ip),
            mac: plan.mac.unwrap_or(Mac::from_ipv4(choices.ipv4.ip.octets())),
            ifname: plan.ifname.clone(),
            netns: netns.to_owned(),
            published: plan.published.clone(),
            owner: plan.owner.clone(),
            limits: plan.limits,
        };
        check_mac_free(&cluster, &network.record, &endpoint)?;
        let transaction = Transaction::new().unchanged(Key::Node(endpoint.node.clone()), node);
        let transaction = claiming(transaction, &endpoint, network.revision, &choices);
        match context.store.commit(transaction).await? {
            Outcome::Committed(revision) => return Ok((endpoint, revision)),
            Outcome::Conflict(key)
                if !plan.name_may_be_taken && matches!(key.parse(), Ok(Key::EndpointName(..))) =>
            {
                return Err(name_taken(&network.record.name, &name));
            }
            // Another host was quicker with the address, or changed the network or this node: look again.
            Outcome::Conflict(_) => context.catch_up(cluster.revision).await,
        }
    }
    Err(ServiceError::Unavailable(format!("other hosts attach to {network} all the time: try again")))
}

/// Takes an endpoint out of the store, and gives its address free. One that is gone, or another by now,
/// is left alone.
///
/// # Errors
/// If the store does not answer.
pub(crate) async fn release(
    store: &dyn Store,
    endpoint: &Endpoint,
    revision: Revision,
) -> std::result::Result<Outcome, StoreError> {
    store.commit(releasing(endpoint, revision)).await
}

/// The transaction that takes an endpoint out of the store, if it is still as it was at `revision`.
pub(super) fn releasing(endpoint: &Endpoint, revision: Revision) -> Transaction {
    let network = &endpoint.network;
    let released = Address::Released { at: Some(Timestamp::now()) };
    let transaction = Transaction::new()
        .delete_unchanged(Key::Endpoint(network.clone(), endpoint.id.clone()), revision)
        .delete(Key::EndpointName(network.clone(), endpoint.name.clone()))
        .delete(Key::Mac(network.clone(), endpoint.mac));
    endpoint
        .addresses()
        .fold(transaction, |transaction, ip| transaction.put(Key::Address(network.clone(), ip), &released))
}

/// What came of claiming again what was collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reclaim {
    /// All is as it was.
    Claimed,
    /// The network or the node was changed meanwhile: look again.
    Later,
    /// Somebody else has some of it.
    Taken(String),
}

/// Claims name, addresses and identity of a collected endpoint again, in one transaction.
///
/// # Errors
/// If the store does not answer.
pub(crate) async fn reclaim(
    store: &dyn Store,
    cluster: &Cluster,
    collected: &Versioned<Endpoint>,
) -> std::result::Result<Reclaim, StoreError> {
    let Versioned { record: endpoint, revision } = collected;
    let Some(network) = cluster.networks.get(&endpoint.network) else {
        return Ok(Reclaim::Taken(format!("network {} was removed", endpoint.network)));
    };
    let Some(node) = cluster.nodes.get(&endpoint.node) else { return Ok(Reclaim::Later) };
    let rest = Rest { now: Timestamp::now(), time: std::time::Duration::ZERO };
    let choices = match Choices::of(cluster, &network.record, endpoint, rest) {
        Ok(choices) => choices,
        Err(e) => return Ok(Reclaim::Taken(no_address(cluster, &e))),
    };
    let kept = Key::Collected(endpoint.node.clone(), endpoint.id.clone());
    // First: if it is no longer kept, whatever else is in the way may be this very endpoint.
    let transaction = Transaction::new().delete_unchanged(kept, *revision);
    let transaction = transaction.unchanged(Key::Node(endpoint.node.clone()), node.revision);
    let transaction = claiming(transaction, endpoint, network.revision, &choices);
    Ok(match store.commit(transaction).await? {
        Outcome::Committed(_) => Reclaim::Claimed,
        Outcome::Conflict(key) => match key.parse() {
            Ok(Key::EndpointName(_, name)) => Reclaim::Taken(format!("another endpoint is called {name}")),
            Ok(Key::Mac(_, mac)) => Reclaim::Taken(format!("another endpoint has the MAC {mac}")),
            _ => Reclaim::Later,
        },
    })
}

/// Forgets an endpoint that was collected.
///
/// # Errors
/// If the store does not answer.
pub(crate) async fn forget_collected(
    store: &dyn Store,
    collected: &Versioned<Endpoint>,
) -> std::result::Result<(), StoreError> {
    let Versioned { record, revision } = collected;
    let key = Key::Collected(record.node.clone(), record.id.clone());
    store.commit(Transaction::new().delete_unchanged(key, *revision)).await.map(drop)
}

pub(super) fn check_open(network: &Network) -> Result<()> {
    match network.state {
        NetworkState::Active => Ok(()),
        NetworkState::Deleting => {
            Err(ServiceError::Conflict(format!("network {} is being removed", network.name)))
        }
    }
}

/// The addresses of an endpoint, and how to claim them.
pub(super) struct Choices {
    ipv4: Choice<Ipv4Addr>,
    ipv6: Option<Choice<Ipv6Addr>>,
}

impl Choices {
    /// For an endpoint that is to be made: those that its plan names, and the next free ones of what is left out.
    fn make(
        cluster: &Cluster,
        network: &Network,
        plan: &Plan,
        rest: Rest,
    ) -> std::result::Result<Self, IpamError> {
        let name = &network.name;
        let ipv4 = match reserved(plan, cluster.addresses.get(name), plan.ip) {
            Some(choice) => choice,
            None => choose_ipv4(cluster, network, plan.ip, rest)?,
        };
        let ipv6 = match reserved(plan, cluster.addresses_ipv6.get(name), plan.ipv6) {
            Some(choice) => Some(choice),
            None => choose_ipv6(cluster, network, plan.ipv6, rest)?,
        };
        Ok(Self { ipv4, ipv6 })
    }

    /// For an endpoint whose addresses are fixed: those and no others.
    pub(super) fn of(
        cluster: &Cluster,
        network: &Network,
        endpoint: &Endpoint,
        rest: Rest,
    ) -> std::result::Result<Self, IpamError> {
        let ipv4 = choose_ipv4(cluster, network, Some(endpoint.ipv4), rest)?;
        let ipv6 = match endpoint.ipv6 {
            Some(ip) => choose_ipv6(cluster, network, Some(ip), rest)?,
            None => None,
        };
        Ok(Self { ipv4, ipv6 })
    }

    /// The claims to write, with the revisions of those that they replace.
    fn claims(&self) -> impl Iterator<Item = (IpAddr, Option<Revision>)> {
        let ipv4 = (IpAddr::V4(self.ipv4.ip), self.ipv4.previous);
        [ipv4].into_iter().chain(self.ipv6.map(|choice| (IpAddr::V6(choice.ip), choice.previous)))
    }
}

pub(super) fn choose_ipv4(
    cluster: &Cluster,
    network: &Network,
    wanted: Option<Ipv4Addr>,
    rest: Rest,
) -> std::result::Result<Choice<Ipv4Addr>, IpamError> {
    let none = BTreeMap::new();
    ipam::choose(network, cluster.addresses.get(&network.name).unwrap_or(&none), wanted, rest)
}

/// An address that a front end was given on this node, for the endpoint that it now makes.
fn reserved<Ip: Ord + Copy>(
    plan: &Plan,
    claims: Option<&BTreeMap<Ip, Versioned<Address>>>,
    ip: Option<Ip>,
) -> Option<Choice<Ip>> {
    let ip = ip?;
    let claim = claims?.get(&ip)?;
    let is_its =
        matches!(&claim.record, Address::Reserved { node, .. } if plan.reserved_on.as_ref() == Some(node));
    is_its.then_some(Choice { ip, previous: Some(claim.revision) })
}

/// None in a network without IPv6.
pub(super) fn choose_ipv6(
    cluster: &Cluster,
    network: &Network,
    wanted: Option<Ipv6Addr>,
    rest: Rest,
) -> std::result::Result<Option<Choice<Ipv6Addr>>, IpamError> {
    let (name, none) = (&network.name, BTreeMap::new());
    let claims = cluster.addresses_ipv6.get(name).unwrap_or(&none);
    match (&network.ipv6, wanted) {
        (Some(ipv6), wanted) => ipam6::choose(name, ipv6, claims, wanted, rest).map(Some),
        (None, Some(ip)) => Err(IpamError::NoIpv6 { ip, network: name.clone() }),
        (None, None) => Ok(None),
    }
}

/// The sentence that an address is another's, with its name where it has one.
fn no_address(cluster: &Cluster, error: &IpamError) -> String {
    match error {
        IpamError::Held { ip, network, endpoint } => {
            let holder =
                cluster.endpoints.get(endpoint).map_or(endpoint.to_string(), |e| e.record.name.to_string());
            format!("address {ip} of {network} belongs to {holder}")
        }
        other => other.to_string(),
    }
}

pub(super) fn address_refused(cluster: &Cluster, error: IpamError) -> ServiceError {
    if matches!(error, IpamError::Held { .. } | IpamError::Reserved { .. }) {
        return ServiceError::Conflict(format!("{}: choose another with --ip", no_address(cluster, &error)));
    }
    error.into()
}

/// One MAC address leads to one container: the forwarding database has one entry for it.
pub(super) fn check_mac_free(cluster: &Cluster, network: &Network, endpoint: &Endpoint) -> Result<()> {
    let gateway = network.gateway_mac() == endpoint.mac;
    let other = cluster.endpoints_of(&network.name).find(|e| e.mac == endpoint.mac);
    match (gateway, other) {
        (false, None) => Ok(()),
        (true, _) => Err(mac_taken(endpoint, "the gateway")),
        (_, Some(other)) => Err(mac_taken(endpoint, other.name.as_str())),
    }
}

fn mac_taken(endpoint: &Endpoint, owner: &str) -> ServiceError {
    ServiceError::Conflict(format!(
        "MAC {} belongs to {owner} in {}: choose another, or leave --mac out",
        endpoint.mac, endpoint.network
    ))
}

pub(super) fn name_taken(network: &Name, name: &Name) -> ServiceError {
    ServiceError::Conflict(format!("{network} has an endpoint {name} already: choose another with --name"))
}

/// Adds what makes an endpoint, if its network's record has not changed.
pub(super) fn claiming(
    transaction: Transaction,
    endpoint: &Endpoint,
    network_revision: Revision,
    choices: &Choices,
) -> Transaction {
    let network = &endpoint.network;
    let held = Address::Held { endpoint: endpoint.id.clone() };
    let transaction = transaction
        .unchanged(Key::Network(network.clone()), network_revision)
        .create(Key::EndpointName(network.clone(), endpoint.name.clone()), &endpoint.id)
        .create(Key::Mac(network.clone(), endpoint.mac), &endpoint.id)
        .create(Key::Endpoint(network.clone(), endpoint.id.clone()), endpoint);
    choices.claims().fold(transaction, |transaction, (ip, previous)| {
        let address = Key::Address(network.clone(), ip);
        match previous {
            Some(revision) => transaction.replace(address, revision, &held),
            None => transaction.create(address, &held),
        }
    })
}
