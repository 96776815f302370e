//! Requests and answers of the API. Field names are part of the contract (`-o json` prints these types).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use overlay_common::{mac::Mac, vni::Vni};
use serde::{Deserialize, Serialize};

use crate::{
    model::{Allowance, EndpointId, Labels, Limits, Name, Owner, Publication, RuleId, Timestamp},
    paths,
};

/// `POST /v1/networks`; `PUT /v1/networks` creates it where it is not there, and fails if it is there and other than asked
/// for. What is left out is chosen: see [`crate::ipam`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateNetwork {
    /// Its name.
    pub name: Name,
    /// Its subnet; the first free /24 from 10.0.0.0 upward if left out.
    #[serde(default)]
    pub subnet: Option<Ipv4Net>,
    /// The gateway; the subnet's first address if left out.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// Part of the subnet to give addresses from.
    #[serde(default)]
    pub ip_range: Option<Ipv4Net>,
    /// Its IPv6 part; none if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<CreateIpv6>,
    /// VXLAN identifier; the first free one from 256 upward if left out.
    #[serde(default)]
    pub vni: Option<Vni>,
    /// Largest IP packet in bytes; what the underlay leaves if left out.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// No way to the outside world.
    #[serde(default)]
    pub internal: bool,
    /// Broadcast and multicast reach all members.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub multicast: bool,
    /// Free text of the user's.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// IPv6 of a new network. What is left out is chosen: see [`crate::ipam6`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateIpv6 {
    /// Its subnet; a random unique local /64 if left out.
    #[serde(default)]
    pub subnet: Option<Ipv6Net>,
    /// The gateway; the subnet's first address if left out.
    #[serde(default)]
    pub gateway: Option<Ipv6Addr>,
}

impl CreateIpv6 {
    /// IPv6, if it is asked for as such or by anything that is said of it.
    #[must_use]
    pub fn asked(asked: bool, subnet: Option<Ipv6Net>, gateway: Option<Ipv6Addr>) -> Option<Self> {
        (asked || subnet.is_some() || gateway.is_some()).then_some(Self { subnet, gateway })
    }
}

/// A network: `POST /v1/networks`, `GET /v1/networks`, `GET /v1/networks/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    /// Its name.
    pub name: Name,
    /// VXLAN identifier.
    pub vni: Vni,
    /// Addresses of its containers.
    pub subnet: Ipv4Net,
    /// The gateway's address.
    pub gateway: Ipv4Addr,
    /// Part of the subnet that addresses are given from.
    pub ip_range: Option<Ipv4Net>,
    /// IPv6 addresses of its containers, if it has IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_subnet: Option<Ipv6Net>,
    /// The gateway's IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// Largest IP packet in bytes on this host.
    pub mtu: u16,
    /// No way to the outside world.
    pub internal: bool,
    /// Broadcast and multicast reach all members.
    #[serde(default)]
    pub multicast: bool,
    /// Free text of the user's.
    pub labels: BTreeMap<String, String>,
    /// Always `global`: every node of the cluster has it.
    pub scope: String,
    /// Its endpoints on all nodes.
    pub endpoints: Vec<EndpointView>,
}

/// Which network namespace: exactly one way to say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetnsRef {
    /// A path such as `/run/netns/box` or `/proc/1234/ns/net`.
    Path(PathBuf),
    /// A name that `ip netns` knows.
    Name(String),
    /// The namespace of a process.
    Pid(u32),
    /// The agent's own: the host itself gets an address in the network.
    Host,
}

impl NetnsRef {
    /// That of an endpoint, by where it was when it was attached.
    #[must_use]
    pub fn of_endpoint(netns: &str) -> Self {
        if netns == paths::OWN_NETNS { Self::Host } else { Self::Path(netns.into()) }
    }
}

/// `POST /v1/networks/{network}/endpoints`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// The container's network namespace.
    pub netns: NetnsRef,
    /// Name in the network; that of the namespace, or one made from the id, if left out.
    #[serde(default)]
    pub name: Option<Name>,
    /// The name is no claim: where another endpoint has it, it becomes an alias, and the name is made from the id.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub name_may_be_taken: bool,
    /// Other names, which other endpoints of the network may have too.
    #[serde(default)]
    pub aliases: Vec<Name>,
    /// Free text of the user's.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Name of the interface in the container; the first free of eth0, eth1 … if left out.
    #[serde(default)]
    pub ifname: Option<String>,
    /// Address; the next free one if left out.
    #[serde(default)]
    pub ip: Option<Ipv4Addr>,
    /// IPv6 address, in a network with IPv6; the next free one if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Hardware address; made from the address if left out.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Ports of this host that are to lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publication>,
    /// The front end that asks, and what it calls the attachment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// How fast it may send and receive.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// The container's default route is to lead through this network, whichever others it is in.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default_route: bool,
}

