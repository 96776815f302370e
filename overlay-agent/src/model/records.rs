//! What the store holds: one record type for each kind of key, as JSON.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use overlay_common::{abi, mac::Mac, vni::Vni};
use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};

use super::{ForeignId, Limits, Name, Owner, Publication, Timestamp};
use crate::paths;

/// The cluster itself. Its record is what tells a wiped store from an empty one, and one cluster's store from
/// another's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Random identity, given once by the first agent.
    pub id: String,
    /// When that was, in seconds since 1970.
    pub created_unix_s: u64,
    /// Version of the map layout of the agent that wrote it.
    pub abi: u32,
    /// How often the record was lost with the store and put back: agents that did not see the loss themselves
    /// learn of it from here.
    #[serde(default)]
    pub restored: u32,
}

impl ClusterRecord {
    /// The record of a new cluster.
    #[must_use]
    pub fn new(created: SystemTime) -> Self {
        let since_1970 = created.duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = format!("{:032x}", rand::random::<u128>());
        Self { id, created_unix_s: since_1970.as_secs(), abi: abi::VERSION, restored: 0 }
    }

    /// The record to put back after the store was wiped.
    #[must_use]
    pub fn restored(&self) -> Self {
        Self { restored: self.restored.saturating_add(1), abi: abi::VERSION, ..self.clone() }
    }
}

/// A network: one VNI, one subnet, isolated from every other unless a policy says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name, unique in the cluster.
    pub name: Name,
    /// Its VXLAN identifier, unique in the cluster.
    pub vni: Vni,
    /// The addresses of its containers. May overlap with another network's.
    pub subnet: Ipv4Net,
    /// The gateway's address, in the subnet.
    pub gateway: Ipv4Addr,
    /// Part of the subnet from which addresses are given; the whole subnet if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<Ipv4Net>,
    /// Its IPv6 part, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<NetworkIpv6>,
    /// Largest IP packet in bytes; if absent, what each host's underlay leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// No way to the outside world.
    #[serde(default)]
    pub internal: bool,
    /// Broadcast and multicast are copied to all members.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub multicast: bool,
    /// Free text of the user's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether endpoints may still be attached.
    #[serde(default)]
    pub state: NetworkState,
    /// Container engines that know it, by node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub engines: BTreeMap<Name, EngineNetwork>,
    /// Whether an engine had it made: then it goes with the last engine that asked for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made_by_engine: bool,
}

/// The IPv6 addresses of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkIpv6 {
    /// The addresses of its containers. May overlap with another network's.
    pub subnet: Ipv6Net,
    /// The gateway's address, in the subnet.
    pub gateway: Ipv6Addr,
}

impl Network {
    /// Its subnets of both families.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> + use<> {
        let ipv6 = self.ipv6.map(|ipv6| IpNet::V6(ipv6.subnet));
        [Some(IpNet::V4(self.subnet)), ipv6].into_iter().flatten()
    }

    /// An address of it with the prefix of its subnet.
    #[must_use]
    pub fn with_prefix(&self, ip: IpAddr) -> IpNet {
        let prefix_len = self.subnets().find(|net| net.contains(&ip)).map(|net| net.prefix_len());
        prefix_len.and_then(|len| IpNet::new(ip, len).ok()).unwrap_or(ip.into())
    }

    /// The gateway's hardware address, the same on every host.
    #[must_use]
    pub fn gateway_mac(&self) -> Mac {
        Mac::from_ipv4(self.gateway.octets())
    }
}

/// What a container engine knows a network by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineNetwork {
    /// The engine's own id of it; none if it was removed there, and is not to be made known there again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<ForeignId>,
    /// The id of its address pool, if the engine has its addresses from us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<ForeignId>,
    /// The same of its IPv6 addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_ipv6: Option<ForeignId>,
    /// Whether somebody asked for it there. Otherwise the agent made it known there, since it is on another host.
    #[serde(default)]
    pub asked: bool,
}

/// Life of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkState {
    /// In use.
    #[default]
    Active,
    /// Being removed: no new endpoints.
    Deleting,
}

/// Identity of an attachment: 16 hexadecimal digits, random, never reused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr)]
pub struct EndpointId(String);

/// A text that is no endpoint identity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no endpoint id: it has 16 hexadecimal digits")]
pub struct InvalidEndpointId(String);

