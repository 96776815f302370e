//! How fast an endpoint may send and receive.
//!
//! A bucket for each direction: what is more than the rate allows is dropped (policing). TCP finds the rate by that, as it
//! finds a bottleneck's; what it does not use while it recovers is kept for [`KEPT_NS`], so that on average it gets the rate.

use crate::{assert_layout, turns::Turns};

/// Value of map `limits`, by ifindex of the host veth. There is an entry if there is a limit; flags in `endpoints` and
/// `fdb` say so, that who has none pays for no look-up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes a second that the container may send; 0: any number.
    pub egress_bytes_per_s: u64,
    /// Bytes a second that it may receive; 0: any number.
    pub ingress_bytes_per_s: u64,
}
assert_layout!(Limits, size 16, egress_bytes_per_s @ 0, ingress_bytes_per_s @ 8);

/// In keys of map `limit_turns`: with this bit, what the container of a host veth receives; without it, what it sends.
pub const INGRESS: u32 = 1 << 31;

/// For how long what was not used is kept. A sender that lost a whole window waits for 200 ms at least (Linux,
/// `TCP_RTO_MIN`): with less, that time would be lost to it.
pub const KEPT_NS: u64 = 300_000_000;

/// With one more packet of so many bytes, if it may come now.
#[inline(always)]
#[must_use]
pub const fn take(turns: Turns, now_ns: u64, bytes: u64, bytes_per_s: u64) -> Option<Turns> {
    let cost_ns = bytes * 1_000_000_000 / bytes_per_s;
    // At a slow rate one large segment may take longer than what is kept.
    let kept_ns = if cost_ns > KEPT_NS { cost_ns } else { KEPT_NS };
    turns.take(now_ns, cost_ns, kept_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Bytes that come through in ten seconds, if a packet comes each `gap` nanoseconds.
    fn through(bytes: u64, bytes_per_s: u64, gap: u64) -> u64 {
        let (start, mut turns) = (1000 * SECOND, Turns::default());
        let comes = |at: &u64| take(turns, *at, bytes, bytes_per_s).map(|next| turns = next).is_some();
        (start..start + 10 * SECOND).step_by(gap as usize).filter(comes).count() as u64 * bytes
    }

    #[test]
    fn a_flood_gets_the_rate_and_once_what_was_kept() {
        for rate in [125_000, 12_500_000, 1_250_000_000] {
            let passed = through(1_500, rate, 1_000);
            let most = rate * 10 + rate * KEPT_NS / SECOND;
            assert!((most - 3_000..=most.min(1_500 * 10_000_000)).contains(&passed), "{passed} at {rate}");
        }
    }

    #[test]
    fn what_is_slower_than_the_rate_loses_nothing() {
        assert_eq!(through(1_500, 12_500_000, 200_000), 1_500 * 50_000);
    }

    #[test]
    fn a_segment_that_takes_longer_than_what_is_kept_passes_when_its_time_has_come() {
        assert_eq!(through(65_536, 125_000, 1_000_000) / 65_536, 20);
    }
}
