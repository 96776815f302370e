//! `overlay node`: ls.

use clap::Subcommand;

use super::{
    CliError,
    output::{Output, Style, yes_or_no},
};
use crate::api::{
    client::Client,
    types::{NodeState, NodeView},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the hosts of the cluster
    #[command(visible_alias = "list", after_help = "Example:\n  overlay node ls")]
    Ls,
}

impl Command {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        let Self::Ls = self;
        let nodes = client.nodes().await?;
        out.print(&nodes, |style| table(&nodes, style))
    }
}

pub(super) fn table(nodes: &[NodeView], style: Style) -> String {
    let row = |node: &NodeView| {
        [
            node.name.to_string(),
            state(node.state),
            node.vtep.to_string(),
            node.vxlan_port.to_string(),
            node.endpoints.to_string(),
            node.version.clone(),
            yes_or_no(node.local),
        ]
    };
    style.table(["NAME", "STATE", "VTEP", "PORT", "ENDPOINTS", "VERSION", "LOCAL"], nodes.iter().map(row))
}

fn state(state: NodeState) -> String {
    match state {
        NodeState::Up => "up",
        NodeState::Down => "down",
    }
    .to_owned()
}
