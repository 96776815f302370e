//! Attaching, detaching and showing containers.

use std::{collections::BTreeMap, net::Ipv4Addr, path::Path};

use ipnet::{IpNet, Ipv4Net};
use overlay_common::mac::Mac;

use super::{ATTEMPTS, Context, Result, ServiceError, views};
use crate::{
    agent::lock,
    api::types::{
        AttachRequest, AttachResult, CniInterface, CniIp, CniRoute, DetachRequest, DetachResult,
        EndpointView, LocalEndpointView, NetnsRef,
    },
    ipam::{self, Choice, IpamError},
    model::{
        Address, Cluster, Endpoint, EndpointId, Name, Network, NetworkState, cluster::Versioned, keys::Key,
    },
    netlink::{self, ContainerConfig, ContainerLink, ContainerRoute, Link, NetlinkError},
    netns::{self, NetnsHandle},
    paths,
    store::{Outcome, Revision, Store, StoreError, Transaction},
};

/// Version of the CNI result format that an attach answers with.
const CNI_VERSION: &str = "1.1.0";

/// Attaches a container: claims name and address, makes the veth pair, waits until the maps know it, and
/// only then lets the container send.
pub async fn attach(context: &Context, network: &Name, request: AttachRequest) -> Result<AttachResult> {
    check_mac(request.mac)?;
    let ns = netns::resolve(&request.netns)?;
    let network = context.network(network)?;
    check_not_attached(context, &network.record, &ns)?;
    let plan = Plan {
        id: EndpointId::random(),
        ifname: choose_ifname(&ns, request.ifname.as_deref()).await?,
        name: request.name,
        netns: request.netns,
        ip: request.ip,
        mac: request.mac,
    };
    let _progress = context.in_progress.begin(&plan.id);
    let (endpoint, revision) = claim(context, &network.record.name, &plan, &ns).await?;
    match plumb(context, &ns, &endpoint, &network.record, revision).await {
        Ok(plumbing) => {
            tracing::info!(endpoint = %endpoint.name, network = %endpoint.network, ip = %endpoint.ipv4, "attached");
            result(context, &endpoint, &network.record, plumbing)
        }
        Err(e) => {
            take_back(context, &endpoint, revision).await;
            Err(e)
        }
    }
}

/// Detaches what the request means, as far as it is attached.
pub async fn detach(context: &Context, network: &Name, request: DetachRequest) -> Result<DetachResult> {
    context.network(network)?;
    let cluster = context.cluster();
    let endpoints = match &request {
        DetachRequest::Name(name) => find_named(context, &cluster, network, name)?,
        DetachRequest::Netns(netns) => find_in_netns(context, &cluster, network, netns)?,
    };
    let mut detached = Vec::new();
    for endpoint in endpoints {
        detached.push(view(&endpoint.record, context.network(network)?.record.subnet, None));
        remove(context, &endpoint).await?;
    }
    Ok(DetachResult { detached })
}

/// All endpoints.
pub fn list(context: &Context) -> Result<Vec<EndpointView>> {
    views_of(context, |_| true)
}

/// The endpoints of a network.
pub fn of_network(context: &Context, network: &Name) -> Result<Vec<EndpointView>> {
    views_of(context, |e| e.network == *network)
}

/// The endpoints with this name or id.
pub fn inspect(context: &Context, name_or_id: &str) -> Result<Vec<EndpointView>> {
    let found = views_of(context, |e| e.name.as_str() == name_or_id || e.id.as_str() == name_or_id)?;
    if found.is_empty() {
        return Err(ServiceError::NotFound(format!(
            "there is no endpoint {name_or_id}: see `overlay endpoint ls`"
        )));
    }
    Ok(found)
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
    let transaction = Transaction::new()
        .delete_unchanged(Key::Endpoint(network.clone(), endpoint.id.clone()), revision)
        .delete(Key::EndpointName(network.clone(), endpoint.name.clone()))
        .put(Key::Address(network.clone(), endpoint.ipv4), &Address::Released);
    store.commit(transaction).await
}

/// What is to be made.
struct Plan {
    id: EndpointId,
    ifname: String,
    name: Option<Name>,
    netns: NetnsRef,
    ip: Option<Ipv4Addr>,
    mac: Option<Mac>,
}

impl Plan {
    /// The name asked for, else that of the namespace, else one made from the id.
    fn endpoint_name(&self) -> Name {
        let of_netns = || match &self.netns {
            NetnsRef::Name(name) => name.parse().ok(),
            NetnsRef::Path(path) => path.strip_prefix(paths::NETNS_DIR).ok()?.to_str()?.parse().ok(),
            NetnsRef::Pid(_) => None,
        };
        let of_id =
            || format!("ep-{}", &self.id.as_str()[..8]).parse().expect("hexadecimal digits make a name");
        self.name.clone().or_else(of_netns).unwrap_or_else(of_id)
    }
}

