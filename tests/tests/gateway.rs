//! The way out of the overlay and in from outside, on real packets: a third machine plays the world.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use overlay_common::verdict::DropReason;
use overlay_tests::{
    container::Container,
    drops::{self, Drops},
    host::Host,
    netns::Netns,
    packet::{Addr, DISCARD_PORT, Frame},
    tap::Tap,
    topology::{Cluster, Plan},
    traffic::{
        bulk,
        ping::{expect_ping, ping},
        responder::{PORT, Responder, Session, ask_tcp, ask_udp},
    },
    underlay::{Machine, Wire},
    views::{Endpoint, LocalEndpoint},
    wait,
};
use rstest::rstest;

const DEADLINE: Duration = Duration::from_secs(2);
/// Longest time until something that others changed is repaired.
const REPAIR: Duration = Duration::from_secs(5);
/// An address beyond the underlay.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The host's own address in the range of host-local ones.
const AGENT: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);

/// Hosts whose default route leads to a machine that knows nothing of the overlay.
struct World {
    machine: Machine,
    cluster: Cluster,
}

impl World {
    #[track_caller]
    fn new(plan: Plan) -> Self {
        let cluster = Cluster::new(plan);
        let machine = cluster.stranger();
        machine.netns.ip(&["addr", "add", &format!("{FAR}/32"), "dev", "lo"]);
        for host in &cluster.hosts {
            host.netns().ip(&["route", "add", "default", "via", &machine.addr.ip.to_string()]);
        }
        Self { machine, cluster }
    }

    #[track_caller]
    fn one_host() -> Self {
        Self::new(Plan { hosts: 1, ..Plan::default() })
    }

    fn host(&self) -> &Host {
        &self.cluster.hosts[0]
    }

    #[track_caller]
    fn container(&self, network: &str, name: &str) -> Container {
        Container::attached(self.host(), network, name)
    }
}

/// What the container's host knows of it.
#[track_caller]
fn local(host: &Host, name: &str) -> LocalEndpoint {
    let found: Vec<Endpoint> = host.json(&["endpoint", "inspect", name]);
    found.into_iter().find_map(|endpoint| endpoint.local).expect("an endpoint of this host")
}

#[track_caller]
fn host_ip(host: &Host, name: &str) -> Ipv4Addr {
    local(host, name).host_ip.expect("a host-local address")
}

/// Who connects, as a container sees it that listens on the responder's port.
#[track_caller]
fn client_seen_by(container: &Container, from: &Netns, to: Ipv4Addr) -> Ipv4Addr {
    let listener =
        container.netns().enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))).expect("listen");
    let address = SocketAddr::from((to, PORT));
    let _stream = from
        .enter(|| TcpStream::connect_timeout(&address, DEADLINE))
        .unwrap_or_else(|e| panic!("{} cannot connect to {to}: {e}", from.name()));
    match listener.accept().expect("accept").1 {
        SocketAddr::V4(client) => *client.ip(),
        SocketAddr::V6(client) => panic!("{client} is no IPv4 client"),
    }
}

#[rstest]
#[case(Wire::Offload)]
#[case(Wire::Packet)]
fn containers_of_overlapping_networks_reach_the_world_and_no_host_local_address_does(#[case] wire: Wire) {
    let world = World::new(Plan { hosts: 1, wire, ..Plan::default() });
    world.cluster.network("one", &["--subnet", "10.0.0.0/24"]);
    world.cluster.network("two", &["--subnet", "10.0.0.0/24"]);
    let (a, b) = (world.container("one", "a"), world.container("two", "b"));
    assert_eq!(a.addr().ip, b.addr().ip);
    let before = Drops::of(world.host());
    let wire = Tap::open(&world.machine.netns, "eth0");
    {
        let responder = Responder::start(&world.machine.netns, "world");
        // A socket of no address answers a datagram from the one nearest to the asker.
        let near = world.machine.addr.ip;
        for (container, question) in [(&a, "a?"), (&b, "b?")] {
            expect_ping(container.netns(), FAR, &[]);
            expect_ping(container.netns(), FAR, &["-M", "do", "-s", "1422"]);
            expect_ping(container.netns(), FAR, &["-M", "dont", "-s", "8000"]);
            assert_eq!(ask_udp(container.netns(), near, question, DEADLINE).as_deref(), Some("world"));
            assert_eq!(ask_tcp(container.netns(), FAR, question, DEADLINE).as_deref(), Some("world"));
        }
        assert_eq!(responder.heard(), ["a?", "a?", "b?", "b?"]);
    }
    for container in [&a, &b] {
        assert_eq!(bulk::transfer(container.netns(), &world.machine.netns, FAR, 8 << 20), Ok(()));
    }
    let inside = |frame: &Frame| {
        frame.ip_packet().is_some_and(|(ip, _)| {
            [ip.source, ip.destination].iter().any(|addr| addr[0] == 172 || addr[0] == 10)
        })
    };
    let leaked: Vec<Frame> = wire.arrived().into_iter().filter(inside).collect();
    assert_eq!(leaked, []);
    let moved = Drops::of(world.host()).since(&before);
    assert_eq!(moved, Drops::default(), "dropped: {moved}");
}

