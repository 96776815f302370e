//! The isolation matrix: every ordered pair of containers, over ICMP, UDP and TCP. Exactly those pairs talk
//! that are in one network or in two that a policy joins.
//!
//! Two networks have the same subnet, and their containers the same addresses. So a pair is judged by who
//! receives a question and by who answers it, by name, never by an address that answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, thread,
    time::{Duration, Instant},
};

use etherparse::Icmpv4Type;
use overlay_tests::{
    container::Container,
    packet::{Addr, Frame},
    tap::Tap,
    topology::{Cluster, settle, three_hosts, time_to_pass},
    traffic::responder::{Responder, ask_tcp, ask_udp},
    views::Network,
};

/// Name and subnet of each network.
const NETWORKS: [(&str, &str); 4] =
    [("red", "10.1.0.0/24"), ("blue", "10.1.0.0/24"), ("green", "10.2.0.0/24"), ("gold", "10.3.0.0/24")];
/// The networks that a policy joins.
const JOINED: [&str; 2] = ["green", "gold"];
const HOSTS: usize = 3;
/// How long a question may take. One that is not answered by then is blocked.
const DEADLINE: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Protocol {
    Icmp,
    Udp,
    Tcp,
}

const PROTOCOLS: [Protocol; 3] = [Protocol::Icmp, Protocol::Udp, Protocol::Tcp];

/// A container with its ears open.
struct Member {
    network: &'static str,
    container: Container,
    gateway: Addr,
    responder: Responder,
    /// Hears questions over ICMP.
    inbox: Tap,
    /// Sends questions over ICMP and hears the answers.
    outbox: Tap,
}

/// One question: from whom, to whom, how.
#[derive(Clone, Copy)]
struct Pair<'a> {
    from: &'a Member,
    to: &'a Member,
    protocol: Protocol,
}

impl fmt::Display for Pair<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} over {:?}", self.from.container.name(), self.to.container.name(), self.protocol)
    }
}

impl Pair<'_> {
    fn may_talk(&self) -> bool {
        let (from, to) = (self.from.network, self.to.network);
        from == to || (JOINED.contains(&from) && JOINED.contains(&to))
    }

    /// Asks over UDP or TCP, and says whether the right one answered.
    fn ask(&self) -> bool {
        let (netns, to, question) =
            (self.from.container.netns(), self.to.container.addr().ip, self.to_string());
        let ask = if self.protocol == Protocol::Tcp { ask_tcp } else { ask_udp };
        ask(netns, to, &question, DEADLINE).as_deref() == Some(self.to.container.name())
    }

    /// The question as an ICMP echo request.
    fn echo_request(&self) -> Frame {
        let (from, to) = (self.from.container.addr(), self.to.container.addr());
        let mac = if self.from.network == self.to.network { to.mac } else { self.from.gateway.mac };
        Frame::echo_request(from, to.behind(mac), 7, self.to_string().as_bytes())
    }
}

fn is_request(kind: &Icmpv4Type) -> bool {
    matches!(kind, Icmpv4Type::EchoRequest(_))
}

fn is_reply(kind: &Icmpv4Type) -> bool {
    matches!(kind, Icmpv4Type::EchoReply(_))
}

/// The question in an echo of this kind.
fn echo(frame: &Frame, is_kind: fn(&Icmpv4Type) -> bool) -> Option<String> {
    let (_, icmp, payload) = frame.icmp_packet()?;
    is_kind(&icmp.icmp_type).then(|| String::from_utf8_lossy(payload).into_owned())
}

impl Member {
    fn new(cluster: &Cluster, host: usize, network: &Network, name: &'static str) -> Self {
        let container = Container::attached(&cluster.hosts[host], name, &format!("{name}{}", host + 1));
        Self {
            network: name,
            gateway: network.gateway(),
            responder: Responder::start(container.netns(), container.name()),
            inbox: container.tap(),
            outbox: container.tap(),
            container,
        }
    }

