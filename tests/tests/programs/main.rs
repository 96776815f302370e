//! The programs one packet at a time, through `BPF_PROG_TEST_RUN`: what goes in, the verdict, the bytes
//! that come out, and how the counters moved. The kernel carries out no redirect here; that the packets
//! then arrive is what `walks` shows.

#[cfg(test)]
mod gateway;
#[cfg(test)]
mod ipv6;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod mss;
#[cfg(test)]
mod path_mtu;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod world;

use std::net::Ipv4Addr;

use etherparse::{ArpEthIpv4Packet, ArpOperation, ether_type, ip_number};
use overlay_common::{
    abi::program,
    config::FLAG_XDP_DECAP,
    verdict::DropReason::{self, *},
};
use overlay_tests::packet::{Addr, BROADCAST, Frame, VXLAN_PORT};
use rstest::rstest;
use world::{
    GATEWAY, LOCAL, LOCAL_VTEP, ME, MTU, OTHER_VTEP, REMOTE, REMOTE_VTEP, ROUTED, SEPARATE, STRANGER_VTEP,
    VNI, VNI_ROUTED, World,
};

const PASS: u32 = u32::MAX;
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

fn udp(from: Addr, to: Addr) -> Frame {
    Frame::udp(from, to, (4000, 5000), b"payload")
}

fn from_remote(inner: &Frame) -> Frame {
    Frame::vxlan(REMOTE_VTEP, LOCAL_VTEP, VNI, inner)
}

#[test]
fn a_packet_for_another_host_gets_the_outer_headers_of_its_vtep() {
    let mut world = World::load();
    let inner = udp(ME, REMOTE);
    let run = world.run(program::FROM_ENDPOINT, &inner);
    assert_eq!(run.verdict, REDIRECT);
    let outer = run.frame.vxlan_packet().expect("a VXLAN packet");
    assert_eq!((run.frame.eth().source, run.frame.eth().destination), (LOCAL_VTEP.mac, REMOTE_VTEP.mac));
    assert_eq!((outer.ip.source, outer.ip.destination), (LOCAL_VTEP.ip.octets(), REMOTE_VTEP.ip.octets()));
    assert_eq!(outer.ip.header_checksum, outer.ip.calc_header_checksum());
    assert!(outer.ip.dont_fragment);
    assert!(outer.udp.source_port >= 49_152);
    assert_eq!((outer.udp.destination_port, outer.udp.checksum), (VXLAN_PORT, 0));
    assert_eq!((outer.flags, outer.vni, &outer.inner), (8, VNI, &inner));
    assert_eq!(run.drops, []);
    assert_eq!((run.stats.tx_packets, run.stats.tx_bytes), (1, inner.0.len() as u64));
}

#[test]
fn a_packet_for_a_neighbour_on_the_same_host_stays_as_it_is() {
    let mut world = World::load();
    let frame = udp(ME, LOCAL);
    let run = world.run(program::FROM_ENDPOINT, &frame);
    assert_eq!((run.verdict, &run.frame), (REDIRECT, &frame));
    assert_eq!((run.drops, run.stats.tx_packets), (vec![], 1));
}

#[test]
fn a_packet_to_a_network_that_policy_allows_is_routed_under_that_networks_vni() {
    let mut world = World::load();
    let run = world.run(program::FROM_ENDPOINT, &udp(ME, ROUTED.behind(GATEWAY.mac)));
    assert_eq!((run.verdict, run.drops), (REDIRECT, vec![]));
    let outer = run.frame.vxlan_packet().expect("a VXLAN packet");
    assert_eq!(outer.vni, VNI_ROUTED);
    assert_eq!(outer.inner.eth().destination, ROUTED.mac);
    assert_eq!(outer.inner.eth().source, world::gateway_mac(VNI_ROUTED));
    let (ip, _) = outer.inner.ip_packet().expect("an IPv4 packet");
    assert_eq!(ip.time_to_live, 63);
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
}

#[test]
fn arp_is_answered_for_whom_the_control_plane_knows() {
    let mut world = World::load();
    for known in [REMOTE, LOCAL, GATEWAY] {
        let run = world.run(program::FROM_ENDPOINT, &Frame::arp_request(ME, known.ip));
        assert_eq!((run.verdict, run.drops), (REDIRECT, vec![]), "{known:?}");
        let reply = run.frame.arp_packet().expect("an ARP packet");
        assert_eq!(reply.operation, ArpOperation::REPLY);
        assert_eq!((reply.sender_mac, Ipv4Addr::from(reply.sender_ipv4)), (known.mac, known.ip));
        assert_eq!((reply.target_mac, Ipv4Addr::from(reply.target_ipv4)), (ME.mac, ME.ip));
        assert_eq!((run.frame.eth().source, run.frame.eth().destination), (known.mac, ME.mac));
    }
}

