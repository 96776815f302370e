//! Detaching containers: what is not attached is no error, and neither a namespace that is gone nor a store that
//! cannot be reached is an obstacle.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{task::spawn_blocking, time::timeout};

use super::{
    Context, Result, ServiceError,
    claim::release,
    default_route,
    endpoints::{is_in, is_local, owned, view},
};
use crate::{
    agent::outbox::Release,
    api::types::{DetachOwned, DetachRequest, DetachResult, NetnsRef},
    model::{Cluster, Endpoint, Name, cluster::Versioned},
    netns, paths,
    store::{Failure, Outcome, Revision},
};

/// How long the store is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Detaches what the request means, as far as it is attached.
pub async fn detach(context: &Context, network: &Name, request: DetachRequest) -> Result<DetachResult> {
    context.network(network)?;
    let cluster = context.cluster();
    let endpoints = match &request {
        DetachRequest::Name(name) => find_named(context, &cluster, network, name)?,
        DetachRequest::Netns(netns) => find_in_netns(context, &cluster, network, netns)?,
    };
    remove_all(context, endpoints).await
}

/// Detaches what a front end had attached, as far as it is. An attach whose caller went away comes to its end all the same,
/// and only then is there something to detach.
pub async fn detach_owned(context: &Context, request: DetachOwned) -> Result<DetachResult> {
    let DetachOwned { owner, ifname } = &request;
    context.in_progress.attached(owner, ifname.as_deref()).await;
    remove_all(context, owned(context, owner, ifname.as_deref())).await
}

async fn remove_all(context: &Context, endpoints: Vec<Versioned<Endpoint>>) -> Result<DetachResult> {
    let mut detached = Vec::new();
    let containers: BTreeSet<PathBuf> = endpoints.iter().map(|e| e.record.netns.clone().into()).collect();
    for endpoint in endpoints {
        let network = context.network(&endpoint.record.network)?;
        detached.push(view(&endpoint.record, &network.record, None));
        remove(context, &endpoint).await?;
    }
    for netns in containers {
        default_route::hand_on(context, &netns).await;
    }
    Ok(DetachResult { detached })
}

/// Takes the devices away first: whatever happens then, what is left is a record without a device, which is
/// collected.
async fn remove(context: &Context, endpoint: &Versioned<Endpoint>) -> Result<()> {
    let record = &endpoint.record;
    let _progress = context.in_progress.begin_detach(&record.id);
    if !context.rehearses() {
        context.netlink.delete_by_name(&paths::host_veth(&record.id)).await?;
    }
    match release_now(context, endpoint).await {
        Ok(Outcome::Committed(revision)) => context.in_force(revision).await?,
        Ok(Outcome::Conflict(_)) => {}
        Err(reason) => release_later(context, endpoint, &reason).await?,
    }
    tracing::info!(endpoint = %record.name, network = %record.network, "detached");
    Ok(())
}

/// Takes the endpoint out of the store, or says why that cannot be done soon.
async fn release_now(
    context: &Context,
    endpoint: &Versioned<Endpoint>,
) -> std::result::Result<Outcome, String> {
    if let Some(Failure { reason, .. }) = context.obstacle() {
        return Err(reason);
    }
    let released = release(context.store.as_ref(), &endpoint.record, endpoint.revision);
    match timeout(PATIENCE, released).await {
        Ok(released) => released.map_err(|e| e.to_string()),
        // It may have been carried out all the same: to do it again does no harm.
        Err(_) => Err(format!("the store gave no answer within {PATIENCE:?}")),
    }
}

/// Takes the endpoint out of this host's maps and views, and leaves the store to be told when it can be.
async fn release_later(context: &Context, endpoint: &Versioned<Endpoint>, reason: &str) -> Result<()> {
    if context.rehearses() {
        return Ok(());
    }
    tracing::warn!(endpoint = %endpoint.record.name, reason, "detached here; the store will be told");
    let (outbox, release) = (Arc::clone(&context.outbox), Release::from(endpoint));
    // Writes a file.
    let added = spawn_blocking(move || outbox.add(release)).await;
    added.map_err(|e| ServiceError::Internal(format!("the outbox was broken off: {e}")))?;
    context.mirror.hide_detached();
    context.in_force(Revision::default()).await
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
        Some(endpoint) if endpoint.record.is_external() => Err(ServiceError::Conflict(format!(
            "{name} is a machine without an agent: remove it with `overlay external rm {network} {name}`"
        ))),
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
