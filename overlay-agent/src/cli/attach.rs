//! `overlay attach` and `overlay detach`.

use std::{io, net::IpAddr, path};

use clap::Args;
use overlay_common::mac::Mac;

use super::{CliError, complete, dry_run::DryRun, naming::Naming, output::Output};
use crate::{
    api::{
        client::Client,
        types::{AttachRequest, DetachRequest, DetachResult, NetnsRef},
    },
    family,
    model::{Limits, Name, Publication, Rate},
};

#[derive(Debug, Args)]
#[command(after_help = "\
The result is that of the CNI (specification 1.1.0), as JSON.

Examples:
  overlay attach ov_net1 --netns bbox1
  overlay attach ov_net1 --netns /run/netns/bbox1 --ip 10.0.0.9 --ifname eth1
  overlay attach ov_net1 --pid 4242 --name web --alias www
  overlay attach ov_net2 --pid 4242 --default-route --egress-rate 100mbit")]
pub(super) struct Attach {
    /// Name of the network
    #[arg(add = complete::networks())]
    network: Name,
    #[command(flatten)]
    container: Container,
    #[command(flatten)]
    naming: Naming,
    /// Name of the interface in the container [default: the first free of eth0, eth1 …]
    #[arg(long)]
    ifname: Option<String>,
    /// Address; one of each family that the network has [default: the next free ones]
    #[arg(long = "ip", value_name = "IP")]
    ips: Vec<IpAddr>,
    /// Hardware address [default: 02:42 and the address]
    #[arg(long)]
    mac: Option<Mac>,
    /// A port of this host that is to lead to it; can be given more than once
    #[arg(long, value_name = "HOSTPORT:PORT[/tcp|udp]")]
    publish: Vec<Publication>,
    /// Lead its default route through this network [default: through its first one that is not internal]
    #[arg(long)]
    default_route: bool,
    #[command(flatten)]
    dry_run: DryRun,
    /// What it may send, in bits a second: 100mbit, 1.5gbit [default: all that the host can]
    #[arg(long, value_name = "RATE")]
    egress_rate: Option<Rate>,
    /// What it may receive [default: all that the host can]
    #[arg(long, value_name = "RATE")]
    ingress_rate: Option<Rate>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay detach ov_net1 --netns bbox1
  overlay detach ov_net1 --name web")]
pub(super) struct Detach {
    /// Name of the network
    #[arg(add = complete::networks())]
    network: Name,
    #[command(flatten)]
    endpoint: Attached,
    #[command(flatten)]
    dry_run: DryRun,
}

/// A container: exactly one way to say which.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Container {
    /// Its network namespace: a path, or a name that `ip netns` knows
    #[arg(long, value_name = "PATH|NAME", value_parser = netns, add = complete::namespaces())]
    netns: Option<NetnsRef>,
    /// A process in its network namespace
    #[arg(long, value_name = "PID", value_parser = pid)]
    pid: Option<NetnsRef>,
}

/// What is attached: exactly one way to say which.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Attached {
    /// Its network namespace: a path, or a name that `ip netns` knows
    #[arg(long, value_name = "PATH|NAME", value_parser = netns, add = complete::namespaces())]
    netns: Option<NetnsRef>,
    /// A process in its network namespace
    #[arg(long, value_name = "PID", value_parser = pid)]
    pid: Option<NetnsRef>,
    /// Name of the endpoint
    #[arg(long, add = complete::endpoints())]
    name: Option<Name>,
}

/// The agent has another working directory, so a path is made absolute here.
fn netns(text: &str) -> io::Result<NetnsRef> {
    if text.contains('/') {
        return Ok(NetnsRef::Path(path::absolute(text)?));
    }
    match text {
        "" | "." | ".." => Err(io::Error::other("a network namespace has a name or a path with a '/'")),
        name => Ok(NetnsRef::Name(name.to_owned())),
    }
}

fn pid(text: &str) -> Result<NetnsRef, &'static str> {
    let pid = text.parse().ok().filter(|pid| *pid > 0);
    pid.map(NetnsRef::Pid).ok_or("a process has a number above 0")
}

impl Attach {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        let client = self.dry_run.of(client);
        let (network, request) = self.request()?;
        out.json(&client.attach(&network, &request).await?)
    }

    pub(super) fn request(self) -> Result<(Name, AttachRequest), CliError> {
        let Self { network, container, naming, ifname, ips, mac, publish, .. } = self;
        let Naming { name, aliases, labels } = naming;
        let limits = Limits { egress_bits_per_s: self.egress_rate, ingress_bits_per_s: self.ingress_rate };
        let (ip, ipv6) = family::addresses("--ip", ips)?;
        let netns = container.netns.or(container.pid).expect("clap demands one of the group");
        let request = AttachRequest {
            netns,
            name,
            name_may_be_taken: false,
            aliases,
            labels: labels.into(),
            ifname,
            ip,
            ipv6,
            mac,
            publish,
            owner: None,
            limits,
            default_route: self.default_route,
        };
        Ok((network, request))
    }
}

impl Detach {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        let client = self.dry_run.of(client);
        let (network, request) = self.request();
        let result = client.detach(&network, &request).await?;
        out.print(&result, |_| sentences(&network, &request, &result))
    }

    pub(super) fn request(self) -> (Name, DetachRequest) {
        let Attached { netns, pid, name } = self.endpoint;
        let by_netns = netns.or(pid).map(DetachRequest::Netns);
        let request = by_netns.or(name.map(DetachRequest::Name)).expect("clap demands one of the group");
        (self.network, request)
    }
}

pub(super) fn sentences(network: &Name, request: &DetachRequest, result: &DetachResult) -> String {
    if result.detached.is_empty() {
        return format!("{} was not attached to {network}\n", subject(request));
    }
    let sentence = |name: &Name| format!("{name} detached from {network}\n");
    result.detached.iter().map(|endpoint| sentence(&endpoint.name)).collect()
}

fn subject(request: &DetachRequest) -> String {
    match request {
        DetachRequest::Name(name) => name.to_string(),
        DetachRequest::Netns(NetnsRef::Name(name)) => name.clone(),
        DetachRequest::Netns(NetnsRef::Path(path)) => path.display().to_string(),
        DetachRequest::Netns(NetnsRef::Pid(pid)) => format!("process {pid}"),
        DetachRequest::Netns(NetnsRef::Host) => "this host".to_owned(),
    }
}
