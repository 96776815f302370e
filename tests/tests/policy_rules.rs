//! Rules between networks, on real packets: what they allow passes with its answers, on one host and across two, and
//! nothing else does, whoever forges it.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, ip_number};
use overlay_common::{abi::map, verdict::DropReason};
use overlay_tests::{
    container::Container,
    drops::{self, Drops},
    host::Host,
    packet::{Addr, DISCARD_PORT, Frame, offset},
    tap::Tap,
    topology::{CONVERGENCE, Cluster, Plan, settle},
    traffic::{
        flow::Flow,
        ping::{expect_no_ping, expect_ping},
        responder::{PORT, Responder, Session, ask_tcp, ask_udp},
        sessions::Sessions,
    },
    underlay::{UNDERLAY_IFNAME, Wire},
    wait,
};
use rstest::rstest;
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(2);
/// How long nothing has to come before it counts as not coming.
const SILENCE: Duration = Duration::from_millis(300);
/// As TCP_PORT, in words of a command line.
const TO_RESPONDER: [&str; 4] = ["--proto", "tcp", "--port", "7007"];

/// Two networks: `client` in the first on host 1; `near` and `far` in the second on hosts 1 and 2, both with a responder.
struct World {
    client: Container,
    near: Container,
    far: Container,
    gateway_a: Addr,
    gateway_b: Addr,
    _responders: [Responder; 3],
    cluster: Cluster,
}

impl World {
    #[track_caller]
    fn new() -> Self {
        Self::on(Plan::default())
    }

    #[track_caller]
    fn on(plan: Plan) -> Self {
        let cluster = Cluster::new(plan);
        let gateway_a = cluster.network("net_a", &[]).gateway();
        let gateway_b = cluster.network("net_b", &[]).gateway();
        let client = Container::attached(&cluster.hosts[0], "net_a", "client");
        let near = Container::attached(&cluster.hosts[0], "net_b", "near");
        let far = Container::attached(&cluster.hosts[1], "net_b", "far");
        settle(&[&near, &far]);
        let _responders = [&client, &near, &far].map(|c| Responder::start(c.netns(), c.name()));
        Self { client, near, far, gateway_a, gateway_b, _responders, cluster }
    }

    fn servers(&self) -> [&Container; 2] {
        [&self.near, &self.far]
    }

    fn hosts(&self) -> (&Host, &Host) {
        (&self.cluster.hosts[0], &self.cluster.hosts[1])
    }

    /// Adds a rule from the client's network to the servers'; its id once every host has it in its maps.
    #[track_caller]
    fn allow(&self, words: &[&str]) -> String {
        let argv = [&["policy", "allow", "net_a", "net_b"][..], words].concat();
        let added: Vec<Value> = self.hosts().1.json(&argv);
        let id = added[0]["id"].as_str().expect("an id").to_owned();
        self.wait_for_rule(&id, true);
        id
    }

    #[track_caller]
    fn remove(&self, id: &str) {
        self.hosts().1.overlay(&["policy", "rm", id]);
        self.wait_for_rule(id, false);
    }

    /// Waits until every host has a rule in its maps, or none has it.
    #[track_caller]
    fn wait_for_rule(&self, id: &str, wanted: bool) {
        for host in &self.cluster.hosts {
            let has = || host.overlay(&["map", "dump", map::RULES, "-o", "json"]).contains(id);
            wait::until("the rules are in force everywhere", CONVERGENCE, || has() == wanted);
        }
    }

    /// A frame from the client to a server, by way of its gateway.
    fn to_server(&self, server: &Container) -> (Addr, Addr) {
        (self.client.addr(), server.addr().behind(self.gateway_a.mac))
    }

    /// A frame from a server to the client, by way of its gateway.
    fn to_client(&self, server: &Container) -> (Addr, Addr) {
        (server.addr(), self.client.addr().behind(self.gateway_b.mac))
    }
}

/// What a host's `policy ls` says of one rule, or, for no id, of what is audited.
#[track_caller]
fn listed(host: &Host, id: Option<&str>) -> Value {
    let policies: Vec<Value> = host.json(&["policy", "ls"]);
    let found = policies.iter().find(|policy| match id {
        Some(id) => policy["id"] == id,
        None => policy["action"] == "audit",
    });
    found.cloned().unwrap_or_else(|| panic!("{id:?} is not among {policies:?}"))
}

fn reaches_tcp(from: &Container, to: &Container) -> bool {
    ask_tcp(from.netns(), to.addr().ip, "tcp?", SILENCE).as_deref() == Some(to.name())
}

