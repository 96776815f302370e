//! ADD: the network where it is not there yet, then the container.

use serde_json::Value;

use super::{
    CniError, attachment,
    config::{Config, Wishes},
    environment::{Args, Environment},
    result::{Previous, result},
};
use crate::{
    api::{
        client::{Client, ClientError},
        types::{AttachRequest, DetachOwned, NetnsRef},
    },
    engine,
    model::FrontEnd,
    netns,
};

/// Attaches a container; what is to be printed.
pub async fn add(client: &Client, environment: &Environment, config: &Config) -> Result<Value, CniError> {
    let attachment = attachment(environment, config)?;
    let args = environment.args()?;
    let wishes = config.wishes(&args)?;
    let previous = config.previous::<Previous>()?.unwrap_or_default();
    let netns = NetnsRef::Path(environment.netns().unwrap_or_default());
    // Nothing is made for a container that is not there, and the runtime hears of it by the specification's own number.
    drop(netns::resolve(&netns)?);
    let network = client.ensure_network(&wishes.network).await.map_err(|e| CniError::of_network(&e))?;
    if wishes.internal == Some(false) && network.internal {
        return Err(CniError::config(format!(
            "internal false: network {} exists and is internal; ask for what is there, or for another network",
            network.name
        )));
    }
    let dns = wishes.dns.clone();
    let mut request = request(netns, &attachment, &args, wishes);
    let id = &attachment.owner.id;
    request.publish = engine::unpublished(client, FrontEnd::Cni, id, request.publish).await?;
    match client.attach(&network.name, &request).await {
        Ok(made) => Ok(result(config.version, previous, &made, dns)),
        // The agent takes back what it could not finish.
        Err(error @ ClientError::Api(_)) => Err(error.into()),
        Err(error) => {
            if let Err(e) = client.detach_owned(&attachment).await {
                eprintln!("overlay-cni: what may have been attached could not be taken back: {e}");
            }
            Err(error.into())
        }
    }
}

fn request(netns: NetnsRef, attachment: &DetachOwned, args: &Args, wishes: Wishes) -> AttachRequest {
    let (name, aliases) = engine::names(&attachment.owner.id, args.pod.as_deref(), wishes.aliases);
    AttachRequest {
        netns,
        name,
        // Another host may run a container of the same name, as with any engine.
        name_may_be_taken: true,
        aliases,
        labels: wishes.labels,
        ifname: attachment.ifname.clone(),
        ip: wishes.ip,
        ipv6: wishes.ipv6,
        mac: wishes.mac,
        publish: wishes.publish,
        owner: Some(attachment.owner.clone()),
        limits: wishes.limits,
        default_route: false,
    }
}
