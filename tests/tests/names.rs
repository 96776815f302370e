//! Names, asked for in containers on real hosts, of the resolver at the gateway.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use overlay_common::verdict::DropReason;
use overlay_tests::{
    container::Container,
    dns::{self, Answer, PORT, dig, dig_address},
    drops,
    exec::{self, Finished},
    host::Host,
    netns::Netns,
    packet::Frame,
    stores::{FaultyStore, SqliteFile},
    topology::{CONVERGENCE, Cluster, Plan},
    traffic::{asker::Asker, name_server::NameServer},
    underlay::{MTU, Machine, Wire},
    views::Endpoint,
    wait,
};

/// Longest time without answers, whatever happens to the store.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest time until something that others changed is dealt with.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the world knows.
const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// Two hosts with containers in `net`: `a` on the first, `b` on the second, both called `front` too.
struct Scene {
    a: Container,
    b: Container,
    gateway: Ipv4Addr,
    cluster: Cluster,
}

impl Scene {
    #[track_caller]
    fn new(plan: Plan) -> Self {
        Self::on(Cluster::new(plan))
    }

    #[track_caller]
    fn on(cluster: Cluster) -> Self {
        let gateway = cluster.network("net", &[]).gateway;
        let (mut a, mut b) = (Container::new("a"), Container::new("b"));
        a.attach(&cluster.hosts[0], "net", &["--alias", "front"]);
        b.attach(&cluster.hosts[1], "net", &["--alias", "front", "--alias", "db"]);
        let scene = Self { a, b, gateway, cluster };
        wait::until("the first host knows both", CONVERGENCE, || scene.front().len() == 2);
        scene
    }

    fn one(&self) -> &Host {
        &self.cluster.hosts[0]
    }

    fn two(&self) -> &Host {
        &self.cluster.hosts[1]
    }

    /// Asks in container `a`.
    #[track_caller]
    fn dig(&self, name: &str, words: &[&str]) -> Answer {
        dig(self.a.netns(), self.gateway, name, words)
    }

    /// Asks there for the name of an address.
    #[track_caller]
    fn dig_address(&self, address: Ipv4Addr) -> Answer {
        dig_address(self.a.netns(), self.gateway, address)
    }

    #[track_caller]
    fn front(&self) -> Vec<Ipv4Addr> {
        self.dig("front", &[]).addresses()
    }
}

/// A machine that answers for the world; the hosts of [`WORLDLY`] ask it.
struct World {
    server: NameServer,
    _machine: Machine,
}

/// Two hosts that ask the first stranger on the underlay.
const WORLDLY: Plan =
    Plan { hosts: 2, wire: Wire::Offload, xdp: "auto", mtu: MTU, flags: &[("--dns", "192.168.77.3")] };

impl World {
    #[track_caller]
    fn new(cluster: &Cluster) -> Self {
        let machine = cluster.stranger();
        assert_eq!(machine.addr.ip.to_string(), "192.168.77.3");
        Self { server: NameServer::start(&machine.netns, machine.addr.ip, WORLD), _machine: machine }
    }
}

#[test]
fn a_name_an_alias_and_a_short_id_lead_to_containers_on_any_host() {
    let scene = Scene::new(Plan::default());
    let (here, there) = (scene.a.addr().ip, scene.b.addr().ip);
    let short_id = &scene.b.endpoint().id[..12];
    for how in ["+notcp", "+tcp"] {
        for (name, expected) in [
            ("b", vec![there]),
            ("B", vec![there]),
            ("b.net", vec![there]),
            ("b.NeT.", vec![there]),
            ("db", vec![there]),
            ("db.net", vec![there]),
            (short_id, vec![there]),
            ("a", vec![here]),
            ("front", vec![here, there]),
            ("front.net", vec![here, there]),
        ] {
            let answer = scene.dig(name, &[how]);
            assert_eq!((answer.addresses(), answer.is("NOERROR")), (expected, true), "{name} {how}");
            assert!(answer.ttl <= 5, "{answer:?}");
            let asked = format!("{}.", name.trim_end_matches('.'));
            assert!(answer.owners.iter().all(|owner| *owner == asked), "{answer:?}");
        }
        assert!(scene.dig("nobody.net", &[how]).is("NXDOMAIN"));
    }
}

#[test]
fn the_addresses_of_an_alias_come_in_any_order() {
    let scene = Scene::new(Plan::default());
    let first = || scene.dig("front", &[]).records[0].clone();
    let one = first();
    wait::until("the other one comes first", PATIENCE, || first() != one);
}