fn reaches_udp(from: &Container, to: &Container) -> bool {
    ask_udp(from.netns(), to.addr().ip, "udp?", SILENCE).as_deref() == Some(to.name())
}

#[rstest]
#[case::tc(Plan::default())]
#[case::xdp(Plan { wire: Wire::Packet, xdp: "decap", ..Plan::default() })]
fn a_port_that_a_rule_allows_is_reached_and_answers_and_nothing_else_passes_either_way(#[case] plan: Plan) {
    let world = World::on(plan);
    world.allow(&TO_RESPONDER);
    let before = world.cluster.hosts.iter().map(Drops::of).collect::<Vec<_>>();
    for server in world.servers() {
        assert!(reaches_tcp(&world.client, server), "{}", server.name());
    }
    let after = world.cluster.hosts.iter().map(Drops::of).collect::<Vec<_>>();
    assert_eq!(before, after, "what is allowed costs no drop");
    for server in world.servers() {
        assert!(!reaches_udp(&world.client, server), "another protocol reached {}", server.name());
        assert!(!reaches_tcp(server, &world.client), "{} opened a connection", server.name());
        expect_no_ping(world.client.netns(), server.addr().ip);
        let other_port = Frame::tcp_syn(world.to_server(server).0, world.to_server(server).1, (4000, 7012));
        let site =
            drops::expect(world.hosts().0, DropReason::NoRule, 1, || world.client.tap().send(&other_port));
        assert_eq!((site.network.as_deref(), site.endpoint.as_deref()), (Some("net_a"), Some("client")));
    }
    let back = |server: &Container| {
        Frame::tcp_syn(world.to_client(server).0, world.to_client(server).1, (4000, PORT))
    };
    drops::expect(world.hosts().0, DropReason::NoFlow, 1, || world.near.tap().send(&back(&world.near)));
    drops::expect(world.hosts().1, DropReason::NoFlow, 1, || world.far.tap().send(&back(&world.far)));
    assert!(world.hosts().0.cli(&["verify"]).is_success());
}

#[rstest]
#[case::udp(&["--proto", "udp", "--port", "7000-7010"], reaches_udp)]
#[case::any_protocol(&["--one-way"], reaches_udp)]
#[case::any_port(&["--proto", "tcp"], reaches_tcp)]
fn a_rule_without_ports_or_with_a_range_opens_its_direction_only(
    #[case] words: &[&str],
    #[case] reaches: fn(&Container, &Container) -> bool,
) {
    let world = World::new();
    world.allow(words);
    for server in world.servers() {
        assert!(reaches(&world.client, server), "{}", server.name());
        assert!(!reaches(server, &world.client), "{}", server.name());
    }
}

#[test]
fn a_ping_that_a_rule_allows_is_answered_and_cannot_be_turned_round() {
    let world = World::new();
    world.allow(&["--proto", "icmp"]);
    for server in world.servers() {
        expect_ping(world.client.netns(), server.addr().ip, &[]);
        expect_ping(world.client.netns(), server.addr().ip, &["-M", "dont", "-s", "6000"]);
        expect_no_ping(server.netns(), world.client.addr().ip);
        assert!(!reaches_tcp(&world.client, server));
    }
}

#[rstest]
#[case::deny(&["policy", "deny", "net_a", "net_b"], DropReason::PolicyDenied)]
#[case::removal(&["policy", "rm"], DropReason::NoRule)]
fn what_ends_a_rule_cuts_the_connections_that_it_let_be_opened(
    #[case] words: &[&str],
    #[case] reason: DropReason,
) {
    let world = World::new();
    world.allow(&["--proto", "icmp"]);
    let id = world.allow(&TO_RESPONDER);
    let mut sessions = world.servers().map(|server| {
        let mut session =
            Session::connect(world.client.netns(), server.addr().ip, DEADLINE).expect("a connection");
        assert_eq!(session.ask("open?").expect("an answer"), server.name());
        session
    });
    let which = if reason == DropReason::NoRule { vec![id.as_str()] } else { vec![] };
    world.hosts().1.overlay(&[words, &which].concat());
    world.wait_for_rule(&id, false);
    let before = Drops::of(world.hosts().0);
    for session in &mut sessions {
        assert!(session.ask("still?").is_err(), "an open connection outlived its rule");
    }
    assert!(Drops::of(world.hosts().0).since(&before).by_reason(reason) > 0);
}

