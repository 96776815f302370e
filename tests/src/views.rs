//! What the command line prints with `-o json`: the fields that a user's script would read.
//!
//! Written apart from the agent's own types, so that a field cannot change its name unnoticed.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Deserialize;

use crate::{
    packet::{Addr, mac_from_text},
    packet6::Addr6,
};

/// `overlay network inspect`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// VXLAN network identifier.
    pub vni: u32,
    /// Subnet in CIDR form.
    pub subnet: String,
    /// The gateway.
    pub gateway: Ipv4Addr,
    /// IPv6 subnet in CIDR form, if it has one.
    #[serde(default)]
    pub ipv6_subnet: Option<String>,
    /// The gateway's IPv6 address.
    #[serde(default)]
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// Largest IP packet in bytes.
    pub mtu: u16,
}

impl Network {
    /// The gateway at layers 2 and 3.
    #[must_use]
    pub fn gateway(&self) -> Addr {
        let [a, b, c, d] = self.gateway.octets();
        Addr { mac: [0x02, 0x42, a, b, c, d], ip: self.gateway }
    }
}

/// `overlay endpoint ls`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Endpoint {
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The network.
    pub network: String,
    /// The node that it runs on.
    pub node: String,
    /// Address with the subnet's prefix length.
    pub ip: String,
    /// IPv6 address with its subnet's prefix length.
    #[serde(default)]
    pub ipv6: Option<String>,
    /// Hardware address.
    pub mac: String,
    /// Interface in the container.
    pub ifname: String,
    /// What only its own node knows.
    pub local: Option<LocalEndpoint>,
}

impl Endpoint {
    /// It at layers 2 and 3.
    ///
    /// # Panics
    /// If the address is none.
    #[must_use]
    pub fn addr(&self) -> Addr {
        let ip = self.ip.split('/').next().and_then(|ip| ip.parse().ok());
        Addr {
            mac: mac_from_text(&self.mac),
            ip: ip.unwrap_or_else(|| panic!("{:?} is no address", self.ip)),
        }
    }
}

impl Endpoint {
    /// It at layers 2 and 3, over IPv6.
    ///
    /// # Panics
    /// If it has no IPv6 address.
    #[must_use]
    #[track_caller]
    pub fn addr6(&self) -> Addr6 {
        let text = self.ipv6.as_deref().unwrap_or_else(|| panic!("{} has no IPv6 address", self.name));
        let ip = text.split('/').next().and_then(|ip| ip.parse().ok());
        let ip = ip.unwrap_or_else(|| panic!("{text:?} is no IPv6 address"));
        Addr6 { mac: mac_from_text(&self.mac), ip }
    }
}

/// The part of an endpoint that its own node knows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LocalEndpoint {
    /// Host side of the veth pair.
    pub host_ifname: String,
    /// Address by which its host reaches it.
    pub host_ip: Option<Ipv4Addr>,
    /// Packets forwarded from the container.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets delivered to the container.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets dropped.
    pub drops: Vec<Dropped>,
}

/// `overlay drops`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Dropped {
    /// Name of the reason.
    pub reason: String,
    /// The network, if known.
    pub network: Option<String>,
    /// The local endpoint, if any.
    pub endpoint: Option<String>,
    /// Packets dropped.
    pub packets: u64,
}

/// `overlay attach`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Attached {
    /// The endpoint.
    pub endpoint: Endpoint,
}

/// `overlay node ls`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// `up`, `stopped`, `silent`, `down` or `gone`.
    pub state: String,
    /// `draining` or `drained`, if it takes no new endpoints.
    pub drain: Option<String>,
    /// Since when it is in this state.
    pub since: Option<String>,
    /// When it first registered.
    pub registered: Option<String>,
    /// Number of its registrations.
    pub epoch: u64,
    /// VTEP address.
    pub vtep: Ipv4Addr,
    /// Endpoints on it.
    pub endpoints: usize,
}

/// `overlay status`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// Whether the first pass is done.
    pub ready: bool,
    /// XDP on the underlay device.
    pub xdp: Xdp,
    /// Drift that was found and repaired.
    pub repaired: u64,
    /// What the agent last knew is shown, not what the store holds now.
    pub stale: Option<Stale>,
    /// Why the store cannot be used.
    pub store_error: Option<String>,
    /// What else is not as it should be.
    pub warnings: Vec<String>,
}

/// What is shown is old.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Stale {
    /// Since when, in seconds since 1970.
    pub since_unix_s: u64,
    /// Why.
    pub reason: String,
}

/// XDP mode in force.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Xdp {
    /// `off`, `filter` or `decap`.
    pub mode: String,
    /// Why.
    pub reason: String,
}

/// `overlay map dump`.
#[derive(Clone, Debug, Deserialize)]
pub struct MapDump {
    /// Command that shows the same.
    pub bpftool: String,
    /// Its entries.
    pub entries: Vec<serde_json::Map<String, serde_json::Value>>,
}

/// `overlay verify`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Verification {
    /// What is not as it should be.
    pub differences: Vec<Difference>,
    /// What was, until this command repaired it.
    pub repaired: Vec<Difference>,
    /// What the agent repaired by itself.
    pub repaired_by_itself: Vec<Repair>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Difference {
    /// Which layer is wrong.
    pub layer: String,
    /// The thing.
    pub subject: String,
    /// What there is.
    pub found: Option<String>,
    /// What there should be.
    pub wanted: Option<String>,
    /// What that means.
    pub reason: String,
    /// The network concerned.
    pub network: Option<String>,
    /// The endpoint concerned.
    pub endpoint: Option<String>,
    /// The node concerned.
    pub node: Option<String>,
}

/// Something that was repaired.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Repair {
    /// What it was.
    pub difference: Difference,
}