    /// Asks over ICMP, all at once; the questions that were answered. An echo does not say who made it: whether
    /// it was the right one shows at its own end.
    fn echoes(&self, pairs: &[&Pair<'_>]) -> BTreeSet<String> {
        pairs.iter().for_each(|pair| self.outbox.send(&pair.echo_request()));
        let mut answered = BTreeSet::new();
        self.outbox.find(DEADLINE, |frame| {
            answered.extend(echo(frame, is_reply));
            (answered.len() == pairs.len()).then_some(())
        });
        answered
    }

    /// Questions that arrived, whoever they were for.
    fn heard(&self) -> BTreeSet<String> {
        let icmp = self.inbox.arrived();
        icmp.iter().filter_map(|frame| echo(frame, is_request)).chain(self.responder.heard()).collect()
    }
}

/// One container of each network on each host, all of them reaching their own network.
fn members(cluster: &Cluster) -> Vec<Member> {
    let networks = NETWORKS.map(|(name, subnet)| (name, cluster.network(name, &["--subnet", subnet])));
    let member = |(name, network): &(&'static str, Network)| {
        (0..HOSTS).map(|host| Member::new(cluster, host, network, name)).collect()
    };
    let members: Vec<Vec<Member>> = networks.iter().map(member).collect();
    for network in &members {
        settle(&network.iter().map(|member| &member.container).collect::<Vec<_>>());
    }
    members.into_iter().flatten().collect()
}

/// Joins two networks and waits until every pair of them talks.
fn join(cluster: &Cluster, members: &[Member]) {
    let [one, two] = JOINED;
    cluster.hosts[0].overlay(&["policy", "allow", one, two]);
    let of = |network| members.iter().filter(move |member| member.network == network);
    for (from, to) in of(one).flat_map(|a| of(two).flat_map(move |b| [(a, b), (b, a)])) {
        let target = to.container.addr().behind(from.gateway.mac);
        let passed = time_to_pass(&from.outbox, &to.inbox, from.container.addr(), target, DEADLINE);
        assert!(passed.is_some(), "{} does not reach {}", from.container.name(), to.container.name());
    }
}

fn pairs(members: &[Member]) -> Vec<Pair<'_>> {
    let ordered = members.iter().flat_map(|from| members.iter().map(move |to| (from, to)));
    let others = ordered.filter(|(from, to)| from.container.name() != to.container.name());
    others.flat_map(|(from, to)| PROTOCOLS.map(|protocol| Pair { from, to, protocol })).collect()
}

/// Asks all questions at once; those that were answered.
fn answered(pairs: &[Pair<'_>], members: &[Member]) -> BTreeSet<String> {
    let (echoes, questions): (Vec<_>, Vec<_>) =
        pairs.iter().partition(|pair| pair.protocol == Protocol::Icmp);
    let echoes_of = |member: &Member| {
        let own: Vec<_> = echoes
            .iter()
            .copied()
            .filter(|pair: &&Pair<'_>| pair.from.container.name() == member.container.name())
            .collect();
        member.echoes(&own)
    };
    thread::scope(|scope| {
        let echoes: Vec<_> = members.iter().map(|member| scope.spawn(move || echoes_of(member))).collect();
        let ask = |pair: &Pair<'_>| pair.ask().then(|| pair.to_string()).into_iter().collect();
        let questions: Vec<_> = questions.into_iter().map(|pair| scope.spawn(move || ask(pair))).collect();
        echoes.into_iter().chain(questions).flat_map(|thread| thread.join().expect("a question")).collect()
    })
}

/// Who heard which questions.
type Heard = BTreeMap<String, BTreeSet<String>>;

fn heard(members: &[Member]) -> Heard {
    members.iter().map(|member| (member.container.name().to_owned(), member.heard())).collect()
}

/// The pairs that talked: the right one heard the question, and an answer came.
fn talked<'a>(pairs: &[Pair<'a>], answered: &BTreeSet<String>, heard: &Heard) -> Vec<Pair<'a>> {
    let both = |pair: &&Pair<'_>| {
        let question = pair.to_string();
        answered.contains(&question) && heard[pair.to.container.name()].contains(&question)
    };
    pairs.iter().filter(both).copied().collect()
}

/// Questions that somebody heard who may not talk with the one that asked, whoever they were for.
fn leaks(pairs: &[Pair<'_>], members: &[Member], heard: &Heard) -> Vec<String> {
    let hearers =
        pairs.iter().flat_map(|pair| members.iter().map(move |hearer| (pair, Pair { to: hearer, ..*pair })));
    let forbidden = hearers.filter(|(pair, hearer)| {
        !hearer.may_talk() && heard[hearer.to.container.name()].contains(&pair.to_string())
    });
    forbidden
        .map(|(pair, hearer)| format!("leaked: {pair} was heard by {}", hearer.to.container.name()))
        .collect()
}

#[test]
fn exactly_the_pairs_in_one_network_or_in_joined_ones_talk() {
    let cluster = three_hosts();
    let members = members(&cluster);
    let addr = |name: &str| members.iter().find(|m| m.container.name() == name).map(|m| m.container.addr());
    assert_eq!(addr("red1"), addr("blue1"), "the overlapping networks use the same addresses");
    join(&cluster, &members);

    let (start, pairs) = (Instant::now(), pairs(&members));
    assert_eq!(pairs.len(), 12 * 11 * PROTOCOLS.len());
    let answered = answered(&pairs, &members);
    let heard = heard(&members);
    let talked = talked(&pairs, &answered, &heard);
    let names = |pairs: &[Pair<'_>]| pairs.iter().map(Pair::to_string).collect::<BTreeSet<_>>();
    let allowed: Vec<Pair<'_>> = pairs.iter().filter(|pair| pair.may_talk()).copied().collect();
    let leaks = leaks(&pairs, &members, &heard);
    println!(
        "{} questions in {:?}: {} allowed, {} talked, {} leaked",
        pairs.len(),
        start.elapsed(),
        allowed.len(),
        talked.len(),
        leaks.len()
    );
    assert_eq!(leaks, Vec::<String>::new());
    let (allowed, talked) = (names(&allowed), names(&talked));
    assert_eq!(allowed.difference(&talked).collect::<Vec<_>>(), Vec::<&String>::new(), "falsely blocked");
    assert_eq!(
        talked.difference(&allowed).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "talked across networks"
    );
}
