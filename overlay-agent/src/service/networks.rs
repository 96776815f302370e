//! Creating, showing and removing networks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use ipnet::Ipv4Net;
use overlay_common::vni::Vni;

use super::{ATTEMPTS, Context, Result, ServiceError, endpoints};
use crate::{
    api::types::{CreateIpv6, CreateNetwork, NetworkView},
    ipam::{self, ValidSubnet},
    ipam6,
    model::{
        Cluster, Name, Network, NetworkState,
        cluster::Versioned,
        keys::{Key, ROOT},
    },
    store::{MAX_OPERATIONS, Outcome, Transaction},
};

/// Smallest MTU that a network may be given: what every IPv4 host must be able to receive (RFC 791).
const MIN_MTU: u16 = 576;
/// The same for IPv6 (RFC 8200 section 5).
const MIN_IPV6_MTU: u16 = 1280;

/// Creates a network; what the request leaves out is chosen, and chosen again if another host is quicker.
pub async fn create(context: &Context, request: CreateNetwork) -> Result<NetworkView> {
    check_mtu(context, &request)?;
    let host_subnets = context.netlink.ipv4_addresses(context.reconciler.report().underlay.ifindex).await?;
    for _ in 0..ATTEMPTS {
        let cluster = context.cluster();
        check_name(&cluster, &request.name)?;
        let network = design(&cluster, &request, &host_subnets)?;
        let transaction = in_this_cluster(&cluster, creation(&network, request.subnet.is_none()));
        match context.store.commit(transaction).await? {
            Outcome::Committed(revision) => {
                tracing::info!(network = %network.name, vni = %network.vni, subnet = %network.subnet, "network created");
                context.in_force(revision).await?;
                return Ok(view(context, &network));
            }
            Outcome::Conflict(key) => check_conflict(&key, &request)?,
        }
        context.catch_up(cluster.revision).await;
    }
    Err(ServiceError::Unavailable("other hosts create networks all the time: try again".to_owned()))
}

/// The network if it is there.
///
/// # Errors
/// If it is there and other than asked for: of what the request leaves out nothing is asked.
pub fn agreeing(context: &Context, request: &CreateNetwork) -> Result<Option<NetworkView>> {
    let Some(there) = context.cluster().networks.get(&request.name).cloned() else { return Ok(None) };
    let view = view(context, &there.record);
    match differences(&view, request).as_slice() {
        [] => Ok(Some(view)),
        differences => Err(ServiceError::Conflict(format!(
            "network {} exists with {}: ask for what is there, or for another network",
            request.name,
            differences.join(" and ")
        ))),
    }
}

/// Creates a network, or agrees with whoever does so at the same time.
pub async fn ensure(context: &Context, request: CreateNetwork) -> Result<NetworkView> {
    let known = context.cluster().revision;
    match create(context, request.clone()).await {
        Err(ServiceError::Conflict(reason)) => {
            context.catch_up(known).await;
            agreeing(context, &request)?.ok_or(ServiceError::Conflict(reason))
        }
        other => other,
    }
}

/// What of a network is not as asked for, as text.
fn differences(there: &NetworkView, asked: &CreateNetwork) -> Vec<String> {
    fn differ<T: PartialEq + Display>(what: &str, there: Option<T>, asked: Option<T>) -> Option<String> {
        let asked = asked.filter(|asked| there.as_ref() != Some(asked))?;
        let there = there.map_or_else(|| "none".to_owned(), |there| there.to_string());
        Some(format!("{what} {there}, not {asked}"))
    }
    let internal =
        (asked.internal && !there.internal).then(|| "a way to the outside, not internal".to_owned());
    let multicast =
        (asked.multicast && !there.multicast).then(|| "no multicast, not with multicast".to_owned());
    let lacks_ipv6 = asked.ipv6 == Some(CreateIpv6::default()) && there.ipv6_subnet.is_none();
    let ipv6 = lacks_ipv6.then(|| "IPv4 alone, not with IPv6".to_owned());
    let labels = asked.labels.iter().filter_map(|(key, value)| {
        differ(&format!("label {key}"), there.labels.get(key).map(String::as_str), Some(value.as_str()))
    });
    [
        differ("subnet", Some(there.subnet), asked.subnet),
        differ("gateway", Some(there.gateway), asked.gateway),
        differ("IP range", there.ip_range, asked.ip_range),
        ipv6,
        differ("IPv6 subnet", there.ipv6_subnet, asked.ipv6.and_then(|ipv6| ipv6.subnet)),
        differ("IPv6 gateway", there.ipv6_gateway, asked.ipv6.and_then(|ipv6| ipv6.gateway)),
        differ("VNI", Some(there.vni), asked.vni),
        differ("MTU", Some(there.mtu), asked.mtu),
        internal,
        multicast,
    ]
    .into_iter()
    .flatten()
    .chain(labels)
    .collect()
}

