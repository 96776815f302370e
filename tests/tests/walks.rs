//! Every way that a packet can take, on real packets: across hosts, within one, between networks, and the
//! answers that the data path gives by itself.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use etherparse::{ArpOperation, Icmpv4Type, icmpv4::DestUnreachableHeader};
use overlay_common::verdict::DropReason;
use overlay_tests::{
    container::Container,
    drops::{self, Drops},
    host::Host,
    packet::{Addr, DISCARD_PORT, Encapsulated, Frame, offset},
    tap::Tap,
    topology::{CONVERGENCE, Cluster, Plan, settle, time_to_pass, two_hosts},
    traffic::{
        bulk,
        ping::{expect_no_ping, expect_ping},
        responder::{Responder, Session, ask_tcp, ask_udp},
        segmented,
    },
    underlay::Wire,
    wait,
};
use rstest::rstest;

const DEADLINE: Duration = Duration::from_secs(2);
const MEGABYTE: usize = 1 << 20;

/// ICMP, UDP and TCP with answers, a checked stream, segmented UDP, the largest packet, and fragments.
#[track_caller]
fn expect_all_traffic(from: &Container, to: &Container) {
    let (netns, ip) = (from.netns(), to.addr().ip);
    let responder = Responder::start(to.netns(), to.name());
    expect_ping(netns, ip, &[]);
    expect_ping(netns, ip, &["-M", "do", "-s", "1422"]);
    expect_ping(netns, ip, &["-M", "dont", "-s", "8000"]);
    assert_eq!(ask_udp(netns, ip, "udp?", DEADLINE).as_deref(), Some(to.name()));
    assert_eq!(ask_tcp(netns, ip, "tcp?", DEADLINE).as_deref(), Some(to.name()));
    assert_eq!(responder.heard(), ["udp?", "tcp?"]);
    assert_eq!(bulk::transfer(netns, to.netns(), ip, 8 * MEGABYTE), Ok(()));
    assert_eq!(segmented::burst(netns, to.netns(), ip, 1400, 30), segmented::datagrams(1400, 30));
}

/// Nothing was dropped on these hosts while `action` ran.
#[track_caller]
fn without_drops(hosts: &[Host], action: impl FnOnce()) {
    let before: Vec<Drops> = hosts.iter().map(Drops::of).collect();
    action();
    for (host, before) in hosts.iter().zip(&before) {
        let moved = Drops::of(host).since(before);
        assert_eq!(moved, Drops::default(), "{} dropped: {moved}", host.label());
    }
}

#[rstest]
#[case(Wire::Offload)]
#[case(Wire::Packet)]
fn containers_on_two_hosts_exchange_all_traffic_both_ways_without_a_drop(#[case] wire: Wire) {
    let cluster = two_hosts(wire);
    let (a, b) = cluster.pair();
    without_drops(&cluster.hosts, || {
        expect_all_traffic(&a, &b);
        expect_all_traffic(&b, &a);
    });
}

#[rstest]
#[case("filter")]
#[case("decap")]
fn containers_exchange_all_traffic_through_xdp_as_well(#[case] xdp: &'static str) {
    let cluster = Cluster::new(Plan { wire: Wire::Packet, xdp, ..Plan::default() });
    let (a, b) = cluster.pair();
    without_drops(&cluster.hosts, || {
        expect_all_traffic(&a, &b);
        expect_all_traffic(&b, &a);
    });
}

#[test]
fn containers_on_one_host_exchange_all_traffic_and_none_of_it_leaves_the_host() {
    let cluster = Cluster::new(Plan { hosts: 1, ..Plan::default() });
    cluster.network("net", &[]);
    let a = Container::attached(&cluster.hosts[0], "net", "a");
    let b = Container::attached(&cluster.hosts[0], "net", "b");
    settle(&[&a, &b]);
    let wire = Tap::open(cluster.underlay.netns(), cluster.hosts[0].port());
    without_drops(&cluster.hosts, || expect_all_traffic(&a, &b));
    let left: Vec<Frame> = wire.arrived().into_iter().filter(|frame| frame.udp_packet().is_some()).collect();
    assert_eq!(left, []);
}

