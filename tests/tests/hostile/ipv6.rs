//! The same over IPv6: who plays router or neighbour, and headers that hide or lie.

use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use etherparse::{Icmpv6Type, IpNumber, ip_number};
use overlay_common::verdict::DropReason::*;
use overlay_tests::{
    container::Container,
    drops::Drops,
    host::Host,
    packet::{Addr, BROADCAST, DISCARD_PORT, Frame, VXLAN_PORT},
    packet6::{ALL_NODES, ALL_ROUTERS, Addr6, fragment, padding},
    tap::Tap,
    topology::{Cluster, Plan, settle, two_hosts},
    underlay::Wire,
    wait,
};
use rstest::rstest;

use crate::{Bench, Row, STRANGE_MAC, VLAN, report};

/// An address that no network has.
const NOWHERE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
/// Where DHCP servers are asked for (RFC 8415 section 7.1).
const ALL_DHCP: Addr6 =
    Addr6 { mac: [0x33, 0x33, 0, 1, 0, 2], ip: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2) };
/// How long a container that has no IPv6 any more says nothing of it.
const QUIET: Duration = Duration::from_millis(300);
const DEADLINE: Duration = Duration::from_secs(10);

const NETWORK: [&str; 2] = ["--subnet", "fd00:77::/64"];

/// Takes IPv6 from a container's kernel, which would say things of its own meanwhile: of its groups, and of its address.
fn silence(container: &Container, host: &Host) {
    container.netns().sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", container.endpoint().ifname), "1");
    let mut last = (Drops::of(host), Instant::now());
    wait::until("its kernel says nothing of IPv6", DEADLINE, || {
        let now = Drops::of(host);
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() >= QUIET
    });
}

#[test]
fn what_a_container_may_not_send_over_ipv6_is_dropped_at_its_veth_with_its_own_reason() {
    let cluster = two_hosts(Wire::Offload);
    let network = cluster.network("net", &NETWORK);
    let a = Container::attached(&cluster.hosts[0], "net", "a");
    let b = Container::attached(&cluster.hosts[1], "net", "b");
    settle(&[&a, &b]);
    silence(&a, &cluster.hosts[0]);
    let (sender, victim) = (a.tap(), b.tap());
    let bench = Bench { sender: &sender, victim: &victim, host: &cluster.hosts[0], endpoint: Some("a") };
    let gateway = Addr6 { mac: network.gateway().mac, ip: network.ipv6_gateway.expect("IPv6") };
    let ends = Ends { own: a.addr(), peer: b.addr(), me: a.addr6(), to: b.addr6(), gateway };

    let honest = Frame::udp6(ends.me, ends.to, (1000, DISCARD_PORT), b"honest");
    bench.expect_delivered(&honest, &honest);
    let rows = [ends.spoofed(), ends.neighbours(), ends.routers_and_groups(), ends.hidden(), ends.lost()];
    report(&bench.failures(&rows.concat()));
    bench.expect_delivered(&honest, &honest);
}

/// Who sends, who must not receive, and the gateway of both.
struct Ends {
    own: Addr,
    peer: Addr,
    me: Addr6,
    to: Addr6,
    gateway: Addr6,
}

impl Ends {
    /// A container that says it is somebody else.
    fn spoofed(&self) -> Vec<Row> {
        let udp = |from| Frame::udp6(from, self.to, (1000, DISCARD_PORT), b"spoofed");
        let me = self.me;
        vec![
            ("another container's MAC", udp(me.behind(self.peer.mac)), SpoofedMac),
            ("another container's address", udp(me.at(self.to.ip)), SpoofedIp),
            ("another's link-local address", udp(me.at(self.peer.link_local())), SpoofedIp),
            ("the gateway's address", udp(me.at(self.gateway.ip)), SpoofedIp),
            ("an address of no network", udp(me.at(NOWHERE)), SpoofedIp),
            ("no address", udp(me.at(Ipv6Addr::UNSPECIFIED)), SpoofedIp),
            ("its IPv4 address, mapped", udp(me.at(self.own.ip.to_ipv6_mapped())), SpoofedIp),
        ]
    }