/// Answer to an attach: a CNI result (specification 1.1.0) and what of ours belongs to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachResult {
    /// Version of the CNI result format.
    #[serde(rename = "cniVersion")]
    pub cni_version: String,
    /// The host veth (without sandbox), then the container's interface.
    pub interfaces: Vec<CniInterface>,
    /// The container's addresses, one of each family that the network has.
    pub ips: Vec<CniIp>,
    /// Routes set in the container.
    pub routes: Vec<CniRoute>,
    /// Whom the container asks for names.
    pub dns: CniDns,
    /// The endpoint.
    pub endpoint: EndpointView,
}

/// Name resolution in a CNI result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CniDns {
    /// Resolvers, in order.
    pub nameservers: Vec<Ipv4Addr>,
    /// For the client's resolver, as in resolv.conf(5).
    pub options: Vec<String>,
}

/// An interface of a CNI result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CniInterface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// Path of the namespace, or empty for the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
}

/// An address of a CNI result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CniIp {
    /// Index of its interface in `interfaces`.
    pub interface: usize,
    /// Address and prefix length.
    pub address: IpNet,
    /// The gateway.
    pub gateway: IpAddr,
}

/// A route of a CNI result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CniRoute {
    /// Destination.
    pub dst: IpNet,
    /// Next hop.
    pub gw: IpAddr,
}

/// `POST /v1/networks/{network}/detach`: by namespace or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DetachRequest {
    /// Every attachment of this namespace to the network.
    Netns(NetnsRef),
    /// The endpoint with this name.
    Name(Name),
}

/// `POST /v1/detach`: what a front end had attached, in whatever network that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachOwned {
    /// Who had it attached, and what it calls the attachment.
    #[serde(flatten)]
    pub owner: Owner,
    /// Its interface in the container; all of them if left out.
    #[serde(default)]
    pub ifname: Option<String>,
}

/// Answer to a detach: what was there to detach. Empty if nothing was, which is no error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DetachResult {
    /// The endpoints that are no more.
    pub detached: Vec<EndpointView>,
}

/// An endpoint: `GET /v1/endpoints`, `GET /v1/endpoints/{name}` (one for each network it is in).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Its identity.
    pub id: EndpointId,
    /// Its name in the network.
    pub name: Name,
    /// Other names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Name>,
    /// Free text of the user's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The network.
    pub network: Name,
    /// The node it runs on; `external` for a machine without an agent.
    pub node: Name,
    /// Where packets for it go, if it is a machine without an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vtep: Option<Ipv4Addr>,
    /// Its address with the subnet's prefix length.
    pub ip: Ipv4Net,
    /// Its IPv6 address, if its network has IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Net>,
    /// Its hardware address.
    pub mac: Mac,
    /// Interface in the container.
    pub ifname: String,
    /// Where its namespace was when it was attached.
    pub netns: String,
    /// Ports of its node that lead to it.
    #[serde(default)]
    pub published: Vec<Publication>,
    /// The front end that had it made; nobody if it was attached by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// How fast it may send and receive.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// What only its own node knows.
    pub local: Option<LocalEndpointView>,
}

/// The part of an endpoint that lives on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEndpointView {
    /// The host side of the veth pair.
    pub host_ifname: String,
    /// Its index.
    pub host_ifindex: u32,
    /// Address by which this host reaches it, and no other machine.
    pub host_ip: Option<Ipv4Addr>,
    /// Packets forwarded from the container.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets delivered to the container.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets of or for it that were dropped, by reason.
    pub drops: Vec<DropView>,
}

/// `POST /v1/networks/{network}/external`: a machine without an agent becomes a member. `GET /v1/external` lists them all;
/// `DELETE /v1/networks/{network}/external/{name}` takes one out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddExternal {
    /// Its address on the underlay, to which VXLAN packets for it are sent.
    pub vtep: Ipv4Addr,
    /// Its hardware address in the network.
    pub mac: Mac,
    /// Its address in the network.
    pub ip: Ipv4Addr,
    /// Name in the network; one made from the id if left out.
    #[serde(default)]
    pub name: Option<Name>,
    /// Other names, which other endpoints of the network may have too.
    #[serde(default)]
    pub aliases: Vec<Name>,
    /// Free text of the user's.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A node's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Its agent runs.
    Up,
    /// Its agent was stopped in order; its data path goes on.
    Stopped,
    /// Its agent gives no sign of life, not yet for long enough to count as down.
    Silent,
    /// Its agent died: its endpoints are withdrawn from the maps of all other nodes.
    Down,
    /// It was away for too long, or removed: the addresses of its endpoints are free.
    Gone,
}