/// All networks, without their endpoints.
pub fn list(context: &Context) -> Vec<NetworkView> {
    context.cluster().networks.values().map(|n| view(context, &n.record)).collect()
}

/// One network with its endpoints.
pub fn inspect(context: &Context, name: &Name) -> Result<NetworkView> {
    let network = context.network(name)?.record;
    let endpoints = endpoints::of_network(context, name)?;
    Ok(NetworkView { endpoints, ..view(context, &network) })
}

/// Removes a network: first closes it to new endpoints, then looks whether it has any.
pub async fn remove(context: &Context, name: &Name) -> Result<NetworkView> {
    let network = context.network(name)?;
    let closed = close(context, &network).await?;
    let endpoints = count_endpoints(context, name).await?;
    if endpoints > 0 {
        reopen(context, &closed).await?;
        return Err(has_endpoints(context, name, endpoints));
    }
    remove_below(context, name).await?;
    let transaction = removal(context, &closed).await?;
    let Outcome::Committed(revision) = context.store.commit(transaction).await? else {
        return Err(ServiceError::Conflict(format!(
            "network {name} is being changed by another host: try again"
        )));
    };
    tracing::info!(network = %name, "network removed");
    context.in_force(revision).await?;
    Ok(view(context, &network.record))
}

pub(super) fn view(context: &Context, network: &Network) -> NetworkView {
    NetworkView {
        name: network.name.clone(),
        vni: network.vni,
        subnet: network.subnet,
        gateway: network.gateway,
        ip_range: network.ip_range,
        ipv6_subnet: network.ipv6.map(|ipv6| ipv6.subnet),
        ipv6_gateway: network.ipv6.map(|ipv6| ipv6.gateway),
        mtu: network.effective_mtu(&context.reconciler.report().underlay),
        internal: network.internal,
        multicast: network.multicast,
        labels: network.labels.clone(),
        scope: "global".to_owned(),
        endpoints: Vec::new(),
    }
}

pub(super) fn check_mtu(context: &Context, request: &CreateNetwork) -> Result<()> {
    let underlay = context.reconciler.report().underlay;
    let most = underlay.overlay_mtu();
    let least = if request.ipv6.is_some() { MIN_IPV6_MTU } else { MIN_MTU };
    match request.mtu {
        None if most < least && request.ipv6.is_some() => Err(ServiceError::Invalid(format!(
            "IPv6 needs an MTU of {least}, and the underlay's {} leaves {most}",
            underlay.mtu
        ))),
        Some(mtu) if mtu < least || mtu > most => Err(ServiceError::Invalid(format!(
            "MTU {mtu} cannot be: it must lie between {least} and {most}, what the underlay's {} leaves",
            underlay.mtu
        ))),
        _ => Ok(()),
    }
}

fn check_name(cluster: &Cluster, name: &Name) -> Result<()> {
    if cluster.networks.contains_key(name) {
        return Err(name_taken(name));
    }
    Ok(())
}

pub(super) fn name_taken(name: &Name) -> ServiceError {
    ServiceError::Conflict(format!("network {name} exists already: choose another name, or remove it first"))
}

