//! What two ends agree on as they open a TCP connection: a segment size that the way between them takes.

use etherparse::{TcpHeader, TcpOptionElement};
use overlay_common::abi::program;
use overlay_tests::packet::Frame;
use rstest::rstest;

use crate::world::{LOCAL, ME, REMOTE, World};

/// A segment with these options, behind 40 bytes of IPv4 or 60 of IPv6 headers and TCP's own an MTU of 1450 leaves less than
/// most of them ask for.
fn header(options: &[u8], ack: bool) -> TcpHeader {
    let mut tcp = TcpHeader::new(4000, 80, 1, 64_000);
    (tcp.syn, tcp.ack) = (true, ack);
    tcp.set_options_raw(options).expect("options that fit");
    tcp
}

fn mss(tcp: &TcpHeader) -> Option<u16> {
    tcp.options_iterator().flatten().find_map(|option| match option {
        TcpOptionElement::MaximumSegmentSize(mss) => Some(mss),
        _ => None,
    })
}

/// The TCP header of a frame with IP header of so many bytes, whose checksum has to be right.
#[track_caller]
fn tcp_of(frame: &Frame, ip_len: usize) -> TcpHeader {
    let ip = &frame.0[14..14 + ip_len];
    let (tcp, rest) = TcpHeader::from_slice(&frame.0[14 + ip_len..]).expect("a TCP segment");
    let (source, destination) =
        if ip_len == 20 { (&ip[12..16], &ip[16..20]) } else { (&ip[8..24], &ip[24..40]) };
    let checksum = match ip_len {
        20 => tcp.calc_checksum_ipv4_raw(source.try_into().unwrap(), destination.try_into().unwrap(), rest),
        _ => tcp.calc_checksum_ipv6_raw(source.try_into().unwrap(), destination.try_into().unwrap(), rest),
    };
    assert_eq!(tcp.checksum, checksum.expect("a segment that fits"), "the checksum");
    tcp
}

#[rstest]
#[case::first(&[2, 4, 5, 180], Some(1410))]
#[case::at_an_odd_place(&[1, 2, 4, 5, 180, 0, 0, 0], Some(1410))]
#[case::behind_others(&[3, 3, 7, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, 0xff, 0xff, 0], Some(1410))]
#[case::small_enough(&[2, 4, 5, 130], Some(1410))]
#[case::smaller(&[2, 4, 2, 24], Some(536))]
#[case::not_said(&[4, 2, 0, 0], None)]
#[case::behind_the_end(&[0, 0, 0, 0, 2, 4, 5, 180], None)]
#[case::option_without_a_length(&[3, 0, 2, 4, 5, 180, 0, 0], None)]
fn a_segment_size_is_lowered_to_what_fits(
    #[case] options: &[u8],
    #[case] wanted: Option<u16>,
    #[values(false, true)] ack: bool,
) {
    for to in [REMOTE, LOCAL] {
        let frame = Frame::tcp(ME, to, header(options, ack), b"");
        let run = World::load().run(program::FROM_ENDPOINT, &frame);
        assert_eq!(run.drops, []);
        let inner =
            if to == REMOTE { run.frame.vxlan_packet().expect("a VXLAN packet").inner } else { run.frame };
        let tcp = tcp_of(&inner, 20);
        let end = options.len();
        let expected = mss(&tcp);
        // What follows an end of options, or lies, is nobody's to read.
        assert_eq!(expected, wanted);
        if wanted.is_none() || wanted != Some(1410) {
            assert_eq!(inner, frame, "{end}");
        }
    }
}

#[test]
fn on_a_narrow_way_it_is_what_that_takes() {
    let mut world = World::load();
    world.narrow_path(1400);
    let frame = Frame::tcp(ME, REMOTE, header(&[2, 4, 5, 180], false), b"");
    let inner = world.run(program::FROM_ENDPOINT, &frame).frame.vxlan_packet().expect("a VXLAN packet").inner;
    assert_eq!(mss(&tcp_of(&inner, 20)), Some(1360));
    let near = Frame::tcp(ME, LOCAL, header(&[2, 4, 5, 180], false), b"");
    assert_eq!(mss(&tcp_of(&world.run(program::FROM_ENDPOINT, &near).frame, 20)), Some(1410));
}

#[test]
fn over_ipv6_it_is_what_the_longer_header_leaves() {
    let frame = Frame::tcp6(ME.into(), REMOTE.into(), header(&[2, 4, 5, 180], false));
    let run = World::with_ipv6().run(program::FROM_ENDPOINT, &frame);
    assert_eq!(run.drops, []);
    let inner = run.frame.vxlan_packet().expect("a VXLAN packet").inner;
    assert_eq!(mss(&tcp_of(&inner, 40)), Some(1390));
}

#[test]
fn a_segment_that_opens_nothing_stays_as_it_is() {
    let mut tcp = header(&[2, 4, 5, 180], true);
    tcp.syn = false;
    let frame = Frame::tcp(ME, REMOTE, tcp, b"data");
    let run = World::load().run(program::FROM_ENDPOINT, &frame);
    assert_eq!(run.frame.vxlan_packet().expect("a VXLAN packet").inner, frame);
}