/// How far a node is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Drain {
    /// It takes no new endpoints and still has some.
    Draining,
    /// It takes no new endpoints and has none.
    Drained,
}

/// A node: `GET /v1/nodes`, `PUT /v1/nodes/{name}/drain`, `DELETE /v1/nodes/{name}/drain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: Name,
    /// Its life.
    pub state: NodeState,
    /// How far it is drained, if it takes no new endpoints.
    pub drain: Option<Drain>,
    /// Since when it is in this state; if silent or down, as seen by the agent that answers.
    pub since: Option<Timestamp>,
    /// When it first registered.
    pub registered: Option<Timestamp>,
    /// Rises by one at each registration.
    pub epoch: u64,
    /// Random identity of its state directory.
    pub id: String,
    /// Its VTEP address.
    pub vtep: Ipv4Addr,
    /// UDP port on which it receives VXLAN packets.
    pub vxlan_port: u16,
    /// Endpoints on it.
    pub endpoints: usize,
    /// Version of its agent.
    pub version: String,
    /// Whether it is this node.
    pub local: bool,
}

/// A node with its endpoints: `GET /v1/nodes/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDetail {
    /// The node.
    #[serde(flatten)]
    pub node: NodeView,
    /// Its endpoints.
    pub attachments: Vec<EndpointView>,
}

/// `DELETE /v1/nodes/{name}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveNode {
    /// Also if it runs or has endpoints; those are collected.
    #[serde(default)]
    pub force: bool,
}

/// Answer to the removal of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedNode {
    /// Its name.
    pub name: Name,
    /// Names of the endpoints that were collected.
    pub collected: Vec<Name>,
    /// Its record stays, as gone: its agent, should it return, must learn that its containers were collected.
    /// Removing the node once more deletes it.
    pub is_listed: bool,
}

/// A published port: `GET /v1/published`; `POST` and `DELETE /v1/networks/{network}/endpoints/{endpoint}/published` take
/// its last part and answer with all that the endpoint publishes then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicationView {
    /// The node whose port it is.
    pub node: Name,
    /// Network of the endpoint that it leads to.
    pub network: Name,
    /// That endpoint.
    pub endpoint: Name,
    /// The ports.
    #[serde(flatten)]
    pub publication: Publication,
}

/// A policy or a rule: `GET /v1/policies`. `PUT /v1/policies/{a}/{b}` lets two networks talk as a whole, `DELETE …` ends
/// all that lets them talk, `POST …/enforce` leaves the decision to their rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// Network of the sender.
    pub from: Name,
    /// Network of the receiver.
    pub to: Name,
    /// What is said of it.
    pub action: PolicyAction,
    /// Which rule; none for a whole direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<RuleId>,
    /// What the rule allows.
    #[serde(flatten)]
    pub allows: Option<Allowance>,
    /// What no rule of the direction allows is counted and passes.
    #[serde(default)]
    pub audit: bool,
    /// What was counted on the host that answers. Whole directions are not counted.
    #[serde(flatten)]
    pub counted: Option<RuleCounts>,
}

/// What is said of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyAction {
    /// This passes.
    Allow,
    /// This passes because rules are tried, and would not if they were in force.
    Audit,
}

/// What one host counted for a rule, as the sender's or the receiver's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCounts {
    /// Packets that passed by it, answers included (a GSO packet counts once).
    pub packets: u64,
    /// Flows that it opened.
    pub flows: u64,
}

/// `POST /v1/policies/{from}/{to}/rules`; `DELETE /v1/rules/{id}` takes it back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRule {
    /// What it allows.
    #[serde(flatten)]
    pub allows: Allowance,
    /// Count what no rule of the direction allows, and let it pass.
    #[serde(default)]
    pub audit: bool,
}

/// `POST /v1/networks/{network}/endpoints/{endpoint}/labels`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeLabels {
    /// Labels to set.
    #[serde(default)]
    pub set: Labels,
    /// Keys of labels to take away.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// `POST /v1/networks/{network}/endpoints/{endpoint}/limits`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeLimits {
    /// Limits to set; the others stay.
    #[serde(default)]
    pub set: Limits,
    /// Directions whose limit to take away.
    #[serde(default)]
    pub remove: Vec<Direction>,
}

