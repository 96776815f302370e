//! What is measured: a load, where it runs, and what is read from it.

pub mod crowded;
pub mod flooded;
pub mod roundtrip;
pub mod servers;
pub mod stream;
pub mod udp;

use std::{fmt, time::Duration};

use anyhow::Result;
use overlay_tests::underlay::Wire;
use serde::Serialize;

use crate::{
    crowd::Pick,
    peers::{Peer, Setting, Stage},
    place::{CLIENT_CPU, Cpu, SERVER_CPU},
    probe::{measure::Load as Probe, serve::Service},
};

/// Which way of a figure is the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// The more, the better.
    Higher,
    /// The less, the better.
    Lower,
    /// It explains the others and is not compared.
    Neither,
}

/// A figure that a load gives.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Metric {
    /// What it is.
    pub name: &'static str,
    /// In what.
    pub unit: &'static str,
    /// Which way is good.
    pub better: Better,
}

const fn higher(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit, better: Better::Higher }
}

const fn lower(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit, better: Better::Lower }
}

const fn aside(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit, better: Better::Neither }
}

/// One value for each of a load's metrics, in their order. The first says whether a round was steady.
pub type Sample = Vec<f64>;

/// The wire and the data path that rows need. Rows of one scene share their peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scene {
    /// A wire that large segments cross whole.
    Offload,
    /// A wire of single packets with real checksums.
    Packet,
    /// The same, with our XDP program that drops hostile packets.
    XdpFilter,
    /// The same, with our XDP program that also decapsulates.
    XdpDecap,
    /// A wire that large segments cross whole, with somebody hostile on it.
    Flood,
    /// A wire of single packets with somebody hostile on it, and our XDP program that drops what comes from there.
    FloodXdp,
    /// A host that knows many containers on others.
    Crowd,
}

impl Scene {
    /// All of them, in the order in which they are built.
    pub const ALL: [Self; 7] = [
        Self::Offload,
        Self::Packet,
        Self::XdpFilter,
        Self::XdpDecap,
        Self::Flood,
        Self::FloodXdp,
        Self::Crowd,
    ];

    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Offload => "offload wire",
            Self::Packet => "packet wire",
            Self::XdpFilter => "XDP filter",
            Self::XdpDecap => "XDP decap",
            Self::Flood => "flood",
            Self::FloodXdp => "flood, XDP filter",
            Self::Crowd => "many endpoints",
        }
    }

    /// How the peers are built.
    pub fn setting(self) -> Setting {
        let (wire, xdp) = match self {
            Self::Offload => (Wire::Offload, "auto"),
            Self::Flood | Self::Crowd => (Wire::Offload, "off"),
            Self::Packet => (Wire::Packet, "off"),
            Self::XdpFilter | Self::FloodXdp => (Wire::Packet, "filter"),
            Self::XdpDecap => (Wire::Packet, "decap"),
        };
        let hostile = matches!(self, Self::Flood | Self::FloodXdp);
        Setting { wire, xdp, hostile, crowd: self == Self::Crowd }
    }

    /// Which peers it makes a difference for; the bare one is what they are compared with.
    pub fn peers(self) -> &'static [Peer] {
        match self {
            Self::Offload | Self::Packet | Self::Flood => &Peer::ALL,
            Self::XdpFilter | Self::XdpDecap | Self::FloodXdp | Self::Crowd => &[Peer::Bare, Peer::Overlay],
        }
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which containers talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Hosts,
    SameHost,
}

/// What they do.
#[derive(Clone, Copy, Debug)]
enum Load {
    Stream(stream::Stream),
    Wait(Service, Probe),
    Datagrams(udp::Datagrams),
    Flooded,
    Drops,
    Served(servers::Server),
    Crowded(crowded::Crowded),
}

/// A row of the report.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name on the command line.
    pub id: &'static str,
    /// Its name in the report.
    pub title: &'static str,
    /// What it needs.
    pub scene: Scene,
    /// Whether a quick run has it.
    pub quick: bool,
    between: Between,
    cpus: (Cpu, Cpu),
    load: Load,
}

impl Row {
    /// What it gives.
    pub fn metrics(&self) -> &'static [Metric] {
        match self.load {
            Load::Stream(_) => stream::METRICS,
            Load::Wait(_, Probe::Connect) => roundtrip::CONNECT_METRICS,
            Load::Wait(..) => roundtrip::METRICS,
            Load::Datagrams(datagrams) => datagrams.metrics(),
            Load::Flooded => flooded::METRICS,
            Load::Drops => flooded::DROP_METRICS,
            Load::Served(server) => server.metrics(),
            Load::Crowded(_) => crowded::METRICS,
        }
    }

    /// Runs of a round are this many times shorter than others, and its rounds this many times more. The time of a
    /// round trip drifts with the machine's mood by the second; shorter rounds drift less.
    pub fn haste(&self) -> u32 {
        if matches!(self.load, Load::Wait(..)) { 2 } else { 1 }
    }

    /// Measures once.
    pub fn measure(&self, stage: &Stage, duration: Duration) -> Result<Sample> {
        let duration = duration / self.haste();
        let route = match self.between {
            Between::Hosts => &stage.across,
            Between::SameHost => &stage.same_host,
        };
        match self.load {
            Load::Stream(stream) => stream.measure(route, self.cpus, duration),
            Load::Wait(service, Probe::Connect) => roundtrip::connects(route, self.cpus, service, duration),
            Load::Wait(service, probe) => roundtrip::round_trips(route, self.cpus, service, probe, duration),
            Load::Datagrams(datagrams) => datagrams.measure(route, self.cpus, duration),
            Load::Flooded => flooded::measure(stage, self.cpus, duration),
            Load::Drops => flooded::drops(stage, duration),
            Load::Served(server) => server.measure(&stage.servers, route, self.cpus, duration),
            Load::Crowded(crowded) => crowded.measure(stage, self.cpus.1, duration),
        }
    }

    const fn on(self, scene: Scene) -> Self {
        Self { scene, ..self }
    }

    const fn same_host(self) -> Self {
        Self { between: Between::SameHost, ..self }
    }

    /// Left out of quick runs.
    const fn long(self) -> Self {
        Self { quick: false, ..self }
    }

    const fn on_one_cpu(self) -> Self {
        Self { cpus: (SERVER_CPU, SERVER_CPU), ..self }
    }
}

