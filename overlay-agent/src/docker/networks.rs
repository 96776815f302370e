//! Networks as the engine makes and removes them.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Answer, Driver, Refusal,
    options::{NAME, Options},
    pools::{ADDRESS_SPACE, PendingPool, parse_address, parse_net},
    protocol::{self, Empty, OfNetwork, Pool},
};
use crate::{
    api::types,
    model::{EngineNetwork, ForeignId, Name, Network},
    service::{Service, Wanted},
};

/// Digits of Docker's ids that are enough for people.
pub(super) const SHORT_ID: usize = 12;

/// Makes a network known to this host's engine. What other hosts have under its name has to agree with it.
pub(super) async fn create(driver: Arc<Driver>, request: protocol::CreateNetwork) -> Answer<Empty> {
    let id = parse_id(&request.network_id)?;
    let options = Options::parse(&request.options)?;
    let pool = only_pool(&request, &options)?;
    let service = driver.service().await?;
    let wanted = wanted(&driver, &id, &options, pool)?;
    let name = wanted.network.name.clone();
    check_internal(&service, &name, options.internal)?;
    service.join_network(wanted).await.map_err(|e| Refusal(format!("{e}{}", hint(&options, pool))))?;
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

fn only_pool<'a>(request: &'a protocol::CreateNetwork, options: &Options) -> Answer<&'a Pool> {
    if options.ipv6 || !request.ipv6.is_empty() {
        return Err("this driver knows no IPv6: create the network without --ipv6".into());
    }
    match &request.ipv4[..] {
        [pool] if pool.aux_addresses.is_empty() => Ok(pool),
        [_] => Err("this driver knows no --aux-address: keep addresses out with --ip-range".into()),
        [] => Err("a network needs a subnet: do not use --ipam-driver null".into()),
        _ => Err("a network has one subnet: give --subnet once".into()),
    }
}

fn wanted(driver: &Driver, id: &ForeignId, options: &Options, pool: &Pool) -> Answer<Wanted> {
    let subnet = parse_net("subnet", &pool.pool)?.ok_or("a network needs a subnet")?;
    let pending = (pool.address_space == ADDRESS_SPACE).then(|| {
        driver.pools.take(subnet, options.name.as_ref()).ok_or_else(|| {
            Refusal(format!(
                "{subnet} was not asked for by this network, or under another {NAME}: create it again"
            ))
        })
    });
    let pending = pending.transpose()?;
    let named = options.name.clone().or_else(|| pending.as_ref().and_then(|pool| pool.name.clone()));
    let gateway = match &pending {
        Some(PendingPool { gateway, .. }) => Some(*gateway),
        None => parse_address(&pool.gateway)?,
    };
    Ok(Wanted {
        network: types::CreateNetwork {
            name: named.map_or_else(|| provisional_name(id.as_str()), Ok)?,
            subnet: Some(subnet),
            gateway,
            ip_range: pending.as_ref().and_then(|pool| pool.ip_range),
            ipv6: None,
            vni: options.vni,
            mtu: options.mtu,
            internal: options.internal,
            multicast: options.multicast,
            labels: BTreeMap::new(),
        },
        subnet_was_chosen: pending.as_ref().is_some_and(|pool| pool.was_chosen),
        engine: EngineNetwork {
            network: Some(id.clone()),
            pool: pending.map(|pool| parse_id(&pool.id)).transpose()?,
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
fn hint(options: &Options, pool: &Pool) -> String {
    match &options.name {
        Some(name) if pool.address_space != ADDRESS_SPACE => {
            format!(
                "; to have it with the addresses that it has, add --ipam-driver overlay-ebpf --ipam-opt {NAME}={name}"
            )
        }
        _ => String::new(),
    }
}
