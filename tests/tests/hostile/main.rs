//! Packets that nobody honest sends: each is dropped where it first can be, with a reason of its own, and
//! nothing of it arrives. The same in every XDP mode.

mod ipv6;

use etherparse::{ArpEthIpv4Packet, ArpOperation, Icmpv4Type, IpEcn};
use overlay_common::verdict::DropReason::{self, *};
use overlay_tests::{
    container::Container,
    drops,
    host::Host,
    packet::{
        Addr, BROADCAST, DISCARD_PORT, Frame,
        offset::{INNER_IP, IP, UDP, VXLAN},
    },
    tap::Tap,
    topology::{Cluster, Plan, settle, two_hosts},
    underlay::Wire,
};
use rstest::rstest;
use std::{net::Ipv4Addr, time::Duration};

/// How often each packet is sent, so that a counter that moves once for many, or twice for one, is seen.
const COPIES: u64 = 3;
const DEADLINE: Duration = Duration::from_secs(2);
const STRANGE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0xbe, 0xef];
const MULTICAST_MAC: [u8; 6] = [0x01, 0, 0x5e, 0, 0, 0x05];
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

/// What it is, the packet, and why it is dropped.
type Row = (&'static str, Frame, DropReason);

/// Who sends, who must not receive, and whose counters move.
struct Bench<'a> {
    sender: &'a Tap,
    victim: &'a Tap,
    host: &'a Host,
    /// Endpoint that the drops are counted for, if any.
    endpoint: Option<&'a str>,
}

impl Bench<'_> {
    /// Sends every packet of the table, and says which were not dropped as they should.
    fn failures(&self, table: &[Row]) -> Vec<String> {
        table.iter().filter_map(|row| self.try_row(row).err().map(|e| format!("{}: {e}", row.0))).collect()
    }

    fn try_row(&self, (_, frame, reason): &Row) -> Result<(), String> {
        let send_all = || (0..COPIES).for_each(|_| self.sender.send(frame));
        let result = drops::check(self.host, *reason, COPIES, send_all);
        let arrived = self.victim.arrived();
        if !arrived.is_empty() {
            return Err(format!("{} arrived ({result:?}): {:?}", arrived.len(), arrived[0]));
        }
        let site = result?;
        if site.endpoint.as_deref() == self.endpoint {
            Ok(())
        } else {
            Err(format!("counted for {:?}", site.endpoint))
        }
    }

    /// Sends an honest packet, which has to arrive as often as it was sent, without any drop.
    fn expect_delivered(&self, frame: &Frame, as_seen: &Frame) {
        let before = drops::Drops::of(self.host);
        for copy in 0..COPIES {
            self.sender.send(frame);
            let seen = self.victim.find(DEADLINE, |seen| Some(seen.clone()));
            assert_eq!(seen.as_ref(), Some(as_seen), "copy {copy} of an honest packet");
        }
        assert_eq!(self.victim.arrived(), [], "more than was sent");
        assert_eq!(
            drops::Drops::of(self.host).since(&before),
            drops::Drops::default(),
            "honest packets counted as drops"
        );
    }
}

fn report(failures: &[String]) {
    assert!(failures.is_empty(), "{} rows failed:\n  {}", failures.len(), failures.join("\n  "));
}

#[test]
fn what_a_container_may_not_send_is_dropped_at_its_veth_with_its_own_reason() {
    let cluster = two_hosts(Wire::Offload);
    let gateway = cluster.network("net", &[]).gateway();
    let a = Container::attached(&cluster.hosts[0], "net", "a");
    let b = Container::attached(&cluster.hosts[1], "net", "b");
    settle(&[&a, &b]);
    let (sender, victim) = (a.tap(), b.tap());
    let bench = Bench { sender: &sender, victim: &victim, host: &cluster.hosts[0], endpoint: Some("a") };

    let honest = Frame::udp(a.addr(), b.addr(), (1000, DISCARD_PORT), b"honest");
    bench.expect_delivered(&honest, &honest);
    report(&bench.failures(&from_container(a.addr(), b.addr(), gateway)));
    bench.expect_delivered(&honest, &honest);
}