#[test]
fn every_packet_counts_once_for_its_sender_and_once_for_its_receiver() {
    let cluster = two_hosts(Wire::Offload);
    let (a, b) = cluster.pair();
    let local = |host: &Host, name: &str| {
        let found = host.endpoints().into_iter().find(|endpoint| endpoint.name == name);
        found
            .and_then(|endpoint| endpoint.local)
            .unwrap_or_else(|| panic!("{name} is not on {}", host.label()))
    };
    let counters = || (local(&cluster.hosts[0], "a"), local(&cluster.hosts[1], "b"));
    let (a_before, b_before) = counters();
    let frame = Frame::udp(a.addr(), b.addr(), (1, DISCARD_PORT), &[0; 100]);
    let (sender, receiver) = (a.tap(), b.tap());
    for _ in 0..5 {
        sender.send(&frame);
        assert!(receiver.find(DEADLINE, |seen| (*seen == frame).then_some(())).is_some());
    }
    let (a_after, b_after) = counters();
    let bytes = 5 * frame.0.len() as u64;
    assert_eq!((a_after.tx_packets - a_before.tx_packets, a_after.tx_bytes - a_before.tx_bytes), (5, bytes));
    assert_eq!((b_after.rx_packets - b_before.rx_packets, b_after.rx_bytes - b_before.rx_bytes), (5, bytes));
    assert_eq!((a_after.rx_packets, b_after.tx_packets), (a_before.rx_packets, b_before.tx_packets));
}

/// Two networks, `a` in the first on host 1, `near` and `far` in the second on hosts 1 and 2.
struct TwoNetworks {
    a: Container,
    near: Container,
    far: Container,
    gateway_a: Addr,
    gateway_b: Addr,
    cluster: Cluster,
}

impl TwoNetworks {
    #[track_caller]
    fn new() -> Self {
        let cluster = two_hosts(Wire::Offload);
        let gateway_a = cluster.network("net_a", &[]).gateway();
        let gateway_b = cluster.network("net_b", &[]).gateway();
        let a = Container::attached(&cluster.hosts[0], "net_a", "a");
        let near = Container::attached(&cluster.hosts[0], "net_b", "near");
        let far = Container::attached(&cluster.hosts[1], "net_b", "far");
        settle(&[&near, &far]);
        Self { a, near, far, gateway_a, gateway_b, cluster }
    }

    /// Allows traffic and waits until it passes both ways.
    #[track_caller]
    fn allow(&self) {
        self.cluster.hosts[0].overlay(&["policy", "allow", "net_a", "net_b"]);
        for other in [&self.near, &self.far] {
            let there = time_to_pass(
                &self.a.tap(),
                &other.tap(),
                self.a.addr(),
                other.addr().behind(self.gateway_a.mac),
                CONVERGENCE,
            );
            let back = time_to_pass(
                &other.tap(),
                &self.a.tap(),
                other.addr(),
                self.a.addr().behind(self.gateway_b.mac),
                CONVERGENCE,
            );
            assert!(there.is_some() && back.is_some(), "to {}: {there:?}, back: {back:?}", other.name());
        }
    }
}

#[test]
fn networks_that_a_policy_joins_exchange_all_traffic_both_ways_on_one_host_and_on_two() {
    let two = TwoNetworks::new();
    two.allow();
    without_drops(&two.cluster.hosts, || {
        for other in [&two.near, &two.far] {
            expect_all_traffic(&two.a, other);
            expect_all_traffic(other, &two.a);
        }
    });
}

