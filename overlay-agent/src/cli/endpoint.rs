//! `overlay endpoint`: ls, label, limit, inspect.

use std::str::FromStr;

use clap::{ArgGroup, Args, Subcommand};

use super::{
    CliError, complete, drops,
    dry_run::DryRun,
    labels::{self, Filter},
    output::{Field, Output, Style, field, or_dash},
    watch::Watch,
};
use crate::{
    api::{
        client::Client,
        types::{ChangeLabels, ChangeLimits, Direction, EndpointView, LocalEndpointView},
    },
    model::{InvalidRate, Limits, Name, Rate},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the endpoints on all hosts
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  overlay endpoint ls -o json\n  overlay endpoint ls --filter node=host1"
    )]
    Ls {
        /// Only those that fit: name=PART, network=…, node=…, ip=…, owner=cni|docker|netavark, label=KEY or label=KEY=VALUE; may be given several times
        #[arg(long = "filter", value_name = "FIELD=VALUE", value_parser = Filter::parser(FILTER_FIELDS))]
        filters: Vec<Filter>,
        #[command(flatten)]
        watch: Watch,
    },
    /// Set or take away labels of an endpoint, on any host: rules that ask for labels follow at once
    #[command(
        after_help = "Examples:\n  overlay endpoint label ov_net1 bbox1 app=web tier=front\n  overlay endpoint label ov_net1 bbox1 --rm tier"
    )]
    Label {
        /// Name of the network
        #[arg(add = complete::networks())]
        network: Name,
        /// Name of the endpoint
        #[arg(add = complete::endpoints())]
        name: Name,
        /// Labels to set
        #[arg(value_name = "K=V", value_parser = labels::label, required_unless_present = "remove")]
        set: Vec<(String, String)>,
        /// Key of a label to take away; may be given several times
        #[arg(long = "rm", value_name = "K")]
        remove: Vec<String>,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Change how fast an endpoint may send and receive, on any host; connections go on
    #[command(
        after_help = "Examples:\n  overlay endpoint limit ov_net1 bbox1 --egress-rate 100mbit --ingress-rate 1gbit\n  overlay endpoint limit ov_net1 bbox1 --egress-rate none"
    )]
    Limit(Limit),
    /// Show the endpoints with this name, or the one with this id, and the counters of those on this host
    #[command(after_help = "Example:\n  overlay endpoint inspect bbox1")]
    Inspect {
        /// Name or id of the endpoint
        #[arg(add = complete::endpoints())]
        name: Name,
        #[command(flatten)]
        watch: Watch,
    },
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("rate").required(true).multiple(true)))]
pub(super) struct Limit {
    /// Name of the network
    network: Name,
    /// Name of the endpoint
    name: Name,
    /// What it may send, in bits a second: 100mbit, 1.5gbit; none: all that the host can
    #[arg(long, value_name = "RATE|none", group = "rate")]
    egress_rate: Option<NewRate>,
    /// What it may receive
    #[arg(long, value_name = "RATE|none", group = "rate")]
    ingress_rate: Option<NewRate>,
    #[command(flatten)]
    dry_run: DryRun,
}

/// A rate, or that there is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NewRate(Option<Rate>);

impl FromStr for NewRate {
    type Err = InvalidRate;
    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|rate| Self(Some(rate))) }
    }
}

impl Limit {
    pub(super) fn change(&self) -> ChangeLimits {
        let both = [(Direction::Egress, self.egress_rate), (Direction::Ingress, self.ingress_rate)];
        let none = both.into_iter().filter(|(_, rate)| *rate == Some(NewRate(None)));
        ChangeLimits {
            set: Limits {
                egress_bits_per_s: self.egress_rate.and_then(|rate| rate.0),
                ingress_bits_per_s: self.ingress_rate.and_then(|rate| rate.0),
            },
            remove: none.map(|(direction, _)| direction).collect(),
        }
    }
}

