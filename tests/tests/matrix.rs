//! The isolation matrix at its full size: a hundred endpoints of ten networks on three hosts, every ordered pair by ten
//! kinds of traffic, each frame sent by hand. What may arrive does, and nothing else does, whoever it was for: while all
//! is quiet, while the agents are killed and started again, and while the store is away.
//!
//! Four networks share one subnet and four another, so their containers have the same addresses, MAC addresses too. A
//! frame says in its payload from whom to whom it goes, and a leak is judged by who heard it.
//!
//! The whole of it runs with `cargo xtask test --matrix`, a small one always. `isolation` asks real sockets.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use etherparse::{ArpOperation, Icmpv4Type};
use overlay_tests::{
    container::Container,
    host::Host,
    packet::{Addr, BROADCAST, DISCARD_PORT, Frame},
    packet6::Addr6,
    stores::{FaultyStore, SqliteFile},
    tap::Tap,
    topology::{Cluster, Plan, settle},
    views::Endpoint,
    wait,
};

const HOSTS: usize = 3;
/// Each network with its subnet.
const NETWORKS: [(&str, &str); 10] = [
    ("one-a", "10.1.0.0/24"),
    ("one-b", "10.1.0.0/24"),
    ("one-c", "10.1.0.0/24"),
    ("one-d", "10.1.0.0/24"),
    ("two-a", "10.2.0.0/24"),
    ("two-b", "10.2.0.0/24"),
    ("two-c", "10.2.0.0/24"),
    ("two-d", "10.2.0.0/24"),
    ("green", "10.3.0.0/24"),
    ("gold", "10.4.0.0/24"),
];
/// The networks that a policy joins.
const JOINED: [&str; 2] = ["green", "gold"];
/// How long nothing may arrive until everything has.
const QUIET: Duration = Duration::from_millis(100);
/// How often what may arrive and does not is sent anew: a block is one that stays.
const ATTEMPTS: usize = 3;
/// Longest time until an agent notices that its store is away.
const NOTICE: Duration = Duration::from_secs(10);

/// Endpoints of each network.
fn size() -> usize {
    if env::var_os("OVERLAY_TEST_MATRIX").is_some() { 10 } else { 3 }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Icmp,
    Tcp,
    Udp,
    Arp,
    Ipv6,
    Broadcast,
    SpoofedSource,
    ViaGateway,
    ViaHostAddress,
    RawFrame,
}

const KINDS: [Kind; 10] = [
    Kind::Icmp,
    Kind::Tcp,
    Kind::Udp,
    Kind::Arp,
    Kind::Ipv6,
    Kind::Broadcast,
    Kind::SpoofedSource,
    Kind::ViaGateway,
    Kind::ViaHostAddress,
    Kind::RawFrame,
];

impl Kind {
    /// Whether it arrives at those one may talk to. The switch itself answers ARP, and nobody floods.
    fn is_delivered(self) -> bool {
        matches!(self, Self::Icmp | Self::Tcp | Self::Udp | Self::Ipv6 | Self::ViaGateway)
    }

    /// Whether who asks gets an answer.
    fn is_answered(self) -> bool {
        matches!(self, Self::Icmp | Self::Arp)
    }
}

/// From whom to whom, how: by places among the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Probe {
    kind: Kind,
    from: usize,
    to: usize,
}

impl Probe {
    /// What a frame begins with that carries one.
    const MARK: &[u8] = b"matrix probe";

    fn to_bytes(self) -> Vec<u8> {
        let byte = |number: usize| u8::try_from(number).expect("a small number");
        [Self::MARK, &[self.kind as u8, byte(self.from), byte(self.to)]].concat()
    }

    /// The probe in a frame, wherever in it.
    fn of(frame: &Frame) -> Option<Self> {
        let at = frame.0.windows(Self::MARK.len()).position(|window| window == Self::MARK)?;
        let [kind, from, to] = *frame.0.get(at + Self::MARK.len()..)?.first_chunk()?;
        Some(Self { kind: *KINDS.get(usize::from(kind))?, from: from.into(), to: to.into() })
    }
}

/// What a member heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    /// The probe.
    Probe(Probe),
    /// The answer to it.
    Answer(Probe),
}

impl Heard {
    fn of(frame: &Frame) -> Option<Self> {
        let probe = Probe::of(frame)?;
        let echo = || matches!(frame.icmp_packet(), Some((_, icmp, _)) if matches!(icmp.icmp_type, Icmpv4Type::EchoReply(_)));
        let arp = || frame.arp_packet().is_some_and(|arp| arp.operation == ArpOperation::REPLY);
        Some(if echo() || arp() { Self::Answer(probe) } else { Self::Probe(probe) })
    }
}

