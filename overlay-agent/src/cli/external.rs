//! `overlay external`: add, ls, rm.

use std::net::Ipv4Addr;

use clap::{Args, Subcommand};
use overlay_common::mac::Mac;

use super::{
    CliError, complete,
    naming::Naming,
    output::{Output, Style, or_dash},
};
use crate::{
    api::{
        client::Client,
        types::{AddExternal, EndpointView},
    },
    model::Name,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a machine without an agent a member of a network, under the addresses that it has
    #[command(after_help = "\
The machine sends VXLAN packets with the network's VNI to any host of the cluster, which answers its ARP. A kernel's device
on 192.0.2.9, for a network with VNI 256 and a host at 192.0.2.1:

  ip link add vx0 address 02:00:00:00:00:09 type vxlan id 256 dstport 4789 local 192.0.2.9 remote 192.0.2.1
  ip address add 10.0.0.9/24 dev vx0 && ip link set vx0 mtu 1450 up

Example:
  overlay external add ov_net1 --vtep 192.0.2.9 --mac 02:00:00:00:00:09 --ip 10.0.0.9 --name plc")]
    Add(Add),
    /// List them
    #[command(visible_alias = "list", after_help = "Example:\n  overlay external ls")]
    Ls,
    /// Take one out of its network: it is not heard any more, and its addresses are free
    #[command(visible_alias = "remove", after_help = "Example:\n  overlay external rm ov_net1 plc")]
    Rm {
        /// Name of the network
        #[arg(add = complete::networks())]
        network: Name,
        /// Name of the member
        #[arg(add = complete::endpoints())]
        name: Name,
    },
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// Name of the network
    #[arg(add = complete::networks())]
    network: Name,
    /// Its address on the underlay
    #[arg(long, value_name = "IP")]
    vtep: Ipv4Addr,
    /// Its hardware address in the network
    #[arg(long)]
    mac: Mac,
    /// Its address in the network
    #[arg(long)]
    ip: Ipv4Addr,
    #[command(flatten)]
    naming: Naming,
}

impl Command {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        match self {
            Self::Add(Add { network, vtep, mac, ip, naming: Naming { name, aliases, labels } }) => {
                let request = AddExternal { vtep, mac, ip, name, aliases, labels: labels.into() };
                let added = client.add_external(&network, &request).await?;
                out.print(&added, |style| table(std::slice::from_ref(&added), style))
            }
            Self::Ls => {
                let members = client.externals().await?;
                out.print(&members, |style| table(&members, style))
            }
            Self::Rm { network, name } => {
                let removed = client.remove_external(&network, &name).await?;
                out.print(&removed, |_| format!("{}\n", removed.name))
            }
        }
    }
}

pub(super) fn table(members: &[EndpointView], style: Style) -> String {
    let row = |member: &EndpointView| {
        [
            member.name.to_string(),
            member.network.to_string(),
            or_dash(member.vtep),
            member.mac.to_string(),
            member.ip.to_string(),
            member.id.to_string(),
        ]
    };
    style.table(["NAME", "NETWORK", "VTEP", "MAC", "IP", "ID"], members.iter().map(row))
}