#[rstest]
#[case(Wire::Offload)]
#[case(Wire::Packet)]
fn the_world_sends_much_to_a_published_port(#[case] wire: Wire) {
    let world = World::new(Plan { hosts: 1, wire, ..Plan::default() });
    world.cluster.network("net", &[]);
    let mut a = Container::new("a");
    // The port of the transfer.
    a.attach(world.host(), "net", &["--publish", "7009:7009"]);
    let to = world.host().addr().ip;
    assert_eq!(bulk::transfer(&world.machine.netns, a.netns(), to, 8 << 20), Ok(()));
}

#[test]
fn the_gateway_is_the_first_hop_to_everywhere_and_answers_ping() {
    let world = World::one_host();
    let gateway = world.cluster.network("net", &[]).gateway();
    let other = world.cluster.network("other", &[]);
    let (a, b) = (world.container("net", "a"), world.container("other", "b"));
    world.host().overlay(&["policy", "allow", "net", "other"]);
    expect_ping(a.netns(), gateway.ip, &[]);
    expect_ping(a.netns(), gateway.ip, &["-M", "dont", "-s", "8000"]);
    for to in [FAR, b.addr().ip] {
        let finished = ping(a.netns(), to, &["-t", "1"]);
        let said = format!("From {} icmp_seq=1 Time to live exceeded", gateway.ip);
        assert!(finished.stdout.contains(&said), "to {to}: {finished}");
    }
    assert_ne!(gateway.ip, other.gateway);
    expect_ping(a.netns(), FAR, &["-t", "2"]);
}

#[test]
fn a_router_beyond_the_host_is_heard_about_smaller_packets() {
    let world = World::one_host();
    world.cluster.network("net", &[]);
    let a = world.container("net", "a");
    world.machine.netns.ip(&["link", "add", "narrow", "type", "veth", "peer", "name", "narrower"]);
    world.machine.netns.ip(&["link", "set", "narrow", "mtu", "1200", "up"]);
    world.machine.netns.ip(&["addr", "add", "203.0.113.1/24", "dev", "narrow"]);
    world.machine.netns.sysctl("net/ipv4/ip_forward", "1");
    let finished = ping(a.netns(), Ipv4Addr::new(203, 0, 113, 9), &["-M", "do", "-s", "1400"]);
    assert!(format!("{finished}").contains("mtu = 1200"), "{finished}");
}

#[test]
fn a_container_of_an_internal_network_reaches_nothing_outside_and_is_counted() {
    let world = World::one_host();
    let gateway = world.cluster.network("inner", &["--internal"]).gateway();
    let a = world.container("inner", "a");
    let tap = a.tap();
    let to = |ip| Frame::udp(a.addr(), gateway.at(ip), (1, DISCARD_PORT), b"out");
    for ip in [FAR, world.host().addr().ip, world.machine.addr.ip] {
        let site = drops::expect(world.host(), DropReason::InternalNetwork, 1, || tap.send(&to(ip)));
        assert_eq!(site.endpoint.as_deref(), Some("a"));
    }
    expect_ping(a.netns(), gateway.ip, &[]);
    let refused = world.host().cli(&["publish", "inner", "a", "8080:80"]);
    assert!(!refused.is_success() && refused.stderr.contains("internal"), "{refused}");
}