#[test]
fn an_address_has_a_name_and_a_name_has_no_address_of_another_family() {
    let scene = Scene::new(Plan::default());
    assert_eq!(scene.dig_address(scene.b.addr().ip).records, ["b.net."]);
    assert!(scene.dig_address([10, 0, 0, 200].into()).is("NXDOMAIN"));
    for kind in ["AAAA", "MX", "TXT"] {
        let answer = scene.dig("b", &[kind]);
        assert!(answer.is("NOERROR") && answer.records.is_empty(), "{kind}: {answer:?}");
    }
}

#[test]
fn a_name_lives_as_long_as_its_attachment_from_the_first_moment_on() {
    let scene = Scene::new(Plan::default());
    for round in 0..5 {
        let name = format!("late{round}");
        let mut late = Container::new(&name);
        late.attach(&scene.cluster.hosts[0], "net", &[]);
        assert_eq!(
            scene.dig(&name, &[]).addresses(),
            [late.addr().ip],
            "here it is known when attach returns"
        );
        let own = dig(late.netns(), scene.gateway, "a", &[]);
        assert_eq!(own.addresses(), [scene.a.addr().ip], "and knows the others");
        let there = || dig(scene.b.netns(), scene.gateway, &name, &[]);
        wait::until("it is known there", CONVERGENCE, || there().is("NOERROR"));
        scene.one().overlay(&["detach", "net", "--name", &name]);
        assert!(scene.dig(&format!("{name}.net"), &[]).is("NXDOMAIN"));
        wait::until("it is forgotten there", CONVERGENCE, || !there().is("NOERROR"));
    }
}

/// Runs a program in a container as `ip netns exec` does: with the container's own resolv.conf.
#[track_caller]
fn in_container(container: &Container, words: &[&str]) -> Finished {
    exec::run([&["ip", "netns", "exec", container.netns().name()], words].concat())
}

#[test]
fn programs_find_names_through_the_namespaces_own_file() {
    let scene = Scene::new(Plan::default());
    let there = scene.b.addr().ip.to_string();
    for name in ["b", "db.net", "front"] {
        let pinged = in_container(&scene.a, &["ping", "-c", "1", "-W", "2", name]);
        assert!(pinged.stdout.contains(" 1 received"), "{pinged}");
    }
    let found = in_container(&scene.a, &["getent", "ahostsv4", "b"]);
    assert!(found.stdout.starts_with(&there), "{found}");
    let found = in_container(&scene.a, &["getent", "hosts", &there]);
    assert!(found.stdout.contains("b.net"), "{found}");
    assert!(!in_container(&scene.a, &["getent", "hosts", "nobody.net"]).is_success());
}

#[test]
fn a_container_sees_the_names_of_its_own_networks_at_each_of_their_gateways() {
    let cluster = Cluster::new(WORLDLY);
    let world = World::new(&cluster);
    let (one, two) = (&cluster.hosts[0], &cluster.hosts[1]);
    let subnet = ["--subnet", "10.1.0.0/24"];
    let red = cluster.network("red", &subnet).gateway;
    let _same = cluster.network("blue", &subnet);
    let green = cluster.network("green", &["--subnet", "10.2.0.0/24"]).gateway;
    let in_red = Container::attached(one, "red", "in-red");
    let in_blue = Container::attached(one, "blue", "in-blue");
    let (mut red_web, mut blue_web) = (Container::new("web"), Container::new("web"));
    red_web.attach(two, "red", &["--ip", "10.1.0.20"]);
    blue_web.attach(two, "blue", &["--ip", "10.1.0.30"]);
    let mut both = Container::attached(one, "red", "both");
    both.attach(one, "green", &[]);
    let _in_green = Container::attached(two, "green", "in-green");

    let known = || !dig(in_blue.netns(), red, "web", &[]).records.contains(&WORLD.to_string());
    wait::until("the names are known", CONVERGENCE, known);
    let ask = |from: &Container, gateway, name: &str| dig(from.netns(), gateway, name, &[]).records;
    assert_eq!(ask(&in_red, red, "web"), ["10.1.0.20"]);
    assert_eq!(ask(&in_blue, red, "web"), ["10.1.0.30"]);
    // What is no name of its networks is the world's business.
    let foreign = [WORLD.to_string()];
    assert_eq!(ask(&in_red, red, "web.blue"), foreign);
    assert_eq!(ask(&in_red, red, "in-blue"), foreign);
    assert_eq!(ask(&in_red, red, "in-green"), foreign);
    assert_eq!(ask(&in_blue, red, "web.red"), foreign);
    for gateway in [red, green] {
        assert_eq!(ask(&both, gateway, "web"), ["10.1.0.20"]);
        assert_eq!(ask(&both, gateway, "in-green"), ["10.2.0.3"]);
    }
    // Another network's address, too.
    assert_eq!(dig_address(in_red.netns(), red, [10, 1, 0, 30].into()).status.as_deref(), Some("NXDOMAIN"));
    assert!(world.server.heard().contains(&"web.blue".to_owned()));
}

