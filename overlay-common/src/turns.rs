//! Taking turns: how much one sender may take of something that all share. What is more is dropped before it gets there, so
//! that who floods slows nobody but itself.

use crate::assert_layout;

/// What a sender has taken, as the time that this takes. All zero: nothing yet. The programs write it, on several CPUs at
/// once where one sends from several: they may count two packets as one, never one as two.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// Up to when its time is taken, in nanoseconds of the monotonic clock.
    pub taken_until_ns: u64,
}
assert_layout!(Turns, size 8, taken_until_ns @ 0);

impl Turns {
    /// With one more packet that takes `cost_ns`, if it may come now. Time that was not used is kept, up to `kept_ns`.
    #[inline(always)]
    #[must_use]
    pub const fn take(self, now_ns: u64, cost_ns: u64, kept_ns: u64) -> Option<Self> {
        let oldest = now_ns.saturating_sub(kept_ns);
        let from = if self.taken_until_ns > oldest { self.taken_until_ns } else { oldest };
        let taken_until_ns = from + cost_ns;
        if taken_until_ns <= now_ns { Some(Self { taken_until_ns }) } else { None }
    }
}

/// So many packets a second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Time that one packet takes, in nanoseconds.
    pub interval_ns: u64,
    /// As many packets at once.
    pub burst: u64,
}

impl Pace {
    /// With one more packet, if it may come now.
    #[inline(always)]
    #[must_use]
    pub const fn take(&self, turns: Turns, now_ns: u64) -> Option<Turns> {
        turns.take(now_ns, self.interval_ns, self.burst * self.interval_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { interval_ns: 1_000_000, burst: 256 };

    /// How many of these packets, one each so many nanoseconds, come through.
    fn through(turns: &mut Turns, start: u64, packets: u64, gap: u64) -> u64 {
        let comes = |n: &u64| PACE.take(*turns, start + n * gap).map(|next| *turns = next).is_some();
        (0..packets).filter(comes).count() as u64
    }

    #[test]
    fn a_burst_comes_through_then_a_thousand_a_second_and_after_a_rest_a_burst_again() {
        const SECOND: u64 = 1_000_000_000;
        let (start, mut turns) = (1000 * SECOND, Turns::default());
        assert_eq!(through(&mut turns, start, 10_000, 0), PACE.burst);
        assert_eq!(through(&mut turns, start, 100_000, 10_000), 999, "in the second after it");
        assert_eq!(through(&mut turns, start + 10 * SECOND, 10_000, 0), PACE.burst);
        assert_eq!(
            through(&mut turns, start + 20 * SECOND, 5_000, PACE.interval_ns),
            5_000,
            "within its rate"
        );
    }

    #[test]
    fn a_clock_that_has_just_begun_is_no_trouble() {
        assert_eq!(PACE.take(Turns::default(), 0), None);
        assert!(PACE.take(Turns::default(), PACE.interval_ns).is_some());
    }
}
