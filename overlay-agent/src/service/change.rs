//! Changing what is there: the labels and limits of an endpoint, on whatever node it is. The maps follow at once.

use super::{Context, Result, ServiceError, endpoints};
use crate::{
    api::types::{ChangeLabels, ChangeLimits, Direction, EndpointView},
    model::{Endpoint, Name, keys::Key},
    store::{Outcome, Transaction},
};

/// Sets and takes away labels. That they are as asked for is no error.
pub async fn labels(
    context: &Context,
    network: &Name,
    name: &Name,
    change: ChangeLabels,
) -> Result<EndpointView> {
    rewrite(context, network, name, |endpoint| {
        endpoint.labels.retain(|key, _| !change.remove.contains(key));
        endpoint.labels.extend(change.set);
        Ok(())
    })
    .await
}

/// Sets and takes away limits. That they are as asked for is no error.
pub async fn limits(
    context: &Context,
    network: &Name,
    name: &Name,
    change: ChangeLimits,
) -> Result<EndpointView> {
    rewrite(context, network, name, |endpoint| {
        if endpoint.is_external() {
            return Err(ServiceError::Invalid(format!(
                "{name} is a machine without an agent: only containers can be limited"
            )));
        }
        let limits = &mut endpoint.limits;
        limits.egress_bits_per_s = change.set.egress_bits_per_s.or(limits.egress_bits_per_s);
        limits.ingress_bits_per_s = change.set.ingress_bits_per_s.or(limits.ingress_bits_per_s);
        for direction in change.remove {
            match direction {
                Direction::Egress => limits.egress_bits_per_s = None,
                Direction::Ingress => limits.ingress_bits_per_s = None,
            }
        }
        Ok(())
    })
    .await
}

/// Writes an endpoint's record anew, if that changes it.
async fn rewrite(
    context: &Context,
    network: &Name,
    name: &Name,
    change: impl FnOnce(&mut Endpoint) -> Result<()>,
) -> Result<EndpointView> {
    context.network(network)?;
    let cluster = context.cluster();
    let endpoint = cluster.endpoint_named(network, name).ok_or_else(|| {
        ServiceError::NotFound(format!("there is no endpoint {name} in {network}: see `overlay endpoint ls`"))
    })?;
    let mut record = endpoint.record.clone();
    change(&mut record)?;
    if record != endpoint.record {
        let key = Key::Endpoint(network.clone(), record.id.clone());
        let transaction = Transaction::new().replace(key, endpoint.revision, &record);
        let Outcome::Committed(revision) = context.store.commit(transaction).await? else {
            return Err(ServiceError::Conflict(format!(
                "{name} was changed or detached meanwhile: try again"
            )));
        };
        context.in_force(revision).await?;
        tracing::info!(endpoint = %name, %network, "changed");
    }
    let views = endpoints::inspect(context, endpoint.record.id.as_str())?;
    views.into_iter().next().ok_or_else(|| ServiceError::Conflict(format!("{name} was detached meanwhile")))
}
