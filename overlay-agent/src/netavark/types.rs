//! The documents of netavark's plugin API, as far as they matter here. Fields that are not understood go back as they came.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net};
use overlay_common::mac::Mac;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Error;
use crate::{
    api::types::{CreateIpv6, CreateNetwork, NetworkView},
    family::{self, PerFamily},
    model::{Name, Protocol, Publication},
    paths,
};

/// A network, as Podman keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// No way to the outside.
    #[serde(default)]
    pub internal: bool,
    /// `--ipv6`.
    #[serde(default)]
    pub ipv6_enabled: bool,
    /// Its subnets.
    #[serde(default)]
    pub subnets: Option<Vec<Subnet>>,
    /// The user's free text.
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
    /// `podman network create --opt`.
    #[serde(default)]
    pub options: Option<BTreeMap<String, String>>,
    /// Who gives addresses.
    #[serde(default)]
    pub ipam_options: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// A subnet of a network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subnet {
    /// The subnet.
    pub subnet: String,
    /// Its gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// `--ip-range` as first and last address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_range: Option<LeaseRange>,
}

/// Where addresses are given from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseRange {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start_ip: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end_ip: Option<IpAddr>,
}

/// What `setup` and `teardown` read.
#[derive(Clone, Debug, Deserialize)]
pub struct Exec {
    /// The container's name.
    pub container_name: String,
    /// Its id.
    pub container_id: String,
    /// Ports of the host that are to lead to it.
    #[serde(default)]
    pub port_mappings: Option<Vec<PortMapping>>,
    /// The network.
    pub network: Network,
    /// What the container is to get in it.
    pub network_options: PerNetwork,
}

/// Ports of the host that are to lead to ports of a container.
#[derive(Clone, Debug, Deserialize)]
pub struct PortMapping {
    container_port: u16,
    #[serde(default)]
    host_ip: String,
    host_port: u16,
    #[serde(default)]
    protocol: String,
    /// How many, one after the other.
    #[serde(default)]
    range: u16,
}

/// A container in a network.
#[derive(Clone, Debug, Deserialize)]
pub struct PerNetwork {
    /// The interface in the container.
    pub interface_name: String,
    #[serde(default)]
    aliases: Option<Vec<String>>,
    #[serde(default)]
    static_ips: Option<Vec<IpAddr>>,
    #[serde(default)]
    static_mac: Option<String>,
}

/// What is said of a network.
#[derive(Clone, Debug)]
pub struct Options {
    /// The agent's socket.
    pub socket: PathBuf,
    /// The overlay network.
    pub network: CreateNetwork,
}

/// The agent's socket that a network names, or the usual one.
pub fn socket(network: &Network) -> PathBuf {
    let named = network.options.as_ref().and_then(|options| options.get("socket")).map(PathBuf::from);
    let of_environment = || std::env::var_os("OVERLAY_SOCKET").map(PathBuf::from);
    named.or_else(of_environment).unwrap_or_else(|| paths::DEFAULT_SOCKET.into())
}

impl Options {
    /// Those of a network.
    ///
    /// # Errors
    /// If one is not understood.
    pub fn of(network: &Network) -> Result<Self, Error> {
        let socket = socket(network);
        let mut options = network.options.clone().unwrap_or_default();
        options.remove("socket");
        let name = options.remove("network").unwrap_or_else(|| network.name.clone());
        let (vni, mtu) = (option(&mut options, "vni")?, option(&mut options, "mtu")?);
        if let Some((key, value)) = options.first_key_value() {
            return Err(Error::Invalid(format!(
                "--opt {key}={value}: there is no such option; there are network, socket, vni and mtu"
            )));
        }
        let subnets = network.subnets.as_deref().unwrap_or_default();
        let nets = subnets.iter().map(|subnet| parsed("subnet", &subnet.subnet));
        let (subnet, subnet6) = family::subnets("--subnet", nets.collect::<Result<Vec<IpNet>, _>>()?)?;
        let gateways = subnets.iter().filter_map(|subnet| subnet.gateway);
        let (gateway, gateway6) = family::addresses("--gateway", gateways)?;
        let network = CreateNetwork {
            name: parsed("network", &name)?,
            subnet,
            gateway,
            ip_range: subnets.iter().find_map(|subnet| subnet.lease_range.as_ref()?.block()),
            ipv6: CreateIpv6::asked(network.ipv6_enabled, subnet6, gateway6),
            vni,
            mtu,
            internal: network.internal,
            multicast: false,
            labels: network.labels.clone().unwrap_or_default(),
        };
        Ok(Self { socket, network })
    }
}

