//! Detaching containers: what is not attached is no error, and a namespace that is gone is no obstacle.

use std::path::Path;

use super::{
    Context, Result, ServiceError,
    claim::release,
    endpoints::{is_in, is_local, view},
};
use crate::{
    api::types::{DetachRequest, DetachResult, NetnsRef},
    model::{Cluster, Endpoint, Name, cluster::Versioned},
    netns, paths,
    store::Outcome,
};

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

async fn remove(context: &Context, endpoint: &Versioned<Endpoint>) -> Result<()> {
    let record = &endpoint.record;
    let _progress = context.in_progress.begin_detach(&record.id);
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