#[test]
fn other_names_are_asked_of_the_world_but_never_from_an_internal_network() {
    let cluster = Cluster::new(WORLDLY);
    let world = World::new(&cluster);
    let scene = Scene::on(cluster);
    for how in ["+notcp", "+tcp"] {
        assert_eq!(scene.dig("www.example.test", &[how]).addresses(), [WORLD], "{how}");
        let none = scene.dig("www.example.test", &["AAAA", how]);
        assert!(none.is("NOERROR") && none.records.is_empty(), "{none:?}");
    }
    let heard = world.server.heard();
    assert!(heard.contains(&"www.example.test".to_owned()), "{heard:?}");
    assert!(!heard.iter().any(|name| name == "front" || name == "b"), "our own names stay here: {heard:?}");

    let inner = scene.cluster.network("inner", &["--internal"]).gateway;
    let shut = Container::attached(scene.one(), "inner", "shut");
    let mut friend = Container::new("friend");
    friend.attach(scene.two(), "inner", &[]);
    wait::until("names of its own are known", CONVERGENCE, || {
        dig(shut.netns(), inner, "friend", &[]).addresses() == [friend.addr().ip]
    });
    for how in ["+notcp", "+tcp"] {
        assert!(dig(shut.netns(), inner, "secret.example.test", &[how]).is("NXDOMAIN"), "{how}");
    }
    assert!(!world.server.heard().contains(&"secret.example.test".to_owned()));

    drop(world);
    assert!(scene.dig("other.example.test", &["+time=15"]).is("SERVFAIL"));
    assert_eq!(scene.dig("b", &[]).addresses(), [scene.b.addr().ip]);
}

#[test]
fn names_go_on_while_the_store_is_away() {
    let cluster = Cluster::without_agents(Plan::default());
    let store = SqliteFile::new(cluster.dir.make("store"));
    let cluster = cluster.with_store(&store.url());
    cluster.hosts.iter().for_each(Host::spawn);
    cluster.hosts.iter().for_each(Host::wait_ready);
    let scene = Scene::on(cluster);
    let asker = Asker::start(scene.a.netns(), scene.gateway, "b");
    store.stop();
    wait::until("the outage is noticed", PATIENCE, || scene.one().status().stale.is_some());
    asker.wait_for_more(100);
    assert_eq!(scene.front().len(), 2);
    store.start();
    wait::until("the store is back", PATIENCE, || scene.one().status().stale.is_none());
    let report = asker.stop();
    println!("{report:?}");
    assert!(report.gap <= PAUSE, "{report:?}");
}

#[test]
fn the_names_of_a_dead_host_vanish_and_return_with_it() {
    let scene = Scene::new(Plan { flags: &[("--lease", "3s")], ..Plan::default() });
    scene.two().kill9();
    let took =
        wait::until("the dead host's name is gone", PATIENCE, || scene.dig("b.net", &[]).is("NXDOMAIN"));
    println!("gone {took:?} after its death");
    assert_eq!(scene.front(), [scene.a.addr().ip]);
    assert!(scene.dig_address(scene.b.addr().ip).is("NXDOMAIN"));
    scene.two().start();
    wait::until("it is back", CONVERGENCE, || scene.front().len() == 2);
}

