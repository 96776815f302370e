//! Networks as the engine makes and removes them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    Answer, Driver, Refusal,
    options::{NAME, Options},
    pools::{ADDRESS_SPACE, PendingPool, parse_address, parse_net},
    protocol::{self, Empty, OfNetwork, Pool},
};
use crate::{
    api::types,
    family,
    model::{EngineNetwork, ForeignId, Name, Network},
    service::{Service, Wanted},
};

/// Digits of Docker's ids that are enough for people.
pub(super) const SHORT_ID: usize = 12;

/// Makes a network known to this host's engine. What other hosts have under its name has to agree with it.
pub(super) async fn create(driver: Arc<Driver>, request: protocol::CreateNetwork) -> Answer<Empty> {
    let id = parse_id(&request.network_id)?;
    let options = Options::parse(&request.options)?;
    let service = driver.service().await?;
    let wanted = wanted(&driver, &id, &options, &request)?;
    let name = wanted.network.name.clone();
    check_internal(&service, &name, options.internal)?;
    service.join_network(wanted).await.map_err(|e| Refusal(format!("{e}{}", hint(&options, &request))))?;
    for other in &options.allow {
        if let Err(e) = service.allow(&name, other).await {
            // Docker forgets a network that could not be created, and so do we.
            if let Err(e) = service.leave_network(&id).await {
                tracing::warn!(network = %name, reason = %e, "not taken back");
            }
            return Err(e.into());
        }
    }
    Ok(Empty {})
}

/// Takes a network from this host's engine, which forgets it whatever we answer.
pub(super) async fn delete(driver: Arc<Driver>, request: OfNetwork) -> Answer<Empty> {
    let id = parse_id(&request.network_id)?;
    driver.service().await?.leave_network(&id).await?;
    Ok(Empty {})
}

/// The network that the engine calls so.
pub(super) fn find(service: &Service, id: &str) -> Answer<Network> {
    let found = service
        .network_of_engine(|engine| engine.network.as_ref().is_some_and(|network| network.as_str() == id));
    found.ok_or_else(|| {
        Refusal(format!(
            "Docker's network {} is not in the cluster, it was removed there or is another cluster's: \
             `docker network rm` it, and create it again",
            short(id)
        ))
    })
}

pub(super) fn parse_id(id: &str) -> Answer<ForeignId> {
    id.parse().map_err(|e: crate::model::InvalidForeignId| Refusal(e.to_string()))
}

pub(super) fn short(id: &str) -> &str {
    id.get(..SHORT_ID).unwrap_or(id)
}

/// The name of a network whose name Docker has not told.
pub(super) fn provisional_name(id: &str) -> Answer<Name> {
    let digits = id.get(..SHORT_ID).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    let digits =
        digits.ok_or_else(|| Refusal(format!("{id:?} is no id of a network: Docker's have 64 digits")))?;
    format!("docker-{digits}").parse().map_err(|e: crate::model::InvalidName| Refusal(e.to_string()))
}

/// What a pool is about, and what was asked of us for it before.
struct Claimed {
    subnet: IpNet,
    gateway: Option<IpAddr>,
    pending: Option<PendingPool>,
}

impl Claimed {
    fn take(driver: &Driver, options: &Options, pool: &Pool) -> Answer<Self> {
        if !pool.aux_addresses.is_empty() {
            return Err("this driver knows no --aux-address: keep addresses out with --ip-range".into());
        }
        let subnet = parse_net("subnet", &pool.pool)?.ok_or("a network needs a subnet")?;
        let pending = (pool.address_space == ADDRESS_SPACE).then(|| {
            driver.pools.take(subnet, options.name.as_ref()).ok_or_else(|| {
                Refusal(format!(
                    "{subnet} was not asked for by this network, or under another {NAME}: create it again"
                ))
            })
        });
        let pending = pending.transpose()?;
        let gateway = match &pending {
            Some(PendingPool { gateway, .. }) => Some(*gateway),
            None => parse_address(&pool.gateway)?,
        };
        Ok(Self { subnet, gateway, pending })
    }

    /// The pool of one family that was asked for before.
    fn pending(pools: &[Self], is_ipv6: bool) -> Option<&PendingPool> {
        pools.iter().find(|pool| pool.subnet.addr().is_ipv6() == is_ipv6)?.pending.as_ref()
    }
}

fn wanted(
    driver: &Driver,
    id: &ForeignId,
    options: &Options,
    request: &protocol::CreateNetwork,
) -> Answer<Wanted> {
    let pools = request.ipv4.iter().chain(&request.ipv6);
    let pools: Vec<_> = pools.map(|pool| Claimed::take(driver, options, pool)).collect::<Answer<_>>()?;
    let (subnet, subnet6) = family::subnets("--subnet", pools.iter().map(|pool| pool.subnet))?;
    let (gateway, gateway6) = family::addresses("--gateway", pools.iter().filter_map(|pool| pool.gateway))?;
    let [pending, pending6] = [false, true].map(|is_ipv6| Claimed::pending(&pools, is_ipv6));
    let pool_id = |pool: Option<&PendingPool>| pool.map(|pool| parse_id(&pool.id)).transpose();
    let named = options.name.clone().or_else(|| pending.and_then(|pool| pool.name.clone()));
    Ok(Wanted {
        network: types::CreateNetwork {
            name: named.map_or_else(|| provisional_name(id.as_str()), Ok)?,
            subnet: Some(subnet.ok_or("a network needs an IPv4 subnet: do not use --ipam-driver null")?),
            gateway,
            ip_range: pending.and_then(|pool| pool.ip_range),
            ipv6: types::CreateIpv6::asked(options.ipv6, subnet6, gateway6),
            vni: options.vni,
            mtu: options.mtu,
            internal: options.internal,
            multicast: options.multicast,
            labels: BTreeMap::new(),
        },
        subnet_was_chosen: pending.is_some_and(|pool| pool.was_chosen),
        engine: EngineNetwork {
            network: Some(id.clone()),
            pool: pool_id(pending)?,
            pool_ipv6: pool_id(pending6)?,
            asked: !options.is_copy,
        },
    })
}

/// Without a gateway Docker gives containers a second interface, but not those of networks that it knows as internal.
fn check_internal(service: &Service, name: &Name, asked: bool) -> Answer<()> {
    match service.cluster().networks.get(name) {
        Some(there) if there.record.internal && !asked => {
            Err(format!("network {name} exists and is internal: add --internal").into())
        }
        _ => Ok(()),
    }
}

/// How to get the addresses of a network that other hosts have.
fn hint(options: &Options, request: &protocol::CreateNetwork) -> String {
    match &options.name {
        Some(name) if request.ipv4.iter().any(|pool| pool.address_space != ADDRESS_SPACE) => {
            format!(
                "; to have it with the addresses that it has, add --ipam-driver overlay-ebpf --ipam-opt {NAME}={name}"
            )
        }
        _ => String::new(),
    }
}