fn from_container(own: Addr, peer: Addr, gateway: Addr) -> Vec<Row> {
    [
        spoofed(own, peer, gateway),
        no_overlay_traffic(own, peer),
        lies(own, peer),
        to_nobody(own, peer, gateway),
    ]
    .concat()
}

/// A container that says it is somebody else.
fn spoofed(own: Addr, peer: Addr, gateway: Addr) -> Vec<Row> {
    let udp = |from: Addr| Frame::udp(from, peer, (1000, DISCARD_PORT), b"spoofed");
    let claim = |sender_mac, sender_ip: Ipv4Addr| ArpEthIpv4Packet {
        operation: ArpOperation::REPLY,
        sender_mac,
        sender_ipv4: sender_ip.octets(),
        target_mac: peer.mac,
        target_ipv4: peer.ip.octets(),
    };
    let none = Addr { ip: Ipv4Addr::UNSPECIFIED, ..own };
    vec![
        ("another container's MAC", udp(own.behind(peer.mac)), SpoofedMac),
        ("the gateway's MAC", udp(own.behind(gateway.mac)), SpoofedMac),
        ("a group address as source MAC", udp(own.behind(MULTICAST_MAC)), SpoofedMac),
        ("another container's IP", udp(Addr { ip: peer.ip, ..own }), SpoofedIp),
        ("the gateway's IP", udp(Addr { ip: gateway.ip, ..own }), SpoofedIp),
        ("an IP of no network", udp(Addr { ip: Ipv4Addr::new(192, 0, 2, 1), ..own }), SpoofedIp),
        (
            "a DHCP request",
            Frame::udp(none, Addr { mac: BROADCAST, ip: Ipv4Addr::BROADCAST }, (68, 67), b"dhcp"),
            SpoofedIp,
        ),
        ("ARP for the gateway's IP", Frame::arp(own.mac, peer.mac, claim(own.mac, gateway.ip)), SpoofedArp),
        ("ARP to all for another's IP", Frame::arp(own.mac, BROADCAST, claim(own.mac, peer.ip)), SpoofedArp),
        (
            "ARP with another's MAC inside",
            Frame::arp(own.mac, BROADCAST, claim(peer.mac, own.ip)),
            SpoofedArp,
        ),
        ("ARP from another's MAC", Frame::arp(peer.mac, BROADCAST, claim(peer.mac, own.ip)), SpoofedMac),
    ]
}

/// What an overlay network does not carry.
fn no_overlay_traffic(own: Addr, peer: Addr) -> Vec<Row> {
    let udp = |to: Addr| Frame::udp(own, to, (1000, DISCARD_PORT), b"not carried");
    let nested = Frame::vxlan(own, peer, 256, &udp(peer));
    vec![
        ("a VLAN tag", udp(peer).with_vlan_tag(0, VLAN), VlanTagged),
        ("a service VLAN tag", udp(peer).with_vlan_tag(0, SERVICE_VLAN), VlanTagged),
        ("VXLAN", nested.clone(), NestedVxlan),
        ("VXLAN behind IP options", nested.with_ip_options(IP), NestedVxlan),
        ("IPv6", Frame::ethernet(own.mac, peer.mac, IPV6, &[0x60; 60]), UnsupportedProtocol),
        ("an unknown EtherType", Frame::ethernet(own.mac, peer.mac, 0x88cc, &[0; 60]), UnsupportedProtocol),
        ("broadcast", udp(peer.behind(BROADCAST)), Multicast),
        ("multicast", udp(Addr { mac: MULTICAST_MAC, ip: Ipv4Addr::new(224, 0, 0, 5) }), Multicast),
    ]
}