#[test]
fn a_packet_over_the_mtu_comes_back_as_fragmentation_needed() {
    let mut world = World::load();
    let large = Frame::udp(ME, REMOTE, (4000, 5000), &vec![7; usize::from(MTU) - 27]);
    let run = world.run(program::FROM_ENDPOINT, &large);
    assert_eq!((run.verdict, run.drops), (REDIRECT, vec![(VNI, 1, TooBig, 1)]));
    let (ip, icmp, _) = run.frame.icmp_packet().expect("an ICMP message");
    assert_eq!((Ipv4Addr::from(ip.source), Ipv4Addr::from(ip.destination)), (GATEWAY.ip, ME.ip));
    assert_eq!(&icmp.to_bytes()[..2], &[3, 4]);
    assert_eq!(icmp.to_bytes()[6..8], MTU.to_be_bytes());
    let padded = udp(ME, REMOTE).padded(usize::from(MTU) + 15);
    assert_eq!(World::load().run(program::FROM_ENDPOINT, &padded).drops, [(VNI, 1, TooBig, 1)]);
    let fits = Frame::udp(ME, REMOTE, (4000, 5000), &vec![7; usize::from(MTU) - 28]);
    assert_eq!(World::load().run(program::FROM_ENDPOINT, &fits).drops, []);
}

fn arp_claim(sender: Addr) -> Frame {
    let claim = ArpEthIpv4Packet {
        operation: ArpOperation::REPLY,
        sender_mac: sender.mac,
        sender_ipv4: sender.ip.octets(),
        target_mac: LOCAL.mac,
        target_ipv4: LOCAL.ip.octets(),
    };
    Frame::arp(ME.mac, LOCAL.mac, claim)
}

#[rstest]
#[case::mac(udp(ME.behind(LOCAL.mac), REMOTE), SpoofedMac)]
#[case::ip(udp(Addr { ip: LOCAL.ip, ..ME }, REMOTE), SpoofedIp)]
#[case::arp_sender_ip(arp_claim(LOCAL.behind(ME.mac)), SpoofedArp)]
#[case::arp_sender_mac(arp_claim(ME.behind(LOCAL.mac)), SpoofedArp)]
#[case::arp_reply(arp_claim(ME), ArpUnanswered)]
#[case::arp_for_nobody(Frame::arp_request(ME, Ipv4Addr::new(10, 0, 0, 99)), ArpUnanswered)]
#[case::arp_for_oneself(Frame::arp_request(ME, ME.ip), ArpUnanswered)]
#[case::vlan(udp(ME, REMOTE).with_vlan_tag(0, 0x8100), VlanTagged)]
#[case::qinq(udp(ME, REMOTE).with_vlan_tag(0, 0x88a8), VlanTagged)]
#[case::ipv6(Frame::ethernet(ME.mac, REMOTE.mac, ether_type::IPV6.0, &[0x60; 64]), UnsupportedProtocol)]
#[case::broadcast(udp(ME, REMOTE.behind(BROADCAST)), Multicast)]
#[case::unknown_mac(udp(ME, REMOTE.behind([2, 9, 9, 9, 9, 9])), UnknownMac)]
#[case::ihl_too_small(udp(ME, REMOTE).put(14, &[0x44]), MalformedIp)]
#[case::version_six(udp(ME, REMOTE).put(14, &[0x65]), MalformedIp)]
#[case::total_length_too_large(udp(ME, REMOTE).put(16, &[0x05, 0xdc]), MalformedIp)]
#[case::total_length_too_small(udp(ME, REMOTE).put(16, &[0, 19]), MalformedIp)]
#[case::vxlan(Frame::udp(ME, REMOTE, (4000, VXLAN_PORT), b"inner"), NestedVxlan)]
#[case::vxlan_behind_ip_options(Frame::udp(ME, REMOTE, (4000, VXLAN_PORT), b"inner").with_ip_options(14), NestedVxlan)]
#[case::another_network(udp(ME, SEPARATE.behind(GATEWAY.mac)), PolicyDenied)]
#[case::no_network(udp(ME, Addr { mac: GATEWAY.mac, ip: Ipv4Addr::new(8, 8, 8, 8) }), NoRoute)]
#[case::nobody_there(udp(ME, Addr { mac: GATEWAY.mac, ip: Ipv4Addr::new(10, 0, 1, 99) }), UnknownDestination)]
fn what_a_container_may_not_send_is_dropped_and_counted_once(
    #[case] frame: Frame,
    #[case] reason: DropReason,
) {
    let run = World::load().run(program::FROM_ENDPOINT, &frame);
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 1, reason, 1)]));
    assert_eq!(run.stats.tx_packets, 0);
}

