//! Addresses for front ends that ask for one first and make the endpoint afterwards.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{
    ATTEMPTS, Context, Result, ServiceError,
    claim::{address_refused, check_open, choose_ipv4, choose_ipv6},
    nodes::open_node,
};
use crate::{
    ipam::{Choice, IpamError, Rest},
    model::{Address, Cluster, Name, Network, Timestamp, keys::Key},
    store::{Outcome, Transaction},
};

/// The address that is asked for, of one family; none: the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Of IPv4.
    Ipv4(Option<Ipv4Addr>),
    /// Of IPv6.
    Ipv6(Option<Ipv6Addr>),
}

/// Reserves an address of a network for this node, with its subnet's prefix.
pub async fn reserve(context: &Context, network: &Name, asked: Asked) -> Result<IpNet> {
    for _ in 0..ATTEMPTS {
        let cluster = context.cluster();
        let node = open_node(&cluster, &context.config.node)?;
        let network = context.network(network)?;
        check_open(&network.record)?;
        let rest = Rest { now: Timestamp::now(), time: context.config.address_rest };
        let choice = choose(&cluster, &network.record, asked, rest)?;
        let name = &network.record.name;
        let key = Key::Address(name.clone(), choice.ip);
        let reserved = Address::Reserved { node: context.config.node.clone(), at: rest.now };
        let transaction = Transaction::new()
            .unchanged(Key::Node(context.config.node.clone()), node)
            .unchanged(Key::Network(name.clone()), network.revision);
        let transaction = match choice.previous {
            Some(revision) => transaction.replace(key, revision, &reserved),
            None => transaction.create(key, &reserved),
        };
        if let Outcome::Committed(revision) = context.store.commit(transaction).await? {
            // The endpoint that is made with it looks for it there.
            context.seen(revision).await;
            return Ok(network.record.with_prefix(choice.ip));
        }
        context.catch_up(cluster.revision).await;
    }
    Err(ServiceError::Unavailable(format!("other hosts take addresses of {network} all the time: try again")))
}

fn choose(cluster: &Cluster, network: &Network, asked: Asked, rest: Rest) -> Result<Choice<IpAddr>> {
    let refused = |e: IpamError| address_refused(cluster, e);
    match asked {
        Asked::Ipv4(ip) => Ok(choose_ipv4(cluster, network, ip, rest).map_err(refused)?.into()),
        Asked::Ipv6(ip) => {
            let choice = choose_ipv6(cluster, network, ip, rest).map_err(refused)?;
            let none = || ServiceError::Invalid(format!("network {} has no IPv6", network.name));
            Ok(choice.ok_or_else(none)?.into())
        }
    }
}

/// Gives a reserved address back. One that an endpoint has by now, or that is free, stays as it is.
pub async fn give_back(context: &Context, network: &Name, ip: IpAddr) -> Result<()> {
    let cluster = context.cluster();
    let Some(claim) = cluster.address_claim(network, ip) else { return Ok(()) };
    if matches!(&claim.record, Address::Reserved { node, .. } if *node == context.config.node) {
        let released = Address::Released { at: Some(Timestamp::now()) };
        let key = Key::Address(network.clone(), ip);
        // Who changed it meanwhile has it.
        context.store.commit(Transaction::new().replace(key, claim.revision, &released)).await?;
    }
    Ok(())
}