/// Headers that do not say what is there.
fn lies(own: Addr, peer: Addr) -> Vec<Row> {
    let udp = Frame::udp(own, peer, (1000, DISCARD_PORT), &[0; 40]);
    let total_len = |len| udp.clone().edit_ip(IP, |ip| ip.total_len = len);
    vec![
        ("an Ethernet header and no more", udp.clone().cut(14), Truncated),
        ("half an IP header", udp.clone().cut(24), Truncated),
        ("an IP header without its last byte", udp.clone().cut(33), Truncated),
        ("an ARP packet without its last byte", Frame::arp_request(own, peer.ip).cut(41), Truncated),
        ("IP version 6 in an IPv4 frame", udp.clone().put(IP, &[0x65]), MalformedIp),
        ("a header length of 16", udp.clone().put(IP, &[0x44]), MalformedIp),
        ("a header longer than the packet", udp.clone().cut(50).put(IP, &[0x4f]), MalformedIp),
        ("a total length of 0", total_len(0), MalformedIp),
        ("a total length shorter than the header", total_len(19), MalformedIp),
        ("a total length beyond the frame", total_len(69), MalformedIp),
        ("the largest total length", total_len(u16::MAX), MalformedIp),
    ]
}

/// Destinations that are not there.
fn to_nobody(own: Addr, peer: Addr, gateway: Addr) -> Vec<Row> {
    let via_gateway = |ip| Frame::udp(own, Addr { mac: gateway.mac, ip }, (1000, DISCARD_PORT), b"routed");
    let nobody = Ipv4Addr::from(u32::from(peer.ip) + 100);
    vec![
        (
            "a MAC of nobody",
            Frame::udp(own, peer.behind(STRANGE_MAC), (1000, DISCARD_PORT), b"lost"),
            UnknownMac,
        ),
        ("ARP for nobody", Frame::arp_request(own, nobody), ArpUnanswered),
        (
            "ARP for an address of another subnet",
            Frame::arp_request(own, Ipv4Addr::new(192, 0, 2, 9)),
            ArpUnanswered,
        ),
        ("a host-local address, through the gateway", via_gateway(Ipv4Addr::new(172, 18, 0, 9)), HostLocal),
        ("the host's loopback address, through the gateway", via_gateway(Ipv4Addr::LOCALHOST), Martian),
        ("nobody's address, through the gateway", via_gateway(nobody), UnknownDestination),
        (
            "a TTL of 1, through the gateway",
            via_gateway(peer.ip).edit_ip(IP, |ip| ip.time_to_live = 1),
            TtlExceeded,
        ),
    ]
}

#[rstest]
#[case("off")]
#[case("filter")]
#[case("decap")]
fn what_the_underlay_may_not_deliver_is_dropped_with_its_own_reason(#[case] xdp: &'static str) {
    let cluster = Cluster::new(Plan { hosts: 3, wire: Wire::Packet, xdp, ..Plan::default() });
    let vni = cluster.network("net", &[]).vni;
    let [host, member, other] = [0, 1, 2].map(|i| &cluster.hosts[i]);
    assert_eq!(host.status().xdp.mode, xdp);
    let target = Container::attached(host, "net", "target");
    let peer = Container::attached(member, "net", "peer");
    settle(&[&target, &peer]);
    let stranger = cluster.stranger();
    let (sender, victim) = (Tap::open(&stranger.netns, "eth0"), target.tap());
    let bench = Bench { sender: &sender, victim: &victim, host, endpoint: None };

    let vtep = |ip| Addr { ip, ..stranger.addr };
    let tunnel = Tunnel {
        member: vtep(member.addr().ip),
        other: vtep(other.addr().ip),
        stranger: stranger.addr,
        here: host.addr(),
        vni,
        inner: (peer.addr(), target.addr()),
    };
    let inner = tunnel.inner_udp();
    bench.expect_delivered(&tunnel.carry(&inner), &inner);
    report(&bench.failures(&tunnel.table()));
    bench.expect_delivered(&tunnel.carry(&inner), &inner);
}