impl EndpointId {
    /// A new identity.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{:016x}", rand::random::<u64>()))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Identities are found by their first digits: a device's name holds no more.
impl Borrow<str> for EndpointId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for EndpointId {
    type Err = InvalidEndpointId;
    fn from_str(text: &str) -> Result<Self, InvalidEndpointId> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 16 && text.bytes().all(digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidEndpointId(text.to_owned()))
        }
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One container's attachment to one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its identity.
    pub id: EndpointId,
    /// The network.
    pub network: Name,
    /// Its name, unique in the network.
    pub name: Name,
    /// Other names, each of which may be that of several endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Name>,
    /// Free text of the user's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The node that it runs on; [`Name::external`] if it is a machine without an agent.
    pub node: Name,
    /// Where packets for it go, if it is a machine without an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vtep: Option<Ipv4Addr>,
    /// Its address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address, if its network has IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Its hardware address.
    pub mac: Mac,
    /// Name of the interface in the container.
    pub ifname: String,
    /// Where its network namespace was when it was attached.
    pub netns: String,
    /// Ports of its node that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Publication>,
    /// The front end that had it made; nobody if it was attached by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// How fast it may send and receive.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
}

impl Endpoint {
    /// Whether it is a machine without an agent: no node's, and everybody's to keep.
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.vtep.is_some()
    }

    /// Its addresses of both families.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [Some(IpAddr::V4(self.ipv4)), self.ipv6.map(IpAddr::V6)].into_iter().flatten()
    }

    /// Whether it is its node itself.
    #[must_use]
    pub fn is_host_port(&self) -> bool {
        self.netns == paths::OWN_NETNS
    }
}

#[cfg(test)]
impl Endpoint {
    /// One with nothing but what it must have.
    pub(crate) fn sample(id: EndpointId, network: Name, name: Name, node: Name, ipv4: Ipv4Addr) -> Self {
        let mac = Mac::from_ipv4(ipv4.octets());
        let (ifname, netns) = ("eth0".to_owned(), String::new());
        let (aliases, labels, published, owner) = (Vec::new(), BTreeMap::new(), Vec::new(), None);
        Self {
            id,
            network,
            name,
            node,
            vtep: None,
            ipv4,
            ipv6: None,
            mac,
            ifname,
            netns,
            aliases,
            labels,
            published,
            owner,
            limits: Limits::default(),
        }
    }
}

/// A host of the cluster. The record stays when its agent stops, as its data path does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name, unique in the cluster.
    pub name: Name,
    /// Random identity of the agent's state directory: tells a node from another of the same name.
    pub id: String,
    /// Its VTEP address.
    pub vtep: Ipv4Addr,
    /// UDP port on which it receives VXLAN packets.
    pub vxlan_port: u16,
    /// Version of its agent.
    pub version: String,
    /// Rises by one at each registration: tells a node that came back from one that never left.
    #[serde(default)]
    pub epoch: u64,
    /// When this identity first registered under the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered: Option<Timestamp>,
    /// What its agent, or who took it out of the cluster, last said of its life.
    #[serde(default)]
    pub life: Life,
    /// When that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Since when it takes no new endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<Timestamp>,
}

/// What a node's record says of its life. Whether it lives just now its sign of life tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Life {
    /// It registered and did not say goodbye.
    #[default]
    Running,
    /// Its agent said goodbye. Its data path goes on.
    Stopped,
    /// It was away for too long, so its endpoints were collected. The record tells its agent, should it
    /// return, that this was no accident of the store.
    Collected,
    /// Somebody removed it, and its endpoints with it.
    Removed,
}

impl Life {
    /// Whether it was taken out of the cluster.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Collected | Self::Removed)
    }
}

/// A running agent's sign of life: vanishes with its lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAlive {
    /// The node's random identity.
    pub id: String,
}

/// A claim on an address of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Address {
    /// An endpoint has it.
    Held {
        /// That endpoint.
        endpoint: EndpointId,
    },
    /// A front end was given it for an endpoint that it is about to make: see [`crate::ipam::RESERVATION`].
    Reserved {
        /// The node on which that is.
        node: Name,
        /// When, by that node's clock.
        at: Timestamp,
    },
    /// An endpoint had it. It rests for a while; then the one released first is the first to be used again.
    Released {
        /// When, by the clock of the host that released it: a hint, see [`crate::ipam::Rest`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Timestamp>,
    },
}

/// Leave for one network's containers to send to another's. Absence means no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum Policy {
    /// Every packet.
    Allow,
}
