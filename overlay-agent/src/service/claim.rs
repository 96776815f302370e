//! Claiming a name and an address for an endpoint, and giving them back: the store decides who is first.

use std::{collections::BTreeMap, net::Ipv4Addr};

use overlay_common::mac::Mac;

use super::{ATTEMPTS, Context, Result, ServiceError, attach::Plan};
use crate::{
    ipam::{self, Choice, IpamError, Rest},
    model::{Address, Cluster, Endpoint, Name, Network, NetworkState, Timestamp, keys::Key},
    netns::NetnsHandle,
    store::{Outcome, Revision, Store, StoreError, Transaction},
};

/// Claims name and address in the store, once, however many hosts do the same.
pub(super) async fn claim(
    context: &Context,
    network: &Name,
    plan: &Plan,
    ns: &NetnsHandle,
) -> Result<(Endpoint, Revision)> {
    let name = plan.endpoint_name();
    for _ in 0..ATTEMPTS {
        let cluster = context.cluster();
        let network = context.network(network)?;
        check_open(&network.record)?;
        if cluster.endpoint_names.contains_key(&(network.record.name.clone(), name.clone())) {
            return Err(name_taken(&network.record.name, &name));
        }
        let rest = Rest { now: Timestamp::now(), time: context.config.address_rest };
        let choice = choose_address(&cluster, &network.record, plan.ip, rest)?;
        let endpoint = Endpoint {
            id: plan.id.clone(),
            network: network.record.name.clone(),
            name: name.clone(),
            node: context.config.node.clone(),
            ipv4: choice.ip,
            mac: plan.mac.unwrap_or(Mac::from_ipv4(choice.ip.octets())),
            ifname: plan.ifname.clone(),
            netns: ns.path().display().to_string(),
        };
        check_mac_free(&cluster, &network.record, &endpoint)?;
        match context.store.commit(claiming(&endpoint, network.revision, &choice)).await? {
            Outcome::Committed(revision) => return Ok((endpoint, revision)),
            Outcome::Conflict(key) if matches!(key.parse(), Ok(Key::EndpointName(..))) => {
                return Err(name_taken(&network.record.name, &name));
            }
            // Another host was quicker with the address, or changed the network: look again.
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
    let network = &endpoint.network;
    let released = Address::Released { at: Some(Timestamp::now()) };
    let transaction = Transaction::new()
        .delete_unchanged(Key::Endpoint(network.clone(), endpoint.id.clone()), revision)
        .delete(Key::EndpointName(network.clone(), endpoint.name.clone()))
        .delete(Key::Mac(network.clone(), endpoint.mac))
        .put(Key::Address(network.clone(), endpoint.ipv4), &released);
    store.commit(transaction).await
}

fn check_open(network: &Network) -> Result<()> {
    match network.state {
        NetworkState::Active => Ok(()),
        NetworkState::Deleting => {
            Err(ServiceError::Conflict(format!("network {} is being removed", network.name)))
        }
    }
}

fn choose_address(
    cluster: &Cluster,
    network: &Network,
    wanted: Option<Ipv4Addr>,
    rest: Rest,
) -> Result<Choice> {
    let none = BTreeMap::new();
    let claims = cluster.addresses.get(&network.name).unwrap_or(&none);
    ipam::choose(network, claims, wanted, rest).map_err(|e| match e {
        IpamError::Held { ip, network, endpoint } => {
            let holder =
                cluster.endpoints.get(&endpoint).map_or(endpoint.to_string(), |e| e.record.name.to_string());
            ServiceError::Conflict(format!(
                "address {ip} of {network} belongs to {holder}: choose another with --ip"
            ))
        }
        other => other.into(),
    })
}

/// One MAC address leads to one container: the forwarding database has one entry for it.
fn check_mac_free(cluster: &Cluster, network: &Network, endpoint: &Endpoint) -> Result<()> {
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

fn name_taken(network: &Name, name: &Name) -> ServiceError {
    ServiceError::Conflict(format!("{network} has an endpoint {name} already: choose another with --name"))
}

fn claiming(endpoint: &Endpoint, network_revision: Revision, choice: &Choice) -> Transaction {
    let network = &endpoint.network;
    let address = Key::Address(network.clone(), endpoint.ipv4);
    let held = Address::Held { endpoint: endpoint.id.clone() };
    let transaction = Transaction::new()
        .unchanged(Key::Network(network.clone()), network_revision)
        .create(Key::EndpointName(network.clone(), endpoint.name.clone()), &endpoint.id)
        .create(Key::Mac(network.clone(), endpoint.mac), &endpoint.id)
        .create(Key::Endpoint(network.clone(), endpoint.id.clone()), endpoint);
    match choice.previous {
        Some(revision) => transaction.replace(address, revision, &held),
        None => transaction.create(address, &held),
    }
}
