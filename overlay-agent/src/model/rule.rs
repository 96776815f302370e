//! Rules: what of one network's traffic another one takes.

use std::{collections::BTreeMap, fmt, num::NonZeroU32, str::FromStr};

use overlay_common::{policy::MAX_RULES, wire::headers::ip_proto};
use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};

/// Free text on endpoints: key and value.
pub type Labels = BTreeMap<String, String>;

/// A rule of one direction, as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// What it allows.
    #[serde(flatten)]
    pub allows: Allowance,
    /// Its place among the rules of its direction, for as long as it is there.
    pub slot: Slot,
    /// It is tried: what no rule of its direction allows is counted and passes. So are all rules of the direction then.
    #[serde(default)]
    pub audit: bool,
}

/// Which flows a rule allows to open. What answers them comes back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// By protocol and port.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Labels that the sender must have, all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub from_labels: Labels,
    /// Labels that the receiver must have, all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub to_labels: Labels,
}

/// Whether something with these labels has all that are asked for.
#[must_use]
pub fn has_labels(labels: &Labels, asked: &Labels) -> bool {
    asked.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A kind of traffic. Ports are for protocols that have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "TrafficRecord", into = "TrafficRecord")]
pub enum Traffic {
    /// Every protocol.
    #[default]
    Any,
    /// ICMP queries: ping. Errors belong to the flow that they are about.
    Icmp,
    /// TCP, to any port or to some.
    Tcp(Option<Ports>),
    /// UDP, to any port or to some.
    Udp(Option<Ports>),
}

/// A protocol that rules can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RuleProtocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// ICMP
    Icmp,
}

/// Ports without a protocol that has any.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a port needs a protocol that has ports: add --proto tcp or --proto udp")]
pub struct PortsWithoutProtocol;

impl Traffic {
    /// The traffic of this protocol, if any, to these ports, if any.
    ///
    /// # Errors
    /// If there are ports where the protocol has none.
    pub fn new(protocol: Option<RuleProtocol>, ports: Option<Ports>) -> Result<Self, PortsWithoutProtocol> {
        match (protocol, ports) {
            (None, None) => Ok(Self::Any),
            (Some(RuleProtocol::Icmp), None) => Ok(Self::Icmp),
            (Some(RuleProtocol::Tcp), ports) => Ok(Self::Tcp(ports)),
            (Some(RuleProtocol::Udp), ports) => Ok(Self::Udp(ports)),
            (None | Some(RuleProtocol::Icmp), Some(_)) => Err(PortsWithoutProtocol),
        }
    }

    /// Its protocol; none if it is any.
    #[must_use]
    pub const fn protocol(self) -> Option<RuleProtocol> {
        match self {
            Self::Any => None,
            Self::Icmp => Some(RuleProtocol::Icmp),
            Self::Tcp(_) => Some(RuleProtocol::Tcp),
            Self::Udp(_) => Some(RuleProtocol::Udp),
        }
    }

    /// Its ports; none if they are any, or if there is no such thing.
    #[must_use]
    pub const fn ports(self) -> Option<Ports> {
        match self {
            Self::Any | Self::Icmp => None,
            Self::Tcp(ports) | Self::Udp(ports) => ports,
        }
    }

    /// Number of its protocol, 0 for any.
    #[must_use]
    pub const fn protocol_number(self) -> u8 {
        match self {
            Self::Any => 0,
            Self::Icmp => ip_proto::ICMP,
            Self::Tcp(_) => ip_proto::TCP,
            Self::Udp(_) => ip_proto::UDP,
        }
    }
}

/// `any`, `icmp`, `tcp`, `tcp 5432`.
impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Any => "any",
            Self::Icmp => "icmp",
            Self::Tcp(_) => "tcp",
            Self::Udp(_) => "udp",
        };
        match self.ports() {
            None => f.pad(name),
            Some(ports) => f.pad(&format!("{name} {ports}")),
        }
    }
}

/// How traffic is written.
#[derive(Serialize, Deserialize)]
struct TrafficRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proto: Option<RuleProtocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ports: Option<Ports>,
}

impl TryFrom<TrafficRecord> for Traffic {
    type Error = PortsWithoutProtocol;
    fn try_from(TrafficRecord { proto, ports }: TrafficRecord) -> Result<Self, PortsWithoutProtocol> {
        Self::new(proto, ports)
    }
}

impl From<Traffic> for TrafficRecord {
    fn from(traffic: Traffic) -> Self {
        Self { proto: traffic.protocol(), ports: traffic.ports() }
    }
}

/// A port, or all from one to another: `N` or `N-M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, SerializeDisplay, DeserializeFromStr)]
pub struct Ports {
    first: u16,
    last: u16,
}

/// A text that names no ports.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no port and no range of ports: write N or N-M, from 1 to 65535, the lower one first")]
pub struct InvalidPorts(String);

impl Ports {
    /// The lowest.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    fn parse(text: &str) -> Option<Self> {
        let number =
            |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last)?);
        (0 < first && first <= last).then_some(Self { first, last })
    }
}