#[test]
fn rules_follow_the_labels_of_containers_at_both_ends_and_connections_with_them() {
    let world = World::new();
    let labels = ["--from-label", "app=web", "--to-label", "app=db", "--to-label", "tier=1"];
    let id = world.allow(&[&TO_RESPONDER[..], &labels].concat());
    let label = |network: &str, container: &Container, words: &[&str]| {
        let argv = [&["endpoint", "label", network, container.name()][..], words].concat();
        world.hosts().1.overlay(&argv);
    };
    let opens =
        |server| wait::poll(CONVERGENCE, || reaches_tcp(&world.client, server).then_some(())).is_some();
    assert!(
        world.servers().iter().all(|server| !reaches_tcp(&world.client, server)),
        "nobody has the labels"
    );
    label("net_a", &world.client, &["app=web"]);
    label("net_b", &world.far, &["app=db"]);
    assert!(!opens(&world.far), "one of two labels is not enough");
    label("net_b", &world.far, &["tier=1"]);
    assert!(opens(&world.far));
    assert!(!reaches_tcp(&world.client, &world.near), "its neighbour has no labels");

    let mut session =
        Session::connect(world.client.netns(), world.far.addr().ip, DEADLINE).expect("a connection");
    assert_eq!(session.ask("open?").expect("an answer"), "far");
    label("net_a", &world.client, &["app=other"]);
    wait::until("the label's change is in force", CONVERGENCE, || !reaches_tcp(&world.client, &world.far));
    assert!(session.ask("still?").is_err(), "an open connection outlived the label");
    label("net_a", &world.client, &["app=web"]);
    label("net_b", &world.far, &["--rm", "tier"]);
    assert!(!opens(&world.far));
    assert!(listed(world.hosts().0, Some(&id))["packets"].as_u64() > Some(0));
    assert!(world.cluster.hosts.iter().all(|host| host.cli(&["verify"]).is_success()));
}

#[test]
fn an_audit_drops_nothing_and_counts_what_would_be_until_the_rules_are_enforced() {
    let world = World::new();
    let host = world.hosts().0;
    let id = world.allow(&[&TO_RESPONDER[..], &["--audit"]].concat());
    let packets = |id: Option<&str>| listed(host, id)["packets"].as_u64().unwrap_or_default();
    assert!(reaches_tcp(&world.client, &world.far));
    assert_eq!((packets(None), listed(host, Some(&id))["flows"].as_u64()), (0, Some(1)));
    assert!(reaches_udp(&world.client, &world.far) && reaches_udp(&world.client, &world.near));
    let would_drop = packets(None);
    assert!(would_drop >= 2, "what no rule allows is counted: {would_drop}");

    let refused = host.cli(&["policy", "allow", "net_a", "net_b", "--proto", "icmp"]);
    assert!(!refused.is_success() && refused.stderr.contains("enforce"), "{refused}");
    host.overlay(&["policy", "enforce", "net_a", "net_b"]);
    let enforced = || !reaches_udp(&world.client, &world.far) && !reaches_udp(&world.client, &world.near);
    wait::until("the rules are enforced", CONVERGENCE, enforced);
    assert!(reaches_tcp(&world.client, &world.far));
    let refused = host.cli(&["policy", "allow", "net_a", "net_b", "--proto", "icmp", "--audit"]);
    assert!(!refused.is_success() && refused.stderr.contains("in force"), "{refused}");
}

#[test]
fn rules_are_tried_on_networks_that_talk_as_a_whole_and_take_over_when_they_are_enforced() {
    let world = World::new();
    let host = world.hosts().0;
    host.overlay(&["policy", "allow", "net_a", "net_b"]);
    world.allow(&[&TO_RESPONDER[..], &["--audit"]].concat());
    assert!(reaches_tcp(&world.client, &world.near) && reaches_tcp(&world.near, &world.client));
    let ways: Vec<Value> = host.json(&["policy", "ls"]);
    let would_drop = |from: &str| {
        let row = ways.iter().find(|way| way["action"] == "audit" && way["from"] == from);
        row.and_then(|row| row["packets"].as_u64()).unwrap_or_default()
    };
    assert_eq!(would_drop("net_a"), 0, "answers of the client's would not be asked for: {ways:?}");
    assert!(would_drop("net_b") > 0, "{ways:?}");
    host.overlay(&["policy", "enforce", "net_a", "net_b"]);
    assert!(reaches_tcp(&world.client, &world.near) && !reaches_tcp(&world.near, &world.client));
}