impl Command {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        match self {
            Self::Ls { filters, watch } => {
                let fetch = async || {
                    let mut endpoints = client.endpoints().await?;
                    endpoints.retain(|endpoint| fits(endpoint, &filters));
                    Ok(endpoints)
                };
                watch.show(out, fetch, |endpoints, style| table(endpoints, style)).await
            }
            Self::Label { network, name, set, remove, dry_run } => {
                let change = ChangeLabels { set: set.into_iter().collect(), remove };
                let endpoint = dry_run.of(client).change_labels(&network, &name, &change).await?;
                out.print(&endpoint, |style| details(std::slice::from_ref(&endpoint), style))
            }
            Self::Inspect { name, watch } => {
                let fetch = async || Ok(client.endpoint(&name).await?);
                watch.show(out, fetch, |endpoints, style| details(endpoints, style)).await
            }
            Self::Limit(limit) => {
                let (client, change) = (limit.dry_run.of(client), limit.change());
                let endpoint = client.change_limits(&limit.network, &limit.name, &change).await?;
                out.print(&endpoint, |style| details(std::slice::from_ref(&endpoint), style))
            }
        }
    }
}

const FILTER_FIELDS: &[&str] = &["name", "network", "node", "ip", "owner"];

pub(super) fn fits(endpoint: &EndpointView, filters: &[Filter]) -> bool {
    let field = |field: &str| match field {
        "network" => endpoint.network.to_string(),
        "node" => endpoint.node.to_string(),
        "ip" => endpoint.ip.addr().to_string(),
        "owner" => endpoint.owner.as_ref().map_or_else(String::new, |owner| owner.front_end.to_string()),
        _ => endpoint.name.to_string(),
    };
    Filter::all_fit(filters, &endpoint.labels, field)
}

pub(super) fn table(endpoints: &[EndpointView], style: Style) -> String {
    let row = |endpoint: &EndpointView| {
        [
            endpoint.name.to_string(),
            endpoint.network.to_string(),
            endpoint.node.to_string(),
            endpoint.ip.to_string(),
            endpoint.mac.to_string(),
            endpoint.ifname.clone(),
            endpoint.id.to_string(),
        ]
    };
    style.table(["NAME", "NETWORK", "NODE", "IP", "MAC", "IFNAME", "ID"], endpoints.iter().map(row))
}

pub(super) fn details(endpoints: &[EndpointView], style: Style) -> String {
    endpoints.iter().map(|endpoint| detail(endpoint, style)).collect::<Vec<_>>().join("\n")
}

fn detail(endpoint: &EndpointView, style: Style) -> String {
    let mut fields = vec![
        field("name", &endpoint.name),
        field("id", &endpoint.id),
        field("network", &endpoint.network),
        field("node", &endpoint.node),
        field("IP", &endpoint.ip),
        field("IPv6", &or_dash(endpoint.ipv6)),
        field("MAC", &endpoint.mac),
        field("interface", &endpoint.ifname),
        field("namespace", &endpoint.netns),
        field("aliases", &aliases(endpoint)),
        field("labels", &labels::shown(&endpoint.labels)),
        field("owner", &or_dash(endpoint.owner.as_ref())),
    ];
    fields.extend(endpoint.vtep.iter().map(|vtep| field("VTEP", vtep)));
    fields.extend(endpoint.published.iter().map(|publication| field("published", publication)));
    let rates = [
        ("egress rate", endpoint.limits.egress_bits_per_s),
        ("ingress rate", endpoint.limits.ingress_bits_per_s),
    ];
    fields.extend(rates.into_iter().filter_map(|(name, rate)| Some(field(name, rate.as_ref()?))));
    let Some(local) = &endpoint.local else { return style.fields(&fields) };
    fields.extend(local_fields(local));
    format!("{}\n{}", style.fields(&fields), drops::table(&local.drops, style))
}

fn aliases(endpoint: &EndpointView) -> String {
    let aliases: Vec<&str> = endpoint.aliases.iter().map(Name::as_str).collect();
    or_dash((!aliases.is_empty()).then(|| aliases.join(", ")))
}

fn local_fields(local: &LocalEndpointView) -> [Field; 4] {
    [
        field("host interface", &format!("{} (index {})", local.host_ifname, local.host_ifindex)),
        field("host-local IP", &or_dash(local.host_ip)),
        field("sent", &format!("{} packets, {} bytes", local.tx_packets, local.tx_bytes)),
        field("received", &format!("{} packets, {} bytes", local.rx_packets, local.rx_bytes)),
    ]
}