/// A container with its ears open.
struct Member {
    network: &'static str,
    gateway: Addr,
    addr: Addr,
    addr6: Addr6,
    /// How its host reaches it.
    host_ip: Ipv4Addr,
    tap: Tap,
    container: Container,
}

impl Member {
    fn may_talk_to(&self, other: &Self) -> bool {
        self.network == other.network || [self, other].iter().all(|member| JOINED.contains(&member.network))
    }

    /// An address as a host's stack sends to it: behind its own MAC on the link, else behind the gateway's.
    fn route_to(&self, to: Addr) -> Addr {
        if self.is_on_link(to.ip) { to } else { to.behind(self.gateway.mac) }
    }

    /// The same over IPv6.
    fn route_to6(&self, to: Addr6) -> Addr6 {
        let is_on_link = to.ip.segments()[..4] == self.addr6.ip.segments()[..4];
        if is_on_link { to } else { to.behind(self.gateway.mac) }
    }

    fn is_on_link(&self, ip: Ipv4Addr) -> bool {
        ip.octets()[..3] == self.gateway.ip.octets()[..3]
    }
}

/// All of them on their hosts.
struct Matrix {
    members: Vec<Member>,
    cluster: Cluster,
    store: SqliteFile,
}

impl Matrix {
    fn new() -> Self {
        let cluster = Cluster::without_agents(Plan { hosts: HOSTS, ..Plan::default() });
        let store = SqliteFile::new(cluster.dir.make("store"));
        let cluster = cluster.with_store(&store.url());
        cluster.hosts.iter().for_each(Host::spawn);
        cluster.hosts.iter().for_each(Host::wait_ready);
        let gateways = NETWORKS.map(|(name, subnet)| {
            let subnet6 = ipv6_subnet(subnet);
            cluster.network(name, &["--subnet", subnet, "--subnet", &subnet6]).gateway()
        });
        let [one, two] = JOINED;
        cluster.hosts[0].overlay(&["policy", "allow", one, two]);
        let attached = thread::scope(|scope| {
            let attach = |host| scope.spawn(move || attach_all(host));
            let hosts: Vec<_> =
                cluster.hosts.iter().enumerate().map(|(at, host)| attach((at, host))).collect();
            hosts.into_iter().map(|host| host.join().expect("containers")).collect::<Vec<_>>()
        });
        let member = |(network, host_ip, container): (usize, Ipv4Addr, Container)| Member {
            network: NETWORKS[network].0,
            gateway: gateways[network],
            addr: container.addr(),
            addr6: container.addr6(),
            host_ip,
            tap: container.tap(),
            container,
        };
        let members: Vec<Member> = attached.into_iter().flatten().map(member).collect();
        let matrix = Self { members, cluster, store };
        matrix.settle();
        matrix
    }

    /// Waits until each network's containers reach each other, and those of the joined ones.
    fn settle(&self) {
        for (network, _) in NETWORKS {
            let own = self.members.iter().filter(|member| member.network == network);
            settle(&own.map(|member| &member.container).collect::<Vec<_>>());
        }
        let _ = self.heard();
    }

    fn probes(&self, kind: Kind) -> Vec<Probe> {
        let all = 0..self.members.len();
        let pairs = all.clone().flat_map(|from| all.clone().map(move |to| Probe { kind, from, to }));
        pairs.filter(|probe| probe.from != probe.to).collect()
    }

    fn ends(&self, probe: Probe) -> (&Member, &Member) {
        (&self.members[probe.from], &self.members[probe.to])
    }

    fn send(&self, probe: Probe) {
        let (from, to) = self.ends(probe);
        from.tap.send(&self.frame(probe, from, to));
    }