impl Network {
    /// Says what was chosen. The overlay gives addresses itself, once in the cluster: Podman is to give none.
    pub fn fill_in(&mut self, made: &NetworkView) {
        let ranges = self.subnets.take().into_iter().flatten().filter_map(|subnet| subnet.lease_range);
        let ipv4 = Subnet {
            subnet: made.subnet.to_string(),
            gateway: Some(made.gateway.into()),
            lease_range: ranges.into_iter().find(|range| range.block().is_some()),
        };
        let ipv6 = made.ipv6_subnet.map(|subnet| Subnet {
            subnet: subnet.to_string(),
            gateway: made.ipv6_gateway.map(IpAddr::V6),
            lease_range: None,
        });
        self.ipv6_enabled = ipv6.is_some();
        self.subnets = Some([ipv4].into_iter().chain(ipv6).collect());
        self.ipam_options.get_or_insert_default().insert("driver".to_owned(), "none".to_owned());
    }
}

impl PerNetwork {
    /// Other names of the container.
    ///
    /// # Errors
    /// If one is none.
    pub fn aliases(&self) -> Result<Vec<Name>, Error> {
        self.aliases.iter().flatten().map(|alias| parsed("alias", alias)).collect()
    }

    /// The addresses that it is to have.
    ///
    /// # Errors
    /// If that is more than one of a family.
    pub fn ips(&self) -> Result<PerFamily<Ipv4Addr, Ipv6Addr>, Error> {
        Ok(family::addresses("--ip", self.static_ips.iter().flatten().copied())?)
    }

    /// The hardware address that it is to have.
    ///
    /// # Errors
    /// If it is none.
    pub fn mac(&self) -> Result<Option<Mac>, Error> {
        self.static_mac.as_deref().filter(|mac| !mac.is_empty()).map(|mac| parsed("MAC", mac)).transpose()
    }
}

impl Exec {
    /// Ports of the host that are to lead to the container.
    ///
    /// # Errors
    /// If one cannot be published.
    pub fn publications(&self) -> Result<Vec<Publication>, Error> {
        self.port_mappings
            .iter()
            .flatten()
            .map(PortMapping::publications)
            .collect::<Result<Vec<_>, _>>()
            .map(|all| all.concat())
    }
}

impl PortMapping {
    fn publications(&self) -> Result<Vec<Publication>, Error> {
        let protocol = match self.protocol.as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => {
                return Err(Error::Invalid(format!("ports are published over tcp and udp, not {other}")));
            }
        };
        if !matches!(self.host_ip.as_str(), "" | "0.0.0.0" | "::") {
            return Err(Error::Invalid(format!(
                "{}: a published port is one on every address of the host: leave the address out",
                self.host_ip
            )));
        }
        let port = |first: u16, step: u16| {
            let port = first.checked_add(step).and_then(|port| port.try_into().ok());
            port.ok_or_else(|| Error::Invalid(format!("port {first}: ports lie between 1 and 65535")))
        };
        (0..self.range.max(1))
            .map(|step| {
                let (host_port, port) = (port(self.host_port, step)?, port(self.container_port, step)?);
                Ok(Publication { host_port, port, protocol })
            })
            .collect()
    }
}

impl LeaseRange {
    /// The block of IPv4 addresses that it is about.
    fn block(&self) -> Option<Ipv4Net> {
        match (self.start_ip, self.end_ip) {
            (Some(IpAddr::V4(first)), Some(IpAddr::V4(last))) => Some(around(first, last)),
            _ => None,
        }
    }
}

/// The smallest block with both addresses in it.
fn around(first: Ipv4Addr, last: Ipv4Addr) -> Ipv4Net {
    let common = (u32::from(first) ^ u32::from(last)).leading_zeros();
    let prefix_len = u8::try_from(common).unwrap_or(32);
    Ipv4Net::new(first, prefix_len).map_or_else(|_| first.into(), |net| net.trunc())
}

fn option<T: FromStr>(options: &mut BTreeMap<String, String>, key: &str) -> Result<Option<T>, Error>
where
    T::Err: std::fmt::Display,
{
    options.remove(key).map(|value| parsed(key, &value)).transpose()
}