#[test]
fn hits_are_counted_where_a_packet_is_sent_and_where_it_is_received_and_outlive_the_agent() {
    let world = World::new();
    let id = world.allow(&["--proto", "udp", "--port", &DISCARD_PORT.to_string()]);
    let (from, to) = world.to_server(&world.far);
    let (tap, heard) = (world.client.tap(), world.far.tap());
    for number in 0..5 {
        let frame =
            Frame::udp(from, to, (4000 + number % 2, DISCARD_PORT), format!("hit {number}").as_bytes());
        tap.send(&frame);
        let payload = format!("hit {number}");
        assert!(heard.find(DEADLINE, |frame| frame.contains(payload.as_bytes()).then_some(())).is_some());
    }
    let hits = |host: &Host| {
        let rule = listed(host, Some(&id));
        (rule["packets"].as_u64(), rule["flows"].as_u64())
    };
    for host in &world.cluster.hosts {
        assert_eq!(hits(host), (Some(5), Some(2)), "{}", host.label());
        host.kill9();
        host.start();
        assert_eq!(hits(host), (Some(5), Some(2)), "{}", host.label());
    }
}

#[test]
fn agents_that_are_killed_lose_no_packet_and_no_connection_of_a_rule() {
    let world = World::new();
    world.allow(&["--proto", "udp", "--port", "7008"]);
    world.allow(&["--proto", "tcp", "--port", "7012"]);
    let (from, to) = (world.client.netns(), world.far.netns());
    let flow = Flow::start(from, to, world.far.addr().ip);
    let sessions = Sessions::start(from, to, world.far.addr().ip, 4);
    for host in &world.cluster.hosts {
        flow.wait_for_more(200);
        host.kill9();
        flow.wait_for_more(200);
        host.start();
    }
    let answers = sessions.answers();
    wait::until("each connection goes on", DEADLINE, || {
        sessions.answers().iter().zip(&answers).all(|(now, before)| now > before)
    });
    let report = flow.stop();
    assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}");
    assert_eq!(sessions.stop(), Vec::<String>::new());
}

/// What a UDP socket hears of a datagram to a port on which nobody listens.
fn error_from(from: &Container, to: Ipv4Addr, port: u16) -> Option<std::io::ErrorKind> {
    let socket = from.netns().enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a UDP socket");
    socket.set_read_timeout(Some(SILENCE)).expect("set a deadline");
    socket.connect((to, port)).expect("a route");
    socket.send(b"anybody?").expect("a datagram leaves");
    socket.recv(&mut [0; 16]).err().map(|error| error.kind())
}

#[test]
fn icmp_errors_of_a_flow_come_back_and_no_others_do() {
    let world = World::new();
    world.allow(&["--proto", "udp", "--port", "7020"]);
    for server in world.servers() {
        let heard = error_from(&world.client, server.addr().ip, 7020);
        assert_eq!(heard, Some(std::io::ErrorKind::ConnectionRefused), "from {}", server.name());
    }
    // About a packet that the client never sent: to another port of the flow's.
    let (far, client) = world.to_client(&world.far);
    let quoted = Frame::udp(world.client.addr(), world.far.addr(), (4001, 7020), b"never sent");
    let forged = unreachable(far, client, &quoted);
    let tap = world.client.tap();
    drops::expect(world.hosts().1, DropReason::NoFlow, 1, || world.far.tap().send(&forged));
    assert!(tap.find(SILENCE, |frame| frame.icmp_packet().map(drop)).is_none());
}

/// Port unreachable, about the packet in a frame.
fn unreachable(from: Addr, to: Addr, about: &Frame) -> Frame {
    let quote = &about.0[offset::IP..offset::IP + 28];
    let header = Icmpv4Header::with_checksum(
        Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port),
        quote,
    );
    Frame::ipv4(from, to, ip_number::ICMP, &[&header.to_bytes(), quote].concat())
}

/// The answer to nothing: a datagram from the responder's port.
fn answer(from: Addr, to: Addr) -> Frame {
    Frame::udp(from, to, (PORT, 40_000), b"an answer to nothing")
}