#[test]
fn a_published_port_is_reached_from_everywhere_and_sees_who_asks_from_outside() {
    let world = World::new(Plan::default());
    let [one, two] = [&world.cluster.hosts[0], &world.cluster.hosts[1]];
    let gateway = world.cluster.network("net", &[]).gateway().ip;
    world.cluster.network("other", &[]);
    let a = world.container("net", "a");
    let (friend, stranger) = (world.container("net", "friend"), world.container("other", "stranger"));
    let far = Container::attached(two, "other", "far");
    let port = format!("{PORT}:{PORT}");
    one.overlay(&["publish", "net", "a", &port]);
    let here = one.addr().ip;

    let seen = |from: &Netns, to| client_seen_by(&a, from, to);
    assert_eq!(seen(&world.machine.netns, here), world.machine.addr.ip, "another machine");
    assert_eq!(seen(two.netns(), here), two.addr().ip, "another host");
    assert_eq!(seen(far.netns(), here), two.addr().ip, "a container there");
    assert_eq!(seen(one.netns(), here), here, "the host itself");
    assert_eq!(seen(one.netns(), Ipv4Addr::LOCALHOST), gateway, "the host at its loopback address");
    assert_eq!(seen(one.netns(), host_ip(one, "a")), gateway, "the host at the host-local address");
    for container in [&friend, &stranger, &a] {
        assert_eq!(seen(container.netns(), here), gateway, "{}", container.name());
    }

    one.overlay(&["publish", "net", "a", &format!("{port}/udp")]);
    let _responder = Responder::start(a.netns(), "a");
    for from in [&world.machine.netns, two.netns(), one.netns(), stranger.netns()] {
        assert_eq!(ask_udp(from, here, "who?", DEADLINE).as_deref(), Some("a"), "{}", from.name());
    }
    one.overlay(&["unpublish", "net", "a", &port]);
    assert_eq!(ask_tcp(&world.machine.netns, here, "still?", DEADLINE), None);
    assert_eq!(one.json::<Vec<serde_json::Value>>(&["publish", "ls"]).len(), 1);
    one.overlay(&["detach", "net", "--name", "a"]);
    assert_eq!(one.json::<Vec<serde_json::Value>>(&["publish", "ls"]).len(), 0);
}

#[test]
fn a_port_that_is_taken_is_refused_with_its_holder_and_published_twice_is_no_error() {
    let world = World::one_host();
    let host = world.host();
    world.cluster.network("net", &[]);
    let (_a, _b) = (world.container("net", "a"), world.container("net", "b"));
    host.overlay(&["publish", "net", "a", "8080:80"]);
    host.overlay(&["publish", "net", "a", "8080:80"]);
    let taken = host.cli(&["publish", "net", "b", "8080:81"]);
    assert!(!taken.is_success() && taken.stderr.contains("leads to a of net"), "{taken}");
    host.overlay(&["publish", "net", "b", "8080:81/udp"]);

    let listener = host.netns().enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9090))).expect("listen");
    let in_use = host.cli(&["publish", "net", "b", "9090:80"]);
    assert!(!in_use.is_success() && in_use.stderr.contains("a process uses it"), "{in_use}");
    drop(listener);
    host.overlay(&["publish", "net", "b", "9090:80"]);

    let c = Container::new("c");
    let attach = ["attach", "net", "--netns", c.netns().name(), "--publish", "9090:80"];
    let refused = host.cli(&attach);
    assert!(!refused.is_success() && refused.stderr.contains("leads to b of net"), "{refused}");
    assert_eq!(host.endpoints().len(), 2, "an attach that is refused leaves nothing");
    let nobody = host.cli(&["publish", "net", "nobody", "1234:80"]);
    assert!(!nobody.is_success() && nobody.stderr.contains("nobody"), "{nobody}");
}

#[test]
fn connections_outlive_the_agent_and_ports_stay_published() {
    let world = World::one_host();
    let host = world.host();
    world.cluster.network("net", &[]);
    let a = world.container("net", "a");
    host.overlay(&["publish", "net", "a", &format!("{PORT}:{PORT}")]);
    let _inside = Responder::start(a.netns(), "a");
    let _outside = Responder::start(&world.machine.netns, "world");
    let mut inward = Session::connect(&world.machine.netns, host.addr().ip, DEADLINE).expect("a connection");
    let mut outward = Session::connect(a.netns(), FAR, DEADLINE).expect("a connection");
    let mut ask = |when: &str| {
        assert_eq!(inward.ask(when).expect("an answer from inside"), "a", "{when}");
        assert_eq!(outward.ask(when).expect("an answer from outside"), "world", "{when}");
    };
    let address = host_ip(host, "a");
    ask("before");
    host.kill9();
    ask("killed");
    assert_eq!(ask_tcp(a.netns(), FAR, "a new one?", DEADLINE).as_deref(), Some("world"));
    host.start();
    ask("restarted");
    host.terminate();
    ask("stopped");
    host.start();
    ask("started");
    assert_eq!(host_ip(host, "a"), address);
    assert_eq!(ask_tcp(&world.machine.netns, host.addr().ip, "published?", DEADLINE).as_deref(), Some("a"));
}

