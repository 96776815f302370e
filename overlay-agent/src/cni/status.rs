//! STATUS: whether an ADD would succeed now.

use super::{
    CniError,
    config::{Config, Wishes},
    environment::Args,
};
use crate::{
    api::{
        client::{Client, ClientError},
        types::{ErrorCode, NetworkView, Status},
    },
    ipam,
    model::Name,
};

/// Succeeds if a container could be added now.
pub async fn status(client: &Client, config: &Config) -> Result<(), CniError> {
    let wishes = config.wishes(&Args::default())?;
    let status = client.status().await.map_err(|e| no_agent(&e))?;
    check_agent(&status)?;
    check_node(client, &status.node).await?;
    check_network(client, &wishes).await
}

/// Without its agent a host goes on forwarding, but it answers no names and hears of nothing new.
fn no_agent(error: &ClientError) -> CniError {
    match error {
        ClientError::NoAgent { .. } | ClientError::Silent { .. } | ClientError::Protocol { .. } => {
            let CniError { details, .. } = error.into();
            CniError::limited(format!("{details}; until then containers talk on, but names are not answered"))
        }
        other => other.into(),
    }
}

fn check_agent(status: &Status) -> Result<(), CniError> {
    if let Some(reason) = &status.reconcile_error {
        return Err(CniError::limited(format!("the data path could not be brought up to date: {reason}")));
    }
    if !status.ready {
        return Err(CniError::unavailable("the agent has just started and is not ready yet"));
    }
    let stale = status.stale.as_ref().map(|stale| &stale.reason);
    match stale.or(status.store_error.as_ref()) {
        Some(reason) => Err(CniError::unavailable(format!("the store takes no changes just now: {reason}"))),
        None => Ok(()),
    }
}

async fn check_node(client: &Client, node: &Name) -> Result<(), CniError> {
    match client.node(node).await?.node.drain {
        None => Ok(()),
        Some(_) => Err(CniError::unavailable(format!(
            "node {node} is drained and takes no containers: `overlay node drain {node} --undo` ends that"
        ))),
    }
}

async fn check_network(client: &Client, wishes: &Wishes) -> Result<(), CniError> {
    let there = match client.network(&wishes.network.name).await {
        Ok(there) => there,
        // The first ADD creates it.
        Err(ClientError::Api(body)) if body.code == ErrorCode::NotFound => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    client.ensure_network(&wishes.network).await.map_err(|e| CniError::of_network(&e))?;
    if is_full(&there) {
        return Err(CniError::unavailable(format!(
            "all addresses of network {} are in use: remove a container",
            there.name
        )));
    }
    Ok(())
}

fn is_full(network: &NetworkView) -> bool {
    let range = network.ip_range.unwrap_or(network.subnet);
    let held = network.endpoints.iter().filter(|endpoint| range.contains(&endpoint.ip.addr())).count();
    held >= ipam::capacity(range, network.subnet, network.gateway)
}
