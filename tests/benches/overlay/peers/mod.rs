//! What is compared. Each peer is two hosts on an underlay of their own, and a way to measure along.

pub mod bare;
pub mod docker;
pub mod kernel;
pub mod overlay;

use std::{
    any::Any,
    fmt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use overlay_tests::{
    packet::Addr,
    underlay::{Underlay, Wire},
};
use serde::Serialize;

use crate::{
    crowd::Crowd,
    flood::Hostile,
    place::{CLIENT_CPU, Place, Route, SERVER_CPU},
    probe::{measure::Load, serve::Service},
    rows::{roundtrip, servers::Running},
};

/// A peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Peer {
    /// Two hosts and nothing between them but the wire.
    Bare,
    /// The kernel's own VXLAN device, a bridge and veth pairs, as flannel builds it.
    Kernel,
    /// Two Docker engines, one swarm, one attachable overlay network.
    Docker,
    /// This project.
    Overlay,
}

impl Peer {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 4] = [Self::Bare, Self::Kernel, Self::Docker, Self::Overlay];

    /// Its name on the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Kernel => "kernel",
            Self::Docker => "docker",
            Self::Overlay => "overlay",
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the wire and the data path of a group of rows are like.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The wire between the hosts.
    pub wire: Wire,
    /// Value of our agent's `--xdp`.
    pub xdp: &'static str,
    /// Whether somebody on the underlay is hostile.
    pub hostile: bool,
    /// Whether the client's host knows many containers.
    pub crowd: bool,
}

impl Setting {
    /// Plugs hostile machines in beside the server's host, where the setting wants them.
    fn hostile(&self, victim: Addr, underlay: &Underlay) -> Option<Hostile> {
        self.hostile.then(|| Hostile::beside(victim, underlay))
    }
}

/// A peer that is up. Taken down when dropped.
pub struct Stage {
    /// Between two hosts.
    pub across: Route,
    /// Between two containers of one host; between the hosts where there are no containers.
    pub same_host: Route,
    /// Who floods the server's host, where somebody does.
    pub hostile: Option<Hostile>,
    /// Whom the client can send to, where there are many.
    pub crowd: Option<Crowd>,
    /// Servers in the server's namespace.
    pub servers: Running,
    _held: Box<dyn Any>,
}

impl Stage {
    /// What holds the namespaces, and the ways to measure along.
    fn new(across: Route, same_host: Route, hostile: Option<Hostile>, held: impl Any) -> Self {
        let servers = Running::default();
        Self { across, same_host, hostile, crowd: None, servers, _held: Box::new(held) }
    }
}

/// Builds a peer and waits until its containers reach each other.
pub fn build(peer: Peer, setting: Setting, docker_root: Option<&Path>) -> Result<Stage> {
    let stage = match peer {
        Peer::Bare => bare::build(setting)?,
        Peer::Kernel => kernel::build(setting)?,
        Peer::Docker => docker::build(setting, docker_root)?,
        Peer::Overlay => overlay::build(setting)?,
    };
    for route in [&stage.across, &stage.same_host] {
        even_out(&route.client)?;
        even_out(&route.server)?;
        wait_until_open(route)?;
    }
    Ok(stage)
}

/// Gives every peer the same TCP, and room for a connection per request.
///
/// Sockets choose [`CONGESTION_CONTROL`](crate::rows::stream::CONGESTION_CONTROL) themselves, as a namespace may not have it as its default where the
/// machine does not allow that. But one that began as BBR, some machines' default, is paced for life, by a timer that costs
/// more than a packet. Whatever is allowed everywhere and paces nothing will do to begin with.
fn even_out(place: &Place) -> Result<()> {
    place.sysctl(&[
        ("ipv4/tcp_congestion_control", "reno"),
        ("ipv4/ip_local_port_range", "10000 65000"),
        ("ipv4/tcp_tw_reuse", "1"),
    ])
}

/// Waits until an answer comes back; also resolves every neighbour on the way.
fn wait_until_open(route: &Route) -> Result<()> {
    const DEADLINE: Duration = Duration::from_secs(10);
    const BRIEF: Duration = Duration::from_millis(50);
    let end = Instant::now() + DEADLINE;
    loop {
        let cpus = (SERVER_CPU, CLIENT_CPU);
        match roundtrip::wait(route, cpus, Service::TcpEcho, Load::TcpRoundTrip, BRIEF) {
            Ok(_) => return Ok(()),
            Err(e) if Instant::now() > end => {
                return Err(e).with_context(|| format!("{} was not reached within {DEADLINE:?}", route.addr));
            }
            Err(_) => {}
        }
    }
}