    fn frame(&self, probe: Probe, from: &Member, to: &Member) -> Frame {
        let (text, ports, me) = (probe.to_bytes(), (4000, DISCARD_PORT), from.addr);
        let routed = from.route_to(to.addr);
        match probe.kind {
            Kind::Icmp => Frame::echo_request(me, routed, 7, &text),
            Kind::Tcp => Frame::tcp_syn_saying(me, routed, ports, &text),
            Kind::Udp => Frame::udp(me, routed, ports, &text),
            // Behind what ARP needs, where Ethernet pads.
            Kind::Arp => Frame([Frame::arp_request(me, to.addr.ip).0, text].concat()),
            Kind::Ipv6 => Frame::udp6(from.addr6, from.route_to6(to.addr6), ports, &text),
            Kind::Broadcast => Frame::udp(me, Addr { mac: BROADCAST, ip: Ipv4Addr::BROADCAST }, ports, &text),
            Kind::SpoofedSource => Frame::udp(me.at(self.anothers(from, to)), routed, ports, &text),
            Kind::ViaGateway => Frame::udp(me, to.addr.behind(from.gateway.mac), ports, &text),
            Kind::ViaHostAddress => Frame::udp(me, from.gateway.at(to.host_ip), ports, &text),
            Kind::RawFrame => Frame::ethernet(me.mac, to.addr.mac, EXPERIMENTAL, &text),
        }
    }

    /// An address of the receiver's network that is not the sender's own.
    fn anothers(&self, from: &Member, to: &Member) -> Ipv4Addr {
        let mut addresses = self.members.iter().filter(|m| m.network == to.network).map(|m| m.addr.ip);
        addresses.find(|ip| *ip != from.addr.ip).expect("a network of two")
    }

    /// What has arrived since the last look, by the member that heard it.
    fn heard(&self) -> BTreeSet<(usize, Heard)> {
        let heard = |(at, member): (usize, &Member)| {
            let frames = member.tap.arrived();
            frames.iter().filter_map(Heard::of).map(move |heard| (at, heard)).collect::<Vec<_>>()
        };
        self.members.iter().enumerate().flat_map(heard).collect()
    }

    /// What arrives until nothing more does.
    fn heard_until_quiet(&self) -> BTreeSet<(usize, Heard)> {
        let mut all = self.heard();
        let mut since = Instant::now();
        while since.elapsed() < QUIET {
            let more = self.heard();
            if !more.is_empty() {
                since = Instant::now();
            }
            all.extend(more);
            thread::sleep(QUIET / 10);
        }
        all
    }

    /// What has to come of a probe.
    fn expected(&self, probe: Probe) -> Vec<(usize, Heard)> {
        let (from, to) = self.ends(probe);
        let allowed = from.may_talk_to(to);
        // ARP does not leave the sender's network, where another container may have the address.
        let mut own = self.members.iter().filter(|member| member.network == from.network);
        let is_known = to.addr.ip != from.addr.ip && own.any(|member| member.addr.ip == to.addr.ip);
        let answered = match probe.kind {
            Kind::Arp => is_known,
            kind => kind.is_answered() && allowed,
        };
        let arrives = probe.kind.is_delivered() && allowed;
        let delivery = arrives.then_some((probe.to, Heard::Probe(probe)));
        let answer = answered.then_some((probe.from, Heard::Answer(probe)));
        delivery.into_iter().chain(answer).collect()
    }

    /// Whether a member may hear this. In the sender's own network a container may have the receiver's address.
    fn may_hear(&self, hearer: usize, heard: Heard) -> bool {
        match heard {
            Heard::Probe(probe) => {
                probe.kind.is_delivered() && self.members[probe.from].may_talk_to(&self.members[hearer])
            }
            Heard::Answer(probe) => probe.kind.is_answered() && hearer == probe.from,
        }
    }

    /// Sends all probes of a kind, those that were not heard of again, and judges.
    fn run_kind(&self, kind: Kind) -> Count {
        let probes = self.probes(kind);
        let expected: BTreeSet<_> = probes.iter().flat_map(|probe| self.expected(*probe)).collect();
        let (mut heard, mut again) = (BTreeSet::new(), probes.clone());
        for _ in 0..ATTEMPTS {
            again.iter().for_each(|probe| self.send(*probe));
            heard.extend(self.heard_until_quiet());
            again.retain(|probe| !self.expected(*probe).iter().all(|wanted| heard.contains(wanted)));
            if again.is_empty() {
                break;
            }
        }
        let leaks = heard.iter().filter(|(hearer, heard)| !self.may_hear(*hearer, *heard));
        Count {
            pairs: probes.len(),
            expected: expected.len(),
            leaked: leaks.map(|leak| self.describe(leak)).collect(),
            blocked: expected.difference(&heard).map(|missing| self.describe(missing)).collect(),
        }
    }

