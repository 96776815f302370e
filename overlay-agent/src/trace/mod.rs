//! What would become of a packet from one endpoint to another, as far as one host sees it: what `overlay trace` shows.
//!
//! * [`packet`]: packets that nobody sends, and what the programs make of them
//! * [`causes`]: what stops them, and what to do about it
//!
//! The programs themselves are asked ([`datapath::trial`](crate::datapath::trial)); who asks, and what else is looked at
//! on the host, is the service's part.

pub mod causes;
pub mod packet;

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

pub use self::causes::Cause;
use crate::{
    api::types::DropView,
    model::{Name, RuleProtocol},
};

/// `POST /v1/trace`: what would become of a packet. Nothing is sent, changed or counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// Network of the sender.
    pub network: Name,
    /// Name of the sender in it.
    pub from: Name,
    /// The receiver: the name of an endpoint, or an address.
    pub to: String,
    /// Protocol of the packet, ICMP if left out.
    #[serde(default)]
    pub proto: Option<RuleProtocol>,
    /// Its destination port.
    #[serde(default)]
    pub port: Option<u16>,
    /// Length of the IP packet in bytes; as small as can be if left out.
    #[serde(default)]
    pub size: Option<u16>,
}

/// What a packet met, and where it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceView {
    /// The host that looked.
    pub host: Name,
    /// Address of the receiver.
    pub to: Ipv4Addr,
    /// What the packet met, in order.
    pub steps: Vec<Step>,
    /// Where it ended, as far as this host sees.
    pub end: End,
    /// The node that it was sent to: the same, asked there, says what comes then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Name>,
    /// What stopped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// What was dropped so far of what the sender sent, where it is on this host.
    pub dropped: Vec<DropView>,
}

/// One thing that a packet met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Where: `sender`, `receiver`, `arp`, `from_endpoint`, `underlay`, `from_underlay`.
    pub place: String,
    /// What was found there.
    pub found: String,
}

/// Where a packet ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Something stopped it.
    Stopped,
    /// It is in the receiver's hands.
    Delivered,
    /// It is on the wire to another host.
    Sent,
    /// It is with this host's own stack: routes, packet filter and masquerading decide.
    ToHost,
    /// The gateway answers it itself.
    Answered,
}