#[test]
fn a_routed_packet_arrives_from_the_gateway_with_one_hop_less() {
    let two = TwoNetworks::new();
    two.allow();
    for other in [&two.near, &two.far] {
        let tap = other.tap();
        let sent =
            Frame::udp(two.a.addr(), other.addr().behind(two.gateway_a.mac), (5, DISCARD_PORT), b"routed");
        two.a.tap().send(&sent);
        let seen = tap.find(DEADLINE, |frame| frame.contains(b"routed").then(|| frame.clone())).unwrap();
        let from_gateway = two.a.addr().behind(two.gateway_b.mac);
        let wanted = Frame::udp(from_gateway, other.addr(), (5, DISCARD_PORT), b"routed")
            .edit_ip(offset::IP, |ip| ip.time_to_live = 63);
        assert_eq!(seen, wanted, "to {}", other.name());
    }
}

#[test]
fn networks_without_a_policy_are_kept_apart_and_each_packet_is_counted_for_its_sender() {
    let two = TwoNetworks::new();
    for other in [&two.near, &two.far] {
        let (tap, host) = (other.tap(), &two.cluster.hosts[0]);
        let site = drops::expect(host, DropReason::PolicyDenied, 3, || {
            expect_no_ping(two.a.netns(), other.addr().ip);
        });
        assert_eq!((site.network.as_deref(), site.endpoint.as_deref()), (Some("net_a"), Some("a")));
        assert_eq!(tap.arrived(), []);
    }
}

#[test]
fn a_policy_that_is_taken_back_cuts_a_connection_that_is_open() {
    let two = TwoNetworks::new();
    two.allow();
    let _responder = Responder::start(two.far.netns(), "far");
    let mut session = Session::connect(two.a.netns(), two.far.addr().ip, DEADLINE).unwrap();
    assert_eq!(session.ask("open?").unwrap(), "far");
    two.cluster.hosts[1].overlay(&["policy", "deny", "net_a", "net_b"]);
    let denied = || Drops::of(&two.cluster.hosts[0]).by_reason(DropReason::PolicyDenied);
    let probe =
        Frame::udp(two.a.addr(), two.far.addr().behind(two.gateway_a.mac), (1, DISCARD_PORT), b"still?");
    let tap = two.a.tap();
    wait::until("the policy is gone on the other host", CONVERGENCE, || {
        tap.send(&probe);
        denied() > 0
    });
    assert!(session.ask("still?").is_err(), "an open connection outlived the policy");
}

#[test]
fn arp_is_answered_for_containers_and_the_gateway_and_for_nobody_else() {
    let cluster = two_hosts(Wire::Offload);
    let gateway = cluster.network("net", &[]).gateway();
    let a = Container::attached(&cluster.hosts[0], "net", "a");
    let near = Container::attached(&cluster.hosts[0], "net", "near");
    let far = Container::attached(&cluster.hosts[1], "net", "far");
    settle(&[&a, &near, &far]);
    let (tap, near_tap, far_tap) = (a.tap(), near.tap(), far.tap());
    for known in [near.addr(), far.addr(), gateway] {
        tap.send(&Frame::arp_request(a.addr(), known.ip));
        let (frame, reply) = tap
            .find(DEADLINE, |f| Some((f.clone(), f.arp_packet()?)))
            .unwrap_or_else(|| panic!("no answer for {known:?}"));
        assert_eq!((frame.eth().source, frame.eth().destination), (known.mac, a.addr().mac));
        assert_eq!(reply.operation, ArpOperation::REPLY);
        assert_eq!((reply.sender_mac, reply.sender_ipv4), (known.mac, known.ip.octets()));
        assert_eq!((reply.target_mac, reply.target_ipv4), (a.addr().mac, a.addr().ip.octets()));
    }
    let nobody = Frame::arp_request(a.addr(), Ipv4Addr::from(u32::from(far.addr().ip) + 50));
    drops::expect(&cluster.hosts[0], DropReason::ArpUnanswered, 2, || (0..2).for_each(|_| tap.send(&nobody)));
    assert_eq!(tap.arrived(), [], "an answer for nobody");
    assert_eq!((near_tap.arrived(), far_tap.arrived()), (vec![], vec![]), "ARP is flooded to no one");
}