#[test]
fn networks_stay_apart_by_every_way_through_the_gateway() {
    let world = World::one_host();
    let host = world.host();
    let gateway = world.cluster.network("one", &[]).gateway();
    world.cluster.network("two", &[]);
    let (a, b) = (world.container("one", "a"), world.container("two", "b"));
    let (out, seen) = (a.tap(), b.tap());
    let own = host_ip(host, "a");
    let victim = host_ip(host, "b");
    let from_a = |ip| Frame::udp(a.addr(), gateway.at(ip), (1, DISCARD_PORT), b"across");
    let spoofed = |source, ip| Frame::udp(a.addr().at(source), gateway.at(ip), (1, DISCARD_PORT), b"across");
    for (frame, reason) in [
        (from_a(b.addr().ip), DropReason::PolicyDenied),
        (from_a(victim), DropReason::HostLocal),
        (from_a(own), DropReason::HostLocal),
        (from_a(AGENT), DropReason::HostLocal),
        (from_a(Ipv4Addr::LOCALHOST), DropReason::Martian),
        (from_a(Ipv4Addr::new(224, 0, 0, 1)), DropReason::Martian),
        (spoofed(own, FAR), DropReason::SpoofedIp),
        (spoofed(victim, b.addr().ip), DropReason::SpoofedIp),
        (spoofed(host.addr().ip, FAR), DropReason::SpoofedIp),
    ] {
        let site = drops::expect(host, reason, 1, || out.send(&frame));
        assert_eq!(site.endpoint.as_deref(), Some("a"));
    }
    let crossed = |frame: &Frame| frame.contains(b"across").then_some(());
    assert!(seen.arrived().iter().find_map(crossed).is_none(), "something crossed");
}

#[test]
fn a_neighbour_on_the_wire_reaches_no_host_local_address_and_gets_nothing_routed() {
    let world = World::one_host();
    let host = world.host();
    world.cluster.network("net", &[]);
    let a = world.container("net", "a");
    let (wire, inside) = (Tap::open(&world.machine.netns, "eth0"), a.tap());
    let to_host = |ip| Addr { ip, ..host.addr() };
    let probe = |from: Addr, ip| Frame::udp(from, to_host(ip), (1, DISCARD_PORT), b"intruder");
    wire.send(&probe(world.machine.addr, host_ip(host, "a")));
    wire.send(&probe(world.machine.addr.at(AGENT), host_ip(host, "a")));
    wire.send(&probe(world.machine.addr, FAR));
    // What was sent before it has arrived when this is answered.
    expect_ping(&world.machine.netns, host.addr().ip, &[]);
    let found = |frame: &Frame| frame.contains(b"intruder").then_some(());
    assert!(inside.arrived().iter().find_map(found).is_none(), "a neighbour reached the container");
    assert!(wire.arrived().iter().find_map(found).is_none(), "the host routes for a neighbour");
}

/// A chain as Docker leaves it.
fn drop_by_policy(host: &Host) {
    host.netns().must(&["nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }"]);
}

#[test]
fn a_forward_policy_that_drops_breaks_nothing_and_explicit_rules_still_hold() {
    let world = World::one_host();
    let host = world.host();
    world.cluster.network("net", &[]);
    let a = world.container("net", "a");
    let reaches = || ping(a.netns(), FAR, &[]).stdout.contains(" 3 received");
    assert!(reaches());
    drop_by_policy(host);
    wait::until("the policy lets containers through", REPAIR, reaches);
    host.netns().must(&["nft", "flush chain ip filter FORWARD"]);
    wait::until("the rules are there again", REPAIR, reaches);
    host.netns().must(&["nft", &format!("insert rule ip filter FORWARD ip daddr {FAR} drop")]);
    assert!(!reaches(), "an administrator's rule holds");
}

#[test]
fn rules_that_somebody_removes_are_put_back() {
    let world = World::one_host();
    let host = world.host();
    world.cluster.network("net", &[]);
    let a = world.container("net", "a");
    let repaired = host.status().repaired;
    host.netns().must(&["nft", "delete table ip overlay-ebpf"]);
    // A new connection each time: the kernel keeps translating those that it knows.
    wait::until("the table is there again", REPAIR, || {
        ping(a.netns(), FAR, &[]).stdout.contains(" 3 received")
    });
    assert!(host.status().repaired > repaired, "the repair is not reported");
}

