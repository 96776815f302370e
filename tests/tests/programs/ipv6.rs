//! IPv6 one packet at a time: what is bridged, routed and answered, and what may not pass.

use std::net::Ipv6Addr;

use etherparse::{Icmpv6Type, IpNumber, ip_number};
use overlay_common::{
    abi::program,
    config::FLAG_XDP_DECAP,
    verdict::DropReason::{self, *},
};
use overlay_tests::{
    packet::{Addr, BROADCAST, Frame, VXLAN_PORT},
    packet6::{ALL_NODES, ALL_ROUTERS, Addr6, fragment, padding},
};
use rstest::rstest;

use crate::{
    REDIRECT, SHOT, XDP_DROP, XDP_PASS, XDP_REDIRECT, from_remote,
    world::{GATEWAY, LOCAL, ME, MTU, REMOTE, ROUTED, Run, SEPARATE, VNI, VNI_ROUTED, World, gateway_mac},
};

/// An address of no network.
const NOWHERE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Who has no address yet.
const NOBODY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

fn me() -> Addr6 {
    ME.into()
}

fn udp(from: impl Into<Addr6>, to: impl Into<Addr6>) -> Frame {
    Frame::udp6(from.into(), to.into(), (4000, 5000), b"payload")
}

/// An end as a container sends to it: behind its gateway.
fn routed(to: Addr) -> Addr6 {
    Addr6::from(to).behind(GATEWAY.mac)
}

fn send(frame: &Frame) -> Run {
    World::with_ipv6().run(program::FROM_ENDPOINT, frame)
}

/// A UDP packet behind extension headers: the kind of the first, and all of them.
fn behind(extensions: &[u8], first: IpNumber, ports: (u16, u16)) -> Frame {
    let udp = Frame::udp6_payload(me(), REMOTE.into(), ports, b"payload");
    Frame::ipv6(me(), REMOTE.into(), first, 64, &[extensions, &udp].concat())
}

#[rstest]
#[case::udp(udp(ME, REMOTE))]
#[case::tcp(Frame::tcp6_syn(me(), REMOTE.into(), (4000, 80)))]
#[case::ping(Frame::echo6_request(me(), REMOTE.into(), b"ping"))]
#[case::link_local(udp(Addr6::link_local(ME), Addr6::link_local(REMOTE)))]
#[case::extension_header(behind(&padding(ip_number::UDP), ip_number::IPV6_DEST_OPTIONS, (4000, 5000)))]
#[case::first_fragment(behind(&fragment(ip_number::UDP, 0, true), ip_number::IPV6_FRAG, (4000, 5000)))]
#[case::later_fragment(behind(&fragment(ip_number::UDP, 9, false), ip_number::IPV6_FRAG, (4000, VXLAN_PORT)))]
fn a_packet_for_another_host_gets_the_outer_headers_of_its_vtep_and_arrives_as_it_was(#[case] frame: Frame) {
    let run = send(&frame);
    assert_eq!((run.verdict, run.drops), (REDIRECT, vec![]));
    let outer = run.frame.vxlan_packet().expect("a VXLAN packet");
    assert_eq!((outer.ip.header_checksum, outer.vni), (outer.ip.calc_header_checksum(), VNI));
    assert_eq!(usize::from(outer.ip.total_len), frame.0.len() + 36);
    assert_eq!(outer.inner, frame);
    assert_eq!((run.stats.tx_packets, run.stats.tx_bytes), (1, frame.0.len() as u64));
}

#[test]
fn congestion_bits_are_copied_outward() {
    let run = send(&udp(ME, REMOTE).put(15, &[0x20]));
    let outer = run.frame.vxlan_packet().expect("a VXLAN packet");
    assert_eq!((outer.ip.ecn.value(), outer.ip.header_checksum), (2, outer.ip.calc_header_checksum()));
}

#[test]
fn a_packet_for_a_neighbour_on_the_same_host_stays_as_it_is() {
    let frame = udp(ME, LOCAL);
    let run = send(&frame);
    assert_eq!((run.verdict, &run.frame, run.drops), (REDIRECT, &frame, vec![]));
}