/// Where a hostile machine on the underlay sends from and to.
struct Tunnel {
    /// Says that it is a node with a part in the network.
    member: Addr,
    /// Says that it is a node without a part in the network.
    other: Addr,
    /// Is itself.
    stranger: Addr,
    /// The attacked host.
    here: Addr,
    vni: u32,
    /// Sender and receiver in the network.
    inner: (Addr, Addr),
}

impl Tunnel {
    fn table(&self) -> Vec<Row> {
        [
            self.wrong_sender_or_network(),
            self.truncated(),
            self.outer_lies(),
            self.inner_lies(),
            self.inner_not_carried(),
        ]
        .concat()
    }

    fn inner_udp(&self) -> Frame {
        Frame::udp(self.inner.0, self.inner.1, (1000, DISCARD_PORT), &[0x5a; 40])
    }

    fn carry(&self, inner: &Frame) -> Frame {
        Frame::vxlan(self.member, self.here, self.vni, inner)
    }

    fn wrong_sender_or_network(&self) -> Vec<Row> {
        let (udp, good) = (self.inner_udp(), self.carry(&self.inner_udp()));
        vec![
            ("an unknown VNI", Frame::vxlan(self.member, self.here, 0xff_ff00, &udp), UnknownVni),
            ("VNI 0", Frame::vxlan(self.member, self.here, 0, &udp), UnknownVni),
            ("an unknown VTEP", Frame::vxlan(self.stranger, self.here, self.vni, &udp), UnknownVtep),
            (
                "a VTEP without a part in the network",
                Frame::vxlan(self.other, self.here, self.vni, &udp),
                VtepNotMember,
            ),
            ("no flag", good.clone().put(VXLAN, &[0]), VxlanFlags),
            ("all flags but the one that counts", good.put(VXLAN, &[0xf7]), VxlanFlags),
        ]
    }

    /// Cut off at and around each boundary between headers; the outer lengths say so.
    fn truncated(&self) -> Vec<Row> {
        let cut = |len| self.carry(&self.inner_udp()).cut_outer(len);
        vec![
            ("half a UDP header", cut(38), OuterTruncated),
            ("a UDP header without its last byte", cut(41), OuterTruncated),
            ("no VXLAN header", cut(42), OuterTruncated),
            ("a VXLAN header without its last byte", cut(49), OuterTruncated),
            ("no inner frame", cut(50), InnerTruncated),
            ("an inner Ethernet header without its last byte", cut(63), InnerTruncated),
            ("no inner IP header", cut(64), InnerTruncated),
            ("an inner IP header without its last byte", cut(83), InnerTruncated),
            ("an inner packet without its last byte", cut(131), InnerMalformed),
        ]
    }

    fn outer_lies(&self) -> Vec<Row> {
        let good = || self.carry(&self.inner_udp());
        let lengths = |ip_more: i16, udp_more: i16| {
            let frame = good().edit_ip(IP, |ip| ip.total_len = ip.total_len.wrapping_add_signed(ip_more));
            frame.edit_udp(UDP, |udp| udp.length = udp.length.wrapping_add_signed(udp_more))
        };
        vec![
            ("outer IP options", good().with_ip_options(IP), OuterMalformed),
            ("outer IP version 6", good().put(IP, &[0x65]), OuterMalformed),
            ("an outer total length beyond the frame", lengths(100, 100), OuterMalformed),
            ("an outer total length longer than UDP's", lengths(8, 0), OuterMalformed),
            ("an outer total length shorter than UDP's", lengths(-8, 0), OuterMalformed),
            ("a UDP length longer than IP's", lengths(0, 8), OuterMalformed),
            ("a UDP length of 0", good().edit_udp(UDP, |udp| udp.length = 0), OuterMalformed),
            (
                "a first fragment",
                good().edit_ip(IP, |ip| (ip.dont_fragment, ip.more_fragments) = (false, true)),
                OuterFragment,
            ),
        ]
    }

