//! The CNI plugin `overlay-cni`: the Container Network Interface (specification 0.3.0 to 1.1.0), spoken to a container
//! runtime on one side and the agent's API on the other.
//!
//! ```text
//! runtime ── environment, configuration on stdin ──▶ overlay-cni ── HTTP over the unix socket ──▶ agent
//!         ◀── result or error as JSON on stdout ────             ◀──
//! ```
//!
//! * [`environment`], [`config`], [`version`]: what the runtime says
//! * [`add`], [`check`], [`gc`], [`status`]: the commands that are more than one call
//! * [`result`], [`error`]: what it gets to hear
//!
//! The plugin keeps nothing: what it has to find again is the owner in the endpoint's record, that is the CNI network's name
//! and the container's id, with the interface's name beside them.

mod add;
mod check;
mod config;
mod environment;
mod error;
mod gc;
mod result;
mod status;
mod version;

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    process::ExitCode,
};

use serde_json::{Value, json};

pub use self::error::CniError;
use self::{
    config::Config,
    environment::{Command, Environment},
    version::Version,
};
use crate::{
    api::{client::Client, types::DetachOwned},
    model::{FrontEnd, Owner},
};

/// What somebody reads who starts the plugin by hand, or looks for its manual page.
pub const ABOUT: &str = "\
overlay-cni is a CNI plugin: a container runtime runs it. It joins containers to overlay networks through the overlay-agent
of this host. A conflist to begin with, in /etc/cni/net.d/:

  {\"cniVersion\": \"1.0.0\", \"name\": \"ov_net1\", \"plugins\": [{\"type\": \"overlay-cni\", \"capabilities\":
    {\"portMappings\": true, \"ips\": true, \"mac\": true, \"aliases\": true, \"dns\": true, \"bandwidth\": true}}]}
";

/// The program: reads what the runtime says, does it, and prints what came of it.
#[must_use]
pub fn main() -> ExitCode {
    let environment = Environment::of_process();
    if environment.is_by_hand() && (io::stdin().is_terminal() || std::env::args_os().len() > 1) {
        eprint!("{ABOUT}");
        return ExitCode::from(2);
    }
    let mut input = Vec::new();
    let outcome = match io::stdin().read_to_end(&mut input) {
        Ok(_) => run(&environment, &input),
        Err(e) => Err(CniError::io(format!("cannot read standard input: {e}"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let shown = json!({
                "cniVersion": config::named_version(&input).unwrap_or_else(|| Version::NEWEST.to_string()),
                "code": error.code, "msg": error.msg, "details": error.details
            });
            if let Err(e) = print(&shown) {
                eprintln!("overlay-cni: {error}; which could not be told on standard output: {e}");
            }
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(environment: &Environment, input: &[u8]) -> Result<(), CniError> {
    let command = environment.command()?;
    if command == Command::Version {
        return print(&versions(input)).map_err(|e| not_told(&e));
    }
    let config = Config::read(input)?;
    config.version.check(command)?;
    let client = Client::new(&config.socket);
    match command {
        Command::Add => {
            let result = add::add(&client, environment, &config).await?;
            if let Err(e) = print(&result) {
                // A runtime that has no result has no container.
                client.detach_owned(&attachment(environment, &config)?).await?;
                return Err(not_told(&e));
            }
        }
        Command::Del => drop(client.detach_owned(&attachment(environment, &config)?).await?),
        Command::Check => check::check(&client, environment, &config).await?,
        Command::Gc => gc::gc(&client, &config).await?,
        Command::Status => status::status(&client, &config).await?,
        Command::Version => {}
    }
    Ok(())
}

/// The attachment that a command is about.
fn attachment(environment: &Environment, config: &Config) -> Result<DetachOwned, CniError> {
    let (network, id) = (config.name.clone(), environment.container()?);
    let owner = Owner { front_end: FrontEnd::Cni, network, id };
    Ok(DetachOwned { owner, ifname: Some(environment.ifname()?) })
}

fn versions(input: &[u8]) -> Value {
    let version = config::named_version(input).unwrap_or_else(|| Version::NEWEST.to_string());
    json!({"cniVersion": version, "supportedVersions": Version::ALL.map(Version::as_str)})
}

fn print(value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value:#}")?;
    out.flush()
}

fn not_told(error: &io::Error) -> CniError {
    CniError::io(format!("cannot write to standard output: {error}"))
}