#[test]
fn a_packet_that_is_too_big_is_answered_with_the_mtu_that_would_pass() {
    let cluster = two_hosts(Wire::Offload);
    let network = cluster.network("net", &[]);
    let (a, b) = roomy_pair(&cluster);
    let (tap, peer_tap) = (a.tap(), b.tap());
    assert_eq!(network.mtu, 1450);

    let fits = Frame::udp(a.addr(), b.addr(), (3, DISCARD_PORT), &[1; 1450 - 28]);
    tap.send(&fits);
    assert_eq!(peer_tap.find(DEADLINE, |f| Some(f.clone())), Some(fits), "a packet of exactly the MTU");

    for len in [1451, 1500] {
        let too_big = Frame::udp(a.addr(), b.addr(), (3, DISCARD_PORT), &vec![2; len - 28]);
        let site = drops::expect(&cluster.hosts[0], DropReason::TooBig, 1, || tap.send(&too_big));
        assert_eq!(site.endpoint.as_deref(), Some("a"));
        expect_fragmentation_needed(&tap, &too_big, network.gateway(), a.addr());
        assert_eq!(peer_tap.arrived(), []);
    }
}

/// The gateway's answer to a packet larger than 1450 bytes: correct to the last byte for who parses it.
#[track_caller]
fn expect_fragmentation_needed(tap: &Tap, too_big: &Frame, gateway: Addr, sender: Addr) {
    let answer =
        tap.find(DEADLINE, |frame| frame.icmp_packet().is_some().then(|| frame.clone())).expect("an answer");
    let (ip, icmp, quote) = answer.icmp_packet().expect("an ICMP packet");
    let wanted = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1450 };
    assert_eq!(icmp.icmp_type, Icmpv4Type::DestinationUnreachable(wanted));
    assert_eq!((ip.source, ip.destination), (gateway.ip.octets(), sender.ip.octets()));
    assert_eq!((answer.eth().source, answer.eth().destination), (gateway.mac, sender.mac));
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(quote));
    assert!(
        too_big.0[offset::IP..].starts_with(quote) && quote.len() >= 28,
        "the quote is the packet's begin"
    );
}

#[test]
fn senders_with_too_large_an_mtu_learn_the_right_one_instead_of_hanging() {
    let cluster = two_hosts(Wire::Offload);
    cluster.network("net", &[]);
    let (a, b) = roomy_pair(&cluster);
    let to = b.addr().ip.to_string();
    a.netns().run(&["ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1472", &to]);
    let route = a.netns().ip(&["route", "get", &to]);
    assert!(route.contains("mtu 1450"), "the sender did not learn the MTU: {route}");
    assert_eq!(bulk::transfer(a.netns(), b.netns(), b.addr().ip, 4 * MEGABYTE), Ok(()));
}

#[test]
fn connections_between_ends_with_too_large_an_mtu_lose_nothing_to_it() {
    let cluster = two_hosts(Wire::Offload);
    cluster.network("net", &["--ipv6"]);
    let (a, b) = roomy_pair(&cluster);
    let before: Vec<Drops> = cluster.hosts.iter().map(Drops::of).collect();
    for (from, to) in [(&a, &b), (&b, &a)] {
        for address in [IpAddr::from(to.addr().ip), to.addr6().ip.into()] {
            assert_eq!(bulk::transfer(from.netns(), to.netns(), address, 4 * MEGABYTE), Ok(()));
            let route = from.netns().ip(&["route", "get", &address.to_string()]);
            assert!(!route.contains("mtu"), "the sender had to learn the MTU: {route}");
        }
    }
    for (host, before) in cluster.hosts.iter().zip(&before) {
        assert_eq!(Drops::of(host).since(before).by_reason(DropReason::TooBig), 0);
    }
}