#[test]
fn a_packet_to_a_network_that_policy_allows_is_routed_under_that_networks_vni() {
    let run = send(&udp(ME, routed(ROUTED)));
    assert_eq!((run.verdict, run.drops), (REDIRECT, vec![]));
    let outer = run.frame.vxlan_packet().expect("a VXLAN packet");
    assert_eq!(outer.vni, VNI_ROUTED);
    assert_eq!(outer.inner.eth().destination, ROUTED.mac);
    assert_eq!(outer.inner.eth().source, gateway_mac(VNI_ROUTED));
    let (ip, _) = outer.inner.ipv6_packet().expect("an IPv6 packet");
    assert_eq!((ip.hop_limit, Ipv6Addr::from(ip.destination)), (63, ROUTED.ipv6()));
}

#[rstest]
#[case::remote(REMOTE, REMOTE.ipv6(), 0x60)]
#[case::local(LOCAL, LOCAL.ipv6(), 0x60)]
#[case::gateway(GATEWAY, GATEWAY.ipv6(), 0xe0)]
#[case::link_local(REMOTE, REMOTE.link_local(), 0x60)]
#[case::link_local_of_the_gateway(GATEWAY, GATEWAY.link_local(), 0xe0)]
fn neighbours_are_answered_for_whom_the_control_plane_knows(
    #[case] owner: Addr,
    #[case] target: Ipv6Addr,
    #[case] flags: u8,
) {
    for from in [me(), Addr6::link_local(ME)] {
        let question = Frame::neighbour_solicitation(from, Addr6::solicited_node(target), target);
        // Some ask with one more option, some without any.
        let short = Frame::icmp6(from, owner.into(), Icmpv6Type::NeighborSolicitation, &target.octets());
        for question in [question.clone(), question.padded(120), short] {
            let run = send(&question);
            assert_eq!((run.verdict, run.drops), (REDIRECT, vec![]));
            assert_eq!((run.frame.eth().source, run.frame.eth().destination), (owner.mac, ME.mac));
            let (ip, icmp) = run.frame.icmp6_packet().expect("an ICMPv6 message");
            assert_eq!((Ipv6Addr::from(ip.source), Ipv6Addr::from(ip.destination)), (target, from.ip));
            assert_eq!((icmp.slice()[0], icmp.slice()[4], ip.hop_limit), (136, flags, 255));
            assert_eq!(icmp.slice()[8..], [&target.octets()[..], &[2, 1], &owner.mac].concat());
        }
    }
}

#[test]
fn who_asks_whether_anothers_address_is_free_learns_that_it_is_not() {
    let probe =
        Frame::neighbour_solicitation(me().at(NOBODY), Addr6::solicited_node(REMOTE.ipv6()), REMOTE.ipv6());
    let run = send(&probe);
    assert_eq!((run.verdict, run.drops), (REDIRECT, vec![]));
    assert_eq!(run.frame.eth().destination, ALL_NODES.mac);
    let (ip, icmp) = run.frame.icmp6_packet().expect("an ICMPv6 message");
    assert_eq!((Ipv6Addr::from(ip.destination), icmp.slice()[0], icmp.slice()[4]), (ALL_NODES.ip, 136, 0x20));
}

#[test]
fn the_gateway_answers_ping() {
    for (from, gateway) in
        [(me(), GATEWAY.ipv6()), (Addr6::link_local(ME), GATEWAY.link_local()), (me(), GATEWAY.link_local())]
    {
        let run = send(&Frame::echo6_request(from, routed(GATEWAY).at(gateway), b"ping"));
        assert_eq!((run.verdict, run.drops), (REDIRECT, vec![]));
        let (ip, icmp) = run.frame.icmp6_packet().expect("an ICMPv6 message");
        assert_eq!((Ipv6Addr::from(ip.source), Ipv6Addr::from(ip.destination)), (gateway, from.ip));
        assert_eq!((icmp.slice()[0], &icmp.slice()[8..]), (129, &b"ping"[..]));
        assert_eq!((run.frame.eth().source, run.frame.eth().destination), (GATEWAY.mac, ME.mac));
    }
}

