//! The gateway one packet at a time: what leaves for the host's stack, what comes back from it, and what the gateway
//! says by itself.

use std::{net::Ipv4Addr, time::Instant};

use etherparse::{Icmpv4Type, TcpSlice, ip_number};
use overlay_common::{
    abi::program,
    resolver::PACE,
    verdict::DropReason::{self, *},
};
use overlay_tests::packet::{Addr, Frame, offset};
use rstest::rstest;

use crate::{
    REDIRECT, SHOT,
    world::{
        AGENT, GATEWAY, GATEWAY_DEVICE_MAC, ME, MY_HOST_ADDR, OTHER_HOST_ADDR, ROUTED, Run, SEPARATE, VNI,
        World,
    },
};

const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const RESOLVER: u16 = 53;

/// An address as a container sends to it: behind its gateway.
fn via_gateway(ip: Ipv4Addr) -> Addr {
    Addr { mac: GATEWAY.mac, ip }
}

/// An address as the host's stack sends from or to it.
fn on_host(ip: Ipv4Addr) -> Addr {
    Addr { mac: GATEWAY_DEVICE_MAC, ip }
}

fn leave(frame: &Frame) -> Run {
    World::with_gateway().run(program::FROM_ENDPOINT, frame)
}

fn arrive(frame: &Frame) -> Run {
    World::with_gateway().run(program::FROM_HOST, frame)
}

/// Addresses of the frame's IPv4 header, every checksum of which has to be right.
#[track_caller]
fn checked(frame: &Frame) -> (Ipv4Addr, Ipv4Addr) {
    let (ip, payload) = frame.ip_packet().expect("an IPv4 packet");
    assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IPv4 checksum");
    match (ip.protocol, ip.is_fragmenting_payload()) {
        (ip_number::UDP, false) => {
            let (_, udp, data) = frame.udp_packet().expect("a UDP packet");
            let right = udp.calc_checksum_ipv4(&ip, data).expect("a UDP checksum");
            assert!(udp.checksum == 0 || udp.checksum == right, "UDP checksum");
        }
        (ip_number::TCP, false) => {
            let tcp = TcpSlice::from_slice(payload).expect("a TCP segment");
            let right = tcp.calc_checksum_ipv4(ip.source, ip.destination).expect("a TCP checksum");
            assert_eq!(tcp.checksum(), right, "TCP checksum");
        }
        (ip_number::ICMP, false) => {
            let (_, icmp, data) = frame.icmp_packet().expect("an ICMP message");
            assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(data), "ICMP checksum");
        }
        _ => {}
    }
    (ip.source.into(), ip.destination.into())
}

/// An ICMP error about a packet.
fn port_unreachable(from: Addr, to: Addr, about: &Frame) -> Frame {
    let (_, quote) = about.0.split_at(offset::IP);
    let kind = Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
    let header = etherparse::Icmpv4Header::with_checksum(kind, quote);
    Frame::ipv4(from, to, ip_number::ICMP, &[&header.to_bytes(), quote].concat())
}

#[track_caller]
fn quoted(frame: &Frame) -> (Ipv4Addr, Ipv4Addr) {
    let (_, _, quote) = frame.icmp_packet().expect("an ICMP message");
    let (ip, _) = etherparse::Ipv4Header::from_slice(quote).expect("a quoted header");
    assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "checksum of the quoted header");
    (ip.source.into(), ip.destination.into())
}

