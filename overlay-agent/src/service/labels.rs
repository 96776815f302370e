//! Labels of endpoints that are there. Rules that ask for labels follow at once.

use super::{Context, Result, ServiceError, endpoints};
use crate::{
    api::types::{ChangeLabels, EndpointView},
    model::{Endpoint, Name, keys::Key},
    store::{Outcome, Transaction},
};

/// Sets and takes away labels of an endpoint, on whatever node it is. That they are as asked for is no error.
pub async fn change(
    context: &Context,
    network: &Name,
    name: &Name,
    change: ChangeLabels,
) -> Result<EndpointView> {
    context.network(network)?;
    let cluster = context.cluster();
    let endpoint = cluster.endpoint_named(network, name).ok_or_else(|| {
        ServiceError::NotFound(format!("there is no endpoint {name} in {network}: see `overlay endpoint ls`"))
    })?;
    let mut labels = endpoint.record.labels.clone();
    labels.retain(|key, _| !change.remove.contains(key));
    labels.extend(change.set);
    if labels != endpoint.record.labels {
        let record = Endpoint { labels, ..endpoint.record.clone() };
        let key = Key::Endpoint(network.clone(), record.id.clone());
        let transaction = Transaction::new().replace(key, endpoint.revision, &record);
        let Outcome::Committed(revision) = context.store.commit(transaction).await? else {
            return Err(ServiceError::Conflict(format!(
                "{name} was changed or detached meanwhile: try again"
            )));
        };
        context.in_force(revision).await?;
        tracing::info!(endpoint = %name, %network, "labels changed");
    }
    let views = endpoints::inspect(context, endpoint.record.id.as_str())?;
    views.into_iter().next().ok_or_else(|| ServiceError::Conflict(format!("{name} was detached meanwhile")))
}
