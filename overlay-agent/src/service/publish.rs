//! Publishing ports: a port of this host that leads to a port of a container on it.
//!
//! A published port is public: whoever reaches the host reaches it, containers of other networks included, as they
//! would from another machine. What a network keeps apart stays apart everywhere else.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use super::{Context, Result, ServiceError, endpoints::is_local};
use crate::{
    api::types::PublicationView,
    model::{Endpoint, Name, Network, Protocol, Publication, cluster::Versioned, keys::Key},
    store::{Outcome, Transaction},
};

/// Published ports on all nodes.
pub fn list(context: &Context) -> Vec<PublicationView> {
    let cluster = context.cluster();
    let mut views: Vec<_> = cluster.endpoints.values().flat_map(|e| views(&e.record)).collect();
    views.sort_by(|a, b| (&a.node, a.publication).cmp(&(&b.node, b.publication)));
    views
}

/// Publishes a port of an endpoint on this host. That it is published already is no error.
pub async fn publish(
    context: &Context,
    network: &Name,
    name: &Name,
    publication: Publication,
) -> Result<Vec<PublicationView>> {
    let _one_at_a_time = context.publishing.lock().await;
    let endpoint = find(context, network, name)?;
    if !endpoint.record.published.contains(&publication) {
        check(context, &context.network(network)?.record, &[publication])?;
        let mut published = endpoint.record.published.clone();
        published.push(publication);
        let changed = change(context, &endpoint, published).await?;
        check_in_force(context, &changed, &endpoint.record).await?;
        tracing::info!(endpoint = %name, %network, %publication, "published");
    }
    Ok(views(&find(context, network, name)?.record))
}

/// Takes a published port back. That it is not published is no error.
pub async fn unpublish(
    context: &Context,
    network: &Name,
    name: &Name,
    publication: Publication,
) -> Result<Vec<PublicationView>> {
    let _one_at_a_time = context.publishing.lock().await;
    let endpoint = find(context, network, name)?;
    let mut published = endpoint.record.published.clone();
    published.retain(|other| *other != publication);
    if published != endpoint.record.published {
        change(context, &endpoint, published).await?;
        tracing::info!(endpoint = %name, %network, %publication, "no longer published");
    }
    Ok(views(&find(context, network, name)?.record))
}

/// Whether these ports can be published for an endpoint of a network. Only this node's agent gives this node's ports
/// away, and one at a time: whoever asks holds [`Context::publishing`].
pub(super) fn check(context: &Context, network: &Network, wanted: &[Publication]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    if network.internal {
        return Err(ServiceError::Invalid(format!(
            "network {} is internal: nothing of it can be reached from outside",
            network.name
        )));
    }
    if let Some(reason) = context.reconciler.report().gateway.error {
        return Err(ServiceError::Unavailable(format!("no port can be published: {reason}")));
    }
    for (position, publication) in wanted.iter().enumerate() {
        if wanted[..position].iter().any(|other| other.clashes(publication)) {
            let Publication { host_port, protocol, .. } = publication;
            return Err(ServiceError::Invalid(format!(
                "{protocol} port {host_port} is asked for twice",
                protocol = protocol.name()
            )));
        }
        check_free(context, publication)?;
    }
    Ok(())
}

/// Whether nobody has the port: no other endpoint of this node, no process of the host.
fn check_free(context: &Context, publication: &Publication) -> Result<()> {
    let Publication { host_port, protocol, .. } = publication;
    let cluster = context.cluster();
    let mut here = cluster.endpoints.values().map(|e| &e.record).filter(|e| is_local(context, e));
    if let Some(holder) = here.find(|e| e.published.iter().any(|other| other.clashes(publication))) {
        return Err(ServiceError::Conflict(format!(
            "{} port {host_port} of this host leads to {} of {} already: choose another, or `overlay unpublish` it there",
            protocol.name(),
            holder.name,
            holder.network
        )));
    }
    let address = (Ipv4Addr::UNSPECIFIED, host_port.get());
    let bound = match protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    };
    bound.map_err(|e| {
        ServiceError::Conflict(format!(
            "{} port {host_port} of this host cannot be had ({e}): a process uses it, see `ss -lnp`; choose another",
            protocol.name()
        ))
    })
}

fn find(context: &Context, network: &Name, name: &Name) -> Result<Versioned<Endpoint>> {
    context.network(network)?;
    let cluster = context.cluster();
    match cluster.endpoint_named(network, name) {
        None => Err(ServiceError::NotFound(format!(
            "there is no endpoint {name} in {network}: see `overlay endpoint ls`"
        ))),
        Some(endpoint) if is_local(context, &endpoint.record) => Ok(endpoint.clone()),
        Some(endpoint) => Err(ServiceError::Conflict(format!(
            "{name} runs on {}: its ports are published there",
            endpoint.record.node
        ))),
    }
}

/// Writes what an endpoint publishes and waits until that is in force.
async fn change(
    context: &Context,
    endpoint: &Versioned<Endpoint>,
    published: Vec<Publication>,
) -> Result<Versioned<Endpoint>> {
    let record = Endpoint { published, ..endpoint.record.clone() };
    let key = Key::Endpoint(record.network.clone(), record.id.clone());
    let transaction = Transaction::new().replace(key, endpoint.revision, &record);
    match context.store.commit(transaction).await? {
        Outcome::Committed(revision) => {
            context.in_force(revision).await?;
            Ok(Versioned { record, revision })
        }
        Outcome::Conflict(_) => Err(ServiceError::Conflict(format!(
            "{} was changed or detached meanwhile: try again",
            record.name
        ))),
    }
}

/// Takes the change back if the rules for it could not be put in force.
async fn check_in_force(context: &Context, changed: &Versioned<Endpoint>, before: &Endpoint) -> Result<()> {
    let Some(reason) = context.reconciler.report().gateway.error else { return Ok(()) };
    change(context, changed, before.published.clone()).await?;
    Err(ServiceError::Unavailable(format!("the port could not be published: {reason}")))
}

fn views(endpoint: &Endpoint) -> Vec<PublicationView> {
    let view = |publication: &Publication| PublicationView {
        node: endpoint.node.clone(),
        network: endpoint.network.clone(),
        endpoint: endpoint.name.clone(),
        publication: *publication,
    };
    endpoint.published.iter().map(view).collect()
}
