//! The command line `overlay`: one file for each group of commands, all speaking to the agent's socket.
//!
//! A command parses its arguments into the API's types, makes its calls and hands the answer to
//! `output`, which alone knows about tables, JSON and colour.

mod attach;
mod bugreport;
mod complete;
mod doctor;
mod drops;
mod dry_run;
mod endpoint;
mod external;
mod host_port;
mod labels;
mod manuals;
mod map;
mod naming;
mod network;
mod node;
mod output;
mod policy;
mod publish;
mod status;
mod store;
mod trace;
mod verify;
mod watch;

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

pub use self::complete::complete;
use self::output::{Format, Output};
use crate::{
    api::client::{Client, ClientError},
    config::AccessError,
    family::SameFamily,
    model::rule::PortsWithoutProtocol,
    paths,
    store::transfer::TransferError,
};

/// Networks for containers across hosts: talks to the overlay-agent of this host.
#[derive(Debug, Parser)]
#[command(
    name = "overlay",
    version,
    after_help = "\
Examples:
  overlay network create ov_net1
  overlay attach ov_net1 --netns bbox1
  overlay endpoint ls
  overlay drops --watch"
)]
pub struct Cli {
    /// Socket of the agent
    #[arg(long, global = true, value_name = "PATH", env = "OVERLAY_SOCKET", default_value = paths::DEFAULT_SOCKET)]
    socket: PathBuf,
    /// How to print results
    #[arg(long, short, global = true, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create, show and remove networks
    #[command(subcommand)]
    Network(network::Command),
    /// Attach a container to a network
    #[command(visible_alias = "connect")]
    Attach(attach::Attach),
    /// Detach a container from a network; one that is not attached is no error
    #[command(visible_alias = "disconnect")]
    Detach(attach::Detach),
    /// Give this host itself an address in a network, or take it back
    HostPort(host_port::HostPort),
    /// Show endpoints: the attachments of containers to networks
    #[command(subcommand)]
    Endpoint(endpoint::Command),
    /// Make machines without an agent members of networks: a kernel's vxlan device, a switch
    #[command(subcommand)]
    External(external::Command),
    /// Show the hosts of the cluster
    #[command(subcommand)]
    Node(node::Command),
    /// Say which networks may talk to each other
    #[command(subcommand)]
    Policy(policy::Command),
    /// Have a port of this host lead to a container on it
    Publish(publish::Publish),
    /// Take a published port back; one that is not published is no error
    Unpublish(publish::Unpublish),
    /// Show the state of this host's agent
    Status(status::Status),
    /// Compare store, maps, programs, devices and neighbours; exit 1 if something is not as it should be
    Verify(verify::Verify),
    /// Look at what the overlay stands on; exit 1 if something of it is wrong
    Doctor(doctor::Doctor),
    /// Collect what is needed to find a fault into one archive, without secrets
    Bugreport(bugreport::Bugreport),
    /// Say what would become of a packet, and what stops it
    Trace(trace::Trace),
    /// Show how many packets were dropped, and why
    Drops(drops::Drops),
    /// Move the cluster's state from one store to another
    #[command(subcommand)]
    Store(store::Command),
    /// Look into the BPF maps
    #[command(subcommand)]
    Map(map::Command),
    /// Write the manual pages
    #[command(hide = true)]
    Manuals(manuals::Manuals),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The agent cannot be reached, refused or failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The agent did not get ready in time.
    #[error("the agent was not ready within {seconds} s: {reason}")]
    NotReady {
        /// How long it was waited for.
        seconds: u64,
        /// What it waits for itself.
        reason: String,
    },
    /// Something is not as it should be: the result says what.
    #[error("there are differences")]
    Differences,
    /// This host cannot be looked at.
    #[error(transparent)]
    NotVerified(ClientError),
    /// The state cannot be moved.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// What is to open the store cannot be read.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A rule that makes no sense.
    #[error(transparent)]
    Rule(#[from] PortsWithoutProtocol),
    /// Two values where one of each family is meant.
    #[error(transparent)]
    SameFamily(#[from] SameFamily),
    /// The result cannot be printed.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// [`CliError`], of which [`report`] tells the user.
    pub async fn run(self) -> Result<(), CliError> {
        let (client, out) = (Client::new(self.socket), Output::new(self.output));
        let result = self.command.run(&client, out).await;
        if let Some(stale) = client.stale() {
            eprintln!("overlay: warning: this is what was last known, stale {}", output::printable(&stale));
        }
        result
    }
}

impl Command {
    async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        match self {
            Self::Network(command) => command.run(client, out).await,
            Self::Attach(attach) => attach.run(client, out).await,
            Self::Detach(detach) => detach.run(client, out).await,
            Self::HostPort(port) => port.run(client, out).await,
            Self::Endpoint(command) => command.run(client, out).await,
            Self::External(command) => command.run(client, out).await,
            Self::Node(command) => command.run(client, out).await,
            Self::Policy(command) => command.run(client, out).await,
            Self::Publish(command) => command.run(client, out).await,
            Self::Unpublish(command) => command.run(client, out).await,
            Self::Status(status) => status.run(client, out).await,
            Self::Verify(verify) => verify.run(client, out).await,
            Self::Doctor(doctor) => doctor.run(client, out).await,
            Self::Bugreport(bugreport) => bugreport.run(client, out).await,
            Self::Trace(trace) => trace.run(client, out).await,
            Self::Drops(drops) => drops.run(client, out).await,
            Self::Store(command) => command.run(client, out).await,
            Self::Map(command) => command.run(client, out).await,
            Self::Manuals(manuals) => manuals.run(),
        }
    }
}

/// Tells the user of a failure, in one line.
///
/// A reader that closed the pipe (`overlay … | head`) has what it wanted and is not told.
#[must_use]
pub fn report(error: &CliError) -> ExitCode {
    let closed = matches!(error, CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe);
    if !closed && !matches!(error, CliError::Differences) {
        eprintln!("overlay: {}", output::printable(&error.to_string()));
    }
    match error {
        CliError::NotVerified(_) | CliError::Rule(_) | CliError::SameFamily(_) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

/// Tells the user of wrong arguments, in one line; prints help and version where they were asked for.
#[must_use]
pub fn report_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    {
        error.exit();
    }
    eprintln!("overlay: {}", usage_line(&error.to_string()));
    ExitCode::from(2)
}

/// What clap says in several paragraphs, without the usage that `--help` shows anyway.
fn usage_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let paragraphs =
        text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let said = paragraphs.filter(|line| !line.is_empty() && !line.starts_with("Usage:"));
    said.collect::<Vec<_>>().join("; ").replace("; For more information, ", "; ")
}

#[cfg(test)]
mod tests;
