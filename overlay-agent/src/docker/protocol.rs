//! The messages of Docker's remote driver protocols, for networks and for address management, as libnetwork's
//! `docs/remote.md` and `docs/ipam.md` give them.
//!
//! Docker is written in Go: what is empty may be absent, `null` or an empty text.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Media type of requests and answers.
pub const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Options that the user gave to the driver, in the options of a network.
pub const GENERIC: &str = "com.docker.network.generic";
/// Whether a network has no way out, in the same place.
pub const INTERNAL: &str = "com.docker.network.internal";
/// Whether a network has IPv6, in the same place.
pub const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";
/// Ports to publish, in the options of an endpoint or a container.
pub const PORT_MAP: &str = "com.docker.network.portmap";
/// The gateway's address and prefix, in what is told of a pool.
pub const GATEWAY: &str = "com.docker.network.gateway";
/// For what an address is asked for, in the options of that; [`GATEWAY`] is the one value.
pub const REQUEST_ADDRESS_TYPE: &str = "RequestAddressType";

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Answer to `Plugin.Activate`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Activated {
    /// The protocols that are spoken.
    pub implements: [&'static str; 2],
}

/// Answer to `NetworkDriver.GetCapabilities`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkCapabilities {
    /// Who keeps networks: each engine, since the store that Docker's engines once shared is no more.
    pub scope: &'static str,
    /// How far containers reach.
    pub connectivity_scope: &'static str,
}

/// `NetworkDriver.CreateNetwork`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateNetwork {
    /// Docker's id of it.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// See [`GENERIC`] and its neighbours.
    #[serde(default, deserialize_with = "null_is_default")]
    pub options: Map<String, Value>,
    /// Its pools.
    #[serde(default, rename = "IPv4Data", deserialize_with = "null_is_default")]
    pub ipv4: Vec<Pool>,
    /// Its pools of IPv6.
    #[serde(default, rename = "IPv6Data", deserialize_with = "null_is_default")]
    pub ipv6: Vec<Pool>,
}

/// Addresses of a network.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Pool {
    /// Who gives them.
    pub address_space: String,
    /// The subnet.
    pub pool: String,
    /// The gateway with the subnet's prefix.
    pub gateway: String,
    /// Addresses of other machines in it.
    #[serde(deserialize_with = "null_is_default")]
    pub aux_addresses: BTreeMap<String, Value>,
}

/// `NetworkDriver.DeleteNetwork` and whatever else names a network alone.
#[derive(Debug, Deserialize)]
pub struct OfNetwork {
    /// Docker's id of it.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
}

/// `NetworkDriver.CreateEndpoint`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateEndpoint {
    /// Docker's id of the network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// Docker's id of the endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// What Docker has decided already: none of it may be in the answer.
    #[serde(default)]
    pub interface: Option<Interface>,
}

/// An endpoint's addresses.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Interface {
    /// Address and prefix.
    pub address: String,
    /// The same for IPv6.
    #[serde(rename = "AddressIPv6")]
    pub address_ipv6: String,
    /// Hardware address.
    pub mac_address: String,
}

/// Answer to `NetworkDriver.CreateEndpoint`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreatedEndpoint {
    /// What Docker had not decided.
    pub interface: CreatedInterface,
}

/// What we decided of an endpoint's interface.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreatedInterface {
    /// Address and prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The same for IPv6.
    #[serde(rename = "AddressIPv6", skip_serializing_if = "Option::is_none")]
    pub address_ipv6: Option<String>,
    /// Hardware address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
}

/// `NetworkDriver.DeleteEndpoint`, `EndpointOperInfo`, `Leave` and `RevokeExternalConnectivity`.
#[derive(Debug, Deserialize)]
pub struct OfEndpoint {
    /// Docker's id of the network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// Docker's id of the endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
}

/// Answer to `NetworkDriver.EndpointOperInfo`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct OperInfo {
    /// What there is to say of an endpoint.
    pub value: Map<String, Value>,
}

