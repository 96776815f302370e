//! Showing nodes, draining them, taking them out of the cluster.

use super::{
    Context, Result, ServiceError, endpoints,
    retire::{self, Reason, Retirement},
};
use crate::{
    agent::{
        presence::Absences,
        record::{self, RecordError},
    },
    api::types::{Drain, NodeDetail, NodeState, NodeView, RemovedNode},
    model::{Cluster, Name, Node, Standing, Timestamp, cluster::Versioned},
    store::{Revision, Transaction},
};

/// Most endpoints that a sentence names.
const NAMED: usize = 5;

/// All nodes.
pub fn list(context: &Context) -> Vec<NodeView> {
    let cluster = context.cluster();
    cluster.nodes.values().map(|node| view(context, &cluster, &node.record)).collect()
}

/// One node with its endpoints.
pub fn inspect(context: &Context, name: &Name) -> Result<NodeDetail> {
    let cluster = context.cluster();
    let node = view(context, &cluster, &node(&cluster, name)?.record);
    Ok(NodeDetail { node, attachments: endpoints::of_node(context, name)? })
}

/// Lets a node take no new endpoints, or take them again.
pub async fn drain(context: &Context, name: &Name, drain: bool) -> Result<NodeView> {
    node(&context.cluster(), name)?;
    let change = |record: &mut Node| {
        if drain && record.life.is_over() {
            return Err(ServiceError::Conflict(format!("node {name} is gone: there is nothing to drain")));
        }
        record.draining = drain.then(|| record.draining.unwrap_or_else(Timestamp::now));
        Ok(())
    };
    let changed = record::update(context.store.as_ref(), name, &Transaction::new(), change).await?;
    tracing::info!(node = %name, drain, "drain");
    context.in_force(changed.revision).await?;
    Ok(view(context, &context.cluster(), &changed.record))
}

/// Takes a node out of the cluster.
pub async fn remove(context: &Context, name: &Name, force: bool) -> Result<RemovedNode> {
    let cluster = context.cluster();
    let node = node(&cluster, name)?;
    if *name == context.config.node {
        return Err(ServiceError::Conflict(format!(
            "{name} is this node: stop its agent, then remove it on another node"
        )));
    }
    if node.record.life.is_over() && cluster.endpoints_on(name).next().is_none() {
        return forget(context, node).await;
    }
    if !force {
        check_removable(&cluster, &node.record)?;
    }
    match retire::retire(context.store.as_ref(), node, Reason::Removed).await? {
        Retirement::Overtaken => Err(overtaken(name)),
        Retirement::Done(collected) => {
            tracing::info!(node = %name, endpoints = collected.len(), "removed");
            let collected = collected.iter().map(|endpoint| endpoint.name.clone()).collect();
            let is_listed = record::read(context.store.as_ref(), name).await?.is_some();
            Ok(RemovedNode { name: name.clone(), collected, is_listed })
        }
    }
}

/// The revision of this node's record, on which an attach depends.
///
/// # Errors
/// If the node takes no endpoints.
pub(super) fn open_node(cluster: &Cluster, name: &Name) -> Result<Revision> {
    let Some(Versioned { record, revision }) = cluster.nodes.get(name) else {
        return Err(ServiceError::Unavailable(format!(
            "the store has no record of this node, {name}: it was wiped or is another one; put it back, or restart the agent"
        )));
    };
    if record.life.is_over() {
        return Err(ServiceError::Conflict(format!(
            "this node, {name}, was removed from the cluster: restart its agent to join again"
        )));
    }
    if record.draining.is_some() {
        return Err(ServiceError::Conflict(format!(
            "node {name} is being drained: attach the container on another node, or end this with `overlay node drain {name} --undo`"
        )));
    }
    Ok(*revision)
}

async fn forget(context: &Context, node: &Versioned<Node>) -> Result<RemovedNode> {
    let name = &node.record.name;
    if !retire::forget(context.store.as_ref(), node).await? {
        return Err(overtaken(name));
    }
    tracing::info!(node = %name, "forgotten");
    Ok(RemovedNode { name: name.clone(), collected: Vec::new(), is_listed: false })
}

fn check_removable(cluster: &Cluster, node: &Node) -> Result<()> {
    let name = &node.name;
    if cluster.standing(node) == Standing::Up {
        return Err(ServiceError::Conflict(format!(
            "node {name} is up: stop its agent first, or use --force, which takes its containers off their networks"
        )));
    }
    let mut names: Vec<&str> = cluster.endpoints_on(name).map(|e| e.record.name.as_str()).collect();
    let count = names.len();
    if count == 0 {
        return Ok(());
    }
    names.truncate(NAMED);
    Err(ServiceError::Conflict(format!(
        "node {name} has {count} endpoints ({}): detach them there, or use --force, which collects them at once",
        names.join(", ")
    )))
}

fn overtaken(name: &Name) -> ServiceError {
    ServiceError::Conflict(format!("node {name} registered or was changed just now: see `overlay node ls`"))
}

fn node<'a>(cluster: &'a Cluster, name: &Name) -> Result<&'a Versioned<Node>> {
    cluster
        .nodes
        .get(name)
        .ok_or_else(|| ServiceError::NotFound(format!("there is no node {name}: see `overlay node ls`")))
}

fn view(context: &Context, cluster: &Cluster, node: &Node) -> NodeView {
    let absences = context.absences.borrow();
    let endpoints = cluster.endpoints_on(&node.name).count();
    let state = state(cluster, node, &absences);
    NodeView {
        name: node.name.clone(),
        state,
        drain: node.draining.map(|_| if endpoints > 0 { Drain::Draining } else { Drain::Drained }),
        since: match state {
            NodeState::Silent | NodeState::Down => absences.since(&node.name),
            NodeState::Up | NodeState::Stopped | NodeState::Gone => node.since,
        },
        registered: node.registered,
        epoch: node.epoch,
        id: node.id.clone(),
        vtep: node.vtep,
        vxlan_port: node.vxlan_port,
        endpoints,
        version: node.version.clone(),
        local: node.name == context.config.node,
    }
}

pub(super) fn state(cluster: &Cluster, node: &Node, absences: &Absences) -> NodeState {
    match cluster.standing(node) {
        Standing::Up => NodeState::Up,
        Standing::Stopped => NodeState::Stopped,
        Standing::Silent if absences.is_down(&node.name) => NodeState::Down,
        Standing::Silent => NodeState::Silent,
        Standing::Gone => NodeState::Gone,
    }
}

impl From<RecordError> for ServiceError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Store(e) => e.into(),
            RecordError::Missing(_) => Self::NotFound(error.to_string()),
            RecordError::Contended(_) => Self::Unavailable(error.to_string()),
        }
    }
}