    fn describe(&self, (hearer, heard): &(usize, Heard)) -> String {
        let name = |at: usize| self.members[at].container.name();
        let (Heard::Probe(probe) | Heard::Answer(probe)) = heard;
        let what = if matches!(heard, Heard::Probe(_)) { "the probe" } else { "the answer to the probe" };
        format!(
            "{what} by {:?} from {} to {}, at {}",
            probe.kind,
            name(probe.from),
            name(probe.to),
            name(*hearer)
        )
    }

    /// All kinds, one after the other.
    fn run(&self, when: &str) -> Count {
        let start = Instant::now();
        let counts: BTreeMap<Kind, Count> = KINDS.map(|kind| (kind, self.run_kind(kind))).into();
        for (kind, count) in &counts {
            println!("{when}: {kind:?}: {count}");
        }
        let total = counts.into_values().fold(Count::default(), Count::plus);
        println!("{when}: all: {total}; {:?}", start.elapsed());
        total
    }
}

/// Ethertype for experiments (IEEE 802).
const EXPERIMENTAL: u16 = 0x88b5;

/// The IPv6 subnet that goes with an IPv4 one: those of one overlap where those of the other do.
fn ipv6_subnet(subnet: &str) -> String {
    let net = subnet.split('.').nth(1).expect("an IPv4 subnet");
    format!("fd00:{net}::/64")
}

/// The containers of one host, each with the number of its network and how its host reaches it.
fn attach_all((at, host): (usize, &Host)) -> Vec<(usize, Ipv4Addr, Container)> {
    let here = (0..size()).filter(|number| number % HOSTS == at);
    let places = here.flat_map(|number| (0..NETWORKS.len()).map(move |network| (network, number)));
    let attach = |(network, number): (usize, usize)| {
        let name = NETWORKS[network].0;
        (network, Container::attached(host, name, &format!("{name}{number}")))
    };
    let containers: Vec<(usize, Container)> = places.map(attach).collect();
    let endpoints = host.endpoints();
    let host_ip = |container: &Container| {
        let own = |endpoint: &&Endpoint| endpoint.id == container.endpoint().id;
        endpoints.iter().find(own).and_then(|endpoint| endpoint.local.as_ref()?.host_ip)
    };
    let with_ip = |(network, container): (usize, Container)| {
        (network, host_ip(&container).expect("a host-local address"), container)
    };
    containers.into_iter().map(with_ip).collect()
}

/// What came of some probes.
#[derive(Debug, Default)]
struct Count {
    pairs: usize,
    /// Arrivals and answers that had to be.
    expected: usize,
    leaked: Vec<String>,
    blocked: Vec<String>,
}

impl Count {
    fn plus(mut self, other: Self) -> Self {
        self.pairs += other.pairs;
        self.expected += other.expected;
        self.leaked.extend(other.leaked);
        self.blocked.extend(other.blocked);
        self
    }

    #[track_caller]
    fn expect_isolation(&self) {
        let first = |of: &[String]| of.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
        assert!(self.leaked.is_empty(), "{self}; leaked:\n{}", first(&self.leaked));
        assert!(self.blocked.is_empty(), "{self}; blocked:\n{}", first(&self.blocked));
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (leaked, blocked) = (self.leaked.len(), self.blocked.len());
        write!(
            f,
            "{} probes, {} arrivals and answers due, {leaked} leaked, {blocked} blocked",
            self.pairs, self.expected
        )
    }
}

#[test]
fn every_pair_by_every_kind_of_traffic_is_let_through_or_kept_apart() {
    let matrix = Matrix::new();
    let addresses: BTreeSet<Ipv4Addr> = matrix.members.iter().map(|member| member.addr.ip).collect();
    assert_eq!((matrix.members.len(), addresses.len()), (10 * size(), 4 * size()), "subnets overlap");

    matrix.run("all quiet").expect_isolation();

    let restarts = thread::scope(|scope| {
        let hosts = &matrix.cluster.hosts;
        let restart = |host: &Host| {
            host.kill9();
            host.start();
        };
        let restarts = scope.spawn(move || hosts.iter().for_each(restart));
        let mut total = Count::default();
        while !restarts.is_finished() {
            total = total.plus(matrix.run("agents killed and started"));
        }
        total
    });
    restarts.expect_isolation();

    matrix.store.stop();
    for host in &matrix.cluster.hosts {
        wait::until("the outage is noticed", NOTICE, || host.status().stale.is_some());
    }
    matrix.run("the store is away").expect_isolation();
    matrix.store.start();
    for host in &matrix.cluster.hosts {
        wait::until("the store is back", NOTICE, || host.status().stale.is_none());
    }
}
