//! How often a container may ask for names: the resolver is one for all, and its socket too. What is more is dropped
//! before it gets there, so that a container that floods slows nobody but itself.

use crate::assert_layout;

/// A packet for the resolver in so much time, in nanoseconds: a thousand a second.
const INTERVAL_NS: u64 = 1_000_000;
/// As many packets at once.
pub const BURST: u64 = 256;

/// Value of map `resolver_turns`, by ifindex of the host veth: what a container's packets have taken of its time. All
/// zero: nothing yet. The programs write it, on several CPUs at once where a container asks from several: they may count
/// two packets as one, never one as two.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResolverTurns {
    /// Up to when its time is taken, in nanoseconds of the monotonic clock.
    pub taken_until_ns: u64,
}
assert_layout!(ResolverTurns, size 8, taken_until_ns @ 0);

impl ResolverTurns {
    /// With one more packet, if it may come now. Time that was not used is kept for [`BURST`] packets and no more.
    #[inline(always)]
    #[must_use]
    pub const fn take(self, now_ns: u64) -> Option<Self> {
        let oldest = now_ns.saturating_sub(BURST * INTERVAL_NS);
        let from = if self.taken_until_ns > oldest { self.taken_until_ns } else { oldest };
        let taken_until_ns = from + INTERVAL_NS;
        if taken_until_ns <= now_ns { Some(Self { taken_until_ns }) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these packets, one each so many nanoseconds, come through.
    fn through(turns: &mut ResolverTurns, start: u64, packets: u64, gap: u64) -> u64 {
        let comes = |n: &u64| turns.take(start + n * gap).map(|next| *turns = next).is_some();
        (0..packets).filter(comes).count() as u64
    }

    #[test]
    fn a_burst_comes_through_then_a_thousand_a_second_and_after_a_rest_a_burst_again() {
        const SECOND: u64 = 1_000_000_000;
        let (start, mut turns) = (1000 * SECOND, ResolverTurns::default());
        assert_eq!(through(&mut turns, start, 10_000, 0), BURST);
        assert_eq!(through(&mut turns, start, 100_000, 10_000), 999, "in the second after it");
        assert_eq!(through(&mut turns, start + 10 * SECOND, 10_000, 0), BURST);
        assert_eq!(through(&mut turns, start + 20 * SECOND, 5_000, INTERVAL_NS), 5_000, "within its rate");
    }

    #[test]
    fn a_clock_that_has_just_begun_is_no_trouble() {
        assert_eq!(ResolverTurns::default().take(0), None);
        assert!(ResolverTurns::default().take(INTERVAL_NS).is_some());
    }
}
