//! Load and attack at once, for as long as a test does things to the agents: what must go on, and what must not get
//! through.
//!
//! ```text
//!  attacker in a ─┐                                   ┌─ attacker in b
//!     a (net) ════╪══ 2 UDP storms, 20 TCP sessions ══╪════ b (net)
//!     d (third)  host1 ◀── attacker on the wire ──▶ host2  c (other)
//! ```
//!
//! Nothing hostile may be heard by any container or host, and every hostile frame has to be in a drop counter, exactly
//! once: a moment without a filter, or counters that are lost, would show.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use overlay_common::verdict::DropReason;

use crate::{
    attack::{Attacker, PORT, Row, Tally, Witness},
    container::Container,
    drops::Drops,
    packet::{Addr, BROADCAST, Frame},
    tap::Tap,
    topology::{Cluster, settle, two_hosts},
    traffic::{
        sessions::Sessions,
        storm::{self, Storm},
    },
    underlay::{Machine, Wire},
    views::{Endpoint, Network},
    wait,
};

/// Datagrams a second, in each of two directions.
const RATE: u64 = 12_000;
/// TCP connections.
const SESSIONS: usize = 20;
/// Longest time in which everything makes progress.
const PROGRESS: Duration = Duration::from_secs(10);
/// Longest time until the last packets are counted.
const COUNTED: Duration = Duration::from_secs(2);

/// A cluster of two hosts under load and attack.
#[derive(Debug)]
pub struct Siege {
    storms: [Storm; 2],
    sessions: Sessions,
    /// On the first and on the second host: from a container and from the wire.
    attackers: [[Attacker; 2]; 2],
    witnesses: Vec<Witness>,
    before: [Drops; 2],
    started: Instant,
    /// The containers `a` and `b` in `net`, on the first and the second host; `c` in `other`, `d` in `third`.
    pub containers: [Container; 4],
    // Its namespace has to outlive the attackers in it.
    _stranger: Machine,
    /// The hosts. Dropped last.
    pub cluster: Cluster,
}

impl Siege {
    /// Builds the cluster, then starts load and attack.
    #[track_caller]
    pub fn lay() -> Self {
        let cluster = two_hosts(Wire::Offload);
        let containers = containers(&cluster);
        let [a, b, c, d] = &containers;
        let spaces =
            containers.iter().map(Container::netns).chain(cluster.hosts.iter().map(|host| host.netns()));
        let witnesses = spaces.map(Witness::open).collect();
        let before = [0, 1].map(|i| Drops::of(&cluster.hosts[i]));
        let stranger = cluster.stranger();
        // Every socket is open before the first attack: a new one waits until its device is quiet.
        let plans = [
            (a.tap(), from_inside(&cluster, a, b, c)),
            (wire(&stranger), from_outside(&cluster, &stranger, 0, (b, a), d)),
            (b.tap(), from_inside(&cluster, b, a, d)),
            (wire(&stranger), from_outside(&cluster, &stranger, 1, (a, b), c)),
        ];
        let [a_inside, a_outside, b_inside, b_outside] = plans.map(|(tap, rows)| Attacker::start(tap, rows));
        let attackers = [[a_inside, a_outside], [b_inside, b_outside]];
        let storms =
            [(a, b), (b, a)].map(|(from, to)| Storm::start(from.netns(), to.netns(), to.addr().ip, RATE));
        let sessions = Sessions::start(a.netns(), b.netns(), b.addr().ip, SESSIONS);
        let started = Instant::now();
        Self {
            storms,
            sessions,
            attackers,
            witnesses,
            before,
            started,
            containers,
            _stranger: stranger,
            cluster,
        }
    }

    /// Waits until both storms and every session have got further.
    ///
    /// # Panics
    /// If one does not.
    #[track_caller]
    pub fn wait_for_progress(&self) {
        const DATAGRAMS: u64 = 100;
        let storms = self.storms.each_ref().map(|storm| storm.received() + DATAGRAMS);
        let answers = self.sessions.answers();
        wait::until("load gets through both ways and on every connection", PROGRESS, || {
            self.storms.iter().zip(storms).all(|(storm, goal)| storm.received() >= goal)
                && self.sessions.answers().iter().zip(&answers).all(|(now, then)| now > then)
        });
    }

    /// Ends load and attack, and holds what came of it to account. The agents have to run.
    ///
    /// # Panics
    /// If anything was lost, reset, delivered that should not be, or counted wrongly.
    #[track_caller]
    pub fn lift(self) {
        self.wait_for_progress();
        let seconds = self.started.elapsed().as_secs_f64();
        let answers: u64 = self.sessions.answers().iter().sum();
        let hostile = self.attackers.map(|attackers| sum(attackers.into_iter().map(Attacker::stop)));
        let broken = self.sessions.stop();
        let reports = self.storms.map(Storm::stop);
        println!(
            "{seconds:.1} s: {reports:?}; {SESSIONS} sessions, {answers} answers; hostile frames {hostile:?}"
        );
        let heard: Vec<String> = self.witnesses.iter().flat_map(Witness::heard).collect();

        assert_eq!(heard, Vec::<String>::new(), "hostile packets were delivered");
        assert_eq!(broken, Vec::<String>::new(), "connections broke");
        for report in reports {
            assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}; {}", kernel_drops());
        }
        for ((host, before), sent) in self.cluster.hosts.iter().zip(&self.before).zip(hostile) {
            let counted = || counted(&Drops::of(host).since(before), &sent);
            wait::poll(COUNTED, || (counted() == sent).then_some(()));
            assert_eq!(counted(), sent, "drops counted by {}; {}", host.label(), kernel_drops());
        }
        expect_counted(&self.cluster, reports);
    }
}