#[rstest]
#[case::udp(Frame::udp(ME, via_gateway(WORLD), (4000, 5000), b"payload"))]
#[case::udp_without_checksum(Frame::udp(ME, via_gateway(WORLD), (4000, 5000), b"x").edit_udp(offset::UDP, |udp| udp.checksum = 0))]
#[case::tcp(Frame::tcp_syn(ME, via_gateway(WORLD), (4000, 80)))]
#[case::tcp_behind_options(Frame::tcp_syn(ME, via_gateway(WORLD), (4000, 80)).with_ip_options(offset::IP))]
#[case::icmp(Frame::echo_request(ME, via_gateway(WORLD), 7, b"ping"))]
#[case::later_fragment(Frame::udp(ME, via_gateway(WORLD), (4000, 5000), b"payload").edit_ip(offset::IP, |ip| ip.fragment_offset = 3.try_into().unwrap()))]
#[case::host_itself(Frame::tcp_syn(ME, via_gateway(crate::LOCAL_VTEP.ip), (4000, 22)))]
fn what_is_for_no_network_goes_to_the_host_from_the_containers_host_local_address(#[case] frame: Frame) {
    let run = leave(&frame);
    assert_eq!((run.verdict, &run.drops), (REDIRECT, &vec![]));
    let (ip, payload) = frame.ip_packet().unwrap();
    assert_eq!(checked(&run.frame), (MY_HOST_ADDR, ip.destination.into()));
    assert_eq!((run.frame.eth().source, run.frame.eth().destination), (GATEWAY.mac, GATEWAY_DEVICE_MAC));
    let (rewritten, rest) = run.frame.ip_packet().unwrap();
    assert_eq!(
        (rewritten.time_to_live, rest.len()),
        (ip.time_to_live, payload.len()),
        "the host takes the hop"
    );
    let had_none = frame.udp_packet().is_some_and(|(_, udp, _)| udp.checksum == 0);
    assert_eq!(run.frame.udp_packet().is_some_and(|(_, udp, _)| udp.checksum == 0), had_none);
    assert_eq!((run.stats.tx_packets, run.stats.tx_bytes), (1, frame.0.len() as u64));
}

#[test]
fn what_the_gateway_is_asked_reaches_the_agent_under_an_address_that_tells_who_asks() {
    for frame in
        [Frame::udp(ME, GATEWAY, (4000, RESOLVER), b"name?"), Frame::tcp_syn(ME, GATEWAY, (4000, RESOLVER))]
    {
        let run = leave(&frame);
        assert_eq!((run.verdict, &run.drops), (REDIRECT, &vec![]));
        assert_eq!(checked(&run.frame), (MY_HOST_ADDR, AGENT));
    }
}

#[test]
fn what_the_agent_answers_comes_from_the_gateway() {
    let run = arrive(&Frame::udp(on_host(AGENT), on_host(MY_HOST_ADDR), (RESOLVER, 4000), b"name!"));
    assert_eq!((run.verdict, &run.drops), (REDIRECT, &vec![]));
    assert_eq!(checked(&run.frame), (GATEWAY.ip, ME.ip));
}

#[rstest]
#[case::udp(Frame::udp(on_host(WORLD), on_host(MY_HOST_ADDR), (5000, 4000), b"payload"))]
#[case::tcp(Frame::tcp_syn(on_host(WORLD), on_host(MY_HOST_ADDR), (4000, 80)))]
#[case::icmp(Frame::echo_request(on_host(WORLD), on_host(MY_HOST_ADDR), 7, b"ping"))]
fn what_the_host_sends_to_a_host_local_address_reaches_its_container(#[case] frame: Frame) {
    let run = arrive(&frame);
    assert_eq!((run.verdict, &run.drops), (REDIRECT, &vec![]));
    assert_eq!(checked(&run.frame), (WORLD, ME.ip), "the client's address is kept");
    assert_eq!((run.frame.eth().source, run.frame.eth().destination), (GATEWAY.mac, ME.mac));
    assert_eq!((run.stats.rx_packets, run.stats.rx_bytes), (1, frame.0.len() as u64));
}

#[test]
fn errors_quote_packets_as_their_receivers_know_them() {
    let sent = Frame::udp(on_host(MY_HOST_ADDR), on_host(WORLD), (4000, 5000), b"payload");
    let run = arrive(&port_unreachable(on_host(WORLD), on_host(MY_HOST_ADDR), &sent));
    assert_eq!((run.verdict, checked(&run.frame)), (REDIRECT, (WORLD, ME.ip)));
    assert_eq!(quoted(&run.frame), (ME.ip, WORLD));

    let received = Frame::udp(via_gateway(WORLD), ME, (5000, 4000), b"payload");
    let run = leave(&port_unreachable(ME, via_gateway(WORLD), &received));
    assert_eq!((run.verdict, checked(&run.frame)), (REDIRECT, (MY_HOST_ADDR, WORLD)));
    assert_eq!(quoted(&run.frame), (WORLD, MY_HOST_ADDR));
}

