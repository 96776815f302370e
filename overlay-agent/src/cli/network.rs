//! `overlay network`: create, ls, inspect, rm.

use std::{collections::BTreeSet, net::IpAddr};

use clap::{Args, Subcommand};
use ipnet::{IpNet, Ipv4Net};
use overlay_common::vni::Vni;

use super::{
    CliError, complete,
    dry_run::DryRun,
    endpoint,
    labels::{self, Filter, Labels},
    output::{Output, Style, field, or_dash, yes_or_no},
    watch::Watch,
};
use crate::{
    api::{
        client::{Client, ClientError},
        types::{CreateIpv6, CreateNetwork, ErrorCode, NetworkView},
    },
    family,
    model::Name,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a network; what is left out is chosen
    #[command(after_help = "\
Examples:
  overlay network create ov_net1
  overlay network create backend --subnet 10.1.0.0/16 --vni 4096 --label team=db
  overlay network create dual --ipv6
  overlay network create lab --subnet 10.2.0.0/16 --subnet fd00:2::/64")]
    Create(Create),
    /// List networks
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  overlay network ls -o json\n  overlay network ls --filter label=team=db"
    )]
    Ls {
        /// Only those that fit: name=PART, internal=true, multicast=true, vni=…, label=KEY or label=KEY=VALUE; may be given several times
        #[arg(long = "filter", value_name = "FIELD=VALUE", value_parser = Filter::parser(FILTER_FIELDS))]
        filters: Vec<Filter>,
        #[command(flatten)]
        watch: Watch,
    },
    /// Show a network and its endpoints on all hosts
    #[command(after_help = "Example:\n  overlay network inspect ov_net1")]
    Inspect {
        /// Name of the network
        #[arg(add = complete::networks())]
        name: Name,
        #[command(flatten)]
        watch: Watch,
    },
    /// Remove all networks that have no endpoints
    #[command(after_help = "\
Examples:
  overlay network prune --dry-run
  overlay network prune --filter label=team=db")]
    Prune {
        /// Only those that fit, as with `network ls`
        #[arg(long = "filter", value_name = "FIELD=VALUE", value_parser = Filter::parser(FILTER_FIELDS))]
        filters: Vec<Filter>,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Remove a network that has no endpoints
    #[command(after_help = "Example:\n  overlay network rm ov_net1")]
    Rm {
        /// Name of the network
        #[arg(add = complete::networks())]
        name: Name,
        #[command(flatten)]
        dry_run: DryRun,
    },
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Name of the network
    name: Name,
    /// Addresses of its containers; with an IPv6 one besides, they have addresses of both families [default: the first free
    /// /24 from 10.0.0.0 upward]
    #[arg(long = "subnet", value_name = "CIDR")]
    subnets: Vec<IpNet>,
    /// IPv6 too, with a random unique local /64 if no subnet says otherwise
    #[arg(long)]
    ipv6: bool,
    /// The gateway, one of each family [default: each subnet's first address]
    #[arg(long = "gateway", value_name = "IP")]
    gateways: Vec<IpAddr>,
    /// Part of the subnet to give addresses from [default: all of it]
    #[arg(long, value_name = "CIDR")]
    ip_range: Option<Ipv4Net>,
    /// VXLAN network identifier [default: the first free one from 256 upward]
    #[arg(long, value_name = "N")]
    vni: Option<Vni>,
    /// Largest IP packet in bytes [default: the underlay's MTU less 50]
    #[arg(long, value_name = "N")]
    mtu: Option<u16>,
    /// No way to the outside world
    #[arg(long)]
    internal: bool,
    /// Copy broadcast and multicast to all members [default: drop it]
    #[arg(long)]
    multicast: bool,
    #[command(flatten)]
    labels: Labels,
    #[command(flatten)]
    dry_run: DryRun,
}

const FILTER_FIELDS: &[&str] = &["name", "internal", "multicast", "vni"];

