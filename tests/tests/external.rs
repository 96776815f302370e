//! Members without an agent: the kernel's own vxlan device as a machine that our hosts know by its addresses alone.

use std::{net::Ipv4Addr, time::Duration};

use etherparse::{ArpEthIpv4Packet, ArpOperation};
use overlay_common::verdict::DropReason::{self, *};
use overlay_tests::{
    container::Container,
    dns, drops,
    host::Host,
    netns::Netns,
    oracle,
    packet::{Addr, BROADCAST, DISCARD_PORT, Frame, mac_from_text},
    tap::Tap,
    topology::{CONVERGENCE, Cluster, Plan},
    traffic::{
        bulk,
        ping::{expect_no_ping, expect_ping},
        responder::{Responder, ask_tcp, ask_udp},
    },
    tshark::Capture,
    underlay::{Machine, Wire},
    views::{Endpoint, Network, Verification},
    wait,
};
use rstest::rstest;

const DEADLINE: Duration = Duration::from_secs(2);
const MEGABYTE: usize = 1 << 20;
/// How often each hostile packet is sent.
const COPIES: u64 = 3;
const MAC: &str = "02:00:00:00:00:09";
const NAME: &str = "plc";

/// A machine that is no node, with a kernel's vxlan device that knows one host of the cluster.
struct External {
    machine: Machine,
    addr: Addr,
}

impl External {
    #[track_caller]
    fn new(cluster: &Cluster, network: &Network, asks: &Host) -> Self {
        let machine = cluster.stranger();
        let addr = Addr { mac: mac_from_text(MAC), ip: last(network, 9) };
        let (vni, local, remote) =
            (network.vni.to_string(), machine.addr.ip.to_string(), asks.addr().ip.to_string());
        let netns = &machine.netns;
        netns.ip(&[
            "link", "add", "vx0", "address", MAC, "mtu", "1450", "type", "vxlan", "id", &vni, "dstport",
            "4789", "local", &local, "remote", &remote,
        ]);
        netns.sysctl("net/ipv6/conf/vx0/disable_ipv6", "1");
        netns.ip(&["addr", "add", &format!("{}/24", addr.ip), "dev", "vx0"]);
        netns.ip(&["link", "set", "vx0", "up"]);
        Self { machine, addr }
    }

    /// Makes it a member, by the first host, and waits until every host knows it.
    #[track_caller]
    fn add(&self, cluster: &Cluster) -> Endpoint {
        let (vtep, ip) = (self.machine.addr.ip.to_string(), self.addr.ip.to_string());
        let words = ["external", "add", "net", "--vtep", &vtep, "--mac", MAC, "--ip", &ip, "--name", NAME];
        let added = cluster.hosts[0].json(&words);
        wait::until("every host knows the member", CONVERGENCE, || {
            cluster.hosts.iter().all(|host| host.endpoints().iter().any(|endpoint| endpoint.name == NAME))
        });
        added
    }

    fn netns(&self) -> &Netns {
        &self.machine.netns
    }

    /// Where it has learnt that a hardware address is.
    fn learnt(&self, mac: [u8; 6]) -> Option<String> {
        let mac = overlay_tests::packet::mac_text(mac);
        let entries = self.netns().must(&["bridge", "fdb", "show", "dev", "vx0"]);
        let entry = entries.lines().find(|line| line.starts_with(&mac))?;
        entry.split_whitespace().skip_while(|word| *word != "dst").nth(1).map(str::to_owned)
    }
}

fn last(network: &Network, byte: u8) -> Ipv4Addr {
    let [a, b, c, _] = network.gateway.octets();
    Ipv4Addr::new(a, b, c, byte)
}