/// The record of the network that is asked for.
pub(super) fn design(
    cluster: &Cluster,
    request: &CreateNetwork,
    host_subnets: &[Ipv4Net],
) -> Result<Network> {
    let subnet = match request.subnet {
        Some(subnet) => subnet,
        None => {
            let used: Vec<Ipv4Net> = cluster
                .networks
                .values()
                .map(|n| n.record.subnet)
                .chain(host_subnets.iter().copied())
                .collect();
            ipam::next_subnet(&used)?
        }
    };
    let ValidSubnet { subnet, gateway, ip_range } =
        ipam::check_network(subnet, request.gateway, request.ip_range)?;
    let ipv6 = request
        .ipv6
        .map(|ipv6| ipam6::check_network(ipv6.subnet.unwrap_or_else(ipam6::random_subnet), ipv6.gateway));
    let vni = match request.vni {
        Some(vni) if cluster.vnis.contains(&vni) => return Err(vni_taken(vni)),
        Some(vni) => vni,
        None => ipam::next_vni(&cluster.vnis)?,
    };
    Ok(Network {
        name: request.name.clone(),
        vni,
        subnet,
        gateway,
        ip_range,
        ipv6: ipv6.transpose()?,
        mtu: request.mtu,
        internal: request.internal,
        multicast: request.multicast,
        labels: request.labels.clone(),
        state: NetworkState::Active,
        engines: BTreeMap::new(),
        made_by_engine: false,
    })
}

fn vni_taken(vni: Vni) -> ServiceError {
    ServiceError::Conflict(format!(
        "VNI {vni} belongs to another network: choose another, or leave --vni out"
    ))
}

/// Requires that the store is this cluster's, and was not wiped since it was last looked at.
pub(super) fn in_this_cluster(cluster: &Cluster, transaction: Transaction) -> Transaction {
    match &cluster.identity {
        Some(record) => transaction.unchanged(Key::Cluster, record.revision),
        None => transaction,
    }
}

pub(super) fn creation(network: &Network, subnet_was_chosen: bool) -> Transaction {
    let transaction = Transaction::new()
        .create(Key::Network(network.name.clone()), network)
        .create(Key::Vni(network.vni), &network.name);
    // Only chosen subnets are claimed: two that are asked for may overlap.
    if subnet_was_chosen {
        transaction.create(Key::Subnet(network.subnet), &network.name)
    } else {
        transaction
    }
}

/// Whether to choose again after losing a race; an error if what was lost had been asked for.
fn check_conflict(key: &str, request: &CreateNetwork) -> Result<()> {
    match (key.parse::<Key>(), request.vni) {
        (Ok(Key::Network(name)), _) => Err(name_taken(&name)),
        (Ok(Key::Vni(vni)), Some(_)) => Err(vni_taken(vni)),
        _ => Ok(()),
    }
}

/// Marks the network so that no endpoint can be attached any more.
pub(super) async fn close(context: &Context, network: &Versioned<Network>) -> Result<Versioned<Network>> {
    let name = &network.record.name;
    let record = Network { state: NetworkState::Deleting, ..network.record.clone() };
    let transaction = Transaction::new().replace(Key::Network(name.clone()), network.revision, &record);
    match context.store.commit(transaction).await? {
        Outcome::Committed(revision) => Ok(Versioned { record, revision }),
        Outcome::Conflict(_) => {
            Err(ServiceError::Conflict(format!("network {name} is being changed by another host: try again")))
        }
    }
}

pub(super) async fn reopen(context: &Context, closed: &Versioned<Network>) -> Result<()> {
    let record = Network { state: NetworkState::Active, ..closed.record.clone() };
    let key = Key::Network(record.name.clone());
    // Whoever changed it meanwhile knows better.
    context.store.commit(Transaction::new().replace(key, closed.revision, &record)).await?;
    Ok(())
}

pub(super) fn has_endpoints(context: &Context, name: &Name, count: usize) -> ServiceError {
    let cluster = context.cluster();
    let names: BTreeSet<String> = cluster.endpoints_of(name).map(|e| e.name.to_string()).collect();
    let names = names.into_iter().take(5).collect::<Vec<_>>().join(", ");
    ServiceError::Conflict(format!("network {name} has {count} endpoints ({names}): detach them first"))
}

/// How many endpoints the store has in a network, now.
pub(super) async fn count_endpoints(context: &Context, name: &Name) -> Result<usize> {
    Ok(context.store.list(&format!("{ROOT}endpoints/{name}/")).await?.entries.len())
}

