//! Address pools and addresses: the engine asks for them before it says for which network or endpoint.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ipnet::{IpNet, Ipv4Net};

use super::{
    Answer, Driver,
    options::{self, NAME},
    protocol::{
        Empty, GATEWAY, REQUEST_ADDRESS_TYPE, ReleaseAddress, ReleasePool, RequestAddress, RequestPool,
        RequestedAddress, RequestedPool,
    },
};
use crate::{
    agent::lock,
    ipam,
    model::{Name, Network},
    service::Service,
};

/// Where our addresses are from, in Docker's words.
pub const ADDRESS_SPACE: &str = "overlay-ebpf";
/// How long a pool waits for its network: the engine creates it at once, or never.
const LIFE: Duration = Duration::from_mins(1);

/// A pool that was asked for, before its network.
#[derive(Clone, Debug)]
pub struct PendingPool {
    /// What the engine calls it.
    pub id: String,
    /// The network's name in the cluster, if it was given.
    pub name: Option<Name>,
    /// Its addresses.
    pub subnet: Ipv4Net,
    /// Its gateway.
    pub gateway: Ipv4Addr,
    /// Part of the subnet that addresses are given from.
    pub ip_range: Option<Ipv4Net>,
    /// Whether we chose the subnet.
    pub was_chosen: bool,
    since: Instant,
}

/// The pools whose network is still to come.
#[derive(Default)]
pub struct Pending(Mutex<Vec<PendingPool>>);

impl Pending {
    fn add(&self, pool: PendingPool) {
        let mut pools = lock(&self.0);
        pools.retain(|other| other.id != pool.id && other.since.elapsed() < LIFE);
        pools.push(pool);
    }

    /// The latest pool with this subnet, and with this name if it has one: that is all the engine says of it.
    pub fn take(&self, subnet: Ipv4Net, name: Option<&Name>) -> Option<PendingPool> {
        let mut pools = lock(&self.0);
        let is_meant = |pool: &PendingPool| {
            pool.subnet == subnet && name.is_none_or(|name| pool.name.as_ref().is_none_or(|own| own == name))
        };
        let position = pools.iter().rposition(is_meant)?;
        Some(pools.remove(position))
    }

    fn release(&self, id: &str) {
        lock(&self.0).retain(|pool| pool.id != id);
    }

    fn subnets(&self) -> Vec<Ipv4Net> {
        lock(&self.0).iter().filter(|pool| pool.since.elapsed() < LIFE).map(|pool| pool.subnet).collect()
    }

    /// Changes the gateway of a pool; its subnet, if there is such a pool.
    fn set_gateway(&self, id: &str, gateway: Option<Ipv4Addr>) -> Option<Answer<Ipv4Net>> {
        let mut pools = lock(&self.0);
        let pool = pools.iter_mut().find(|pool| pool.id == id)?;
        let gateway = gateway.unwrap_or(pool.gateway);
        let checked = ipam::check_network(pool.subnet, Some(gateway), pool.ip_range);
        pool.gateway = gateway;
        Some(checked.map_err(|e| e.to_string().into()).map(|_| within(gateway, pool.subnet)))
    }
}

/// Gives a pool: that of the network that was named, the one asked for, or the next that is free.
pub(super) async fn request(driver: Arc<Driver>, request: RequestPool) -> Answer<RequestedPool> {
    if request.v6 {
        return Err("this driver gives no IPv6 addresses: create the network without --ipv6".into());
    }
    if let Some(unknown) = request.options.keys().find(|key| *key != NAME) {
        return Err(format!("this driver has no --ipam-opt {unknown}: it has {NAME}=NAME").into());
    }
    let name = request.options.get(NAME).map(|name| options::parse_name(name)).transpose()?;
    let subnet = parse_net("--subnet", &request.pool)?;
    let ip_range = parse_net("--ip-range", &request.sub_pool)?;
    let service = driver.service().await?;
    let there = name.as_ref().and_then(|name| service.cluster().networks.get(name).map(|n| n.record.clone()));
    let pool = match there {
        Some(network) => of_network(&service, &network, subnet, ip_range).await?,
        None => fresh(&driver, &service, name, subnet, ip_range).await?,
    };
    let data = BTreeMap::from([(GATEWAY, within(pool.gateway, pool.subnet).to_string())]);
    let requested = RequestedPool { pool_id: pool.id.clone(), pool: pool.subnet.to_string(), data };
    driver.pools.add(pool);
    Ok(requested)
}

/// The pool of a network that is there.
async fn of_network(
    service: &Service,
    network: &Network,
    subnet: Option<Ipv4Net>,
    ip_range: Option<Ipv4Net>,
) -> Answer<PendingPool> {
    let Network { name, .. } = network;
    if let Some(other) = subnet.filter(|subnet| *subnet != network.subnet) {
        return Err(format!(
            "network {name} exists with subnet {}, not {other}: leave --subnet out",
            network.subnet
        )
        .into());
    }
    if ip_range.is_some() && ip_range != network.ip_range {
        return Err(format!("network {name} exists with another IP range: leave --ip-range out").into());
    }
    if subnet.is_none() {
        check_routes(service, network).await?;
    }
    let known = network.engines.get(service.node_name()).and_then(|engine| engine.pool.as_ref());
    Ok(PendingPool {
        id: known.map_or_else(|| named(name), ToString::to_string),
        name: Some(name.clone()),
        subnet: network.subnet,
        gateway: network.gateway,
        ip_range: network.ip_range,
        was_chosen: false,
        since: Instant::now(),
    })
}