    /// Claims of addresses that are another's.
    fn neighbours(&self) -> Vec<Row> {
        let (me, peer, gateway) = (self.me, self.to.ip, self.gateway.ip);
        let claim = Frame::neighbour_advertisement;
        let ask = |from, target| Frame::neighbour_solicitation(from, Addr6::solicited_node(target), target);
        vec![
            ("an advertisement of its victim's address", claim(me, self.to, peer), SpoofedNd),
            ("an advertisement of the gateway's address to all", claim(me, ALL_NODES, gateway), SpoofedNd),
            ("an advertisement as the gateway", claim(me.at(gateway), ALL_NODES, gateway), SpoofedNd),
            ("an advertisement of its own address", claim(me, ALL_NODES, me.ip), NdUnanswered),
            ("a solicitation as another", ask(me.at(peer), gateway), SpoofedNd),
            ("a solicitation for nobody", ask(me, NOWHERE), NdUnanswered),
            ("a solicitation from another link", ask(me, peer).put(21, &[254]), NdUnanswered),
        ]
    }

    /// A container that plays router, and what it says to groups.
    fn routers_and_groups(&self) -> Vec<Row> {
        let (me, link_local) = (self.me, Addr6::link_local(self.own));
        let advertisement = |to| Frame::router_advertisement(link_local, to);
        let message = |kind, to, rest| {
            let kind = Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0; 4] };
            Frame::icmp6(link_local, to, kind, &vec![0; rest])
        };
        let dhcp = Frame::udp6(link_local, ALL_DHCP, (546, 547), b"solicit");
        vec![
            ("a router advertisement to all", advertisement(ALL_NODES), RouterAdvertisement),
            ("a router advertisement to its victim", advertisement(self.to), RouterAdvertisement),
            ("a router solicitation", message(133, ALL_ROUTERS, 0), RouterSolicitation),
            ("a redirect", message(137, self.to, 32), NdRedirect),
            ("a multicast listener query", message(130, ALL_NODES, 16), MulticastListener),
            ("a multicast listener report", message(131, ALL_NODES, 16), MulticastListener),
            ("a report of its second version", message(143, ALL_ROUTERS, 20), MulticastListener),
            ("a DHCP request", dhcp, Multicast),
            ("to all nodes", Frame::udp6(me, ALL_NODES, (1, DISCARD_PORT), b"all"), Multicast),
            ("to a group, behind its victim's MAC", self.udp(ALL_NODES.behind(self.peer.mac)), Multicast),
            ("broadcast", self.udp(self.to.behind(BROADCAST)), Multicast),
            ("a VLAN tag", self.udp(self.to).with_vlan_tag(0, VLAN), VlanTagged),
        ]
    }

    fn udp(&self, to: Addr6) -> Frame {
        Frame::udp6(self.me, to, (1000, DISCARD_PORT), b"not carried")
    }

    /// A UDP packet behind extension headers: the kind of the first, and all of them.
    fn behind(&self, first: IpNumber, extensions: &[u8], port: u16) -> Frame {
        behind(self.me, self.to, first, extensions, port)
    }

    /// What stands behind extension headers, and headers that do not say what is there.
    fn hidden(&self) -> Vec<Row> {
        let options = ip_number::IPV6_DEST_OPTIONS;
        let plain = Frame::router_advertisement(Addr6::link_local(self.own), self.to);
        let (_, message) = plain.ipv6_packet().expect("an IPv6 packet");
        let payload = [&padding(ip_number::IPV6_ICMP), message].concat();
        let from = Addr6::link_local(self.own);
        let advertisement = Frame::ipv6(from, self.to, ip_number::IPV6_HEADER_HOP_BY_HOP, 255, &payload);
        let five = [padding(options).repeat(4), padding(ip_number::UDP).to_vec()].concat();
        let udp = || self.udp(self.to);
        let first = fragment(ip_number::UDP, 0, true);
        vec![
            ("a router advertisement behind options", advertisement, RouterAdvertisement),
            ("VXLAN", Frame::udp6(self.me, self.to, (1, VXLAN_PORT), b"inner"), NestedVxlan),
            ("VXLAN behind options", self.behind(options, &padding(ip_number::UDP), VXLAN_PORT), NestedVxlan),
            ("VXLAN in a first fragment", self.behind(ip_number::IPV6_FRAG, &first, VXLAN_PORT), NestedVxlan),
            ("five extension headers", self.behind(options, &five, DISCARD_PORT), ExtensionHeaders),
            ("half an IP header", udp().cut(34), Truncated),
            ("IP version 4 in an IPv6 frame", udp().put(14, &[0x45]), MalformedIp),
            ("a payload longer than the frame", udp().put(18, &[0, 200]), MalformedIp),
        ]
    }

    /// Destinations that are not there.
    fn lost(&self) -> Vec<Row> {
        let routed = |ip| self.udp(Addr6 { mac: self.gateway.mac, ip });
        let nobody = Ipv6Addr::from(u128::from(self.to.ip) + 100);
        vec![
            ("a MAC of nobody", self.udp(self.to.behind(STRANGE_MAC)), UnknownMac),
            ("nobody's address, through the gateway", routed(nobody), UnknownDestination),
            ("an address of no network, through the gateway", routed(NOWHERE), NoRoute),
            ("the host's loopback address, through the gateway", routed(Ipv6Addr::LOCALHOST), Martian),
            ("a link-local address, through the gateway", routed(self.peer.link_local()), Martian),
            ("a hop limit of 1, through the gateway", routed(self.to.ip).put(21, &[1]), TtlExceeded),
        ]
    }
}