#[test]
fn answers_that_nobody_asked_for_are_dropped_at_their_senders_host() {
    let world = World::new();
    world.allow(&["--proto", "udp", "--port", "7007"]);
    assert!(reaches_udp(&world.client, &world.far) && reaches_udp(&world.client, &world.near));
    let tap = world.client.tap();
    for (server, host) in [(&world.near, world.hosts().0), (&world.far, world.hosts().1)] {
        let (from, to) = world.to_client(server);
        drops::expect(host, DropReason::NoFlow, 1, || server.tap().send(&answer(from, to)));
        // From the flow's own ends, but with an identifier of ping that nobody uses.
        let kind = Icmpv4Type::EchoReply(IcmpEchoHeader { id: 77, seq: 1 });
        let reply = Icmpv4Header::with_checksum(kind, &[]).to_bytes();
        let reply = Frame::ipv4(from, to, ip_number::ICMP, &reply);
        drops::expect(host, DropReason::NoFlow, 1, || server.tap().send(&reply));
    }
    assert!(tap.find(SILENCE, |frame| frame.contains(b"an answer to nothing").then_some(())).is_none());
}

#[rstest]
#[case::tc("off")]
#[case::xdp("decap")]
fn what_another_host_forges_is_judged_again_where_it_arrives(#[case] xdp: &'static str) {
    let world = World::on(Plan { wire: Wire::Packet, xdp, ..Plan::default() });
    world.allow(&["--proto", "udp", "--port", "7007"]);
    assert!(reaches_udp(&world.client, &world.far), "what is allowed passes");
    let (one, two) = world.hosts();
    let vni = |gateway: Addr| if gateway == world.gateway_a { "net_a" } else { "net_b" };
    let vni = |gateway: Addr| -> u32 {
        let network: Value = one.json(&["network", "inspect", vni(gateway)]);
        network["vni"].as_u64().and_then(|vni| vni.try_into().ok()).expect("a VNI")
    };
    // Host 2 as if a container of the second network answered, and host 1 as if one of the first asked another port.
    let from_far = world.far.addr().behind(world.gateway_a.mac);
    let from_client = world.client.addr().behind(world.gateway_b.mac);
    let asked = Frame::udp(from_client, world.far.addr(), (40_000, 7012), b"another port");
    let rows = [
        (two, one, world.gateway_a, answer(from_far, world.client.addr()), DropReason::NoFlow),
        (one, two, world.gateway_b, asked, DropReason::NoRule),
    ];
    for (forger, victim, gateway, frame, reason) in rows {
        let outer = Frame::vxlan(forger.addr(), victim.addr(), vni(gateway), &frame);
        let wire = Tap::open(forger.netns(), UNDERLAY_IFNAME);
        drops::expect(victim, reason, 1, || wire.send(&outer));
    }
}

#[test]
fn fragments_follow_the_first_one_of_a_packet_that_a_rule_allows_and_no_others_do() {
    let world = World::new();
    world.allow(&["--proto", "udp", "--port", "7007"]);
    let question = "?".repeat(1900);
    for server in world.servers() {
        let answered = ask_udp(world.client.netns(), server.addr().ip, &question, DEADLINE);
        assert_eq!(answered.as_deref(), Some(server.name()), "more than one packet each way");
        let (from, to) = world.to_server(server);
        let alone = Frame::udp(from, to, (4000, PORT), b"later")
            .edit_ip(offset::IP, |ip| ip.fragment_offset = 100.try_into().expect("an offset"));
        let host = world.hosts().0;
        drops::expect(host, DropReason::RuleFragment, 1, || world.client.tap().send(&alone));
    }
}

#[test]
fn rules_are_idempotent_and_kept_in_the_store() {
    let world = World::new();
    let host = world.hosts().0;
    let id = world.allow(&TO_RESPONDER);
    assert_eq!(world.allow(&TO_RESPONDER), id, "the same rule is the same rule");
    let exported: Value = serde_json::from_str(&host.overlay(&["store", "export"])).expect("JSON");
    let key = format!("overlay/v1/rules/net_a/net_b/{id}");
    assert_eq!(exported["entries"][&key]["json"]["ports"], "7007", "{exported}");
    for number in 1..32 {
        let port = (8000 + number).to_string();
        host.overlay(&["policy", "allow", "net_a", "net_b", "--proto", "tcp", "--port", &port]);
    }
    let refused = host.cli(&["policy", "allow", "net_a", "net_b", "--proto", "icmp"]);
    assert!(!refused.is_success() && refused.stderr.contains("32 rules"), "{refused}");
    assert!(reaches_tcp(&world.client, &world.far), "the first of 32");
    world.remove(&id);
    assert!(!reaches_tcp(&world.client, &world.far));
    host.overlay(&["policy", "deny", "net_a", "net_b"]);
    assert_eq!(host.json::<Vec<Value>>(&["policy", "ls"]), Vec::<Value>::new());
    host.overlay(&["policy", "deny", "net_a", "net_b"]);
}
