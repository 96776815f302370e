//! `overlay node`: ls, inspect, drain, rm.

use std::time::Duration;

use clap::Subcommand;

use super::{
    CliError, complete,
    dry_run::DryRun,
    endpoint,
    output::{Output, Style, Text, age, field, or_dash, yes_or_no},
    watch::Watch,
};
use crate::{
    api::{
        client::Client,
        types::{Drain, NodeDetail, NodeState, NodeView, RemoveNode, RemovedNode},
    },
    model::{Name, Timestamp},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the hosts of the cluster
    #[command(visible_alias = "list", after_help = "Example:\n  overlay node ls -o json")]
    Ls(Watch),
    /// Show a host and its endpoints
    #[command(after_help = "Example:\n  overlay node inspect host2")]
    Inspect {
        /// Name of the node
        #[arg(add = complete::nodes())]
        name: Name,
        #[command(flatten)]
        watch: Watch,
    },
    /// Let a host take no new containers; those that it has stay
    #[command(after_help = "\
Examples:
  overlay node drain host2
  overlay node drain host2 --undo")]
    Drain {
        /// Name of the node
        #[arg(add = complete::nodes())]
        name: Name,
        /// Let it take containers again
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Take a host out of the cluster that is gone for good
    #[command(after_help = "\
Examples:
  overlay node rm host2
  overlay node rm host2 --force")]
    Rm {
        /// Name of the node
        #[arg(add = complete::nodes())]
        name: Name,
        /// Also if it is up or has containers: these lose their addresses at once
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        dry_run: DryRun,
    },
}

impl Command {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        match self {
            Self::Ls(watch) => {
                let fetch = async || Ok(client.nodes().await?);
                watch.show(out, fetch, |nodes, style| table(nodes, Timestamp::now(), style)).await
            }
            Self::Inspect { name, watch } => {
                watch.show(out, async || Ok(client.node(&name).await?), detail).await
            }
            Self::Drain { name, undo, dry_run } => {
                let node = dry_run.of(client).drain(&name, !undo).await?;
                out.print(&node, |style| table(std::slice::from_ref(&node), Timestamp::now(), style))
            }
            Self::Rm { name, force, dry_run } => {
                let removed = dry_run.of(client).remove_node(&name, RemoveNode { force }).await?;
                out.print(&removed, |_| sentence(&removed))
            }
        }
    }
}

pub(super) fn table(nodes: &[NodeView], now: Timestamp, style: Style) -> String {
    let passed = |time: Option<Timestamp>| or_dash(time.map(|time| age(ago(time, now))));
    let row = |node: &NodeView| {
        let plain = [
            passed(node.since),
            passed(node.registered),
            node.vtep.to_string(),
            node.vxlan_port.to_string(),
            node.endpoints.to_string(),
            node.version.clone(),
            yes_or_no(node.local),
        ];
        [node.name.to_string().into(), toned_state(node)].into_iter().chain(plain.map(Text::from))
    };
    let header = ["NAME", "STATE", "FOR", "AGE", "VTEP", "PORT", "ENDPOINTS", "VERSION", "LOCAL"];
    style.table(header, nodes.iter().map(row))
}

pub(super) fn detail(NodeDetail { node, attachments }: &NodeDetail, style: Style) -> String {
    let fields = style.fields(&[
        field("name", &node.name),
        field("id", &node.id),
        field("state", &state(node)),
        field("since", &or_dash(node.since)),
        field("registered", &or_dash(node.registered)),
        field("epoch", &node.epoch),
        field("VTEP", &format!("{}, UDP port {}", node.vtep, node.vxlan_port)),
        field("agent", &node.version),
        field("local", &yes_or_no(node.local)),
    ]);
    format!("{fields}\n{}", endpoint::table(attachments, style))
}

pub(super) fn sentence(removed: &RemovedNode) -> String {
    let RemovedNode { name, collected, is_listed } = removed;
    let names = collected.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
    let endpoints = if names.is_empty() { String::new() } else { format!(", with its endpoints {names}") };
    let record = if *is_listed {
        "; it is listed as gone until it returns or `overlay node rm` is used on it again"
    } else {
        ""
    };
    format!("{name} removed{endpoints}{record}\n")
}

fn toned_state(node: &NodeView) -> Text {
    let state = Text::from(state(node));
    match node.state {
        NodeState::Up => state.good(),
        NodeState::Stopped => state,
        NodeState::Silent | NodeState::Down | NodeState::Gone => state.bad(),
    }
}

fn state(node: &NodeView) -> String {
    let state = match node.state {
        NodeState::Up => "up",
        NodeState::Stopped => "stopped",
        NodeState::Silent => "silent",
        NodeState::Down => "down",
        NodeState::Gone => "gone",
    };
    match node.drain {
        None => state.to_owned(),
        Some(Drain::Draining) => format!("{state}, draining"),
        Some(Drain::Drained) => format!("{state}, drained"),
    }
}

/// How long ago a moment was; one in the future, by another host's clock, is now.
fn ago(time: Timestamp, now: Timestamp) -> Duration {
    if time < now { time.distance(now) } else { Duration::ZERO }
}
