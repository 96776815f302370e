//! GC: detaches what this CNI network attached on this host and the runtime knows no more.

use std::collections::BTreeSet;

use super::{
    CniError,
    config::{Config, ValidAttachment},
};
use crate::{
    api::{
        client::Client,
        types::{DetachOwned, EndpointView},
    },
    model::FrontEnd,
};

/// Detaches all that is not to stay; goes on past failures and tells of them at the end.
pub async fn gc(client: &Client, config: &Config) -> Result<(), CniError> {
    let valid: BTreeSet<ValidAttachment> = config.valid_attachments()?.into_iter().collect();
    let node = client.status().await?.node;
    let endpoints = client.endpoints().await?;
    let mut failures = Vec::new();
    for stale in endpoints.iter().filter(|e| e.node == node).filter_map(|e| stale(e, config, &valid)) {
        if let Err(e) = client.detach_owned(&stale).await {
            failures.push((
                format!("{} of container {}: {e}", stale.ifname.unwrap_or_default(), stale.owner.id),
                e,
            ));
        }
    }
    let Some((_, first)) = failures.first() else { return Ok(()) };
    let texts: Vec<&str> = failures.iter().map(|(text, _)| text.as_str()).collect();
    Err(CniError { details: texts.join("; "), ..CniError::from(first) })
}

/// What to detach of an endpoint, if it came from this CNI network and is not to stay.
fn stale(endpoint: &EndpointView, config: &Config, valid: &BTreeSet<ValidAttachment>) -> Option<DetachOwned> {
    let owner = endpoint.owner.as_ref()?;
    if owner.front_end != FrontEnd::Cni || owner.network != config.name {
        return None;
    }
    let attachment = ValidAttachment { container: owner.id.to_string(), ifname: endpoint.ifname.clone() };
    let is_stale = !valid.contains(&attachment);
    is_stale.then(|| DetachOwned { owner: owner.clone(), ifname: Some(attachment.ifname) })
}