const fn row(id: &'static str, title: &'static str, load: Load) -> Row {
    let cpus = (SERVER_CPU, CLIENT_CPU);
    Row { id, title, scene: Scene::Offload, quick: true, between: Between::Hosts, cpus, load }
}

const fn tcp(streams: u8, reverse: bool) -> Load {
    Load::Stream(stream::Stream { streams, reverse })
}

const fn udp(bytes: u16) -> Load {
    Load::Datagrams(udp::Datagrams { bytes, segments: 1 })
}

const TCP_WAIT: Load = Load::Wait(Service::TcpEcho, Probe::TcpRoundTrip);
const UDP_WAIT: Load = Load::Wait(Service::UdpEcho, Probe::UdpRoundTrip);
const CONNECT: Load = Load::Wait(Service::TcpEcho, Probe::Connect);
/// As many datagrams as fit one send: 64 KB.
const SEGMENTED: Load = Load::Datagrams(udp::Datagrams { bytes: 1400, segments: 46 });

const fn crowd(endpoints: u32, pick: Pick) -> Load {
    Load::Crowded(crowded::Crowded { endpoints, pick })
}

/// Everything, in the order of the report.
pub const ALL: &[Row] = &[
    row("tcp", "TCP, 1 stream", tcp(1, false)),
    row("tcp-reverse", "TCP, 1 stream, reverse", tcp(1, true)).long(),
    row("tcp4", "TCP, 4 streams", tcp(4, false)).long(),
    row("tcp4-reverse", "TCP, 4 streams, reverse", tcp(4, true)).long(),
    row("rr", "TCP round trip", TCP_WAIT),
    row("rr-one-cpu", "TCP round trip, one CPU", TCP_WAIT).on_one_cpu().long(),
    row("crr", "connect, request, response", CONNECT),
    row("udp64", "UDP, 64 B", udp(64)),
    row("udp512", "UDP, 512 B", udp(512)).long(),
    row("udp1400", "UDP, 1400 B", udp(1400)).long(),
    row("udp-rr", "UDP round trip", UDP_WAIT).long(),
    row("udp-gso", "UDP, segmented", SEGMENTED).long(),
    row("redis", "redis, GET", Load::Served(servers::Server::Redis)).long(),
    row("postgres", "PostgreSQL, SELECT", Load::Served(servers::Server::Postgres)).long(),
    row("nginx", "nginx, 1 KB", Load::Served(servers::Server::Nginx)).long(),
    row("local-tcp", "same host: TCP, 1 stream", tcp(1, false)).same_host().long(),
    row("local-rr", "same host: TCP round trip", TCP_WAIT).same_host(),
    row("packet-tcp", "packet wire: TCP, 1 stream", tcp(1, false)).on(Scene::Packet),
    row("packet-rr", "packet wire: TCP round trip", TCP_WAIT).on(Scene::Packet).long(),
    row("packet-udp64", "packet wire: UDP, 64 B", udp(64)).on(Scene::Packet).long(),
    row("xdp-filter-tcp", "XDP filter: TCP, 1 stream", tcp(1, false)).on(Scene::XdpFilter).long(),
    row("xdp-filter-udp64", "XDP filter: UDP, 64 B", udp(64)).on(Scene::XdpFilter).long(),
    row("xdp-decap-tcp", "XDP decap: TCP, 1 stream", tcp(1, false)).on(Scene::XdpDecap).long(),
    row("xdp-decap-udp64", "XDP decap: UDP, 64 B", udp(64)).on(Scene::XdpDecap).long(),
    row("flood", "flood of 200 kpps: TCP, 1 stream", Load::Flooded).on(Scene::Flood).long(),
    row("flood-xdp", "flood, XDP filter: TCP, 1 stream", Load::Flooded).on(Scene::FloodXdp).long(),
    row("drops", "hostile packets", Load::Drops).on(Scene::Flood).long(),
    row("drops-xdp", "XDP filter: hostile packets", Load::Drops).on(Scene::FloodXdp).long(),
    row("crowd-1k", "1,000 endpoints, uniform", crowd(1_000, Pick::Uniform)).on(Scene::Crowd).long(),
    row("crowd-1k-zipf", "1,000 endpoints, Zipf", crowd(1_000, Pick::Zipf)).on(Scene::Crowd).long(),
    row("crowd-10k", "10,000 endpoints, uniform", crowd(10_000, Pick::Uniform)).on(Scene::Crowd).long(),
    row("crowd-10k-zipf", "10,000 endpoints, Zipf", crowd(10_000, Pick::Zipf)).on(Scene::Crowd).long(),
    row("crowd-100k", "100,000 endpoints, uniform", crowd(100_000, Pick::Uniform)).on(Scene::Crowd).long(),
    row("crowd-100k-zipf", "100,000 endpoints, Zipf", crowd(100_000, Pick::Zipf)).on(Scene::Crowd).long(),
];
