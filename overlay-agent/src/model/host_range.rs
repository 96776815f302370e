//! The range that containers get their addresses on a host from.

use std::{fmt, str::FromStr};

use ipnet::Ipv4Net;
use serde_with::DeserializeFromStr;

/// A range with room for containers, small enough to be a part of what a host can route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, DeserializeFromStr)]
pub struct HostRange(Ipv4Net);

/// A text that is no such range.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is no range of host-local addresses: write a network such as 172.18.0.0/16, with a length from 8 to 28"
)]
pub struct InvalidHostRange(String);

impl HostRange {
    /// The range.
    #[must_use]
    pub fn net(self) -> Ipv4Net {
        self.0
    }
}

impl FromStr for HostRange {
    type Err = InvalidHostRange;
    fn from_str(text: &str) -> Result<Self, InvalidHostRange> {
        let net: Option<Ipv4Net> = text.parse().ok();
        let is_range = |net: &Ipv4Net| (8..=28).contains(&net.prefix_len()) && net.addr() == net.network();
        let is_unicast = |net: &Ipv4Net| !overlay_common::gateway::is_martian(net.addr().octets());
        net.filter(is_range).filter(is_unicast).map(Self).ok_or_else(|| InvalidHostRange(text.to_owned()))
    }
}

impl fmt::Display for HostRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::HostRange;

    #[test]
    fn a_range_is_a_unicast_network_of_a_fit_size() {
        for good in ["172.18.0.0/16", "10.0.0.0/8", "100.64.0.16/28"] {
            assert_eq!(good.parse::<HostRange>().map(|range| range.to_string()).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "172.18.0.0",
            "172.18.0.1/16",
            "10.0.0.0/7",
            "10.0.0.0/29",
            "127.0.0.0/8",
            "224.0.0.0/16",
            "::/16",
        ] {
            assert!(bad.parse::<HostRange>().is_err(), "{bad:?}");
        }
    }
}