#[rstest]
#[case::its_own_host_local(MY_HOST_ADDR, HostLocal)]
#[case::anothers_host_local(OTHER_HOST_ADDR, HostLocal)]
#[case::the_agents(AGENT, HostLocal)]
#[case::loopback(Ipv4Addr::LOCALHOST, Martian)]
#[case::multicast(Ipv4Addr::new(224, 0, 0, 1), Martian)]
#[case::broadcast(Ipv4Addr::BROADCAST, Martian)]
#[case::this_network(Ipv4Addr::UNSPECIFIED, Martian)]
#[case::another_network(SEPARATE.ip, PolicyDenied)]
fn what_may_not_reach_the_host_is_dropped_and_counted_once(#[case] to: Ipv4Addr, #[case] reason: DropReason) {
    let run = leave(&Frame::udp(ME, via_gateway(to), (4000, 5000), b"payload"));
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 1, reason, 1)]));
    assert_eq!(run.stats.tx_packets, 0);
}

#[test]
fn a_host_local_address_as_source_is_as_forged_as_any_other() {
    let run = leave(&Frame::udp(Addr { ip: OTHER_HOST_ADDR, ..ME }, via_gateway(WORLD), (1, 2), b"x"));
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 1, SpoofedIp, 1)]));
}

#[rstest]
#[case::to_nobody(OTHER_HOST_ADDR, WORLD, (0, 0, HostUnknown))]
#[case::from_another_container(MY_HOST_ADDR, OTHER_HOST_ADDR, (VNI, 1, HostSpoofed))]
fn what_the_host_may_not_send_is_dropped_and_counted_once(
    #[case] to: Ipv4Addr,
    #[case] from: Ipv4Addr,
    #[case] (vni, ifindex, reason): (u32, u32, DropReason),
) {
    let run = arrive(&Frame::udp(on_host(from), on_host(to), (1, 2), b"payload"));
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(vni, ifindex, reason, 1)]));
}

#[test]
fn what_is_no_ipv4_packet_of_the_hosts_is_dropped() {
    let good = Frame::udp(on_host(WORLD), on_host(MY_HOST_ADDR), (1, 2), b"payload");
    for bad in [
        Frame::arp_request(on_host(AGENT), MY_HOST_ADDR),
        good.clone().put(14, &[0x44]),
        good.put(16, &[9, 9]),
    ] {
        let run = arrive(&bad);
        assert_eq!((run.verdict, run.drops), (SHOT, vec![(0, 0, HostMalformed, 1)]), "{bad:?}");
    }
}

#[test]
fn containers_of_an_internal_network_reach_names_and_nothing_else() {
    let internal = || {
        let mut world = World::with_gateway();
        world.make_internal();
        world
    };
    let out = |frame: &Frame| internal().run(program::FROM_ENDPOINT, frame);
    let back = |frame: &Frame| internal().run(program::FROM_HOST, frame);
    assert_eq!(out(&Frame::udp(ME, GATEWAY, (4000, RESOLVER), b"name?")).verdict, REDIRECT);
    assert_eq!(out(&Frame::tcp_syn(ME, GATEWAY, (4000, RESOLVER))).verdict, REDIRECT);
    assert_eq!(out(&Frame::echo_request(ME, GATEWAY, 7, b"ping")).verdict, REDIRECT);
    assert_eq!(
        back(&Frame::udp(on_host(AGENT), on_host(MY_HOST_ADDR), (RESOLVER, 4000), b"!")).verdict,
        REDIRECT
    );
    for to in [GATEWAY.ip, WORLD, MY_HOST_ADDR] {
        let run = out(&Frame::tcp_syn(ME, via_gateway(to), (4000, 22)));
        assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 1, InternalNetwork, 1)]), "{to}");
    }
    let dns_elsewhere = out(&Frame::udp(ME, via_gateway(WORLD), (4000, RESOLVER), b"name?"));
    assert_eq!((dns_elsewhere.verdict, dns_elsewhere.drops), (SHOT, vec![(VNI, 1, InternalNetwork, 1)]));
    for (from, port) in [(AGENT, 22), (WORLD, RESOLVER)] {
        let run = back(&Frame::udp(on_host(from), on_host(MY_HOST_ADDR), (port, 4000), b"x"));
        assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 1, HostInternal, 1)]), "{from}:{port}");
    }
}

