//! A way to another host that is narrower than the underlay device.

use overlay_common::{
    abi::program,
    verdict::DropReason::{PathTooBig, TooBig},
};
use overlay_tests::packet::Frame;

use crate::{
    REDIRECT,
    world::{GATEWAY, LOCAL, ME, MTU, REMOTE, ROUTED, VNI, World},
};

const PATH: u16 = 1400;

fn narrow() -> World {
    let mut world = World::with_ipv6();
    world.narrow_path(PATH);
    world
}

#[test]
fn what_is_too_big_for_it_comes_back_with_the_size_that_passes() {
    for to in [REMOTE, ROUTED.behind(GATEWAY.mac)] {
        let large = Frame::udp(ME, to, (4000, 5000), &vec![7; usize::from(PATH) - 27]);
        let run = narrow().run(program::FROM_ENDPOINT, &large);
        assert_eq!((run.verdict, run.drops), (REDIRECT, vec![(VNI, 1, PathTooBig, 1)]));
        let (ip, icmp, _) = run.frame.icmp_packet().expect("an ICMP message");
        assert_eq!((ip.source, ip.destination), (GATEWAY.ip.octets(), ME.ip.octets()));
        assert_eq!((&icmp.to_bytes()[..2], &icmp.to_bytes()[6..8]), (&[3, 4][..], &PATH.to_be_bytes()[..]));
    }
    let large = Frame::udp6(ME.into(), REMOTE.into(), (4000, 5000), &vec![7; usize::from(PATH) - 47]);
    let run = narrow().run(program::FROM_ENDPOINT, &large);
    assert_eq!((run.verdict, run.drops), (REDIRECT, vec![(VNI, 1, PathTooBig, 1)]));
    let (_, icmp) = run.frame.icmp6_packet().expect("an ICMPv6 message");
    assert_eq!((&icmp.slice()[..2], &icmp.slice()[4..8]), (&[2, 0][..], &u32::from(PATH).to_be_bytes()[..]));
}

#[test]
fn what_fits_passes_and_what_stays_on_the_host_is_not_asked() {
    let fits = [
        Frame::udp(ME, REMOTE, (4000, 5000), &vec![7; usize::from(PATH) - 28]),
        Frame::udp6(ME.into(), REMOTE.into(), (4000, 5000), &vec![7; usize::from(PATH) - 48]),
        Frame::udp(ME, LOCAL, (4000, 5000), &vec![7; usize::from(MTU) - 28]),
    ];
    for frame in fits {
        let run = narrow().run(program::FROM_ENDPOINT, &frame);
        assert_eq!((run.verdict, run.drops), (REDIRECT, vec![]));
    }
    let larger = Frame::udp(ME, REMOTE, (4000, 5000), &vec![7; usize::from(MTU) - 27]);
    assert_eq!(narrow().run(program::FROM_ENDPOINT, &larger).drops, [(VNI, 1, TooBig, 1)]);
}
