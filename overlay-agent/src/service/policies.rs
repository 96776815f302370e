//! Which networks may talk.

use super::{Context, Result, ServiceError};
use crate::{
    api::types::PolicyView,
    model::{Name, Network, Policy, keys::Key},
    store::{Outcome, Transaction},
};

/// All policies.
pub fn list(context: &Context) -> Vec<PolicyView> {
    context.cluster().policies.keys().map(|(from, to)| view(from, to)).collect()
}

/// Lets two networks talk, both ways.
pub async fn allow(context: &Context, a: &Name, b: &Name) -> Result<Vec<PolicyView>> {
    let (net_a, net_b) = (context.network(a)?, context.network(b)?);
    if a == b {
        return Err(ServiceError::Invalid(format!(
            "{a} is one network: its containers talk without a policy"
        )));
    }
    check_distinct(context, &net_a.record, &net_b.record)?;
    check_distinct(context, &net_b.record, &net_a.record)?;
    // The networks are written anew so that of two policies for one network, made at once, one has to look again.
    let transaction = Transaction::new()
        .replace(Key::Network(a.clone()), net_a.revision, &net_a.record)
        .replace(Key::Network(b.clone()), net_b.revision, &net_b.record)
        .put(Key::Policy(a.clone(), b.clone()), &Policy::Allow)
        .put(Key::Policy(b.clone(), a.clone()), &Policy::Allow);
    commit(context, transaction).await?;
    tracing::info!(%a, %b, "policy: allow");
    Ok(vec![view(a, b), view(b, a)])
}

/// Keeps two networks apart again; that they were is no error.
pub async fn deny(context: &Context, a: &Name, b: &Name) -> Result<()> {
    context.network(a)?;
    context.network(b)?;
    let transaction = Transaction::new()
        .delete(Key::Policy(a.clone(), b.clone()))
        .delete(Key::Policy(b.clone(), a.clone()));
    commit(context, transaction).await?;
    tracing::info!(%a, %b, "policy: deny");
    Ok(())
}

async fn commit(context: &Context, transaction: Transaction) -> Result<()> {
    match context.store.commit(transaction).await? {
        Outcome::Committed(revision) => context.in_force(revision).await,
        Outcome::Conflict(key) => {
            Err(ServiceError::Conflict(format!("{key} was changed by another host meanwhile: try again")))
        }
    }
}

/// A container of `from` finds `to` by its addresses, so these must mean one network to it.
fn check_distinct(context: &Context, from: &Network, to: &Network) -> Result<()> {
    let cluster = context.cluster();
    let reachable = cluster.policies.keys().filter(|(a, b)| *a == from.name && *b != to.name);
    let others = reachable.filter_map(|(_, b)| cluster.networks.get(b)).map(|n| &n.record);
    match others.chain([from]).find(|other| overlap(other, to)) {
        None => Ok(()),
        Some(other) => Err(ServiceError::Conflict(format!(
            "the subnets of {} ({}) and {} ({}) overlap, so containers of {} could not tell them apart",
            to.name, to.subnet, other.name, other.subnet, from.name
        ))),
    }
}

fn overlap(a: &Network, b: &Network) -> bool {
    a.subnet.contains(&b.subnet) || b.subnet.contains(&a.subnet)
}

fn view(from: &Name, to: &Name) -> PolicyView {
    PolicyView { from: from.clone(), to: to.clone(), action: "allow".to_owned() }
}