fn behind(from: Addr6, to: Addr6, first: IpNumber, extensions: &[u8], port: u16) -> Frame {
    let udp = Frame::udp6_payload(from, to, (1000, port), b"behind");
    Frame::ipv6(from, to, first, 64, &[extensions, &udp].concat())
}

#[rstest]
#[case("off")]
#[case("filter")]
#[case("decap")]
fn inner_ipv6_that_the_underlay_may_not_deliver_is_dropped_with_its_own_reason(#[case] xdp: &'static str) {
    let cluster = Cluster::new(Plan { hosts: 2, wire: Wire::Packet, xdp, ..Plan::default() });
    let vni = cluster.network("net", &NETWORK).vni;
    let [host, member] = [0, 1].map(|i| &cluster.hosts[i]);
    let target = Container::attached(host, "net", "target");
    let peer = Container::attached(member, "net", "peer");
    settle(&[&target, &peer]);
    silence(&target, host);
    let stranger = cluster.stranger();
    let (sender, victim) = (Tap::open(&stranger.netns, "eth0"), target.tap());
    let bench = Bench { sender: &sender, victim: &victim, host, endpoint: None };
    let vtep = Addr { ip: member.addr().ip, ..stranger.addr };
    let carry = |inner: &Frame| Frame::vxlan(vtep, host.addr(), vni, inner);

    let inner = Frame::udp6(peer.addr6(), target.addr6(), (1000, DISCARD_PORT), b"honest");
    bench.expect_delivered(&carry(&inner), &inner);
    let rows = inner_rows(&peer, &target).into_iter();
    let carried: Vec<Row> = rows.map(|(what, inner, reason)| (what, carry(&inner), reason)).collect();
    report(&bench.failures(&carried));
    bench.expect_delivered(&carry(&inner), &inner);
}

/// Inner frames from a container of a member host.
fn inner_rows(from: &Container, to: &Container) -> Vec<Row> {
    let (peer, target, router) = (from.addr6(), to.addr6(), Addr6::link_local(from.addr()));
    let udp = |to| Frame::udp6(peer, to, (1000, DISCARD_PORT), b"inner");
    let options = ip_number::IPV6_DEST_OPTIONS;
    let redirect = Icmpv6Type::Unknown { type_u8: 137, code_u8: 0, bytes5to8: [0; 4] };
    let five = [padding(options).repeat(4), padding(ip_number::UDP).to_vec()].concat();
    vec![
        ("a router advertisement", Frame::router_advertisement(router, target), InnerNd),
        ("a redirect", Frame::icmp6(router, target, redirect, &[0; 32]), InnerNd),
        ("an advertisement", Frame::neighbour_advertisement(peer, target, peer.ip), InnerNd),
        ("a solicitation", Frame::neighbour_solicitation(peer, target, target.ip), InnerNd),
        ("to all nodes", udp(ALL_NODES), InnerMulticast),
        ("to a group, behind its victim's MAC", udp(ALL_NODES.behind(target.mac)), InnerMulticast),
        ("VXLAN", Frame::udp6(peer, target, (1, VXLAN_PORT), b"inner"), InnerNestedVxlan),
        (
            "VXLAN behind options",
            behind(peer, target, options, &padding(ip_number::UDP), VXLAN_PORT),
            InnerNestedVxlan,
        ),
        ("five extension headers", behind(peer, target, options, &five, DISCARD_PORT), InnerExtensionHeaders),
        ("half a header", udp(target).cut(34), InnerTruncated),
        ("IP version 4 in an IPv6 frame", udp(target).put(14, &[0x45]), InnerMalformed),
        ("a payload longer than the frame", udp(target).put(18, &[0, 200]), InnerMalformed),
        ("a MAC of nobody", udp(target.behind(STRANGE_MAC)), InnerUnknownMac),
        ("a MAC of another host", udp(target.behind(peer.mac)), InnerNotLocal),
    ]
}