#[test]
fn a_device_without_a_record_sends_nothing() {
    let mut world = World::load();
    world.remove_endpoint();
    let run = world.run(program::FROM_ENDPOINT, &udp(ME, REMOTE));
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(0, 1, UnknownEndpoint, 1)]));
}

#[test]
fn a_vxlan_packet_from_a_member_becomes_the_containers_frame() {
    let inner = udp(REMOTE, ME);
    let run = World::load().run(program::FROM_UNDERLAY, &from_remote(&inner));
    assert_eq!((run.verdict, &run.frame, run.drops), (REDIRECT, &inner, vec![]));
    assert_eq!((run.stats.rx_packets, run.stats.rx_bytes), (1, inner.0.len() as u64));
}

#[test]
fn congestion_on_the_underlay_is_told_to_the_container() {
    let congested = |inner: Frame| from_remote(&inner).put(15, &[3]).edit_ip(14, |_| {});
    let ect = udp(REMOTE, ME).put(15, &[2]).edit_ip(14, |_| {});
    let run = World::load().run(program::FROM_UNDERLAY, &congested(ect));
    assert_eq!((run.verdict, run.drops), (REDIRECT, vec![]));
    let (ip, _) = run.frame.ip_packet().unwrap();
    assert_eq!((ip.ecn.value(), ip.header_checksum), (3, ip.calc_header_checksum()));

    let run = World::load().run(program::FROM_UNDERLAY, &congested(udp(REMOTE, ME)));
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 0, InnerNotEct, 1)]));
}

#[rstest]
#[case::not_ours_arp(Frame::arp_request(REMOTE_VTEP, LOCAL_VTEP.ip))]
#[case::not_our_address(Frame::vxlan(REMOTE_VTEP, OTHER_VTEP, VNI, &udp(REMOTE, ME)))]
#[case::not_our_device(Frame::vxlan(REMOTE_VTEP, LOCAL_VTEP.behind(OTHER_VTEP.mac), VNI, &udp(REMOTE, ME)))]
#[case::not_our_wire(from_remote(&udp(REMOTE, ME)).with_vlan_tag(0, 0x8100))]
#[case::not_our_port(Frame::udp(REMOTE_VTEP, LOCAL_VTEP, (4000, 53), &[0; 80]))]
#[case::tcp_to_our_port(Frame::tcp_syn(REMOTE_VTEP, LOCAL_VTEP, (4000, VXLAN_PORT)))]
fn what_is_no_vxlan_for_us_is_left_to_the_kernel(#[case] frame: Frame) {
    let run = World::load().run(program::FROM_UNDERLAY, &frame);
    assert_eq!((run.verdict, &run.frame, run.drops), (PASS, &frame, vec![]));
    let run = World::load().run(program::XDP_UNDERLAY, &frame);
    assert_eq!((run.verdict, &run.frame, run.drops), (XDP_PASS, &frame, vec![]));
}

