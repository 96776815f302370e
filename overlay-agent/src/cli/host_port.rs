//! `overlay host-port`: an address of this host's own in a network.

use std::net::IpAddr;

use clap::Args;
use overlay_common::mac::Mac;

use super::{CliError, attach, dry_run::DryRun, endpoint, labels::Labels, output::Output};
use crate::{
    api::{
        client::Client,
        types::{AttachRequest, DetachRequest, NetnsRef},
    },
    family,
    model::{Limits, Name},
};

#[derive(Debug, Args)]
#[command(after_help = "\
The host gets a device in the network as a container does, and the network's containers reach it at its address there and at
no other. The host's routes stay as they are; nothing is forwarded between the device and others.

Examples:
  overlay host-port ov_net1
  overlay host-port ov_net1 --ip 10.0.0.250 --alias registry
  overlay host-port ov_net1 --rm")]
pub(super) struct HostPort {
    /// Name of the network
    network: Name,
    /// Address; one of each family that the network has [default: the next free ones]
    #[arg(long = "ip", value_name = "IP")]
    ips: Vec<IpAddr>,
    /// Hardware address [default: 02:42 and the address]
    #[arg(long)]
    mac: Option<Mac>,
    /// Name of the endpoint [default: the node's]
    #[arg(long)]
    name: Option<Name>,
    /// Another name, which others in the network may have too; may be given several times
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<Name>,
    #[command(flatten)]
    labels: Labels,
    /// Take it back; that there is none is no error
    #[arg(long, conflicts_with_all = ["ips", "mac", "name", "aliases", "labels"])]
    rm: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

impl HostPort {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        let client = self.dry_run.of(client);
        if self.rm {
            let request = DetachRequest::Netns(NetnsRef::Host);
            let result = client.detach(&self.network, &request).await?;
            return out.print(&result, |_| attach::sentences(&self.network, &request, &result));
        }
        let (ip, ipv6) = family::addresses("--ip", self.ips)?;
        let request = AttachRequest {
            netns: NetnsRef::Host,
            name_may_be_taken: false,
            ipv6,
            owner: None,
            name: self.name,
            aliases: self.aliases,
            labels: self.labels.into(),
            ifname: None,
            ip,
            mac: self.mac,
            publish: Vec::new(),
            limits: Limits::default(),
            default_route: false,
        };
        let attached = client.attach(&self.network, &request).await?.endpoint;
        out.print(&attached, |style| endpoint::table(std::slice::from_ref(&attached), style))
    }
}