impl FromStr for Ports {
    type Err = InvalidPorts;
    fn from_str(text: &str) -> Result<Self, InvalidPorts> {
        Self::parse(text).ok_or_else(|| InvalidPorts(text.to_owned()))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A rule's place among those of its direction: which bit stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "usize", into = "usize")]
pub struct Slot(u8);

/// A number that is no slot.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0} is no slot: a direction has {MAX_RULES}")]
pub struct InvalidSlot(usize);

impl Slot {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..MAX_RULES).filter_map(|slot| Self::try_from(slot).ok())
    }

    /// Its place in a set.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// As the maps write it.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Its bit in a word.
    #[must_use]
    pub fn bit(self) -> u32 {
        1 << self.0
    }
}

impl TryFrom<usize> for Slot {
    type Error = InvalidSlot;
    fn try_from(slot: usize) -> Result<Self, InvalidSlot> {
        let number = u8::try_from(slot).map_err(|_| InvalidSlot(slot))?;
        if slot < MAX_RULES { Ok(Self(number)) } else { Err(InvalidSlot(slot)) }
    }
}

impl From<Slot> for usize {
    fn from(slot: Slot) -> Self {
        slot.index()
    }
}

/// Identity of a rule: eight hexadecimal digits, random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr)]
pub struct RuleId(NonZeroU32);

/// A text that is no rule's identity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no id of a rule: it has 8 hexadecimal digits, see `overlay policy ls`")]
pub struct InvalidRuleId(String);

impl RuleId {
    /// A new identity.
    #[must_use]
    pub fn random() -> Self {
        Self(NonZeroU32::new(rand::random()).unwrap_or(NonZeroU32::MIN))
    }

    /// As a number, never 0.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl FromStr for RuleId {
    type Err = InvalidRuleId;
    fn from_str(text: &str) -> Result<Self, InvalidRuleId> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let is_id = text.len() == 8 && text.bytes().all(digit);
        let number = is_id.then(|| u32::from_str_radix(text, 16).ok()).flatten().and_then(NonZeroU32::new);
        number.map(Self).ok_or_else(|| InvalidRuleId(text.to_owned()))
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:08x}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn ports(text: &str) -> Option<Ports> {
        Some(text.parse().unwrap())
    }

    #[rstest]
    #[case("1")]
    #[case("5432")]
    #[case("1-65535")]
    fn ports_round_trip(#[case] text: &str) {
        assert_eq!(text.parse::<Ports>().unwrap().to_string(), text);
    }

    #[rstest]
    fn anything_else_names_no_ports(
        #[values("", "0", "65536", "5-4", "0-4", "-", "4-", "-4", "+4", "4-5-6", "http", " 4")] text: &str,
    ) {
        assert!(text.parse::<Ports>().is_err());
    }

    #[rstest]
    #[case::any(Traffic::Any, json!({}), "any")]
    #[case::icmp(Traffic::Icmp, json!({"proto": "icmp"}), "icmp")]
    #[case::tcp(Traffic::Tcp(None), json!({"proto": "tcp"}), "tcp")]
    #[case::port(Traffic::Tcp(ports("80")), json!({"proto": "tcp", "ports": "80"}), "tcp 80")]
    #[case::range(Traffic::Udp(ports("53-54")), json!({"proto": "udp", "ports": "53-54"}), "udp 53-54")]
    fn a_rule_is_written_and_read_back(
        #[case] traffic: Traffic,
        #[case] written: serde_json::Value,
        #[case] shown: &str,
    ) {
        let from_labels = Labels::from([("app".to_owned(), "web".to_owned())]);
        let allows = Allowance { traffic, from_labels, to_labels: Labels::new() };
        let rule = Rule { allows, slot: 31.try_into().unwrap(), audit: true };
        let mut record = json!({"from_labels": {"app": "web"}, "slot": 31, "audit": true});
        record.as_object_mut().unwrap().extend(written.as_object().unwrap().clone());
        assert_eq!(serde_json::to_value(&rule).unwrap(), record);
        assert_eq!(serde_json::from_value::<Rule>(record).unwrap(), rule);
        assert_eq!(traffic.to_string(), shown);
    }

    #[rstest]
    #[case::ports_without_protocol(json!({"ports": "80", "slot": 0}))]
    #[case::ports_of_icmp(json!({"proto": "icmp", "ports": "80", "slot": 0}))]
    #[case::no_slot(json!({"proto": "tcp"}))]
    #[case::slot_too_high(json!({"proto": "tcp", "slot": 32}))]
    #[case::unknown_protocol(json!({"proto": "sctp", "slot": 0}))]
    fn what_is_no_rule_is_not_read(#[case] record: serde_json::Value) {
        assert!(serde_json::from_value::<Rule>(record).is_err());
    }

    #[rstest]
    fn ids_round_trip_and_nothing_else_is_one(
        #[values("", "0", "00000000", "1234567", "123456789", "ABCDEF01", "1234567g")] bad: &str,
    ) {
        let id = RuleId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(bad.parse::<RuleId>().is_err());
    }

    #[test]
    fn all_labels_that_are_asked_for_must_be_there() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let web = labels(&[("app", "web"), ("tier", "1")]);
        assert!(has_labels(&web, &labels(&[])) && has_labels(&web, &labels(&[("app", "web")])));
        assert!(!has_labels(&web, &labels(&[("app", "db")])) && !has_labels(&web, &labels(&[("x", "1")])));
    }
}
