//! Rates of containers: what is more than them is dropped, and what has none is not asked.

use overlay_common::{
    abi::program,
    limit::{KEPT_NS, Limits},
    verdict::DropReason::{EgressLimit, IngressLimit},
};
use rstest::rstest;

use crate::{
    REDIRECT, SHOT, XDP_DROP, XDP_REDIRECT, from_remote, udp,
    world::{LOCAL, ME, REMOTE, VNI, World},
};

/// At this rate a packet of 49 bytes takes 49 ms.
const RATE: u64 = 1_000;
const PACKETS: u32 = 20;

#[rstest]
#[case::sent(program::FROM_ENDPOINT, Limits { egress_bytes_per_s: RATE, ingress_bytes_per_s: 0 }, EgressLimit)]
#[case::received_from_the_same_host(program::FROM_ENDPOINT, Limits { egress_bytes_per_s: 0, ingress_bytes_per_s: RATE }, IngressLimit)]
#[case::received_from_another(program::FROM_UNDERLAY, Limits { egress_bytes_per_s: 0, ingress_bytes_per_s: RATE }, IngressLimit)]
#[case::received_by_xdp(program::XDP_UNDERLAY, Limits { egress_bytes_per_s: 0, ingress_bytes_per_s: RATE }, IngressLimit)]
fn a_burst_passes_as_far_as_it_was_kept_for_and_the_rest_is_counted(
    #[case] program: &str,
    #[case] limits: Limits,
    #[case] reason: overlay_common::verdict::DropReason,
) {
    let mut world = World::load();
    world.set_flags(overlay_common::config::FLAG_XDP_DECAP);
    world.set_limits(limits);
    let frame = match program {
        program::FROM_ENDPOINT => udp(ME, LOCAL),
        _ => from_remote(&udp(REMOTE, ME)),
    };
    let runs: Vec<u32> = (0..PACKETS).map(|_| world.run(program, &frame).verdict).collect();
    let passed = runs.iter().filter(|verdict| [REDIRECT, XDP_REDIRECT].contains(verdict)).count() as u32;
    let refused = runs.iter().filter(|verdict| [SHOT, XDP_DROP].contains(verdict)).count() as u32;
    assert_eq!(passed + refused, PACKETS);
    let at_once = u32::try_from(KEPT_NS / 49_000_000).expect("a few");
    assert!((at_once..PACKETS / 2).contains(&passed), "{passed} of {PACKETS}");
    let counted = world.run(program, &frame).drops;
    assert!(
        matches!(counted[..], [(VNI, 1, counted, packets)] if counted == reason && packets >= u64::from(refused))
    );
}
