//! The netavark plugin `overlay-netavark`: networks of this driver for Podman 5 (plugin API 1.0.0 of netavark).
//!
//! ```text
//! podman network create -d overlay-netavark …  ──▶ create           the network, its addresses filled in
//! podman run --network …                       ──▶ setup NETNS      what the container was given
//! podman rm …                                  ──▶ teardown NETNS
//! netavark                                     ──▶ info             version
//! ```
//!
//! Each reads JSON on standard input and writes JSON on standard output; a failure is `{"error": …}` and a non-zero exit.
//! As with CNI nothing is kept here: what has to be found again is the owner in the endpoint's record.

mod types;

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _, Read as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::types::{Exec, Network, Options};
use crate::{
    api::{
        client::{Client, ClientError},
        types::{AttachRequest, AttachResult, DetachOwned, NetnsRef},
    },
    engine,
    family::SameFamily,
    model::{FrontEnd, Limits, Owner},
};

/// The name that the plugin is called by, and that of Podman's driver.
pub const NAME: &str = "overlay-netavark";
/// Version of netavark's plugin API.
const API_VERSION: &str = "1.0.0";

const USAGE: &str = "netavark calls this program as `create`, `setup NETNS`, `teardown NETNS` or `info`, with JSON on \
                     standard input: see `podman network create --driver overlay-netavark`";

/// Why a call failed: one sentence, as Podman shows it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Called otherwise than netavark does.
    #[error("{USAGE}")]
    Usage,
    /// Standard input or output.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What was read has another shape.
    #[error("standard input cannot be read as what netavark writes: {0}")]
    Decode(#[from] serde_json::Error),
    /// What was asked for cannot be.
    #[error("{0}")]
    Invalid(String),
    /// Two addresses where one of each family is meant.
    #[error(transparent)]
    SameFamily(#[from] SameFamily),
    /// The agent refused, failed or is away.
    #[error("{0}")]
    Client(#[from] ClientError),
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let answer = match run(&words) {
        Ok(answer) => answer.map_or(Ok(()), |answer| print(&answer)),
        Err(error) => {
            let shown = print(&json!({"error": error.to_string()}));
            shown.and(Err(io::Error::other(error.to_string())))
        }
    };
    match answer {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(words: &[OsString]) -> Result<Option<Value>, Error> {
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    match words.as_slice() {
        ["info"] => Ok(Some(json!({"version": env!("CARGO_PKG_VERSION"), "api_version": API_VERSION}))),
        ["create"] => create(input()?).await.map(Some),
        ["setup", netns] => setup(input()?, netns.into()).await.map(Some),
        ["teardown", _] => teardown(input()?).await.map(|()| None),
        _ => Err(Error::Usage),
    }
}

fn input<T: DeserializeOwned>() -> Result<T, Error> {
    if io::stdin().is_terminal() {
        return Err(Error::Usage);
    }
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Makes the network, or agrees with the one that is there; answers with what it is.
async fn create(mut network: Network) -> Result<Value, Error> {
    let options = Options::of(&network)?;
    let made = Client::new(&options.socket).ensure_network(&options.network).await?;
    network.fill_in(&made);
    Ok(serde_json::to_value(network)?)
}

async fn setup(exec: Exec, netns: PathBuf) -> Result<Value, Error> {
    let options = Options::of(&exec.network)?;
    let client = Client::new(&options.socket);
    let made = client.ensure_network(&options.network).await?;
    let mut request = exec.request(NetnsRef::Path(netns))?;
    let attachment = exec.attachment()?;
    let id = &attachment.owner.id;
    request.publish = engine::unpublished(&client, FrontEnd::Netavark, id, request.publish).await?;
    match client.attach(&made.name, &request).await {
        Ok(made) => Ok(status(&made, &exec.network_options.interface_name)),
        // The agent takes back what it could not finish.
        Err(error @ ClientError::Api(_)) => Err(error.into()),
        Err(error) => {
            let _ = client.detach_owned(&attachment).await;
            Err(error.into())
        }
    }
}

async fn teardown(exec: Exec) -> Result<(), Error> {
    let socket = types::socket(&exec.network);
    Client::new(socket).detach_owned(&exec.attachment()?).await?;
    Ok(())
}

/// What Podman shows of the container's network, and writes into its resolv.conf.
fn status(made: &AttachResult, ifname: &str) -> Value {
    let subnets: Vec<Value> = made
        .ips
        .iter()
        .map(|ip| json!({"ipnet": ip.address.to_string(), "gateway": ip.gateway.to_string()}))
        .collect();
    let interface = json!({"mac_address": made.endpoint.mac.to_string(), "subnets": subnets});
    let servers: Vec<String> = made.dns.nameservers.iter().map(ToString::to_string).collect();
    json!({"dns_search_domains": [], "dns_server_ips": servers, "interfaces": {ifname: interface}})
}

fn print(value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value:#}")?;
    out.flush()
}

impl Exec {
    fn attachment(&self) -> Result<DetachOwned, Error> {
        let foreign = |text: &str| text.parse().map_err(|e| Error::Invalid(format!("{e}")));
        let owner = Owner {
            front_end: FrontEnd::Netavark,
            network: foreign(&self.network.name)?,
            id: foreign(&self.container_id)?,
        };
        Ok(DetachOwned { owner, ifname: Some(self.network_options.interface_name.clone()) })
    }

    fn request(&self, netns: NetnsRef) -> Result<AttachRequest, Error> {
        let DetachOwned { owner, ifname } = self.attachment()?;
        let (ip, ipv6) = self.network_options.ips()?;
        let (name, aliases) =
            engine::names(&owner.id, Some(&self.container_name), self.network_options.aliases()?);
        Ok(AttachRequest {
            netns,
            name,
            name_may_be_taken: true,
            aliases,
            labels: std::collections::BTreeMap::new(),
            ifname,
            ip,
            ipv6,
            mac: self.network_options.mac()?,
            publish: self.publications()?,
            owner: Some(owner),
            limits: Limits::default(),
            default_route: false,
        })
    }
}