    fn inner_lies(&self) -> Vec<Row> {
        let good = || self.carry(&self.inner_udp());
        let total_len = |len| good().edit_ip(INNER_IP, |ip| ip.total_len = len);
        vec![
            ("inner IP version 6 in an IPv4 frame", good().put(INNER_IP, &[0x65]), InnerMalformed),
            ("an inner header length of 16", good().put(INNER_IP, &[0x44]), InnerMalformed),
            ("an inner header longer than its packet", total_len(40).put(INNER_IP, &[0x4f]), InnerMalformed),
            ("an inner total length of 0", total_len(0), InnerMalformed),
            ("an inner total length beyond the frame", total_len(69), InnerMalformed),
            (
                "congestion met by ends that do not speak ECN",
                good().edit_ip(IP, |ip| ip.ecn = IpEcn::CongestionExperienced),
                InnerNotEct,
            ),
        ]
    }

    fn inner_not_carried(&self) -> Vec<Row> {
        let (from, to) = self.inner;
        let udp_to = |mac| self.carry(&Frame::udp(from, to.behind(mac), (1000, DISCARD_PORT), b"inner"));
        let tagged = |ethertype| self.carry(&self.inner_udp().with_vlan_tag(0, ethertype));
        let arp = self.inner_udp().put(12, &[0x08, 0x06]);
        vec![
            ("an inner VLAN tag", tagged(VLAN), InnerVlanTagged),
            ("an inner service VLAN tag", tagged(SERVICE_VLAN), InnerVlanTagged),
            (
                "inner IPv6",
                self.carry(&Frame::ethernet(from.mac, to.mac, IPV6, &[0x60; 60])),
                InnerUnsupported,
            ),
            ("inner ARP", self.carry(&arp), InnerUnsupported),
            ("inner VXLAN", self.carry(&self.carry(&self.inner_udp()).put(0, &to.mac)), InnerNestedVxlan),
            ("inner broadcast", udp_to(BROADCAST), InnerMulticast),
            ("inner multicast", udp_to(MULTICAST_MAC), InnerMulticast),
            ("an inner MAC of nobody", udp_to(STRANGE_MAC), InnerUnknownMac),
            ("an inner MAC of another host", udp_to(from.mac), InnerNotLocal),
        ]
    }
}

#[rstest]
#[case("off")]
#[case("filter")]
#[case("decap")]
fn what_is_not_vxlan_to_this_host_goes_to_the_kernel_uncounted(#[case] xdp: &'static str) {
    let cluster = Cluster::new(Plan { hosts: 1, wire: Wire::Packet, xdp, ..Plan::default() });
    let (host, stranger) = (&cluster.hosts[0], cluster.stranger());
    let (tap, inside) = (Tap::open(&stranger.netns, "eth0"), Tap::open(host.netns(), "eth0"));
    let before = drops::Drops::of(host);
    let other_port = Frame::udp(stranger.addr, host.addr(), (4789, 4790), b"another port");
    let later_fragment = other_port.clone().edit_ip(IP, |ip| {
        (ip.dont_fragment, ip.fragment_offset) = (false, 10.try_into().unwrap());
    });
    for frame in [&later_fragment, &other_port] {
        tap.send(frame);
        assert!(
            inside.find(DEADLINE, |seen| (seen == frame).then_some(())).is_some(),
            "not passed on: {frame:?}"
        );
    }
    let refused = |frame: &Frame| {
        frame
            .icmp_packet()
            .is_some_and(|(_, icmp, _)| matches!(icmp.icmp_type, Icmpv4Type::DestinationUnreachable(_)))
    };
    assert!(
        tap.find(DEADLINE, |frame| refused(frame).then_some(())).is_some(),
        "the kernel says that the port is closed"
    );
    assert_eq!(drops::Drops::of(host).since(&before), drops::Drops::default());
}