/// ICMP of several sizes, UDP and TCP with answers, and a checked stream of segments as large as the kernel makes them.
#[track_caller]
fn expect_all_traffic((from, here): (&Netns, Addr), (to, there): (&Netns, Addr)) {
    let responder = Responder::start(to, "there");
    expect_ping(from, there.ip, &[]);
    expect_ping(from, there.ip, &["-M", "do", "-s", "1422"]);
    expect_ping(from, there.ip, &["-M", "dont", "-s", "4000"]);
    assert_eq!(ask_udp(from, there.ip, "udp?", DEADLINE).as_deref(), Some("there"));
    assert_eq!(ask_tcp(from, there.ip, "tcp?", DEADLINE).as_deref(), Some("there"));
    assert_eq!(responder.heard(), ["udp?", "tcp?"]);
    assert_eq!(bulk::transfer(from, to, there.ip, 8 * MEGABYTE), Ok(()));
    assert_eq!(bulk::transfer(to, from, here.ip, 8 * MEGABYTE), Ok(()));
}

#[rstest]
#[case(Wire::Offload, "off")]
#[case(Wire::Packet, "filter")]
#[case(Wire::Packet, "decap")]
fn a_kernels_vxlan_device_and_containers_on_two_hosts_exchange_all_traffic_both_ways(
    #[case] wire: Wire,
    #[case] xdp: &'static str,
) {
    let cluster = Cluster::new(Plan { wire, xdp, ..Plan::default() });
    let network = cluster.network("net", &[]);
    let [near, far] = [0, 1].map(|i| &cluster.hosts[i]);
    let external = External::new(&cluster, &network, near);
    let containers = [Container::attached(near, "net", "a"), Container::attached(far, "net", "b")];
    expect_no_ping(external.netns(), containers[0].addr().ip);
    let added = external.add(&cluster);
    assert_eq!((added.node.as_str(), added.addr()), ("external", external.addr));

    oracle::expect_agreement(&cluster);
    // The machine begins: it knows nothing but the first host, which hands questions for the second on.
    for (container, host) in containers.iter().zip(&cluster.hosts) {
        let netns = container.netns();
        expect_all_traffic((external.netns(), external.addr), (netns, container.addr()));
        let learnt = external.learnt(container.addr().mac);
        assert_eq!(learnt, Some(host.addr().ip.to_string()), "where {} is", container.name());
        expect_all_traffic((netns, container.addr()), (external.netns(), external.addr));
        let answer = dns::dig(netns, network.gateway, NAME, &[]);
        assert_eq!(answer.addresses(), [external.addr.ip], "{answer:?}");
    }
    let verified: Verification = near.json(&["verify"]);
    assert_eq!(verified.differences, []);
}

#[test]
fn a_member_stays_when_agents_come_and_go_and_is_not_heard_once_it_is_removed() {
    let cluster = overlay_tests::topology::two_hosts(Wire::Offload);
    let network = cluster.network("net", &[]);
    let [near, far] = [0, 1].map(|i| &cluster.hosts[i]);
    let external = External::new(&cluster, &network, near);
    let container = Container::attached(far, "net", "b");
    external.add(&cluster);
    expect_ping(external.netns(), container.addr().ip, &[]);
    near.kill9();
    far.terminate();
    expect_ping(external.netns(), container.addr().ip, &[]);
    near.start();
    far.start();
    expect_ping(external.netns(), container.addr().ip, &[]);
    oracle::expect_agreement(&cluster);
    let listed: Vec<Endpoint> = far.json(&["external", "ls"]);
    assert_eq!(listed.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), [NAME]);

    far.overlay(&["external", "rm", "net", NAME]);
    wait::until("the first host has heard of it", CONVERGENCE, || {
        near.json::<Vec<Endpoint>>(&["external", "ls"]).is_empty()
    });
    oracle::expect_agreement(&cluster);
    // Its kernel may ask for its neighbours at any moment.
    external.netns().ip(&["link", "set", "vx0", "down"]);
    let frame = Frame::udp(external.addr, container.addr(), (1000, DISCARD_PORT), b"not heard");
    let carried = Frame::vxlan(external.machine.addr, far.addr(), network.vni, &frame);
    let tap = Tap::open(external.netns(), "eth0");
    drops::check(far, UnknownVtep, 1, || tap.send(&carried)).expect("dropped");
    expect_no_ping(container.netns(), external.addr.ip);
}

