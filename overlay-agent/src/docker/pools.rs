//! Address pools and addresses: the engine asks for them before it says for which network or endpoint.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    str::FromStr,
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
    family, ipam, ipam6,
    model::{ForeignId, Name, Network},
    service::{Asked, Service},
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
    pub subnet: IpNet,
    /// Its gateway.
    pub gateway: IpAddr,
    /// Part of an IPv4 subnet that addresses are given from.
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
    pub fn take(&self, subnet: IpNet, name: Option<&Name>) -> Option<PendingPool> {
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
        let pools = lock(&self.0);
        let subnets = pools.iter().filter(|pool| pool.since.elapsed() < LIFE).map(|pool| pool.subnet);
        subnets
            .filter_map(|subnet| if let IpNet::V4(subnet) = subnet { Some(subnet) } else { None })
            .collect()
    }

    /// Changes the gateway of a pool; its subnet, if there is such a pool.
    fn set_gateway(&self, id: &str, gateway: Option<IpAddr>) -> Option<Answer<IpNet>> {
        let mut pools = lock(&self.0);
        let pool = pools.iter_mut().find(|pool| pool.id == id)?;
        let gateway = gateway.unwrap_or(pool.gateway);
        let checked = check(pool.subnet, Some(gateway), pool.ip_range);
        pool.gateway = gateway;
        Some(checked.map(|_| within(gateway, pool.subnet)))
    }
}

/// The gateway of a subnet, if all fit each other.
fn check(subnet: IpNet, gateway: Option<IpAddr>, ip_range: Option<Ipv4Net>) -> Answer<IpAddr> {
    let checked = match (subnet, family::addresses("--gateway", gateway)?) {
        (IpNet::V4(subnet), (gateway, None)) => {
            ipam::check_network(subnet, gateway, ip_range).map(|valid| valid.gateway.into())
        }
        (IpNet::V6(subnet), (None, gateway)) => {
            ipam6::check_network(subnet, gateway).map(|valid| valid.gateway.into())
        }
        _ => return Err(format!("--gateway is of another family than {subnet}").into()),
    };
    checked.map_err(|e| e.to_string().into())
}

/// What the engine asks of a pool.
struct Wish {
    is_ipv6: bool,
    subnet: Option<IpNet>,
    ip_range: Option<Ipv4Net>,
}

impl Wish {
    fn of(request: &RequestPool) -> Answer<Self> {
        if request.v6 && !request.sub_pool.is_empty() {
            return Err(format!("--ip-range {}: it is for IPv4 alone", request.sub_pool).into());
        }
        let subnet = parse_net("--subnet", &request.pool)?;
        Ok(Self { is_ipv6: request.v6, subnet, ip_range: parse_net("--ip-range", &request.sub_pool)? })
    }
}

/// Gives a pool: that of the network that was named, the one asked for, or the next that is free.
pub(super) async fn request(driver: Arc<Driver>, request: RequestPool) -> Answer<RequestedPool> {
    if let Some(unknown) = request.options.keys().find(|key| *key != NAME) {
        return Err(format!("this driver has no --ipam-opt {unknown}: it has {NAME}=NAME").into());
    }
    let name = request.options.get(NAME).map(|name| options::parse_name(name)).transpose()?;
    let wish = Wish::of(&request)?;
    let service = driver.service().await?;
    let there = name.as_ref().and_then(|name| service.cluster().networks.get(name).map(|n| n.record.clone()));
    let pool = match there {
        Some(network) => of_network(&service, &network, &wish).await?,
        None => fresh(&driver, &service, name, &wish).await?,
    };
    let data = BTreeMap::from([(GATEWAY, within(pool.gateway, pool.subnet).to_string())]);
    let requested = RequestedPool { pool_id: pool.id.clone(), pool: pool.subnet.to_string(), data };
    driver.pools.add(pool);
    Ok(requested)
}

/// The pool of a network that is there.
async fn of_network(service: &Service, network: &Network, wish: &Wish) -> Answer<PendingPool> {
    let Network { name, .. } = network;
    let (subnet, gateway) = part(network, wish.is_ipv6)
        .ok_or_else(|| format!("network {name} exists without IPv6: leave --ipv6 out"))?;
    if let Some(other) = wish.subnet.filter(|wanted| *wanted != subnet) {
        return Err(
            format!("network {name} exists with subnet {subnet}, not {other}: leave --subnet out").into()
        );
    }
    if wish.ip_range.is_some() && wish.ip_range != network.ip_range {
        return Err(format!("network {name} exists with another IP range: leave --ip-range out").into());
    }
    if wish.subnet.is_none() && !wish.is_ipv6 {
        check_routes(service, network).await?;
    }
    let known = network.engines.get(service.node_name());
    let known =
        known.and_then(|engine| if wish.is_ipv6 { engine.pool_ipv6.as_ref() } else { engine.pool.as_ref() });
    Ok(PendingPool {
        id: known.map_or_else(|| named(name, wish.is_ipv6), ToString::to_string),
        name: Some(name.clone()),
        subnet,
        gateway,
        ip_range: network.ip_range.filter(|_| !wish.is_ipv6),
        was_chosen: false,
        since: Instant::now(),
    })
}