/// Containers on two hosts that believe in an MTU of 1500.
#[track_caller]
fn roomy_pair(cluster: &Cluster) -> (Container, Container) {
    let a = Container::attached(&cluster.hosts[0], "net", "a");
    let b = Container::attached(&cluster.hosts[1], "net", "b");
    settle(&[&a, &b]);
    for container in [&a, &b] {
        container.netns().ip(&["link", "set", "eth0", "mtu", "1500"]);
    }
    (a, b)
}

#[test]
fn on_the_underlay_a_packet_is_vxlan_with_the_networks_vni() {
    let cluster = two_hosts(Wire::Offload);
    let vni = cluster.network("net", &["--vni", "74565"]).vni;
    let a = Container::attached(&cluster.hosts[0], "net", "a");
    let b = Container::attached(&cluster.hosts[1], "net", "b");
    settle(&[&a, &b]);
    let (tap, wire) = (a.tap(), Tap::open(cluster.underlay.netns(), cluster.hosts[0].port()));
    let [from, to] = [0, 1].map(|i| cluster.hosts[i].addr().ip.octets());
    for ecn in 0..=3u8 {
        let inner = Frame::udp(a.addr(), b.addr(), (1, DISCARD_PORT), b"on the wire");
        let inner = inner
            .edit_ip(offset::IP, |ip| (ip.ecn, ip.dscp) = (ecn.try_into().unwrap(), 46.try_into().unwrap()));
        tap.send(&inner);
        let outer = next_vxlan(&wire);
        assert_eq!((vni, outer.vni, outer.flags), (74_565, 74_565, 0x08));
        assert_eq!(outer.inner, inner);
        assert_eq!((outer.ip.source, outer.ip.destination, outer.ip.dont_fragment), (from, to, true));
        assert_eq!(outer.ip.header_checksum, outer.ip.calc_header_checksum());
        assert_eq!(outer.ip.ecn.value(), ecn, "ECN goes outward (RFC 6040)");
        assert_eq!((outer.udp.checksum, outer.udp.source_port >= 49_152), (0, true));
    }
}

#[test]
fn a_flow_keeps_its_source_port_on_the_underlay_and_flows_spread_over_many() {
    let cluster = two_hosts(Wire::Offload);
    let (a, b) = cluster.pair();
    let (tap, wire) = (a.tap(), Tap::open(cluster.underlay.netns(), cluster.hosts[0].port()));
    let port_of = |flow: u16| {
        tap.send(&Frame::udp(a.addr(), b.addr(), (flow, DISCARD_PORT), b"flow"));
        next_vxlan(&wire).udp.source_port
    };
    let ports: BTreeSet<u16> = (1000..1032).map(port_of).collect();
    assert!(ports.len() >= 24, "32 flows share {} ports", ports.len());
    assert_eq!(port_of(1000), port_of(1000));
}

#[track_caller]
fn next_vxlan(wire: &Tap) -> Encapsulated {
    wire.find(DEADLINE, Frame::vxlan_packet).expect("a VXLAN packet on the underlay")
}

#[test]
fn congestion_on_the_underlay_is_told_to_a_container_that_speaks_ecn() {
    let cluster = two_hosts(Wire::Packet);
    let vni = cluster.network("net", &[]).vni;
    let a = Container::attached(&cluster.hosts[0], "net", "a");
    let b = Container::attached(&cluster.hosts[1], "net", "b");
    settle(&[&a, &b]);
    let with_ecn = |frame: Frame, ecn: u8| frame.edit_ip(offset::IP, |ip| ip.ecn = ecn.try_into().unwrap());
    let inner = |ecn| with_ecn(Frame::udp(b.addr(), a.addr(), (1, DISCARD_PORT), b"marked"), ecn);
    let stranger = cluster.stranger();
    let sender = Addr { ip: cluster.hosts[1].addr().ip, ..stranger.addr };
    let (wire, tap) = (Tap::open(&stranger.netns, "eth0"), a.tap());
    for (capable, seen) in [(1, 3), (2, 3), (3, 3)] {
        wire.send(&with_ecn(Frame::vxlan(sender, cluster.hosts[0].addr(), vni, &inner(capable)), 3));
        assert_eq!(tap.find(DEADLINE, |f| Some(f.clone())), Some(inner(seen)), "inner ECN {capable}");
    }
}

