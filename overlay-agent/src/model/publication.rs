//! Ports of a host that lead to ports of a container.

use std::{fmt, num::NonZeroU16, str::FromStr};

use serde::{Deserialize, Serialize};

/// A published port: `HOSTPORT:PORT[/tcp|udp]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Publication {
    /// Port of the host, on every address of it.
    pub host_port: NonZeroU16,
    /// Port of the container.
    pub port: NonZeroU16,
    /// Which of the two kinds of ports.
    pub protocol: Protocol,
}

/// A protocol that has ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its name, as users and nftables write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A text that is no published port.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is no published port: write HOSTPORT:PORT, then /tcp or /udp if need be, with ports from 1 to 65535"
)]
pub struct InvalidPublication(String);

impl Publication {
    /// Whether both want the same port of a host.
    #[must_use]
    pub fn clashes(&self, other: &Self) -> bool {
        (self.host_port, self.protocol) == (other.host_port, other.protocol)
    }

    fn parse(text: &str) -> Option<Self> {
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::default()),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return None,
        };
        let (host_port, port) = ports.split_once(':')?;
        let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let number = |text: &str| is_number(text).then(|| text.parse().ok()).flatten();
        Some(Self { host_port: number(host_port)?, port: number(port)?, protocol })
    }
}

impl FromStr for Publication {
    type Err = InvalidPublication;
    fn from_str(text: &str) -> Result<Self, InvalidPublication> {
        Self::parse(text).ok_or_else(|| InvalidPublication(text.to_owned()))
    }
}

impl fmt::Display for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}:{}/{}", self.host_port, self.port, self.protocol.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::Publication;

    #[test]
    fn the_protocol_is_tcp_unless_said_and_the_text_round_trips() {
        for (text, shown) in
            [("8080:80", "8080:80/tcp"), ("53:53/udp", "53:53/udp"), ("1:65535/tcp", "1:65535/tcp")]
        {
            let publication: Publication = text.parse().unwrap();
            assert_eq!(publication.to_string(), shown);
            assert_eq!(shown.parse(), Ok(publication));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "80",
            ":80",
            "80:",
            "0:80",
            "80:0",
            "65536:80",
            "80:80/sctp",
            "80:80/",
            "a:80",
            "+80:80",
            "1:2:3",
        ] {
            assert!(bad.parse::<Publication>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_port_of_the_host_can_be_published_once_for_each_protocol() {
        let publication = |text: &str| text.parse::<Publication>().unwrap();
        assert!(publication("80:80").clashes(&publication("80:8080")));
        assert!(!publication("80:80").clashes(&publication("80:80/udp")));
    }
}
