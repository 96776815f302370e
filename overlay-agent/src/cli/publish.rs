//! `overlay publish` and `overlay unpublish`.

use clap::{Args, Subcommand};

use super::{
    CliError, complete,
    dry_run::DryRun,
    output::{Output, Style},
    watch::Watch,
};
use crate::{
    api::{client::Client, types::PublicationView},
    model::{Name, Publication},
};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  overlay publish ov_net1 web 8080:80
  overlay publish ov_net1 dns 5353:53/udp
  overlay publish ls"
)]
pub(super) struct Publish {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    port: Option<Port>,
    #[command(flatten)]
    dry_run: DryRun,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List published ports on all hosts
    #[command(visible_alias = "list", after_help = "Example:\n  overlay publish ls")]
    Ls(Watch),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  overlay unpublish ov_net1 web 8080:80")]
pub(super) struct Unpublish {
    #[command(flatten)]
    port: Port,
    #[command(flatten)]
    dry_run: DryRun,
}

#[derive(Debug, Args)]
struct Port {
    /// Name of the network
    #[arg(add = complete::networks())]
    network: Name,
    /// Name of the endpoint, on this host
    #[arg(add = complete::endpoints())]
    name: Name,
    /// Port of this host and port of the container
    #[arg(value_name = "HOSTPORT:PORT[/tcp|udp]")]
    publication: Publication,
}

impl Publish {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        let Some(Port { network, name, publication }) = self.port else {
            let Some(Command::Ls(watch)) = self.command else { unreachable!("clap demands one of the two") };
            let fetch = async || Ok(client.publications().await?);
            return watch.show(out, fetch, |published, style| table(published, style)).await;
        };
        let published = self.dry_run.of(client).publish(&network, &name, publication).await?;
        out.print(&published, |style| table(&published, style))
    }
}

impl Unpublish {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        let Port { network, name, publication } = self.port;
        let published = self.dry_run.of(client).unpublish(&network, &name, publication).await?;
        out.print(&published, |style| table(&published, style))
    }
}

pub(super) fn table(published: &[PublicationView], style: Style) -> String {
    let row = |view: &PublicationView| {
        [
            view.node.to_string(),
            view.publication.to_string(),
            view.network.to_string(),
            view.endpoint.to_string(),
        ]
    };
    style.table(["NODE", "PORTS", "NETWORK", "ENDPOINT"], published.iter().map(row))
}