fn check_mac(mac: Option<Mac>) -> Result<()> {
    match mac {
        Some(mac) if mac.is_group() || mac.is_zero() => Err(ServiceError::Invalid(format!(
            "{mac} cannot be a container's MAC address: it must be a unicast address such as 02:42:0a:00:00:02"
        ))),
        _ => Ok(()),
    }
}

fn check_not_attached(context: &Context, network: &Network, ns: &NetnsHandle) -> Result<()> {
    let cluster = context.cluster();
    match cluster.endpoints_of(&network.name).find(|e| is_local(context, e) && is_in(e, ns)) {
        None => Ok(()),
        Some(there) => Err(ServiceError::Conflict(format!(
            "{} is attached to {} already, as {}: detach it first",
            ns.path().display(),
            network.name,
            there.name
        ))),
    }
}

async fn choose_ifname(ns: &NetnsHandle, wanted: Option<&str>) -> Result<String> {
    let taken = netlink::interfaces(ns).await?;
    let Some(name) = wanted else {
        let free = |name: &String| !taken.contains(name);
        return Ok((0..)
            .map(|n| format!("eth{n}"))
            .find(free)
            .expect("a namespace has finitely many devices"));
    };
    netlink::check_ifname(name)?;
    if taken.iter().any(|t| t == name) {
        return Err(ServiceError::Conflict(format!(
            "{} has an interface {name} already: name another with --ifname",
            ns.path().display()
        )));
    }
    Ok(name.to_owned())
}