/// The containers' own counters hold everything that was sent and received since they were attached.
#[track_caller]
fn expect_counted(cluster: &Cluster, [there, back]: [storm::Report; 2]) {
    for (host, name, sent, received) in [(0, "a", there, back), (1, "b", back, there)] {
        let endpoints: Vec<Endpoint> = cluster.hosts[host].json(&["endpoint", "inspect", name]);
        let counts = endpoints[0].local.as_ref().expect("an endpoint of this host");
        assert!(
            counts.tx_packets >= sent.sent && counts.rx_packets >= received.sent,
            "{name} sent {} and received {}, but {counts:?}",
            sent.sent,
            received.sent
        );
    }
}

fn containers(cluster: &Cluster) -> [Container; 4] {
    for network in ["net", "other", "third"] {
        cluster.network(network, &[]);
    }
    let place = [(0, "net", "a"), (1, "net", "b"), (1, "other", "c"), (0, "third", "d")];
    let containers =
        place.map(|(host, network, name)| Container::attached(&cluster.hosts[host], network, name));
    settle(&[&containers[0], &containers[1]]);
    containers
}

fn wire(stranger: &Machine) -> Tap {
    Tap::open(&stranger.netns, "eth0")
}

/// What a container may not send: as somebody else, to the host, to another network.
fn from_inside(cluster: &Cluster, from: &Container, peer: &Container, foreign: &Container) -> Vec<Row> {
    let (own, to) = (from.addr(), peer.addr());
    let host =
        cluster.hosts.iter().find(|host| host.label() == from.endpoint().node).expect("its host").addr();
    let gateway = gateway(cluster, from);
    let udp = |from: Addr, to: Addr, text: &[u8]| Frame::udp(from, to, (1, PORT), text);
    let nested = Frame::vxlan(
        own,
        Addr { ip: host.ip, ..gateway },
        vni(cluster, foreign),
        &udp(own, foreign.addr(), b"VXLAN"),
    );
    vec![
        (DropReason::SpoofedIp, udp(Addr { ip: gateway.ip, ..own }, to, b"spoofed IP")),
        (DropReason::SpoofedMac, udp(own.behind(to.mac), to, b"spoofed MAC")),
        (
            DropReason::SpoofedMac,
            udp(own.behind(host.mac), host.behind(BROADCAST), b"spoofed MAC to the host"),
        ),
        (DropReason::Multicast, udp(own, host.behind(BROADCAST), b"raw frame to the host")),
        (DropReason::NestedVxlan, nested),
        (DropReason::PolicyDenied, udp(own, foreign.addr().behind(gateway.mac), b"another network")),
    ]
}

/// What the underlay may not deliver to a host: for networks that the sender has no part in, from strangers. The pair is
/// sender and receiver in the network that both hosts are in, `here` a container of a network that is on this host alone.
fn from_outside(
    cluster: &Cluster,
    stranger: &Machine,
    host: usize,
    (sender, receiver): (&Container, &Container),
    here: &Container,
) -> Vec<Row> {
    let to = cluster.hosts[host].addr();
    let member = Addr { ip: cluster.hosts[1 - host].addr().ip, ..stranger.addr };
    let inner = |from: Addr, to: Addr, text: &[u8]| Frame::udp(from, to, (1, PORT), text);
    let (from, net) = (sender.addr(), vni(cluster, receiver));
    let alone = vni(cluster, here);
    vec![
        (DropReason::VtepNotMember, Frame::vxlan(member, to, alone, &inner(from, here.addr(), b"no member"))),
        (
            DropReason::UnknownVni,
            Frame::vxlan(member, to, 0xff_ff00, &inner(from, receiver.addr(), b"no VNI")),
        ),
        (
            DropReason::UnknownVtep,
            Frame::vxlan(stranger.addr, to, net, &inner(from, receiver.addr(), b"no VTEP")),
        ),
    ]
}

fn vni(cluster: &Cluster, container: &Container) -> u32 {
    network(cluster, container).vni
}

fn gateway(cluster: &Cluster, container: &Container) -> Addr {
    network(cluster, container).gateway()
}

fn network(cluster: &Cluster, container: &Container) -> Network {
    cluster.hosts[0].json(&["network", "inspect", &container.endpoint().network])
}

fn sum(tallies: impl Iterator<Item = Tally>) -> Tally {
    tallies.flatten().fold(BTreeMap::new(), |mut sum, (reason, frames)| {
        *sum.entry(reason).or_default() += frames;
        sum
    })
}

/// What was counted for the reasons of `sent`, and, under any other reason, what should not have been.
fn counted(moved: &Drops, sent: &Tally) -> Tally {
    let all = DropReason::ALL.iter().map(|reason| (*reason, moved.by_reason(*reason)));
    all.filter(|(reason, packets)| *packets > 0 || sent.contains_key(reason)).collect()
}

/// What the whole machine's receive queues dropped since it booted: where a loss may come from that is not ours.
fn kernel_drops() -> String {
    let text = std::fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let drops = text.lines().filter_map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok());
    format!("the kernel's receive queues dropped {} packets since boot", drops.sum::<u64>())
}
