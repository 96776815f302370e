//! Addresses for front ends that ask for one first and make the endpoint afterwards.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{
    ATTEMPTS, Context, Result, ServiceError,
    claim::{address_refused, check_open, choose_ipv4},
    endpoints::with_prefix,
    nodes::open_node,
};
use crate::{
    ipam::Rest,
    model::{Address, Name, Timestamp, keys::Key},
    store::{Outcome, Transaction},
};

/// Reserves an address of a network for this node, with the subnet's prefix: the one asked for, or the next.
pub async fn reserve(context: &Context, network: &Name, ip: Option<Ipv4Addr>) -> Result<Ipv4Net> {
    for _ in 0..ATTEMPTS {
        let cluster = context.cluster();
        let node = open_node(&cluster, &context.config.node)?;
        let network = context.network(network)?;
        check_open(&network.record)?;
        let rest = Rest { now: Timestamp::now(), time: context.config.address_rest };
        let choice =
            choose_ipv4(&cluster, &network.record, ip, rest).map_err(|e| address_refused(&cluster, e))?;
        let name = &network.record.name;
        let key = Key::Address(name.clone(), choice.ip.into());
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
            return Ok(with_prefix(choice.ip, network.record.subnet));
        }
        context.catch_up(cluster.revision).await;
    }
    Err(ServiceError::Unavailable(format!("other hosts take addresses of {network} all the time: try again")))
}

/// Gives a reserved address back. One that an endpoint has by now, or that is free, stays as it is.
pub async fn give_back(context: &Context, network: &Name, ip: Ipv4Addr) -> Result<()> {
    let cluster = context.cluster();
    let Some(claim) = cluster.addresses.get(network).and_then(|claims| claims.get(&ip)) else {
        return Ok(());
    };
    if matches!(&claim.record, Address::Reserved { node, .. } if *node == context.config.node) {
        let released = Address::Released { at: Some(Timestamp::now()) };
        let key = Key::Address(network.clone(), ip.into());
        // Who changed it meanwhile has it.
        context.store.commit(Transaction::new().replace(key, claim.revision, &released)).await?;
    }
    Ok(())
}