/// Runs a packet until it is dropped; how often it was not.
fn runs_until_dropped(world: &mut World, frame: &Frame) -> u64 {
    let is_let_through = |_: &u64| world.run(program::FROM_ENDPOINT, frame).verdict == REDIRECT;
    (0..100_000).take_while(is_let_through).count() as u64
}

#[test]
fn a_container_that_asks_too_often_is_not_heard_and_everything_else_of_its_passes() {
    let mut world = World::with_gateway();
    let query = Frame::udp(ME, GATEWAY, (4000, RESOLVER), b"name?");
    let start = Instant::now();
    let heard = runs_until_dropped(&mut world, &query);
    let most = PACE.burst + u64::try_from(start.elapsed().as_millis()).expect("not that long") + 1;
    assert!((PACE.burst..=most).contains(&heard), "{heard} of at most {most}");
    let run = world.run(program::FROM_ENDPOINT, &Frame::echo_request(ME, GATEWAY, 7, b"ping"));
    assert_eq!((run.verdict, run.drops), (REDIRECT, vec![(VNI, 1, ResolverFlood, 1)]));

    let fragment =
        |offset: u16| query.clone().edit_ip(offset::IP, |ip| ip.fragment_offset = offset.try_into().unwrap());
    let first = query.clone().edit_ip(offset::IP, |ip| ip.more_fragments = true);
    for other in [Frame::tcp_syn(ME, GATEWAY, (4000, RESOLVER)), first, fragment(3)] {
        assert!(runs_until_dropped(&mut world, &other) < PACE.burst, "{other:?}");
    }
    for free in [
        Frame::udp(ME, GATEWAY, (4000, 5000), b"x"),
        Frame::udp(ME, via_gateway(WORLD), (4000, RESOLVER), b"x"),
    ] {
        for _ in 0..2 * PACE.burst {
            assert_eq!(world.run(program::FROM_ENDPOINT, &free).verdict, REDIRECT, "{free:?}");
        }
    }
}

#[test]
fn a_host_without_a_gateway_sends_nothing_to_its_stack() {
    let run = World::load().run(program::FROM_ENDPOINT, &Frame::udp(ME, via_gateway(WORLD), (1, 2), b"x"));
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(VNI, 1, NoRoute, 1)]));
    let run = World::load()
        .run(program::FROM_HOST, &Frame::udp(on_host(WORLD), on_host(MY_HOST_ADDR), (1, 2), b"x"));
    assert_eq!((run.verdict, run.drops), (SHOT, vec![(0, 0, HostUnknown, 1)]));
}

#[test]
fn the_gateway_answers_ping_by_itself() {
    let run = World::load().run(program::FROM_ENDPOINT, &Frame::echo_request(ME, GATEWAY, 7, b"ping"));
    assert_eq!((run.verdict, &run.drops), (REDIRECT, &vec![]));
    assert_eq!(checked(&run.frame), (GATEWAY.ip, ME.ip));
    assert_eq!((run.frame.eth().source, run.frame.eth().destination), (GATEWAY.mac, ME.mac));
    let (_, icmp, payload) = run.frame.icmp_packet().unwrap();
    let Icmpv4Type::EchoReply(echo) = icmp.icmp_type else { panic!("{icmp:?} is no answer") };
    assert_eq!((echo.id, echo.seq, payload), (7, 1, &b"ping"[..]));
}

#[test]
fn a_packet_whose_life_ends_at_the_gateway_is_answered_and_counted() {
    let dying = Frame::udp(ME, ROUTED.behind(GATEWAY.mac), (4000, 33434), &[7; 64]);
    let run = World::load().run(program::FROM_ENDPOINT, &dying.edit_ip(offset::IP, |ip| ip.time_to_live = 1));
    assert_eq!((run.verdict, run.drops), (REDIRECT, vec![(VNI, 1, TtlExceeded, 1)]));
    assert_eq!(checked(&run.frame), (GATEWAY.ip, ME.ip));
    let (_, icmp, _) = run.frame.icmp_packet().unwrap();
    assert!(matches!(icmp.icmp_type, Icmpv4Type::TimeExceeded(_)), "{icmp:?}");
    assert_eq!(quoted(&run.frame), (ME.ip, ROUTED.ip));
}