/// Of what an endpoint sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// What it sends.
    Egress,
    /// What it receives.
    Ingress,
}

/// The agent: `GET /v1/status`; `GET /v1/ready` answers the same once the first pass is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// This node.
    pub node: Name,
    /// Whether the first pass is done.
    pub ready: bool,
    /// The store's address, without secrets.
    pub store: String,
    /// Revision of the store that the maps show.
    pub revision: u64,
    /// Why the store cannot be reached just now.
    pub store_error: Option<String>,
    /// Present while what the agent shows is what it last knew, not what the store holds now.
    pub stale: Option<StaleView>,
    /// The underlay device and what it can do.
    pub underlay: UnderlayView,
    /// XDP mode in force, with the reason where it was chosen automatically.
    pub xdp: XdpView,
    /// The way out of the overlay.
    pub gateway: GatewayView,
    /// Number of networks, endpoints in the cluster, endpoints here, nodes.
    pub counts: Counts,
    /// Drift that passes found and repaired: map entries and links that were not as we left them.
    pub repaired: u64,
    /// Why the last pass failed, if it did.
    pub reconcile_error: Option<String>,
    /// Store keys that cannot be read, with the reason.
    pub quarantined: BTreeMap<String, String>,
    /// Where the maps are pinned.
    pub pin_dir: PathBuf,
    /// Whether the data path outlives this agent; the reason if not.
    pub warnings: Vec<String>,
}

/// Parameter of any request: `?dry_run=true` has a change checked and answered as if it were made, and not made.
pub const DRY_RUN: &str = "dry_run";

/// Header of the answers to `GET` that are stale: for how long, and why.
pub const STALE_HEADER: &str = "overlay-stale";

/// What is shown is not what the store holds now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaleView {
    /// Since when, in seconds since 1970.
    pub since_unix_s: u64,
    /// Why.
    pub reason: String,
}

/// The underlay device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderlayView {
    /// Its name.
    pub ifname: String,
    /// Its index.
    pub ifindex: u32,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// This node's VTEP address.
    pub vtep: Ipv4Addr,
    /// UDP port on which it receives VXLAN packets.
    pub vxlan_port: u16,
}

/// The way between containers and the world, through this host's own stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayView {
    /// Range of the addresses that containers have on this host.
    pub range: Option<Ipv4Net>,
    /// Why there is no way, if there is none.
    pub error: Option<String>,
}

/// XDP on the underlay device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpView {
    /// `off`, `filter` or `decap`.
    pub mode: String,
    /// Why.
    pub reason: String,
}

/// Sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Networks.
    pub networks: usize,
    /// Endpoints in the cluster.
    pub endpoints: usize,
    /// Endpoints on this node.
    pub local_endpoints: usize,
    /// Nodes.
    pub nodes: usize,
}

/// Dropped packets: `GET /v1/drops`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropView {
    /// Stable name of the reason.
    pub reason: String,
    /// Stable number of the reason.
    pub number: u32,
    /// What happened, in one line.
    pub description: String,
    /// VNI of the network, 0 if not known.
    pub vni: u32,
    /// The network, if known.
    pub network: Option<Name>,
    /// The local endpoint concerned, if any.
    pub endpoint: Option<Name>,
    /// Packets dropped.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A BPF map: `GET /v1/maps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapView {
    /// Its name.
    pub name: String,
    /// Entries in it.
    pub entries: usize,
    /// Most entries it can hold.
    pub max_entries: usize,
    /// What it maps.
    pub description: String,
    /// Command that shows the same.
    pub bpftool: String,
}

/// A BPF map's content: `GET /v1/maps/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapDump {
    /// Its name.
    pub name: String,
    /// Command that shows the same.
    pub bpftool: String,
    /// Decoded entries: one JSON object each, the same fields in all.
    pub entries: Vec<serde_json::Map<String, serde_json::Value>>,
}

/// Body of every answer that is no success.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What kind of failure.
    pub code: ErrorCode,
    /// One sentence: what was wrong and what to do.
    pub message: String,
}

/// Kinds of failure, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request makes no sense (400).
    Invalid,
    /// The caller may not ask (403).
    Forbidden,
    /// There is no such thing (404).
    NotFound,
    /// It conflicts with what is there (409).
    Conflict,
    /// The agent or its store cannot do it just now (503).
    Unavailable,
    /// The agent failed (500).
    Internal,
}