#[test]
fn nobody_asks_under_anothers_address() {
    let scene = Scene::new(Plan { hosts: 2, ..Plan::default() });
    let host = scene.one();
    let other = scene.cluster.network("other", &[]).gateway();
    let intruder = Container::attached(host, "other", "intruder");
    let local: Vec<Endpoint> = host.json(&["endpoint", "inspect", "a"]);
    let of_a = local.into_iter().find_map(|endpoint| endpoint.local?.host_ip).expect("a host-local address");
    let (tap, seen) = (intruder.tap(), scene.a.tap());
    let query = dns::query(4711, "b");
    for source in [scene.a.addr().ip, of_a] {
        let forged = Frame::udp(intruder.addr().at(source), other, (4000, PORT), &query);
        let site = drops::expect(host, DropReason::SpoofedIp, 1, || tap.send(&forged));
        assert_eq!(site.endpoint.as_deref(), Some("intruder"));
    }
    let agent = Frame::udp(intruder.addr(), other.at([172, 18, 0, 1].into()), (4000, PORT), &query);
    drops::expect(host, DropReason::HostLocal, 1, || tap.send(&agent));
    // What it may send is answered, and not with what it may not know.
    assert!(!dig(intruder.netns(), other.ip, "b", &[]).is("NOERROR"));
    let answered = |frame: &Frame| frame.udp_packet().is_some_and(|(_, udp, _)| udp.source_port == PORT);
    assert!(!seen.arrived().iter().any(answered), "an answer went to the one who did not ask");
    // Nor does the host itself, or a neighbour of it, learn anything.
    assert!(dig(host.netns(), [172, 18, 0, 1].into(), "b", &[]).is("REFUSED"));
}

#[test]
fn the_resolver_follows_the_range_of_host_local_addresses() {
    let scene = Scene::new(Plan::default());
    let host = scene.one().netns();
    host.ip(&["address", "del", "172.18.0.1/16", "dev", "ovl-gw"]);
    host.ip(&["route", "add", "172.18.7.0/24", "dev", "eth0"]);
    wait::until("names are answered at the new address", PATIENCE, || scene.front().len() == 2);
    assert!(dig(host, [172, 19, 0, 1].into(), "b", &[]).is("REFUSED"));
}

/// Floods a resolver with queries, as fast as a core can.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    #[track_caller]
    fn start(netns: &Netns, to: Ipv4Addr, query: Vec<u8>) -> Self {
        let socket = netns.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a UDP socket");
        socket.connect((to, PORT)).expect("a route");
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counter) = (stop.clone(), sent.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                counter.fetch_add(u64::from(socket.send(&query).is_ok()), Ordering::Relaxed);
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }

    fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Connections to a resolver that say nothing, as many as it takes.
fn hang_on(netns: &Netns, to: Ipv4Addr, most: usize) -> Vec<TcpStream> {
    let address = SocketAddr::from((to, PORT));
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok();
    netns.enter(|| (0..most).filter_map(|_| connect()).collect())
}

#[test]
fn a_container_that_floods_slows_nobody_elses_names() {
    let cluster = Cluster::new(WORLDLY);
    let world = World::new(&cluster);
    let scene = Scene::on(cluster);
    // Whoever it asks in the world does not answer.
    drop(world);
    let noisy = Container::attached(scene.one(), "net", "noisy");
    for (what, name) in [("a name that is here", "b"), ("a name that nobody answers for", "x.example.test")] {
        let hung = hang_on(noisy.netns(), scene.gateway, 64);
        let flood = Flood::start(noisy.netns(), scene.gateway, dns::query(7, name));
        let asker = Asker::start(scene.a.netns(), scene.gateway, "b");
        asker.wait_for_more(500);
        assert_eq!(scene.dig("b", &["+tcp"]).addresses(), [scene.b.addr().ip]);
        let report = asker.stop();
        let sent = flood.stop();
        println!("{sent} queries for {what}, {} connections: {report:?}", hung.len());
        assert!(sent > 20_000, "no flood: {sent}");
        // A datagram may be late on a busy machine; if the flood reached the resolver, nearly all would be.
        assert!(report.answered * 10 >= report.asked * 9, "{what}: {report:?}");
    }
    wait::until("it is heard again itself", PATIENCE, || {
        dig(noisy.netns(), scene.gateway, "b", &[]).is("NOERROR")
    });
}

#[test]
fn resolvers_that_cannot_be_are_refused_at_the_start() {
    let cluster = Cluster::without_agents(Plan { hosts: 1, ..Plan::default() });
    let host = &cluster.hosts[0];
    for bad in ["0.0.0.0", "224.0.0.251", "192.0.2.1:0"] {
        let refused = host.run_agent(&host.flags().clone().with("--dns", bad), &[]);
        assert!(!refused.is_success() && refused.stderr.contains(bad), "{refused}");
    }
    assert!(!host.netns().has_link("ovl-gw"));
}