/// Claims name and address in the store, once, however many hosts do the same.
async fn claim(
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
        let choice = choose_address(&cluster, &network.record, plan.ip)?;
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

fn check_open(network: &Network) -> Result<()> {
    match network.state {
        NetworkState::Active => Ok(()),
        NetworkState::Deleting => {
            Err(ServiceError::Conflict(format!("network {} is being removed", network.name)))
        }
    }
}

fn choose_address(cluster: &Cluster, network: &Network, wanted: Option<Ipv4Addr>) -> Result<Choice> {
    let none = BTreeMap::new();
    let claims = cluster.addresses.get(&network.name).unwrap_or(&none);
    ipam::choose(network, claims, wanted).map_err(|e| match e {
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
        .create(Key::Endpoint(network.clone(), endpoint.id.clone()), endpoint);
    match choice.previous {
        Some(revision) => transaction.replace(address, revision, &held),
        None => transaction.create(address, &held),
    }
}

/// What an attach made.
struct Plumbing {
    /// The host side of the veth pair.
    host: Link,
    /// Routes set in the container.
    routes: Vec<ContainerRoute>,
}

/// Makes the devices. The container's end comes up last, when its packets are filtered and its maps filled.
async fn plumb(
    context: &Context,
    ns: &NetnsHandle,
    endpoint: &Endpoint,
    network: &Network,
    revision: Revision,
) -> Result<Plumbing> {
    let mtu = network.effective_mtu(&context.reconciler.report().underlay);
    let container = ContainerLink { ifname: endpoint.ifname.clone(), mac: endpoint.mac, mtu };
    let host_name = paths::host_veth(&endpoint.id);
    context.netlink.create_veth(&host_name, ns, &container).await?;
    context.in_force(revision).await?;
    let config = ContainerConfig {
        ifname: endpoint.ifname.clone(),
        address: with_prefix(endpoint.ipv4, network.subnet),
        default_gateway: Some(network.gateway),
        disable_ipv6: true,
        mtu,
    };
    let routes = netlink::configure(ns, config).await?;
    // With GRO the container's end has a poll loop of its own, without which XDP cannot deliver to it. Only once
    // that end is up does the switch make the host's end a target of XDP redirects (`veth_set_features`).
    netlink::set_gro(ns, &endpoint.ifname, true).await?;
    let host = context.netlink.link_by_name(&host_name).await?.ok_or(NetlinkError::NoSuchLink(host_name))?;
    Ok(Plumbing { host, routes })
}

/// Undoes an attach that failed. What cannot be undone now, the reconciler collects later.
async fn take_back(context: &Context, endpoint: &Endpoint, revision: Revision) {
    if let Err(e) = context.netlink.delete_by_name(&paths::host_veth(&endpoint.id)).await {
        tracing::warn!(endpoint = %endpoint.name, reason = %e, "veth not taken back");
    }
    if let Err(e) = release(context.store.as_ref(), endpoint, revision).await {
        tracing::warn!(endpoint = %endpoint.name, reason = %e, "claim not taken back");
    }
}

async fn remove(context: &Context, endpoint: &Versioned<Endpoint>) -> Result<()> {
    let record = &endpoint.record;
    let _progress = context.in_progress.begin(&record.id);
    let outcome = release(context.store.as_ref(), record, endpoint.revision).await?;
    context.netlink.delete_by_name(&paths::host_veth(&record.id)).await?;
    if let Outcome::Committed(revision) = outcome {
        context.in_force(revision).await?;
    }
    tracing::info!(endpoint = %record.name, network = %record.network, "detached");
    Ok(())
}

fn find_named(
    context: &Context,
    cluster: &Cluster,
    network: &Name,
    name: &Name,
) -> Result<Vec<Versioned<Endpoint>>> {
    match cluster.endpoint_named(network, name) {
        None => Ok(Vec::new()),
        Some(endpoint) if is_local(context, &endpoint.record) => Ok(vec![endpoint.clone()]),
        Some(endpoint) => {
            Err(ServiceError::Conflict(format!("{name} runs on {}: detach it there", endpoint.record.node)))
        }
    }
}

/// Endpoints of a namespace: by identity while it is there, by the path it had when it is gone.
fn find_in_netns(
    context: &Context,
    cluster: &Cluster,
    network: &Name,
    netns: &NetnsRef,
) -> Result<Vec<Versioned<Endpoint>>> {
    let path = netns::path_of(netns)?;
    let handle = netns::resolve(netns).ok();
    let is_meant =
        |e: &Endpoint| Path::new(&e.netns) == path || handle.as_ref().is_some_and(|handle| is_in(e, handle));
    let all = cluster.endpoints.values().filter(|e| e.record.network == *network);
    Ok(all.filter(|e| is_local(context, &e.record) && is_meant(&e.record)).cloned().collect())
}

fn is_local(context: &Context, endpoint: &Endpoint) -> bool {
    endpoint.node == context.config.node
}

fn is_in(endpoint: &Endpoint, ns: &NetnsHandle) -> bool {
    let there = netns::resolve(&NetnsRef::Path(endpoint.netns.clone().into()));
    there.is_ok_and(|there| there.identity() == ns.identity())
}

fn result(context: &Context, endpoint: &Endpoint, network: &Network, made: Plumbing) -> Result<AttachResult> {
    let host = CniInterface {
        name: made.host.name,
        mac: made.host.mac,
        mtu: u16::try_from(made.host.mtu).unwrap_or(u16::MAX),
        sandbox: String::new(),
    };
    let container = CniInterface {
        name: endpoint.ifname.clone(),
        mac: endpoint.mac,
        mtu: network.effective_mtu(&context.reconciler.report().underlay),
        sandbox: endpoint.netns.clone(),
    };
    let view = inspect(context, endpoint.id.as_str())?.into_iter().next().ok_or_else(|| {
        ServiceError::Conflict(format!("{} was detached while it was being attached", endpoint.name))
    })?;
    Ok(AttachResult {
        cni_version: CNI_VERSION.to_owned(),
        interfaces: vec![host, container],
        ips: vec![CniIp { interface: 1, address: IpNet::V4(view.ip), gateway: network.gateway }],
        routes: made.routes.iter().map(|r| CniRoute { dst: r.destination.into(), gw: r.gateway }).collect(),
        endpoint: view,
    })
}

fn views_of(context: &Context, wanted: impl Fn(&Endpoint) -> bool) -> Result<Vec<EndpointView>> {
    let cluster = context.cluster();
    let (stats, drops) = {
        let datapath = lock(&context.datapath);
        (datapath.maps().endpoint_stats()?, datapath.maps().drops()?)
    };
    let veths = context.reconciler.report().host_veths;
    let local = |endpoint: &Endpoint| {
        let ifindex = *veths.get(&endpoint.id)?;
        let stats = stats.get(&ifindex).copied().unwrap_or_default();
        Some(LocalEndpointView {
            host_ifname: paths::host_veth(&endpoint.id),
            host_ifindex: ifindex,
            tx_packets: stats.tx_packets,
            tx_bytes: stats.tx_bytes,
            rx_packets: stats.rx_packets,
            rx_bytes: stats.rx_bytes,
            drops: views::drops_of(context, ifindex, &drops),
        })
    };
    let endpoints = cluster.endpoints.values().map(|e| &e.record).filter(|e| wanted(e));
    let with_subnet = endpoints.filter_map(|e| Some((e, cluster.networks.get(&e.network)?.record.subnet)));
    let mut views: Vec<_> = with_subnet.map(|(e, subnet)| view(e, subnet, local(e))).collect();
    views.sort_by(|a, b| (&a.network, &a.name).cmp(&(&b.network, &b.name)));
    Ok(views)
}

fn view(endpoint: &Endpoint, subnet: Ipv4Net, local: Option<LocalEndpointView>) -> EndpointView {
    EndpointView {
        id: endpoint.id.clone(),
        name: endpoint.name.clone(),
        network: endpoint.network.clone(),
        node: endpoint.node.clone(),
        ip: with_prefix(endpoint.ipv4, subnet),
        mac: endpoint.mac,
        ifname: endpoint.ifname.clone(),
        netns: endpoint.netns.clone(),
        local,
    }
}

fn with_prefix(ip: Ipv4Addr, subnet: Ipv4Net) -> Ipv4Net {
    Ipv4Net::new(ip, subnet.prefix_len()).unwrap_or(subnet)
}