/// Subnet and gateway of one family, if the network has it.
fn part(network: &Network, is_ipv6: bool) -> Option<(IpNet, IpAddr)> {
    if is_ipv6 {
        network.ipv6.map(|ipv6| (ipv6.subnet.into(), ipv6.gateway.into()))
    } else {
        Some((network.subnet.into(), network.gateway.into()))
    }
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
async fn fresh(driver: &Driver, service: &Service, name: Option<Name>, wish: &Wish) -> Answer<PendingPool> {
    let subnet = match wish.subnet {
        Some(subnet) => subnet,
        None if wish.is_ipv6 => ipam6::random_subnet().into(),
        None => {
            let others = service.host_routes().await?.into_iter().chain(driver.pools.subnets());
            service.free_subnet(others)?.into()
        }
    };
    let gateway = check(subnet, None, wish.ip_range)?;
    let anonymous = || format!("{ADDRESS_SPACE}/{:016x}", rand::random::<u64>());
    Ok(PendingPool {
        id: name.as_ref().map_or_else(anonymous, |name| named(name, wish.is_ipv6)),
        name,
        subnet,
        gateway,
        ip_range: wish.ip_range,
        was_chosen: wish.subnet.is_none(),
        since: Instant::now(),
    })
}

fn named(name: &Name, is_ipv6: bool) -> String {
    format!("{ADDRESS_SPACE}/network/{name}{}", if is_ipv6 { "/ipv6" } else { "" })
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
        (true, Some((network, is_ipv6))) => gateway_of(&network, is_ipv6, wanted)?,
        (true, None) => driver.pools.set_gateway(&request.pool_id, wanted).ok_or_else(no_pool)??,
        (false, Some((network, is_ipv6))) => {
            service.reserve_address(&network.name, asked(is_ipv6, wanted)?).await?
        }
        (false, None) => return Err(no_pool().into()),
    };
    Ok(RequestedAddress { address: address.to_string(), data: BTreeMap::new() })
}

fn asked(is_ipv6: bool, wanted: Option<IpAddr>) -> Answer<Asked> {
    match (is_ipv6, family::addresses("--ip", wanted)?) {
        (false, (ip, None)) => Ok(Asked::Ipv4(ip)),
        (true, (None, ip)) => Ok(Asked::Ipv6(ip)),
        _ => Err("the address is of another family than its pool".into()),
    }
}

fn gateway_of(network: &Network, is_ipv6: bool, wanted: Option<IpAddr>) -> Answer<IpNet> {
    let (_, gateway) = part(network, is_ipv6).ok_or_else(no_pool)?;
    match wanted {
        Some(other) if other != gateway => Err(format!(
            "the gateway of network {} is {gateway}, not {other}: leave --gateway out",
            network.name
        )
        .into()),
        _ => Ok(network.with_prefix(gateway)),
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
    if let (Some((network, _)), Some(address)) =
        (network_of_pool(&service, &request.pool_id), parse_address(&request.address)?)
    {
        service.give_back_address(&network.name, address).await?;
    }
    Ok(Empty {})
}

/// The network of a pool, and whether the pool is its IPv6 one.
fn network_of_pool(service: &Service, id: &str) -> Option<(Network, bool)> {
    let is_meant = |pool: &Option<ForeignId>| pool.as_ref().is_some_and(|pool| pool.as_str() == id);
    let network =
        service.network_of_engine(|engine| is_meant(&engine.pool) || is_meant(&engine.pool_ipv6))?;
    let is_ipv6 = network.engines.get(service.node_name()).is_some_and(|engine| is_meant(&engine.pool_ipv6));
    Some((network, is_ipv6))
}

fn within(address: IpAddr, subnet: IpNet) -> IpNet {
    IpNet::new(address, subnet.prefix_len()).unwrap_or(subnet)
}

/// A network in Docker's writing; none if it is empty.
pub(super) fn parse_net<Net: FromStr>(what: &str, text: &str) -> Answer<Option<Net>> {
    match text.parse() {
        _ if text.is_empty() => Ok(None),
        Ok(net) => Ok(Some(net)),
        Err(_) => Err(format!("{what} {text} is no network such as 10.0.0.0/24").into()),
    }
}

/// An address, with a prefix or without; none if it is empty.
pub(super) fn parse_address<Ip: FromStr>(text: &str) -> Answer<Option<Ip>> {
    let address = text.split('/').next().unwrap_or_default();
    match address.parse() {
        _ if text.is_empty() => Ok(None),
        Ok(address) => Ok(Some(address)),
        Err(_) => Err(format!("{text} is no address that can be had here").into()),
    }
}
