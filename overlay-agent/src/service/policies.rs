//! Which networks may talk, as a whole.

use super::{Context, Result, ServiceError, rules};
use crate::{
    api::types::{PolicyAction, PolicyView},
    model::{Cluster, Name, Network, Policy, cluster::Versioned, keys::Key},
    reconcile::rules::directions,
    store::{MAX_OPERATIONS, Outcome, Transaction},
};

/// All policies and rules, with what this host counted.
pub fn list(context: &Context) -> Result<Vec<PolicyView>> {
    let cluster = context.cluster();
    let mut views: Vec<PolicyView> = cluster.policies.keys().map(|(from, to)| view(from, to)).collect();
    views.extend(rules::views(context, &cluster)?);
    views.sort_by(|a, b| (&a.from, &a.to, a.id).cmp(&(&b.from, &b.to, b.id)));
    Ok(views)
}

/// Lets two networks talk, both ways.
pub async fn allow(context: &Context, a: &Name, b: &Name) -> Result<Vec<PolicyView>> {
    let (net_a, net_b) = neighbours(context, a, b)?;
    let transaction = joined(&net_a, &net_b)
        .put(Key::Policy(a.clone(), b.clone()), &Policy::Allow)
        .put(Key::Policy(b.clone(), a.clone()), &Policy::Allow);
    commit(context, transaction).await?;
    tracing::info!(%a, %b, "policy: allow");
    Ok(vec![view(a, b), view(b, a)])
}

/// Keeps two networks apart again, whatever let them talk; that they were is no error.
pub async fn deny(context: &Context, a: &Name, b: &Name) -> Result<()> {
    context.network(a)?;
    context.network(b)?;
    let cluster = context.cluster();
    let whole = [Key::Policy(a.clone(), b.clone()), Key::Policy(b.clone(), a.clone())];
    let keys: Vec<Key> = whole.into_iter().chain(rules::keys_between(&cluster, a, b)).collect();
    for some in keys.chunks(MAX_OPERATIONS) {
        let transaction =
            some.iter().fold(Transaction::new(), |transaction, key| transaction.delete(key.clone()));
        commit(context, transaction).await?;
    }
    tracing::info!(%a, %b, "policy: deny");
    Ok(())
}

/// Two networks that can be let talk.
pub(super) fn neighbours(
    context: &Context,
    a: &Name,
    b: &Name,
) -> Result<(Versioned<Network>, Versioned<Network>)> {
    let (net_a, net_b) = (context.network(a)?, context.network(b)?);
    if a == b {
        return Err(ServiceError::Invalid(format!(
            "{a} is one network: its containers talk without a policy"
        )));
    }
    let cluster = context.cluster();
    check_distinct(&cluster, &net_a.record, &net_b.record)?;
    check_distinct(&cluster, &net_b.record, &net_a.record)?;
    Ok((net_a, net_b))
}

/// Both networks are written anew, so that of two policies for one network, made at once, one has to look again.
pub(super) fn joined(a: &Versioned<Network>, b: &Versioned<Network>) -> Transaction {
    let key = |network: &Network| Key::Network(network.name.clone());
    Transaction::new().replace(key(&a.record), a.revision, &a.record).replace(
        key(&b.record),
        b.revision,
        &b.record,
    )
}

pub(super) async fn commit(context: &Context, transaction: Transaction) -> Result<()> {
    match context.store.commit(transaction).await? {
        Outcome::Committed(revision) => context.in_force(revision).await,
        Outcome::Conflict(key) => {
            Err(ServiceError::Conflict(format!("{key} was changed by another host meanwhile: try again")))
        }
    }
}

/// A container of `from` finds `to` by its addresses, so these must mean one network to it.
fn check_distinct(cluster: &Cluster, from: &Network, to: &Network) -> Result<()> {
    let directions = directions(cluster);
    let reachable = directions.iter().filter(|(a, b)| *a == from.name && *b != to.name);
    let others = reachable.filter_map(|(_, b)| cluster.networks.get(b)).map(|n| &n.record);
    match others.chain([from]).find(|other| overlap(other, to)) {
        None => Ok(()),
        Some(other) => Err(ServiceError::Conflict(format!(
            "the subnets of {} ({}) and {} ({}) overlap, so containers of {} could not tell them apart",
            to.name,
            shown(to),
            other.name,
            shown(other),
            from.name
        ))),
    }
}

fn shown(network: &Network) -> String {
    network.subnets().map(|subnet| subnet.to_string()).collect::<Vec<_>>().join(", ")
}

fn overlap(a: &Network, b: &Network) -> bool {
    a.subnets().any(|one| b.subnets().any(|other| one.contains(&other) || other.contains(&one)))
}

fn view(from: &Name, to: &Name) -> PolicyView {
    PolicyView {
        from: from.clone(),
        to: to.clone(),
        action: PolicyAction::Allow,
        id: None,
        allows: None,
        audit: false,
        counted: None,
    }
}