fn hostile() -> Vec<(&'static str, Frame, u32, DropReason)> {
    let good = || from_remote(&udp(REMOTE, ME));
    let with = |inner: Frame| from_remote(&inner);
    vec![
        ("unknown VNI", Frame::vxlan(REMOTE_VTEP, LOCAL_VTEP, 999, &udp(REMOTE, ME)), 0, UnknownVni),
        ("VNI 0", Frame::vxlan(REMOTE_VTEP, LOCAL_VTEP, 0, &udp(REMOTE, ME)), 0, UnknownVni),
        ("unknown VTEP", Frame::vxlan(STRANGER_VTEP, LOCAL_VTEP, VNI, &udp(REMOTE, ME)), VNI, UnknownVtep),
        (
            "VTEP of another network",
            Frame::vxlan(OTHER_VTEP, LOCAL_VTEP, VNI, &udp(REMOTE, ME)),
            VNI,
            VtepNotMember,
        ),
        ("VNI flag clear", good().put(42, &[0]), 0, VxlanFlags),
        ("outer fragment", good().edit_ip(14, |ip| ip.more_fragments = true), 0, OuterFragment),
        ("outer options", good().with_ip_options(14), 0, OuterMalformed),
        ("outer header length 4", good().put(14, &[0x44]), 0, OuterMalformed),
        ("outer length beyond the packet", good().put(16, &[0x40, 0]), 0, OuterMalformed),
        ("UDP length that differs from IP's", good().put(38, &[0, 40]), 0, OuterMalformed),
        (
            "no VXLAN header",
            Frame::udp(REMOTE_VTEP, LOCAL_VTEP, (4000, VXLAN_PORT), &[8; 4]),
            0,
            OuterTruncated,
        ),
        ("inner VLAN", with(udp(REMOTE, ME).with_vlan_tag(0, 0x8100)), VNI, InnerVlanTagged),
        ("inner broadcast", with(udp(REMOTE, ME.behind(BROADCAST))), VNI, InnerMulticast),
        ("inner ARP", with(Frame::arp_request(REMOTE, ME.ip).put(0, &ME.mac)), VNI, InnerUnsupported),
        (
            "inner IPv6",
            with(Frame::ethernet(REMOTE.mac, ME.mac, ether_type::IPV6.0, &[0x60; 64])),
            VNI,
            InnerUnsupported,
        ),
        ("inner unknown MAC", with(udp(REMOTE, ME.behind([2, 9, 9, 9, 9, 9]))), VNI, InnerUnknownMac),
        ("inner MAC of another host", with(udp(ME, REMOTE)), VNI, InnerNotLocal),
        ("inner MAC of another network", with(udp(REMOTE, ROUTED)), VNI, InnerUnknownMac),
        ("VXLAN in VXLAN", with(Frame::udp(REMOTE, ME, (4000, VXLAN_PORT), b"x")), VNI, InnerNestedVxlan),
        ("inner header length 4", with(udp(REMOTE, ME).put(14, &[0x44])), VNI, InnerMalformed),
        ("inner length beyond the packet", with(udp(REMOTE, ME).put(16, &[0x40, 0])), VNI, InnerMalformed),
        ("inner Ethernet header cut", with(udp(REMOTE, ME).cut(13)), VNI, InnerTruncated),
        ("inner IP header cut", with(udp(REMOTE, ME).cut(33)), VNI, InnerTruncated),
    ]
}

#[test]
fn hostile_vxlan_is_dropped_and_counted_once_in_tc_and_in_both_xdp_modes_alike() {
    for (what, frame, vni, reason) in hostile() {
        let expected = vec![(vni, 0, reason, 1)];
        let run = World::load().run(program::FROM_UNDERLAY, &frame);
        assert_eq!((run.verdict, run.drops), (SHOT, expected.clone()), "{what}, tc");
        for flags in [0, FLAG_XDP_DECAP] {
            let mut world = World::load();
            world.set_flags(flags);
            let run = world.run(program::XDP_UNDERLAY, &frame);
            assert_eq!((run.verdict, run.drops), (XDP_DROP, expected.clone()), "{what}, XDP flags {flags}");
        }
    }
}

#[test]
fn xdp_in_filter_mode_leaves_good_packets_to_tc() {
    let frame = from_remote(&udp(REMOTE, ME));
    let run = World::load().run(program::XDP_UNDERLAY, &frame);
    assert_eq!((run.verdict, &run.frame, run.drops), (XDP_PASS, &frame, vec![]));
}

#[test]
fn xdp_in_decap_mode_delivers_all_but_tcp() {
    let mut world = World::load();
    world.set_flags(FLAG_XDP_DECAP);
    let inner = udp(REMOTE, ME);
    let run = world.run(program::XDP_UNDERLAY, &from_remote(&inner));
    assert_eq!((run.verdict, &run.frame, run.drops), (XDP_REDIRECT, &inner, vec![]));
    assert_eq!(run.stats.rx_packets, 1);
    let tcp = from_remote(&Frame::tcp_syn(REMOTE, ME, (4000, 80)));
    assert_eq!(world.run(program::XDP_UNDERLAY, &tcp).verdict, XDP_PASS);
    let icmp = from_remote(&Frame::ipv4(REMOTE, ME, ip_number::ICMP, &[8, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(world.run(program::XDP_UNDERLAY, &icmp).verdict, XDP_REDIRECT);
}

#[test]
fn a_packet_on_the_tunnel_device_without_tunnel_metadata_is_dropped() {
    let run = World::load().run(program::FROM_TUNNEL, &udp(REMOTE, ME));
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(0, 0, NotTunnelled, 1)]));
}