/// `NetworkDriver.Join`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Join {
    /// Docker's id of the network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// Docker's id of the endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// Path of the container's network namespace, which may not be there yet.
    #[serde(default, deserialize_with = "null_is_default")]
    pub sandbox_key: String,
}

/// Answer to `NetworkDriver.Join`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Joined {
    /// The device to be moved.
    pub interface_name: InterfaceName,
    /// The container's default route. Without one Docker adds an interface of its own, but not in internal networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The same for IPv6.
    #[serde(rename = "GatewayIPv6", skip_serializing_if = "Option::is_none")]
    pub gateway_ipv6: Option<String>,
}

/// A device that Docker moves into the container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InterfaceName {
    /// Its name on the host.
    pub src_name: String,
    /// Start of its name in the container; Docker puts a number behind it.
    pub dst_prefix: &'static str,
}

/// `NetworkDriver.ProgramExternalConnectivity`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProgramExternalConnectivity {
    /// Docker's id of the endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// See [`PORT_MAP`].
    #[serde(default, deserialize_with = "null_is_default")]
    pub options: Map<String, Value>,
}

/// A port to be published.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    /// Number of its protocol (RFC 5237).
    pub proto: u8,
    /// The container's port.
    pub port: u16,
    /// Address of the host that it is published on; empty or unspecified for all.
    #[serde(rename = "HostIP")]
    pub host_ip: String,
    /// The host's port; any if 0.
    pub host_port: u16,
    /// The last of the host's ports that will do.
    pub host_port_end: u16,
}

/// Answer to `IpamDriver.GetCapabilities`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct IpamCapabilities {
    /// Whether addresses depend on the container's MAC address.
    #[serde(rename = "RequiresMACAddress")]
    pub requires_mac_address: bool,
    /// Whether all is to be asked for again when the engine starts: what was given is in our store.
    pub requires_request_replay: bool,
}

/// Answer to `IpamDriver.GetDefaultAddressSpaces`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddressSpaces {
    /// For networks of scope `local`.
    pub local_default_address_space: &'static str,
    /// For networks of scope `global`.
    pub global_default_address_space: &'static str,
}

/// `IpamDriver.RequestPool`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RequestPool {
    /// The subnet; empty for any.
    pub pool: String,
    /// Part of it that addresses shall be given from; empty for all.
    pub sub_pool: String,
    /// What the user gave with `--ipam-opt`.
    #[serde(deserialize_with = "null_is_default")]
    pub options: BTreeMap<String, String>,
    /// Whether IPv6 is meant.
    #[serde(rename = "V6")]
    pub v6: bool,
}

/// Answer to `IpamDriver.RequestPool`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestedPool {
    /// What it is called from here on.
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    /// The subnet.
    pub pool: String,
    /// See [`GATEWAY`].
    pub data: BTreeMap<&'static str, String>,
}

/// `IpamDriver.ReleasePool`.
#[derive(Debug, Deserialize)]
pub struct ReleasePool {
    /// The pool.
    #[serde(rename = "PoolID")]
    pub pool_id: String,
}

/// `IpamDriver.RequestAddress`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestAddress {
    /// The pool.
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    /// The address; empty for any.
    #[serde(default, deserialize_with = "null_is_default")]
    pub address: String,
    /// See [`REQUEST_ADDRESS_TYPE`].
    #[serde(default, deserialize_with = "null_is_default")]
    pub options: BTreeMap<String, String>,
}

/// Answer to `IpamDriver.RequestAddress`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestedAddress {
    /// Address and prefix.
    pub address: String,
    /// Nothing.
    pub data: BTreeMap<&'static str, String>,
}

/// `IpamDriver.ReleaseAddress`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ReleaseAddress {
    /// The pool.
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    /// The address.
    #[serde(default, deserialize_with = "null_is_default")]
    pub address: String,
}

/// An answer that says nothing.
#[derive(Debug, Serialize)]
pub struct Empty {}