#[rstest]
#[case::too_big(Frame::udp6(me(), REMOTE.into(), (4000, 5000), &vec![7; usize::from(MTU) - 47]), TooBig, [2, 0], u32::from(MTU))]
#[case::hop_limit(udp(ME, routed(ROUTED)).put(21, &[1]), TtlExceeded, [3, 0], 0)]
#[case::no_route(udp(ME, routed(REMOTE).at(NOWHERE)), NoRoute, [1, 0], 0)]
fn a_packet_that_cannot_go_on_comes_back_with_the_reason(
    #[case] frame: Frame,
    #[case] reason: DropReason,
    #[case] kind: [u8; 2],
    #[case] word: u32,
) {
    let run = send(&frame);
    assert_eq!((run.verdict, run.drops), (REDIRECT, vec![(VNI, 1, reason, 1)]));
    let (ip, icmp) = run.frame.icmp6_packet().expect("an ICMPv6 message");
    assert_eq!((Ipv6Addr::from(ip.source), Ipv6Addr::from(ip.destination)), (GATEWAY.ipv6(), ME.ipv6()));
    assert_eq!((&icmp.slice()[..2], &icmp.slice()[4..8]), (&kind[..], &word.to_be_bytes()[..]));
    let quoted = frame.0.len().min(14 + 104) - 14;
    assert_eq!(icmp.slice()[8..8 + quoted], frame.0[14..14 + quoted]);
}

#[test]
fn nobody_answers_an_error_with_another() {
    let error = Icmpv6Type::Unknown { type_u8: 1, code_u8: 0, bytes5to8: [0; 4] };
    let run = send(&Frame::icmp6(me(), routed(REMOTE).at(NOWHERE), error, &[0; 48]));
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 1, NoRoute, 1)]));
}

#[test]
fn a_packet_of_the_mtu_passes() {
    let fits = Frame::udp6(me(), REMOTE.into(), (4000, 5000), &vec![7; usize::from(MTU) - 48]);
    assert_eq!(send(&fits).drops, []);
}

fn claim(from: Addr6, target: Ipv6Addr) -> Frame {
    Frame::neighbour_advertisement(from, ALL_NODES, target)
}

/// A router advertisement behind a header that hides it.
fn hidden_router_advertisement() -> Frame {
    let plain = Frame::router_advertisement(Addr6::link_local(ME), LOCAL.into());
    let (_, message) = plain.ipv6_packet().unwrap();
    let payload = [&padding(ip_number::IPV6_ICMP), message].concat();
    Frame::ipv6(Addr6::link_local(ME), LOCAL.into(), ip_number::IPV6_HEADER_HOP_BY_HOP, 255, &payload)
}

fn icmp(kind: u8, to: Addr6) -> Frame {
    let kind = Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0; 4] };
    Frame::icmp6(Addr6::link_local(ME), to, kind, &[0; 32])
}

