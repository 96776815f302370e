//! The host itself as a member of a network: reached at its address there and at no other, and no way between networks.

use std::{net::Ipv4Addr, time::Duration};

use overlay_common::verdict::DropReason::*;
use overlay_tests::{
    container::Container,
    dns, drops,
    host::Host,
    oracle,
    packet::{Addr, DISCARD_PORT, Frame},
    tap::Tap,
    topology::{CONVERGENCE, Cluster, Plan, settle},
    traffic::{
        bulk,
        ping::{expect_no_ping, expect_ping},
        responder::{Responder, ask_tcp, ask_udp},
    },
    underlay::Wire,
    views::{Endpoint, Network},
    wait,
};
use rstest::rstest;

const DEADLINE: Duration = Duration::from_secs(2);
const MEGABYTE: usize = 1 << 20;

/// Two hosts, the first with a port in `net`, in which `near` and `far` are on either; `other` is in another network.
struct Scene {
    network: Network,
    port: Endpoint,
    near: Container,
    far: Container,
    other: Container,
    cluster: Cluster,
}

impl Scene {
    #[track_caller]
    fn new(wire: Wire, xdp: &'static str) -> Self {
        let cluster = Cluster::new(Plan { wire, xdp, ..Plan::default() });
        let network = cluster.network("net", &[]);
        cluster.network("other", &[]);
        let near = Container::attached(&cluster.hosts[0], "net", "near");
        let far = Container::attached(&cluster.hosts[1], "net", "far");
        let other = Container::attached(&cluster.hosts[0], "other", "other");
        settle(&[&near, &far]);
        let port = cluster.hosts[0].json(&["host-port", "net", "--alias", "registry"]);
        Self { network, port, near, far, other, cluster }
    }

    fn host(&self) -> &Host {
        &self.cluster.hosts[0]
    }
}

#[rstest]
#[case(Wire::Offload, "off")]
#[case(Wire::Packet, "filter")]
#[case(Wire::Packet, "decap")]
fn the_host_and_containers_on_any_host_exchange_all_traffic(#[case] wire: Wire, #[case] xdp: &'static str) {
    let scene = Scene::new(wire, xdp);
    let (host, port) = (scene.host().netns(), scene.port.addr());
    assert_eq!((scene.port.name.as_str(), scene.port.node.as_str()), ("host1", "host1"));
    let responder = Responder::start(host, "host");
    for container in [&scene.near, &scene.far] {
        let (netns, ip) = (container.netns(), container.addr().ip);
        expect_ping(netns, port.ip, &["-M", "do", "-s", "1422"]);
        assert_eq!(ask_udp(netns, port.ip, "udp?", DEADLINE).as_deref(), Some("host"));
        assert_eq!(ask_tcp(netns, port.ip, "tcp?", DEADLINE).as_deref(), Some("host"));
        assert_eq!(bulk::transfer(netns, host, port.ip, 4 * MEGABYTE), Ok(()));
        expect_ping(host, ip, &["-M", "do", "-s", "1422"]);
        assert_eq!(bulk::transfer(host, netns, ip, 4 * MEGABYTE), Ok(()));
        for name in ["registry", "host1"] {
            assert_eq!(dns::dig(netns, scene.network.gateway, name, &[]).addresses(), [port.ip]);
        }
    }
    assert_eq!(responder.heard().len(), 4);
    oracle::expect_agreement(&scene.cluster);
}

#[test]
fn the_hosts_port_leads_to_its_own_address_alone_and_from_nobody_else() {
    let scene = Scene::new(Wire::Offload, "off");
    let (host, port) = (scene.host(), scene.port.addr());
    host.netns().sysctl("net/ipv4/ip_forward", "1");
    let (sender, victim) = (scene.near.tap(), scene.other.tap());
    let own = scene.near.addr();
    let other_host = scene.other.endpoint_in("other").local.as_ref().and_then(|local| local.host_ip);
    for (what, ip) in [
        ("the host's address on the underlay", host.addr().ip),
        ("another host's", scene.cluster.hosts[1].addr().ip),
        ("a container's of another network", scene.other.addr().ip),
        ("its host-local address", other_host.expect("a host-local address")),
        ("the host's loopback address", Ipv4Addr::LOCALHOST),
    ] {
        let frame = Frame::udp(own, port.at(ip), (1000, DISCARD_PORT), b"through the host");
        let site = drops::check(host, HostPortAddress, 1, || sender.send(&frame));
        let site = site.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(site.endpoint.as_deref(), Some("near"), "{what}");
        assert_eq!(victim.arrived(), [], "{what}");
    }
    // What the host would forward into the network does not get there either.
    let stranger = scene.cluster.stranger();
    let wire = Tap::open(&stranger.netns, "eth0");
    let to = Addr { mac: host.addr().mac, ip: own.ip };
    let routed = Frame::udp(stranger.addr, to, (1000, DISCARD_PORT), b"from the wire");
    wire.send(&routed);
    expect_ping(scene.near.netns(), port.ip, &[]);
    assert!(!sender.arrived().iter().any(|frame| frame.contains(b"from the wire")));
    expect_no_ping(scene.other.netns(), port.ip);
}

#[test]
fn the_hosts_routes_are_its_own_and_the_port_outlives_its_agent_and_goes_without_a_trace() {
    let cluster = Cluster::new(Plan { hosts: 1, ..Plan::default() });
    let host = &cluster.hosts[0];
    let network = cluster.network("net", &[]);
    let near = Container::attached(host, "net", "near");
    let state = || (host.netns().ip(&["route"]), host.netns().links());
    let before = state();
    let flags = ["host-port", "net", "--ip", "10.0.0.250", "--name", "me"];
    let port: Endpoint = host.json(&flags);
    assert_eq!((port.name.as_str(), port.addr().ip), ("me", Ipv4Addr::new(10, 0, 0, 250)));
    let added: Vec<String> =
        state().0.lines().filter(|line| !before.0.contains(line)).map(str::to_owned).collect();
    assert_eq!(added.len(), 1, "{added:?}");
    assert!(added[0].starts_with(&network.subnet), "{added:?}");
    let twice = host.cli(&flags);
    assert!(twice.stderr.contains("is attached to net already, as me"), "{twice}");
    host.kill9();
    expect_ping(near.netns(), port.addr().ip, &[]);
    host.start();
    expect_ping(near.netns(), port.addr().ip, &[]);
    oracle::expect_agreement(&cluster);
    host.overlay(&["host-port", "net", "--rm"]);
    assert_eq!(state(), before);
    oracle::expect_agreement(&cluster);
    assert!(host.overlay(&["host-port", "net", "--rm"]).contains("was not attached"));

    host.create_network("clash", &["--subnet", "192.168.77.0/25"]);
    let refused = host.cli(&["host-port", "clash"]);
    assert!(refused.stderr.contains("this host has a route to 192.168.77.0/24"), "{refused}");
    wait::until("nothing is left of it", CONVERGENCE, || state() == before);
}