/// Removes what is left of a network's addresses, its policies and rules, in as many steps as the store needs. The network
/// is closed, and removed after them, so that whoever is stopped in between can begin again.
async fn remove_below(context: &Context, name: &Name) -> Result<()> {
    let addresses = context.store.list(&format!("{ROOT}addresses/{name}/")).await?;
    let cluster = context.cluster();
    let policies = cluster.policies.keys().filter(|(from, to)| from == name || to == name);
    let policies = policies.map(|(from, to)| Key::Policy(from.clone(), to.clone()).to_string());
    let rules = cluster.rules.iter().filter(|((from, to), _)| from == name || to == name);
    let rules = rules.flat_map(|((from, to), rules)| {
        rules.keys().map(|id| Key::Rule(from.clone(), to.clone(), *id).to_string())
    });
    let addresses = addresses.entries.into_iter().map(|entry| entry.key);
    let keys: Vec<String> = addresses.chain(policies).chain(rules).collect();
    for some in keys.chunks(MAX_OPERATIONS) {
        let transaction = some.iter().fold(Transaction::new(), |transaction, key| transaction.delete(key));
        context.store.commit(transaction).await?;
    }
    Ok(())
}

/// The network itself, with its claims.
async fn removal(context: &Context, closed: &Versioned<Network>) -> Result<Transaction> {
    let Network { name, vni, subnet, .. } = &closed.record;
    let transaction = Transaction::new()
        .delete_unchanged(Key::Network(name.clone()), closed.revision)
        .delete(Key::Vni(*vni));
    let owned = owns_subnet_claim(context, &closed.record).await?;
    Ok(if owned { transaction.delete(Key::Subnet(*subnet)) } else { transaction })
}

pub(super) async fn owns_subnet_claim(context: &Context, network: &Network) -> Result<bool> {
    let claim = context.store.get(&Key::Subnet(network.subnet).to_string()).await?;
    let owner = claim.and_then(|entry| serde_json::from_slice::<Name>(&entry.value).ok());
    Ok(owner.as_ref() == Some(&network.name))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn there() -> NetworkView {
        NetworkView {
            ipv6_subnet: None,
            ipv6_gateway: None,
            name: "blue".parse().unwrap(),
            vni: Vni::new(300).unwrap(),
            subnet: "10.1.0.0/24".parse().unwrap(),
            gateway: [10, 1, 0, 1].into(),
            ip_range: None,
            mtu: 1450,
            internal: false,
            multicast: false,
            labels: [("team".to_owned(), "db".to_owned())].into(),
            scope: "global".to_owned(),
            endpoints: Vec::new(),
        }
    }

    #[rstest]
    #[case("{}", &[])]
    #[case(r#"{"subnet": "10.1.0.0/24", "vni": 300, "mtu": 1450, "labels": {"team": "db"}}"#, &[])]
    #[case(r#"{"subnet": "10.2.0.0/24"}"#, &["subnet 10.1.0.0/24, not 10.2.0.0/24"])]
    #[case(r#"{"gateway": "10.1.0.9", "vni": 9}"#, &["gateway 10.1.0.1, not 10.1.0.9", "VNI 300, not 9"])]
    #[case(r#"{"ip_range": "10.1.0.64/26"}"#, &["IP range none, not 10.1.0.64/26"])]
    #[case(r#"{"mtu": 1400, "internal": true}"#, &["MTU 1450, not 1400", "a way to the outside, not internal"])]
    #[case(r#"{"ipv6": {}}"#, &["IPv4 alone, not with IPv6"])]
    #[case(r#"{"ipv6": {"subnet": "fd00::/64"}}"#, &["IPv6 subnet none, not fd00::/64"])]
    #[case(r#"{"labels": {"team": "web", "x": "1"}}"#, &["label team db, not web", "label x none, not 1"])]
    fn a_network_agrees_with_who_asks_for_no_more_than_it_is(#[case] asked: &str, #[case] expected: &[&str]) {
        let mut asked: serde_json::Value = serde_json::from_str(asked).unwrap();
        asked["name"] = "blue".into();
        let asked = serde_json::from_value(asked).unwrap();
        assert_eq!(differences(&there(), &asked), expected);
    }
}