#[rstest]
#[case::mac(udp(me().behind(LOCAL.mac), REMOTE), SpoofedMac)]
#[case::ip(udp(me().at(LOCAL.ipv6()), REMOTE), SpoofedIp)]
#[case::link_local(udp(me().at(LOCAL.link_local()), REMOTE), SpoofedIp)]
#[case::no_address(udp(me().at(NOBODY), REMOTE), SpoofedIp)]
#[case::mapped_ipv4(udp(me().at(ME.ip.to_ipv6_mapped()), REMOTE), SpoofedIp)]
#[case::vlan(udp(ME, REMOTE).with_vlan_tag(0, 0x8100), VlanTagged)]
#[case::advertisement_for_another(claim(me(), LOCAL.ipv6()), SpoofedNd)]
#[case::advertisement_for_the_gateway(claim(Addr6::link_local(ME), GATEWAY.link_local()), SpoofedNd)]
#[case::advertisement_as_another(claim(me().at(LOCAL.ipv6()), ME.ipv6()), SpoofedNd)]
#[case::advertisement_for_oneself(claim(me(), ME.ipv6()), NdUnanswered)]
#[case::solicitation_as_another(Frame::neighbour_solicitation(me().at(LOCAL.ipv6()), Addr6::solicited_node(REMOTE.ipv6()), REMOTE.ipv6()), SpoofedNd)]
#[case::solicitation_for_nobody(
    Frame::neighbour_solicitation(me(), Addr6::solicited_node(NOWHERE), NOWHERE),
    NdUnanswered
)]
#[case::solicitation_for_nobodys_link_local(Frame::neighbour_solicitation(me(), ALL_NODES, me().behind([2; 6]).at("fe80::1:2ff:fe03:4".parse().unwrap()).ip), NdUnanswered)]
#[case::solicitation_for_another_network(Frame::neighbour_solicitation(me(), Addr6::solicited_node(ROUTED.ipv6()), ROUTED.ipv6()), NdUnanswered)]
#[case::probe_for_oneself(Frame::neighbour_solicitation(me().at(NOBODY), Addr6::solicited_node(ME.ipv6()), ME.ipv6()), NdUnanswered)]
#[case::solicitation_from_another_link(Frame::neighbour_solicitation(me(), Addr6::solicited_node(REMOTE.ipv6()), REMOTE.ipv6()).put(21, &[254]), NdUnanswered)]
#[case::router_advertisement(
    Frame::router_advertisement(Addr6::link_local(ME), ALL_NODES),
    RouterAdvertisement
)]
#[case::router_advertisement_to_one(Frame::router_advertisement(Addr6::link_local(ME), LOCAL.into()), RouterAdvertisement)]
#[case::router_advertisement_in_hiding(hidden_router_advertisement(), RouterAdvertisement)]
#[case::router_solicitation(icmp(133, ALL_ROUTERS), RouterSolicitation)]
#[case::redirect(icmp(137, LOCAL.into()), NdRedirect)]
#[case::listener_report(icmp(143, ALL_ROUTERS), MulticastListener)]
#[case::listener_query(icmp(130, ALL_NODES), MulticastListener)]
#[case::multicast(udp(ME, ALL_NODES), Multicast)]
#[case::multicast_to_one(udp(me(), ALL_NODES.behind(LOCAL.mac)), Multicast)]
#[case::broadcast(udp(me(), Addr6::from(REMOTE).behind(BROADCAST)), Multicast)]
#[case::unknown_mac(udp(me(), Addr6::from(REMOTE).behind([2, 9, 9, 9, 9, 9])), UnknownMac)]
#[case::version_four(udp(ME, REMOTE).put(14, &[0x40]), MalformedIp)]
#[case::payload_longer_than_the_frame(udp(ME, REMOTE).put(18, &[0, 200]), MalformedIp)]
#[case::payload_ends_in_an_extension(behind(&padding(ip_number::UDP), ip_number::IPV6_DEST_OPTIONS, (4000, 5000)).put(18, &[0, 4]), MalformedIp)]
#[case::cut_in_an_extension(Frame(behind(&padding(ip_number::UDP), ip_number::IPV6_DEST_OPTIONS, (4000, 5000)).0[..58].to_vec()).put(18, &[0, 4]), Truncated)]
#[case::vxlan(Frame::udp6(me(), REMOTE.into(), (4000, VXLAN_PORT), b"inner"), NestedVxlan)]
#[case::vxlan_behind_an_extension(behind(&padding(ip_number::UDP), ip_number::IPV6_DEST_OPTIONS, (4000, VXLAN_PORT)), NestedVxlan)]
#[case::vxlan_in_a_first_fragment(behind(&fragment(ip_number::UDP, 0, true), ip_number::IPV6_FRAG, (4000, VXLAN_PORT)), NestedVxlan)]
#[case::five_extensions(behind(&[[60, 0, 1, 4, 0, 0, 0, 0].repeat(4), padding(ip_number::UDP).to_vec()].concat(), ip_number::IPV6_DEST_OPTIONS, (4000, 5000)), ExtensionHeaders)]
#[case::long_extension(behind(&[&[17, 36, 1, 4][..], &[0; 292]].concat(), ip_number::IPV6_DEST_OPTIONS, (4000, 5000)), ExtensionHeaders)]
#[case::another_network(udp(ME, routed(SEPARATE)), PolicyDenied)]
#[case::nobody_there(udp(ME, routed(ROUTED).at("fd00:1::99".parse().unwrap())), UnknownDestination)]
#[case::martian(udp(ME, routed(REMOTE).at(Ipv6Addr::LOCALHOST)), Martian)]
#[case::mapped_destination(udp(ME, routed(REMOTE).at(REMOTE.ip.to_ipv6_mapped())), Martian)]
#[case::link_local_elsewhere(udp(ME, routed(REMOTE).at(REMOTE.link_local())), Martian)]
fn what_a_container_may_not_send_is_dropped_and_counted_once(
    #[case] frame: Frame,
    #[case] reason: DropReason,
) {
    let run = send(&frame);
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 1, reason, 1)]));
    assert_eq!(run.stats.tx_packets, 0);
}

