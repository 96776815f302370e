//! `overlay endpoint`: ls, label, inspect.

use clap::Subcommand;

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
        types::{ChangeLabels, EndpointView, LocalEndpointView},
    },
    model::Name,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the endpoints on all hosts
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  overlay endpoint ls -o json\n  overlay endpoint ls --filter node=host1"
    )]
    Ls {
        /// Only those that fit: name=…, network=…, node=…, owner=cni|docker|netavark, label=KEY or label=KEY=VALUE; may be given several times
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
        }
    }
}

const FILTER_FIELDS: &[&str] = &["name", "network", "node", "owner"];

pub(super) fn fits(endpoint: &EndpointView, filters: &[Filter]) -> bool {
    let field = |field: &str| match field {
        "network" => endpoint.network.to_string(),
        "node" => endpoint.node.to_string(),
        "owner" => endpoint.owner.as_ref().map_or_else(String::new, |owner| owner.front_end.to_string()),
        _ => endpoint.name.to_string(),
    };
    filters.iter().all(|filter| filter.fits(&endpoint.labels, field))
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