#[test]
fn cleaning_up_leaves_no_rule_no_device_and_no_setting_behind() {
    let world = World::one_host();
    let host = world.host();
    world.cluster.network("net", &[]);
    let _a = world.container("net", "a");
    drop_by_policy(host);
    let setting = || host.netns().must(&["cat", "/proc/sys/net/ipv4/conf/eth0/forwarding"]);
    let chain = || host.netns().must(&["nft", "list chain ip filter FORWARD"]);
    wait::until("the rules are in force", REPAIR, || chain().contains("ovl-gw"));
    assert_eq!(setting().trim(), "1");
    assert_eq!(
        host.netns().must(&["cat", "/proc/sys/net/ipv4/ip_forward"]).trim(),
        "0",
        "the host's own switch"
    );
    host.terminate();
    assert_eq!(host.cleanup().code, Some(0));
    assert_eq!(setting().trim(), "0");
    assert!(!chain().contains("ovl-gw"), "{}", chain());
    assert!(!host.netns().must(&["nft", "list tables"]).contains("overlay"));
    assert!(!host.netns().has_link("ovl-gw") && !host.netns().has_link("ovl-gw-in"));
}

/// The only default route of a container in a family.
#[track_caller]
fn only_way(container: &Container, family: &str) -> Option<String> {
    let routes = container.netns().ip(&[family, "route", "show", "default"]);
    assert!(routes.lines().count() <= 1, "one default route at most:\n{routes}");
    routes.split_whitespace().nth(2).map(str::to_owned)
}

#[test]
fn a_container_in_several_networks_has_one_way_out_and_another_when_that_networks_is_left() {
    let cluster = Cluster::new(Plan { hosts: 1, ..Plan::default() });
    let host = &cluster.hosts[0];
    let networks = [
        ("inner", "10.1.0.0/24", "fd01::/64", &["--internal"][..]),
        ("first", "10.2.0.0/24", "fd02::/64", &[]),
        ("second", "10.3.0.0/24", "fd03::/64", &[]),
        ("third", "10.4.0.0/24", "fd04::/64", &[]),
    ];
    for (name, subnet, ipv6, flags) in networks {
        cluster.network(name, &[&["--subnet", subnet, "--subnet", ipv6], flags].concat());
    }
    let mut container = Container::new("box");
    let expect = |container: &Container, way: Option<u8>, when: &str| {
        assert_eq!(only_way(container, "-4"), way.map(|n| format!("10.{n}.0.1")), "{when}");
        assert_eq!(only_way(container, "-6"), way.map(|n| format!("fd0{n}::1")), "{when}");
    };
    // The internal network comes first, and leads to no world.
    for (network, flags, way) in
        [("inner", &[][..], 1), ("first", &[], 2), ("second", &["--default-route"], 3), ("third", &[], 3)]
    {
        container.attach(host, network, flags);
        expect(&container, Some(way), &format!("with {network}"));
    }
    for (network, way) in [("second", Some(2)), ("first", Some(4)), ("third", Some(1)), ("inner", None)] {
        host.overlay(&["disconnect", network, "--netns", container.netns().name()]);
        expect(&container, way, &format!("without {network}"));
    }
}

#[test]
fn a_default_route_that_is_not_ours_stays_unless_ours_is_asked_for() {
    let cluster = Cluster::new(Plan { hosts: 1, ..Plan::default() });
    let host = &cluster.hosts[0];
    cluster.network("plain", &["--subnet", "10.2.0.0/24"]);
    cluster.network("asked", &["--subnet", "10.3.0.0/24"]);
    let mut container = Container::new("box");
    let netns = container.netns();
    netns.ip(&["link", "add", "other", "type", "bridge"]);
    netns.ip(&["link", "set", "other", "up"]);
    netns.ip(&["route", "add", "default", "dev", "other"]);
    container.attach(host, "plain", &[]);
    assert_eq!(only_way(&container, "-4").as_deref(), Some("other"));
    container.attach(host, "asked", &["--default-route"]);
    assert_eq!(only_way(&container, "-4").as_deref(), Some("10.3.0.1"));
    host.overlay(&["disconnect", "asked", "--netns", container.netns().name()]);
    assert_eq!(only_way(&container, "-4").as_deref(), Some("10.2.0.1"));
}

#[test]
fn the_range_goes_out_of_the_way_of_the_hosts_own_routes() {
    let cluster = Cluster::without_agents(Plan { hosts: 1, ..Plan::default() });
    let host = &cluster.hosts[0];
    host.netns().ip(&["route", "add", "172.18.5.0/24", "dev", "eth0"]);
    host.start();
    cluster.network("net", &[]);
    let _a = Container::attached(host, "net", "a");
    assert_eq!(host_ip(host, "a").octets()[..2], [172, 19]);
}