#[test]
fn a_vxlan_packet_from_a_member_becomes_the_containers_frame() {
    for inner in [udp(REMOTE, ME), Frame::tcp6_syn(REMOTE.into(), me(), (4000, 80))] {
        let run = World::with_ipv6().run(program::FROM_UNDERLAY, &from_remote(&inner));
        assert_eq!((run.verdict, &run.frame, run.drops), (REDIRECT, &inner, vec![]));
        assert_eq!((run.stats.rx_packets, run.stats.rx_bytes), (1, inner.0.len() as u64));
    }
}

#[test]
fn xdp_delivers_what_is_not_tcp() {
    let mut world = World::with_ipv6();
    world.set_flags(FLAG_XDP_DECAP);
    let run = world.run(program::XDP_UNDERLAY, &from_remote(&udp(REMOTE, ME)));
    assert_eq!((run.verdict, &run.frame), (XDP_REDIRECT, &udp(REMOTE, ME)));
    let tcp = from_remote(&Frame::tcp6_syn(REMOTE.into(), me(), (4000, 80)));
    assert_eq!(world.run(program::XDP_UNDERLAY, &tcp).verdict, XDP_PASS);
}

#[test]
fn congestion_on_the_underlay_is_told_to_the_container() {
    let congested = |inner: Frame| from_remote(&inner).put(15, &[3]).edit_ip(14, |_| {});
    let run = World::with_ipv6().run(program::FROM_UNDERLAY, &congested(udp(REMOTE, ME).put(15, &[0x20])));
    assert_eq!((run.verdict, run.drops), (REDIRECT, vec![]));
    assert_eq!(run.frame.0[15] & 0x30, 0x30);
    let run = World::with_ipv6().run(program::FROM_UNDERLAY, &congested(udp(REMOTE, ME)));
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 0, InnerNotEct, 1)]));
}

#[rstest]
#[case::advertisement(Frame::neighbour_advertisement(REMOTE.into(), me(), LOCAL.ipv6()), InnerNd)]
#[case::solicitation(Frame::neighbour_solicitation(REMOTE.into(), me(), ME.ipv6()), InnerNd)]
#[case::router_advertisement(Frame::router_advertisement(Addr6::link_local(REMOTE), me()), InnerNd)]
#[case::multicast_to_one(udp(REMOTE, ALL_NODES.behind(ME.mac)), InnerMulticast)]
#[case::multicast(udp(REMOTE, ALL_NODES), InnerMulticast)]
#[case::version_four(udp(REMOTE, ME).put(14, &[0x40]), InnerMalformed)]
#[case::payload_longer_than_the_frame(udp(REMOTE, ME).put(18, &[0, 200]), InnerMalformed)]
#[case::cut_in_the_header(Frame(udp(REMOTE, ME).0[..50].to_vec()), InnerTruncated)]
#[case::vxlan(Frame::udp6(REMOTE.into(), me(), (4000, VXLAN_PORT), b"inner"), InnerNestedVxlan)]
#[case::vxlan_behind_an_extension(behind(&padding(ip_number::UDP), ip_number::IPV6_DEST_OPTIONS, (1, VXLAN_PORT)).put(0, &ME.mac), InnerNestedVxlan)]
#[case::long_extension(behind(&[&[17, 36, 1, 4][..], &[0; 292]].concat(), ip_number::IPV6_DEST_OPTIONS, (1, 2)).put(0, &ME.mac), InnerExtensionHeaders)]
#[case::somebody_elses(udp(REMOTE, Addr6::from(REMOTE)), InnerNotLocal)]
fn what_a_member_may_not_send_is_dropped_and_counted_once_in_every_mode(
    #[case] inner: Frame,
    #[case] reason: DropReason,
) {
    let frame = from_remote(&inner);
    let run = World::with_ipv6().run(program::FROM_UNDERLAY, &frame);
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 0, reason, 1)]));
    let run = World::with_ipv6().run(program::XDP_UNDERLAY, &frame);
    assert_eq!((run.verdict, run.drops), (XDP_DROP, vec![(VNI, 0, reason, 1)]));
}

#[test]
fn a_network_without_ipv6_takes_none() {
    let run = World::load().run(program::FROM_UNDERLAY, &from_remote(&udp(REMOTE, ME)));
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 0, InnerUnsupported, 1)]));
}
