//! Wall-clock times in records: for people, and as hints.
//!
//! Clocks of hosts differ and jump, so nothing that could do harm is decided by them.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use serde_with::{DeserializeFromStr, SerializeDisplay};

/// Last second of the year 9999, the last that the text form can say.
const LAST: u64 = 253_402_300_799;

/// A moment, to the second, written as in RFC 3339: `2026-01-31T12:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, SerializeDisplay, DeserializeFromStr)]
pub struct Timestamp(u64);

/// A text that is no moment.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no time such as 2026-01-31T12:00:00Z")]
pub struct InvalidTimestamp(String);

impl Timestamp {
    /// The moment so many seconds after the beginning of 1970, or the last that can be written.
    #[must_use]
    pub fn from_unix(seconds: u64) -> Self {
        Self(seconds.min(LAST))
    }

    /// This host's clock.
    #[must_use]
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Seconds since the beginning of 1970.
    #[must_use]
    pub fn unix(self) -> u64 {
        self.0
    }

    /// How far apart two moments are, whichever is the earlier.
    #[must_use]
    pub fn distance(self, other: Self) -> Duration {
        Duration::from_secs(self.0.abs_diff(other.0))
    }

    /// This moment, so much earlier.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by.as_secs()))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self::from_unix(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(self.0);
        humantime::format_rfc3339_seconds(time).fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;
    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let time = humantime::parse_rfc3339(text).map_err(|_| InvalidTimestamp(text.to_owned()))?;
        Ok(time.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_written_as_in_rfc_3339() {
        let time = Timestamp::from_unix(1_769_860_800);
        assert_eq!(time.to_string(), "2026-01-31T12:00:00Z");
        assert_eq!(Timestamp::from_unix(u64::MAX).to_string(), "9999-12-31T23:59:59Z");
        let bad = "yesterday".parse::<Timestamp>().unwrap_err();
        assert_eq!(bad.to_string(), "\"yesterday\" is no time such as 2026-01-31T12:00:00Z");
    }

    #[test]
    fn a_distance_has_no_direction() {
        let [early, late] = [10, 70].map(Timestamp::from_unix);
        assert_eq!(
            (early.distance(late), late.distance(early)),
            (Duration::from_mins(1), Duration::from_mins(1))
        );
        assert_eq!(
            (late.before(Duration::from_mins(1)), early.before(Duration::MAX)),
            (early, Timestamp::from_unix(0))
        );
    }

    proptest! {
        #[test]
        fn times_round_trip(seconds in 0..=LAST) {
            let time = Timestamp::from_unix(seconds);
            prop_assert_eq!(time.to_string().parse(), Ok(time));
        }
    }
}