fn fits(network: &NetworkView, filters: &[Filter]) -> bool {
    let field = |field: &str| match field {
        "internal" => network.internal.to_string(),
        "multicast" => network.multicast.to_string(),
        "vni" => network.vni.to_string(),
        _ => network.name.to_string(),
    };
    Filter::all_fit(filters, &network.labels, field)
}

/// Removes the networks without endpoints that fit. One that gets an endpoint meanwhile stays.
async fn prune(client: &Client, filters: &[Filter]) -> Result<Vec<NetworkView>, CliError> {
    let used: BTreeSet<Name> = client.endpoints().await?.into_iter().map(|e| e.network).collect();
    let networks = client.networks().await?;
    let mut pruned = Vec::new();
    for network in networks.into_iter().filter(|n| !used.contains(&n.name) && fits(n, filters)) {
        match client.remove_network(&network.name).await {
            Ok(network) => pruned.push(network),
            Err(ClientError::Api(body)) if matches!(body.code, ErrorCode::Conflict | ErrorCode::NotFound) => {
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(pruned)
}

impl TryFrom<Create> for CreateNetwork {
    type Error = CliError;

    fn try_from(create: Create) -> Result<Self, CliError> {
        let Create {
            name,
            subnets,
            ipv6,
            gateways,
            ip_range,
            vni,
            mtu,
            internal,
            multicast,
            labels,
            dry_run: _,
        } = create;
        let labels = labels.into();
        let (subnet, subnet6) = family::subnets("--subnet", subnets)?;
        let (gateway, gateway6) = family::addresses("--gateway", gateways)?;
        let ipv6 = CreateIpv6::asked(ipv6, subnet6, gateway6);
        Ok(Self { name, subnet, gateway, ip_range, ipv6, vni, mtu, internal, multicast, labels })
    }
}

impl Command {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        match self {
            Self::Create(create) => {
                let client = create.dry_run.of(client);
                let network = client.create_network(&create.try_into()?).await?;
                out.print(&network, |style| table(std::slice::from_ref(&network), style))
            }
            Self::Ls { filters, watch } => {
                let fetch = async || {
                    let mut networks = client.networks().await?;
                    networks.retain(|network| fits(network, &filters));
                    Ok(networks)
                };
                watch.show(out, fetch, |networks, style| table(networks, style)).await
            }
            Self::Inspect { name, watch } => {
                watch.show(out, async || Ok(client.network(&name).await?), detail).await
            }
            Self::Prune { filters, dry_run } => {
                let networks = prune(&dry_run.of(client), &filters).await?;
                out.print(&networks, |_| networks.iter().map(|n| format!("{}\n", n.name)).collect())
            }
            Self::Rm { name, dry_run } => {
                let network = dry_run.of(client).remove_network(&name).await?;
                out.print(&network, |_| format!("{}\n", network.name))
            }
        }
    }
}

pub(super) fn table(networks: &[NetworkView], style: Style) -> String {
    let row = |network: &NetworkView| {
        [
            network.name.to_string(),
            network.vni.to_string(),
            network.subnet.to_string(),
            network.gateway.to_string(),
            network.mtu.to_string(),
            yes_or_no(network.internal),
            network.scope.clone(),
        ]
    };
    style.table(["NAME", "VNI", "SUBNET", "GATEWAY", "MTU", "INTERNAL", "SCOPE"], networks.iter().map(row))
}

pub(super) fn detail(network: &NetworkView, style: Style) -> String {
    let fields = style.fields(&[
        field("name", &network.name),
        field("VNI", &network.vni),
        field("subnet", &network.subnet),
        field("gateway", &network.gateway),
        field("IP range", &or_dash(network.ip_range)),
        field("IPv6 subnet", &or_dash(network.ipv6_subnet)),
        field("IPv6 gateway", &or_dash(network.ipv6_gateway)),
        field("MTU", &network.mtu),
        field("internal", &yes_or_no(network.internal)),
        field("multicast", &yes_or_no(network.multicast)),
        field("scope", &network.scope),
        field("labels", &labels::shown(&network.labels)),
    ]);
    format!("{fields}\n{}", endpoint::table(&network.endpoints, style))
}