#[test]
fn wireshark_finds_nothing_malformed_in_what_hosts_send_to_a_member() {
    let cluster = Cluster::new(Plan { wire: Wire::Packet, ..Plan::default() });
    let network = cluster.network("net", &[]);
    let [near, far] = [0, 1].map(|i| &cluster.hosts[i]);
    let external = External::new(&cluster, &network, near);
    let container = Container::attached(far, "net", "b");
    external.add(&cluster);
    // Packets as they were sent: the kernel would make one of several, without a new checksum.
    external.netns().must(&["ethtool", "-K", "eth0", "gro", "off"]);
    let tap = Tap::open(external.netns(), "eth0");
    let responder = Responder::start(external.netns(), "there");
    expect_ping(external.netns(), container.addr().ip, &[]);
    expect_ping(container.netns(), external.addr.ip, &["-M", "do", "-s", "1422"]);
    assert_eq!(ask_udp(container.netns(), external.addr.ip, "udp?", DEADLINE).as_deref(), Some("there"));
    assert_eq!(bulk::transfer(container.netns(), external.netns(), external.addr.ip, MEGABYTE), Ok(()));
    drop(responder);

    let path = cluster.dir.path().join("to-member.pcap");
    let capture = Capture::write(&path, &tap.arrived());
    for (protocol, least) in [("arp", 1), ("icmp", 6), ("udp.dstport == 7007", 1), ("tcp", 100)] {
        let seen = capture.find(&format!("vxlan.vni == {} && {protocol}", network.vni)).len();
        assert!(seen >= least, "{seen} packets with {protocol} inside");
    }
    assert_eq!(capture.broken(), Vec::<String>::new());
}

#[rstest]
#[case("off")]
#[case("filter")]
#[case("decap")]
fn what_a_member_may_not_send_is_dropped_with_its_own_reason(#[case] xdp: &'static str) {
    let cluster = Cluster::new(Plan { wire: Wire::Packet, xdp, ..Plan::default() });
    let network = cluster.network("net", &[]);
    let other = cluster.network("other", &[]);
    let [here, elsewhere] = [0, 1].map(|i| &cluster.hosts[i]);
    let external = External::new(&cluster, &network, here);
    let target = Container::attached(here, "net", "target");
    let peer = Container::attached(elsewhere, "net", "peer");
    let stranger = Container::attached(here, "other", "stranger");
    external.add(&cluster);
    let (sender, victim) = (Tap::open(external.netns(), "eth0"), target.tap());
    let own = external.addr;
    let carry = |vni, inner: &Frame| Frame::vxlan(external.machine.addr, here.addr(), vni, inner);
    let udp = |from, to| Frame::udp(from, to, (1000, DISCARD_PORT), b"from a member");
    let honest = udp(own, target.addr());
    sender.send(&carry(network.vni, &honest));
    let arrived = victim.find(DEADLINE, |seen| (*seen == honest).then_some(()));
    assert_eq!(arrived, Some(()), "an honest packet");

    let claim = |operation, sender_mac, sender: Ipv4Addr, wanted: Ipv4Addr| {
        let claim = ArpEthIpv4Packet {
            operation,
            sender_mac,
            sender_ipv4: sender.octets(),
            target_mac: [0; 6],
            target_ipv4: wanted.octets(),
        };
        Frame::arp(own.mac, BROADCAST, claim)
    };
    let (target_ip, request) = (target.addr().ip, ArpOperation::REQUEST);
    let gateway = network.gateway();
    let rows: Vec<(&str, u32, Frame, DropReason)> = vec![
        ("another member's MAC", network.vni, udp(own.behind(peer.addr().mac), target.addr()), ExternalMac),
        ("the target's own MAC", network.vni, udp(own.behind(target.addr().mac), target.addr()), ExternalMac),
        ("the gateway's MAC", network.vni, udp(own.behind(gateway.mac), target.addr()), ExternalMac),
        ("a MAC of nobody", network.vni, udp(own.behind([2, 9, 9, 9, 9, 9]), target.addr()), ExternalMac),
        ("another member's IP", network.vni, udp(own.at(peer.addr().ip), target.addr()), ExternalIp),
        ("the gateway's IP", network.vni, udp(own.at(gateway.ip), target.addr()), ExternalIp),
        ("an IP of no network", network.vni, udp(own.at([192, 0, 2, 1].into()), target.addr()), ExternalIp),
        ("another network's VNI", other.vni, udp(own, stranger.addr()), VtepNotMember),
        ("broadcast", network.vni, udp(own, target.addr().behind(BROADCAST)), InnerMulticast),
        ("a frame for another host", network.vni, udp(own, peer.addr()), InnerNotLocal),
        (
            "a frame for the gateway",
            network.vni,
            udp(own, target.addr().behind(gateway.mac)),
            InnerUnknownMac,
        ),
        ("an ARP answer", network.vni, claim(ArpOperation::REPLY, own.mac, own.ip, target_ip), ExternalArp),
        (
            "ARP for another's IP",
            network.vni,
            claim(request, own.mac, peer.addr().ip, target_ip),
            ExternalArp,
        ),
        (
            "ARP with another's MAC",
            network.vni,
            claim(request, peer.addr().mac, own.ip, target_ip),
            ExternalArp,
        ),
        (
            "ARP for nobody",
            network.vni,
            claim(request, own.mac, own.ip, last(&network, 99)),
            ExternalArpUnanswered,
        ),
        (
            "ARP for the gateway",
            network.vni,
            claim(request, own.mac, own.ip, gateway.ip),
            ExternalArpUnanswered,
        ),
    ];
    let failures: Vec<String> = rows
        .iter()
        .filter_map(|(what, vni, inner, reason)| {
            let frame = carry(*vni, inner);
            let send_all = || (0..COPIES).for_each(|_| sender.send(&frame));
            let result = drops::check(here, *reason, COPIES, send_all).map(drop);
            let arrived = victim.arrived();
            let arrived = (!arrived.is_empty()).then(|| format!("{} arrived", arrived.len()));
            result.err().into_iter().chain(arrived).next().map(|why| format!("{what}: {why}"))
        })
        .collect();
    assert!(failures.is_empty(), "{} rows failed:\n  {}", failures.len(), failures.join("\n  "));
}

