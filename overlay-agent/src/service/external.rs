//! Members without an agent: a machine that speaks VXLAN by itself is an endpoint of no node.

use std::net::Ipv4Addr;

use super::{
    ATTEMPTS, Context, Result, ServiceError,
    attach::check_mac,
    claim::{Choices, address_refused, check_mac_free, check_open, claiming, name_taken, release},
    endpoints::view,
};
use crate::{
    api::types::{AddExternal, EndpointView},
    ipam::Rest,
    model::{Cluster, Endpoint, EndpointId, Limits, Name, Timestamp},
    store::{Outcome, Transaction},
};

/// Makes a machine a member of a network, under the addresses that it has.
pub async fn add(context: &Context, network: &Name, request: AddExternal) -> Result<EndpointView> {
    check_mac(Some(request.mac))?;
    let id = EndpointId::random();
    for _ in 0..ATTEMPTS {
        let cluster = context.cluster();
        check_vtep(&cluster, request.vtep)?;
        let network = context.network(network)?;
        check_open(&network.record)?;
        let endpoint = design(&id, &network.record.name, &request);
        if cluster.endpoint_named(&endpoint.network, &endpoint.name).is_some() {
            return Err(name_taken(&endpoint.network, &endpoint.name));
        }
        check_mac_free(&cluster, &network.record, &endpoint)?;
        let rest = Rest { now: Timestamp::now(), time: context.config.address_rest };
        let choices = Choices::of(&cluster, &network.record, &endpoint, rest)
            .map_err(|e| address_refused(&cluster, e))?;
        let transaction = claiming(Transaction::new(), &endpoint, network.revision, &choices);
        match context.store.commit(transaction).await? {
            Outcome::Committed(revision) => {
                tracing::info!(endpoint = %endpoint.name, network = %endpoint.network, vtep = %request.vtep, "external member added");
                context.in_force(revision).await?;
                return Ok(view(&endpoint, &network.record, None));
            }
            // Another host was quicker with a name or an address, or changed the network: look again.
            Outcome::Conflict(_) => context.catch_up(cluster.revision).await,
        }
    }
    Err(ServiceError::Unavailable(format!("other hosts change {network} all the time: try again")))
}

/// Takes a machine out of a network.
pub async fn remove(context: &Context, network: &Name, name: &Name) -> Result<EndpointView> {
    let of = context.network(network)?.record;
    let cluster = context.cluster();
    let member = cluster.endpoint_named(network, name).ok_or_else(|| {
        ServiceError::NotFound(format!("{network} has no external member {name}: see `overlay external ls`"))
    })?;
    if !member.record.is_external() {
        return Err(ServiceError::Conflict(format!(
            "{name} is a container on {}: detach it there",
            member.record.node
        )));
    }
    match release(context.store.as_ref(), &member.record, member.revision).await? {
        Outcome::Committed(revision) => context.in_force(revision).await?,
        Outcome::Conflict(_) => {
            return Err(ServiceError::Conflict(format!(
                "{name} was changed by another host just now: try again"
            )));
        }
    }
    tracing::info!(endpoint = %name, %network, "external member removed");
    Ok(view(&member.record, &of, None))
}

fn design(id: &EndpointId, network: &Name, request: &AddExternal) -> Endpoint {
    let of_id = || format!("ext-{}", &id.as_str()[..8]).parse().expect("hexadecimal digits make a name");
    Endpoint {
        id: id.clone(),
        network: network.clone(),
        name: request.name.clone().unwrap_or_else(of_id),
        aliases: request.aliases.clone(),
        labels: request.labels.clone(),
        node: Name::external(),
        vtep: Some(request.vtep),
        ipv4: request.ip,
        ipv6: None,
        mac: request.mac,
        ifname: String::new(),
        netns: String::new(),
        published: Vec::new(),
        owner: None,
        limits: Limits::default(),
    }
}

fn check_vtep(cluster: &Cluster, vtep: Ipv4Addr) -> Result<()> {
    if vtep.is_unspecified() || vtep.is_loopback() || vtep.is_multicast() || vtep.is_broadcast() {
        return Err(ServiceError::Invalid(format!(
            "{vtep} cannot be a machine's VTEP: it must be its address on the underlay"
        )));
    }
    match cluster.nodes.values().find(|node| node.record.vtep == vtep) {
        None => Ok(()),
        Some(node) => Err(ServiceError::Conflict(format!(
            "{vtep} is the VTEP of node {}: attach containers there instead",
            node.record.name
        ))),
    }
}
