//! How fast an endpoint may send and receive.

use std::{fmt, num::NonZeroU64, str::FromStr};

use overlay_common::{
    endpoint::{FLAG_EGRESS_LIMIT, FLAG_INGRESS_LIMIT},
    limit,
};
use serde::{Deserialize, Serialize};

/// A rate in bits a second, at least [`Rate::LEAST`]. As text: `100mbit`, `1.5gbit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Rate(NonZeroU64);

/// What is no rate.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is no rate: write a number of bits a second with kbit, mbit or gbit behind it, from 8kbit to 10000gbit"
)]
pub struct InvalidRate(String);

const UNITS: [(&str, f64); 4] = [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9), ("bit", 1.0)];

impl Rate {
    /// A byte each millisecond.
    pub const LEAST: u64 = 8_000;
    /// Far beyond what a device carries, and far below what would overflow.
    pub const MOST: u64 = 10_000_000_000_000;

    /// Bytes a second.
    #[must_use]
    pub fn bytes_per_s(self) -> u64 {
        self.0.get() / 8
    }

    fn parse(text: &str) -> Option<u64> {
        let text = text.to_ascii_lowercase();
        let (number, unit) = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
        let is_plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let number: f64 = number.parse().ok().filter(|_| is_plain)?;
        // A float this large is no longer exact, and no rate either.
        Some((number * unit).round() as u64)
    }
}

impl TryFrom<u64> for Rate {
    type Error = InvalidRate;
    fn try_from(bits_per_s: u64) -> Result<Self, InvalidRate> {
        let rate =
            NonZeroU64::new(bits_per_s).filter(|rate| (Self::LEAST..=Self::MOST).contains(&rate.get()));
        rate.map(Self).ok_or_else(|| InvalidRate(bits_per_s.to_string()))
    }
}

impl From<Rate> for u64 {
    fn from(rate: Rate) -> Self {
        rate.0.get()
    }
}

impl FromStr for Rate {
    type Err = InvalidRate;
    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let rate = Self::parse(text).and_then(|bits_per_s| bits_per_s.try_into().ok());
        rate.ok_or_else(|| InvalidRate(text.to_owned()))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0.get();
        let (name, unit) = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000)]
            .into_iter()
            .find(|(_, unit)| bits.is_multiple_of(*unit))
            .unwrap_or(("bit", 1));
        f.pad(&format!("{}{name}", bits / unit))
    }
}

/// The limits of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// What it may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_bits_per_s: Option<Rate>,
    /// What it may receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_bits_per_s: Option<Rate>,
}

impl Limits {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What they mean for the endpoint's own record in the maps.
    #[must_use]
    pub fn flags(self) -> u16 {
        let flag = |rate: Option<Rate>, flag| rate.map_or(0, |_| flag);
        flag(self.egress_bits_per_s, FLAG_EGRESS_LIMIT) | flag(self.ingress_bits_per_s, FLAG_INGRESS_LIMIT)
    }

    /// As the programs need them.
    #[must_use]
    pub fn in_bytes(self) -> limit::Limits {
        let bytes = |rate: Option<Rate>| rate.map_or(0, Rate::bytes_per_s);
        limit::Limits {
            egress_bytes_per_s: bytes(self.egress_bits_per_s),
            ingress_bytes_per_s: bytes(self.ingress_bits_per_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("100mbit", 100_000_000, "100mbit")]
    #[case("1.5gbit", 1_500_000_000, "1500mbit")]
    #[case("1Gbit", 1_000_000_000, "1gbit")]
    #[case("64kbit", 64_000, "64kbit")]
    #[case("8001bit", 8_001, "8001bit")]
    fn a_rate_is_read_and_shown(#[case] text: &str, #[case] bits_per_s: u64, #[case] shown: &str) {
        let rate: Rate = text.parse().unwrap();
        assert_eq!((u64::from(rate), rate.to_string().as_str()), (bits_per_s, shown));
        assert_eq!(shown.parse(), Ok(rate));
    }

    #[rstest]
    fn anything_else_is_no_rate(
        #[values(
            "",
            "100",
            "mbit",
            "-1mbit",
            "0mbit",
            "7kbit",
            "1e3mbit",
            "100mbps",
            "infmbit",
            "99999gbit",
            "1..5mbit"
        )]
        text: &str,
    ) {
        assert_eq!(text.parse::<Rate>(), Err(InvalidRate(text.to_owned())));
    }
}