#[test]
fn a_member_that_makes_no_sense_is_refused_with_a_sentence_that_says_why() {
    let cluster = overlay_tests::topology::two_hosts(Wire::Offload);
    let network = cluster.network("net", &[]);
    let host = &cluster.hosts[0];
    let container = Container::attached(host, "net", "a");
    let (taken, free) = (container.addr().ip.to_string(), last(&network, 9).to_string());
    let container_mac = container.addr().mac_text();
    let node = cluster.hosts[1].addr().ip.to_string();
    let add = |vtep: &str, mac: &str, ip: &str, name: &str| {
        host.cli(&["external", "add", "net", "--vtep", vtep, "--mac", mac, "--ip", ip, "--name", name])
    };
    for (finished, sentence) in [
        (add(&node, MAC, &free, NAME), "is the VTEP of node host2"),
        (add("127.0.0.1", MAC, &free, NAME), "it must be its address on the underlay"),
        (add("192.168.77.9", "ff:ff:ff:ff:ff:ff", &free, NAME), "must be a unicast address"),
        (add("192.168.77.9", &container_mac, &free, NAME), "belongs to a in net"),
        (add("192.168.77.9", MAC, &taken, NAME), "belongs to a"),
        (add("192.168.77.9", MAC, &network.gateway.to_string(), NAME), "gateway"),
        (add("192.168.77.9", MAC, &free, "a"), "has an endpoint a already"),
        (host.cli(&["external", "rm", "net", "a"]), "is a container on host1: detach it there"),
        (host.cli(&["external", "rm", "net", "nobody"]), "has no external member nobody"),
    ] {
        assert_eq!(finished.code, Some(1), "{finished}");
        assert!(finished.stderr.contains(sentence), "{sentence:?} is not in {finished}");
    }
    assert!(host.json::<Vec<Endpoint>>(&["external", "ls"]).is_empty());
    let _ = add("192.168.77.9", MAC, &free, NAME).expect_success();
    let detached = host.cli(&["detach", "net", "--name", NAME]);
    assert!(detached.stderr.contains("overlay external rm net plc"), "{detached}");
    let removed = host.cli(&["network", "rm", "net"]);
    assert!(removed.stderr.contains("has 2 endpoints"), "{removed}");
}