fn parsed<T: FromStr>(what: &str, text: &str) -> Result<T, Error>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e| Error::Invalid(format!("{what} {text:?}: {e}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn network(more: &Value) -> Network {
        let mut all = json!({
            "name": "blue", "id": "1f", "driver": "overlay-netavark", "created": "2026-01-01T00:00:00Z",
            "ipv6_enabled": false, "internal": false, "dns_enabled": false
        });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn what_podman_says_of_a_network_is_what_is_created() {
        let said = json!({
            "options": {"network": "ov_net1", "vni": "900", "mtu": "1400"}, "internal": true, "labels": {"a": "b"},
            "subnets": [{
                "subnet": "10.9.0.0/24", "gateway": "10.9.0.254",
                "lease_range": {"start_ip": "10.9.0.129", "end_ip": "10.9.0.254"}
            }]
        });
        let options = Options::of(&network(&said)).unwrap();
        assert_eq!(
            serde_json::to_value(&options.network).unwrap(),
            json!({
                "name": "ov_net1", "subnet": "10.9.0.0/24", "gateway": "10.9.0.254", "ip_range": "10.9.0.128/25",
                "vni": 900, "mtu": 1400, "internal": true, "labels": {"a": "b"}
            })
        );
    }

    #[test]
    fn a_network_of_both_families_is_asked_for_and_told_of_as_such() {
        let subnets = json!([{"subnet": "fd00:9::/64", "gateway": "fd00:9::99"}, {"subnet": "10.9.0.0/24"}]);
        let mut blue = network(&json!({"ipv6_enabled": true, "subnets": subnets}));
        let asked = Options::of(&blue).unwrap().network;
        assert_eq!(asked.subnet, "10.9.0.0/24".parse().ok());
        let ipv6 = CreateIpv6 { subnet: "fd00:9::/64".parse().ok(), gateway: "fd00:9::99".parse().ok() };
        assert_eq!((asked.gateway, asked.ipv6), (None, Some(ipv6)));
        let made = json!({
            "name": "blue", "vni": 256, "subnet": "10.9.0.0/24", "gateway": "10.9.0.1", "ip_range": null, "mtu": 1450,
            "ipv6_subnet": "fd00:9::/64", "ipv6_gateway": "fd00:9::99",
            "internal": false, "labels": {}, "scope": "global", "endpoints": []
        });
        blue.fill_in(&serde_json::from_value(made).unwrap());
        let back = serde_json::to_value(&blue).unwrap();
        assert_eq!(back["ipv6_enabled"], true);
        let ipv4 = json!({"subnet": "10.9.0.0/24", "gateway": "10.9.0.1"});
        assert_eq!(back["subnets"], json!([ipv4, {"subnet": "fd00:9::/64", "gateway": "fd00:9::99"}]));
        let alone = Options::of(&network(&json!({"ipv6_enabled": true}))).unwrap().network;
        assert_eq!((alone.subnet, alone.ipv6), (None, Some(CreateIpv6::default())));
    }

    #[test]
    fn options_that_are_not_understood_are_named() {
        for (said, sentence) in [
            (json!({"options": {"isolate": "true"}}), "--opt isolate=true"),
            (json!({"options": {"vni": "0"}}), "vni \"0\""),
            (json!({"subnets": [{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.1.0/24"}]}), "one of each"),
            (json!({"subnets": [{"subnet": "fd00::/640"}]}), "subnet \"fd00::/640\""),
        ] {
            let error = Options::of(&network(&said)).unwrap_err().to_string();
            assert!(error.contains(sentence), "{error}");
        }
    }

    #[test]
    fn what_is_not_understood_of_a_network_goes_back_as_it_came() {
        let mut blue = network(&json!({"network_interface": "x", "options": {}}));
        let made = json!({
            "name": "blue", "vni": 256, "subnet": "10.0.0.0/24", "gateway": "10.0.0.1", "ip_range": null, "mtu": 1450,
            "internal": false, "labels": {}, "scope": "global", "endpoints": []
        });
        blue.fill_in(&serde_json::from_value(made).unwrap());
        let back = serde_json::to_value(&blue).unwrap();
        assert_eq!((&back["network_interface"], &back["id"]), (&json!("x"), &json!("1f")));
        assert_eq!(back["subnets"], json!([{"subnet": "10.0.0.0/24", "gateway": "10.0.0.1"}]));
        assert_eq!(back["ipam_options"], json!({"driver": "none"}));
    }

    #[test]
    fn ranges_of_ports_are_many_ports() {
        let mapping = |more: Value| {
            let mut all = json!({"container_port": 80, "host_port": 8080, "protocol": "tcp", "host_ip": "", "range": 2});
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value::<PortMapping>(all).unwrap().publications()
        };
        let texts: Vec<String> = mapping(json!({})).unwrap().iter().map(Publication::to_string).collect();
        assert_eq!(texts, ["8080:80/tcp", "8081:81/tcp"]);
        for wrong in
            [json!({"protocol": "sctp"}), json!({"host_ip": "127.0.0.1"}), json!({"host_port": 65535})]
        {
            assert!(mapping(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