/// The engine asks again and again for another subnet while the one that it is given is a route of the host's.
async fn check_routes(service: &Service, network: &Network) -> Answer<()> {
    let Network { name, subnet, .. } = network;
    let overlaps = |route: &Ipv4Net| route.contains(subnet) || subnet.contains(route);
    match service.host_routes().await?.into_iter().find(overlaps) {
        None => Ok(()),
        Some(route) => Err(format!(
            "the subnet {subnet} of network {name} overlaps this host's route to {route}: add --subnet {subnet} to have it all the same"
        )
        .into()),
    }
}

/// The pool of a network to come.
async fn fresh(
    driver: &Driver,
    service: &Service,
    name: Option<Name>,
    subnet: Option<Ipv4Net>,
    ip_range: Option<Ipv4Net>,
) -> Answer<PendingPool> {
    let was_chosen = subnet.is_none();
    let subnet = match subnet {
        Some(subnet) => subnet,
        None => {
            service.free_subnet(service.host_routes().await?.into_iter().chain(driver.pools.subnets()))?
        }
    };
    let valid = ipam::check_network(subnet, None, ip_range).map_err(|e| e.to_string())?;
    let id = name.as_ref().map_or_else(|| format!("{ADDRESS_SPACE}/{:016x}", rand::random::<u64>()), named);
    Ok(PendingPool {
        id,
        name,
        subnet: valid.subnet,
        gateway: valid.gateway,
        ip_range: valid.ip_range,
        was_chosen,
        since: Instant::now(),
    })
}

fn named(name: &Name) -> String {
    format!("{ADDRESS_SPACE}/network/{name}")
}

/// Forgets a pool that got no network; that of a network goes with it.
pub(super) async fn release(driver: Arc<Driver>, request: ReleasePool) -> Answer<Empty> {
    driver.pools.release(&request.pool_id);
    Ok(Empty {})
}

/// Gives an address: the network's gateway, the one asked for, or the next that is free on all hosts.
pub(super) async fn request_address(
    driver: Arc<Driver>,
    request: RequestAddress,
) -> Answer<RequestedAddress> {
    let wanted = parse_address(&request.address)?;
    let is_gateway = request.options.get(REQUEST_ADDRESS_TYPE).is_some_and(|kind| kind == GATEWAY);
    let service = driver.service().await?;
    let network = network_of_pool(&service, &request.pool_id);
    let address = match (is_gateway, network) {
        (true, Some(network)) => gateway_of(&network, wanted)?,
        (true, None) => driver.pools.set_gateway(&request.pool_id, wanted).ok_or_else(no_pool)??,
        (false, Some(network)) => service.reserve_address(&network.name, wanted).await?,
        (false, None) => return Err(no_pool().into()),
    };
    Ok(RequestedAddress { address: address.to_string(), data: BTreeMap::new() })
}

fn gateway_of(network: &Network, wanted: Option<Ipv4Addr>) -> Answer<Ipv4Net> {
    match wanted {
        Some(other) if other != network.gateway => Err(format!(
            "the gateway of network {} is {}, not {other}: leave --gateway out",
            network.name, network.gateway
        )
        .into()),
        _ => Ok(within(network.gateway, network.subnet)),
    }
}

fn no_pool() -> String {
    "this pool is not known: addresses are given to networks of -d overlay-ebpf alone, and none with --aux-address; \
     to keep addresses out, use --ip-range"
        .to_owned()
}

/// Gives an address back. One that was an endpoint's went with it.
pub(super) async fn release_address(driver: Arc<Driver>, request: ReleaseAddress) -> Answer<Empty> {
    let service = driver.service().await?;
    if let (Some(network), Some(address)) =
        (network_of_pool(&service, &request.pool_id), parse_address(&request.address)?)
    {
        service.give_back_address(&network.name, address).await?;
    }
    Ok(Empty {})
}

fn network_of_pool(service: &Service, id: &str) -> Option<Network> {
    service.network_of_engine(|engine| engine.pool.as_ref().is_some_and(|pool| pool.as_str() == id))
}

fn within(address: Ipv4Addr, subnet: Ipv4Net) -> Ipv4Net {
    Ipv4Net::new(address, subnet.prefix_len()).unwrap_or(subnet)
}

/// A network in Docker's writing; none if it is empty.
pub(super) fn parse_net(what: &str, text: &str) -> Answer<Option<Ipv4Net>> {
    match text.parse() {
        _ if text.is_empty() => Ok(None),
        Ok(IpNet::V4(net)) => Ok(Some(net)),
        Ok(IpNet::V6(net)) => Err(format!("{what} {net}: this driver knows no IPv6").into()),
        Err(_) => Err(format!("{what} {text} is no network such as 10.0.0.0/24").into()),
    }
}

/// An address, with a prefix or without; none if it is empty.
pub(super) fn parse_address(text: &str) -> Answer<Option<Ipv4Addr>> {
    let address = text.split('/').next().unwrap_or_default();
    match address.parse() {
        _ if text.is_empty() => Ok(None),
        Ok(address) => Ok(Some(address)),
        Err(_) => Err(format!("{text} is no IPv4 address").into()),
    }
}