#[test]
fn a_container_in_two_networks_has_an_interface_in_each() {
    let cluster = two_hosts(Wire::Offload);
    cluster.network("net_a", &[]);
    cluster.network("net_b", &[]);
    let mut both = Container::attached(&cluster.hosts[0], "net_a", "both");
    both.attach(&cluster.hosts[0], "net_b", &[]);
    assert_eq!(
        (both.endpoint_in("net_a").ifname.as_str(), both.endpoint_in("net_b").ifname.as_str()),
        ("eth0", "eth1")
    );
    let a = Container::attached(&cluster.hosts[1], "net_a", "a");
    let b = Container::attached(&cluster.hosts[1], "net_b", "b");
    settle(&[&both, &b]);
    let (from, to) = (a.addr(), both.endpoint_in("net_a").addr());
    assert!(time_to_pass(&a.tap(), &Tap::open(both.netns(), "eth0"), from, to, CONVERGENCE).is_some());
    expect_ping(both.netns(), a.addr().ip, &[]);
    expect_ping(both.netns(), b.addr().ip, &[]);
    expect_ping(a.netns(), to.ip, &[]);
    expect_no_ping(a.netns(), b.addr().ip);
}

#[test]
fn networks_with_the_same_subnet_do_not_mix() {
    let cluster = two_hosts(Wire::Offload);
    for network in ["red", "blue"] {
        cluster.network(network, &["--subnet", "10.9.0.0/24"]);
    }
    let on = |host: usize, network: &str| {
        Container::attached(&cluster.hosts[host], network, &format!("{network}{host}"))
    };
    let (red, blue) = ([on(0, "red"), on(1, "red")], [on(0, "blue"), on(1, "blue")]);
    for pair in [&red, &blue] {
        settle(&[&pair[0], &pair[1]]);
    }
    assert_eq!(
        [red[0].addr(), red[1].addr()],
        [blue[0].addr(), blue[1].addr()],
        "MAC and IP are the same in both networks"
    );
    let everyone = [&red[0], &red[1], &blue[0], &blue[1]];
    let _responders = everyone.map(|container| Responder::start(container.netns(), container.name()));
    for [one, two] in [&red, &blue] {
        for (from, to) in [(one, two), (two, one)] {
            assert_eq!(ask_udp(from.netns(), to.addr().ip, "who?", DEADLINE).as_deref(), Some(to.name()));
            assert_eq!(ask_tcp(from.netns(), to.addr().ip, "who?", DEADLINE).as_deref(), Some(to.name()));
        }
    }
}

#[test]
fn a_packet_for_an_address_that_nobody_has_never_leaves_its_host() {
    let two = TwoNetworks::new();
    two.allow();
    let (host, wire) =
        (&two.cluster.hosts[0], Tap::open(two.cluster.underlay.netns(), two.cluster.hosts[0].port()));
    let nobody = Addr { mac: two.gateway_a.mac, ip: Ipv4Addr::from(u32::from(two.far.addr().ip) + 77) };
    let probe = Frame::udp(two.a.addr(), nobody, (1, DISCARD_PORT), b"nobody");
    drops::expect(host, DropReason::UnknownDestination, 1, || two.a.tap().send(&probe));
    assert!(!wire.arrived().iter().any(|frame| frame.contains(b"nobody")), "it left the host");
}
