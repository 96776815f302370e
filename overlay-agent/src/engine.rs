//! What the plugins of container engines share: a container's names, and ports that it has published already.

use std::collections::BTreeSet;

use crate::{
    api::client::{Client, ClientError},
    model::{ForeignId, FrontEnd, Name, Publication},
};

/// Digits of a container's id that engines show, and people ask for by name.
const SHORT_ID: usize = 12;

/// A container's name and its others: what people call it, else the start of its id, by which it is found in any case.
#[must_use]
pub fn names(id: &ForeignId, called: Option<&str>, mut aliases: Vec<Name>) -> (Option<Name>, Vec<Name>) {
    let short: String = id.as_str().chars().take(SHORT_ID).collect();
    let short: Option<Name> = short.parse().ok();
    let name = called.and_then(|name| name.parse().ok()).or_else(|| short.clone());
    aliases.extend(short);
    let mut seen: BTreeSet<Name> = name.iter().cloned().collect();
    aliases.retain(|alias| seen.insert(alias.clone()));
    (name, aliases)
}

/// The ports that a container has not published yet. Engines name a container's ports anew for each of its networks; one of
/// them publishes them.
///
/// # Errors
/// If the agent cannot be asked.
pub async fn unpublished(
    client: &Client,
    front_end: FrontEnd,
    id: &ForeignId,
    mut ports: Vec<Publication>,
) -> Result<Vec<Publication>, ClientError> {
    if ports.is_empty() {
        return Ok(ports);
    }
    let endpoints = client.endpoints().await?;
    let is_its = |owner: &crate::model::Owner| owner.front_end == front_end && owner.id == *id;
    let its = endpoints.iter().filter(|e| e.local.is_some() && e.owner.as_ref().is_some_and(is_its));
    let published: Vec<Publication> = its.flat_map(|e| e.published.iter().copied()).collect();
    ports.retain(|port| !published.contains(port));
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_the_name_that_people_gave_it_and_is_found_by_its_id() {
        let id = "4f2a0123456789abcdef".parse().unwrap();
        let texts = |(name, aliases): (Option<Name>, Vec<Name>)| {
            name.into_iter().chain(aliases).map(|name| name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(texts(names(&id, None, Vec::new())), ["4f2a01234567"]);
        let aliases = ["www", "4f2a01234567", "web", "www"].map(|alias| alias.parse().unwrap()).to_vec();
        assert_eq!(texts(names(&id, Some("web"), aliases)), ["web", "www", "4f2a01234567"]);
        assert_eq!(texts(names(&id, Some("no name"), Vec::new())), ["4f2a01234567"]);
    }
}
