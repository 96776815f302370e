//! The network configuration on standard input: one plugin's part of a conflist, as the runtime completed it.
//!
//! What every command needs is read by [`Config::read`]. What only an ADD needs is read by [`Config::wishes`], so that a
//! container can be deleted by a configuration that could not add it any more.

use std::{
    collections::BTreeMap,
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use overlay_common::mac::Mac;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    CniError,
    environment::{Args, foreign_id},
    result::Dns,
    version::Version,
};
use crate::{
    api::types::{CreateIpv6, CreateNetwork},
    family::{self, PerFamily, SameFamily},
    model::{ForeignId, Limits, Name, Protocol, Publication, Rate},
    paths,
};

/// Keys of the specification's own, or of runtimes', that ask nothing of this plugin.
const FOREIGN_KEYS: [&str; 11] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "ipMasq",
    "capabilities",
    "prevResult",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "args",
];

/// Keys that this plugin understands.
const OWN_KEYS: [&str; 14] = [
    "network",
    "socket",
    "subnet",
    "gateway",
    "ipRange",
    "ipv6",
    "vni",
    "mtu",
    "internal",
    "multicast",
    "labels",
    "dns",
    "ipam",
    "runtimeConfig",
];

/// A configuration, as far as every command needs it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The version that it is written in.
    pub version: Version,
    /// Name of the CNI network.
    pub name: ForeignId,
    /// The agent's socket.
    pub socket: PathBuf,
    /// All of it.
    object: Map<String, Value>,
}

/// What a container is to get.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// The network, with what is said of it.
    pub network: CreateNetwork,
    /// Whether the network is to be internal, if that is said.
    pub internal: Option<bool>,
    /// The container's IPv4 address.
    pub ip: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Other names of it.
    pub aliases: Vec<Name>,
    /// Free text of the user's on the endpoint.
    pub labels: BTreeMap<String, String>,
    /// Ports of this host that are to lead to it.
    pub publish: Vec<Publication>,
    /// How fast it may send and receive.
    pub limits: Limits,
    /// Whom it is to ask for names, where that is said.
    pub dns: Dns,
}

/// A container's interface that is to stay (`cni.dev/valid-attachments`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct ValidAttachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container: String,
    /// The interface.
    pub ifname: String,
}

/// `cniVersion` of a configuration that may be all wrong.
pub fn named_version(input: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(input).ok()?;
    value.get("cniVersion")?.as_str().map(str::to_owned)
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Codes 1, 6 and 7.
    pub fn read(input: &[u8]) -> Result<Self, CniError> {
        let value: Value = serde_json::from_slice(input).map_err(|e| {
            CniError::decode(format!(
                "standard input holds no JSON ({e}): a runtime writes the configuration there"
            ))
        })?;
        let Value::Object(object) = value else {
            return Err(CniError::decode(format!("standard input holds {value}, which is no JSON object")));
        };
        let version = Version::of_config(field::<String>(&object, "cniVersion")?.as_deref())?;
        let name: String = field(&object, "name")?
            .ok_or_else(|| CniError::config("the configuration has no name: it is the CNI network's"))?;
        let name = foreign_id(&name).map_err(|e| CniError::config(format!("name: {e}")))?;
        let socket = field(&object, "socket")?
            .or_else(|| std::env::var_os("OVERLAY_SOCKET").map(PathBuf::from))
            .unwrap_or_else(|| paths::DEFAULT_SOCKET.into());
        Ok(Self { version, name, socket, object })
    }

    /// Name of the overlay network: `network`, or that of the CNI network.
    ///
    /// # Errors
    /// Code 7.
    pub fn network(&self) -> Result<Name, CniError> {
        match field(&self.object, "network")? {
            Some(network) => Ok(network),
            None => self.name.as_str().parse().map_err(|e| {
                CniError::config(format!("name: {e}; or give the overlay network's as `network`"))
            }),
        }
    }

    /// What the plugins before this one made, or, for CHECK, all of them.
    ///
    /// # Errors
    /// Code 7.
    pub fn previous<T: DeserializeOwned>(&self) -> Result<Option<T>, CniError> {
        field(&self.object, "prevResult")
    }

    /// The attachments that are to stay.
    ///
    /// # Errors
    /// Code 7.
    pub fn valid_attachments(&self) -> Result<Vec<ValidAttachment>, CniError> {
        field(&self.object, "cni.dev/valid-attachments")?.ok_or_else(|| {
            CniError::config(
                "GC needs `cni.dev/valid-attachments`: without it every container would be detached",
            )
        })
    }

    /// What a container is to get; `args` are its user's from the environment.
    ///
    /// # Errors
    /// Codes 2 and 7.
    pub fn wishes(&self, args: &Args) -> Result<Wishes, CniError> {
        self.check_keys()?;
        let runtime: Runtime = self.field("runtimeConfig")?.unwrap_or_default();
        let conventions: Conventions = self.field::<AllArgs>("args")?.unwrap_or_default().cni;
        let ips = if runtime.ips.is_empty() { &conventions.ips } else { &runtime.ips };
        let (ip, ipv6) = addresses(ips, args)?;
        let mac = runtime.mac.as_deref().filter(|mac| !mac.is_empty());
        let mac =
            mac.map(|mac| mac.parse().map_err(|e| unsupported("mac", &mac, e))).transpose()?.or(args.mac);
        if let Some(mac) = mac.filter(|mac: &Mac| mac.is_group() || mac.is_zero()) {
            return Err(unsupported(
                "mac",
                &mac,
                "a container's is a unicast address such as 02:42:0a:00:00:02",
            ));
        }
        let internal: Option<bool> = self.field("internal")?;
        let twice = |e: SameFamily| CniError::config(e.to_string());
        let (subnet, subnet6) = family::subnets("subnet", self.list("subnet")?).map_err(twice)?;
        let (gateway, gateway6) = family::addresses("gateway", self.list("gateway")?).map_err(twice)?;
        let asks_ipv6 = self.field("ipv6")?.unwrap_or_default();
        Ok(Wishes {
            network: CreateNetwork {
                name: self.network()?,
                subnet,
                gateway,
                ipv6: CreateIpv6::asked(asks_ipv6, subnet6, gateway6),
                ip_range: self.field("ipRange")?,
                vni: self.field("vni")?,
                mtu: self.field("mtu")?,
                internal: internal.unwrap_or_default(),
                multicast: self.field("multicast")?.unwrap_or_default(),
                labels: self.field("labels")?.unwrap_or_default(),
            },
            internal,
            ip,
            ipv6,
            mac,
            aliases: aliases(runtime.aliases.get(self.name.as_str()))?,
            labels: conventions.labels.into_iter().map(|label| (label.key, label.value)).collect(),
            publish: publications(&runtime.port_mappings)?,
            limits: runtime.bandwidth.limits()?,
            dns: self.field::<Dns>("dns")?.unwrap_or_default().or(runtime.dns.into()),
        })
    }

    /// An option with a misspelt name would be none.
    fn check_keys(&self) -> Result<(), CniError> {
        for (key, value) in &self.object {
            let key = key.as_str();
            let is_known =
                OWN_KEYS.contains(&key) || FOREIGN_KEYS.contains(&key) || key.starts_with("cni.dev/");
            if !is_known {
                let known = OWN_KEYS.join(", ");
                return Err(unsupported(key, value, format!("there is no such option; there are {known}")));
            }
        }
        match self.object.get("ipam") {
            Some(Value::Object(ipam)) if !ipam.is_empty() => Err(unsupported(
                "ipam",
                &Value::Object(ipam.clone()),
                "the overlay gives addresses itself, once in the cluster: leave it out, and say `subnet` if need be",
            )),
            _ => Ok(()),
        }
    }

    fn field<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, CniError> {
        field(&self.object, key)
    }

    /// A field that is one value or a list of them.
    fn list<T: DeserializeOwned>(&self, key: &str) -> Result<Vec<T>, CniError> {
        match self.object.get(key) {
            Some(Value::Array(_)) => Ok(self.field(key)?.unwrap_or_default()),
            _ => Ok(self.field(key)?.into_iter().collect()),
        }
    }
}

/// A field; `null` is none.
fn field<T: DeserializeOwned>(object: &Map<String, Value>, key: &str) -> Result<Option<T>, CniError> {
    let value = object.get(key).filter(|value| !value.is_null());
    let parsed = value.map(|value| T::deserialize(value).map_err(|e| (value, e))).transpose();
    parsed.map_err(|(value, e)| CniError::config(format!("{key} {value}: {e}")))
}

fn unsupported(key: &str, value: &impl Display, reason: impl Display) -> CniError {
    CniError::field(format!("{key} {value}: {reason}"))
}

/// `runtimeConfig`: the capabilities that the configuration declares and the runtime has something for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Runtime {
    port_mappings: Vec<PortMapping>,
    ips: Vec<String>,
    mac: Option<String>,
    /// By CNI network.
    aliases: BTreeMap<String, Vec<String>>,
    dns: RuntimeDns,
    bandwidth: Bandwidth,
}

/// The `bandwidth` capability, in bits a second; 0: any number. Its bursts are not asked: how long what was not used is kept
/// is the same for all (`overlay_common::limit::KEPT_NS`).
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Bandwidth {
    /// What the container may receive.
    ingress_rate: u64,
    /// What it may send.
    egress_rate: u64,
}

impl Bandwidth {
    fn limits(&self) -> Result<Limits, CniError> {
        let rate = |bits_per_s: u64| {
            let rate = (bits_per_s != 0).then(|| Rate::try_from(bits_per_s)).transpose();
            rate.map_err(|e| unsupported("bandwidth", &bits_per_s, e))
        };
        Ok(Limits {
            egress_bits_per_s: rate(self.egress_rate)?,
            ingress_bits_per_s: rate(self.ingress_rate)?,
        })
    }
}

/// A published port.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortMapping {
    #[serde(default)]
    host_port: u16,
    container_port: u16,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

/// The `dns` capability names its fields otherwise than a configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeDns {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl From<RuntimeDns> for Dns {
    fn from(RuntimeDns { servers, searches, options }: RuntimeDns) -> Self {
        Self { nameservers: servers, domain: None, search: searches, options }
    }
}

/// `args`, of which only those of the CNI conventions are meant for plugins.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AllArgs {
    cni: Conventions,
}

/// `args.cni` (CONVENTIONS.md of the specification).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Conventions {
    ips: Vec<String>,
    labels: Vec<Label>,
}

#[derive(Debug, Deserialize)]
struct Label {
    key: String,
    value: String,
}

/// Addresses come with the length of a prefix or without; those of the network hold. Without any, what the environment says.
fn addresses(ips: &[String], args: &Args) -> Result<PerFamily<Ipv4Addr, Ipv6Addr>, CniError> {
    let wrong = |e: &dyn Display| unsupported("ips", &format!("{ips:?}"), e);
    let parse = |ip: &String| ip.split('/').next().unwrap_or_default().parse().map_err(|e| wrong(&e));
    let named = ips.iter().map(parse).collect::<Result<Vec<IpAddr>, _>>()?;
    let asked = if named.is_empty() { &args.ips } else { &named };
    family::addresses("ips", asked.iter().copied()).map_err(|e| wrong(&e))
}

fn aliases(names: Option<&Vec<String>>) -> Result<Vec<Name>, CniError> {
    let names = names.into_iter().flatten();
    names.map(|name| name.parse().map_err(|e| unsupported("aliases", name, e))).collect()
}

fn publications(mappings: &[PortMapping]) -> Result<Vec<Publication>, CniError> {
    // The `portmap` plugin leaves out those without a port of the host as well.
    mappings.iter().filter(|mapping| mapping.host_port != 0).map(publication).collect()
}

fn publication(mapping: &PortMapping) -> Result<Publication, CniError> {
    let PortMapping { host_port, container_port, protocol, host_ip } = mapping;
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err(unsupported("protocol", protocol, "ports are published over tcp and udp")),
    };
    if !matches!(host_ip.as_str(), "" | "0.0.0.0" | "::") {
        return Err(unsupported(
            "hostIP",
            host_ip,
            "a published port is one on every address of the host: leave the address out",
        ));
    }
    let port = |port: &u16| {
        (*port).try_into().map_err(|_| unsupported("containerPort", port, "ports lie between 1 and 65535"))
    };
    Ok(Publication { host_port: port(host_port)?, port: port(container_port)?, protocol })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    /// A configuration with more in it than it must have.
    fn config(more: &Value) -> Result<Config, CniError> {
        let mut all = json!({"cniVersion": "1.0.0", "name": "blue", "type": "overlay-cni"});
        let more = more.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(more);
        Config::read(all.to_string().as_bytes())
    }

    fn wishes(more: &Value) -> Result<Wishes, CniError> {
        config(more).unwrap().wishes(&Args::default())
    }

    #[test]
    fn what_a_conflist_says_of_its_network_is_what_is_created() {
        let said = json!({
            "network": "ov_net1", "subnet": "10.9.0.0/24", "gateway": "10.9.0.254", "ipRange": "10.9.0.0/25",
            "vni": 900, "mtu": 1400, "internal": true, "labels": {"team": "db"}
        });
        let wishes = wishes(&said).unwrap();
        let network = serde_json::to_value(&wishes.network).unwrap();
        assert_eq!(
            network,
            json!({
                "name": "ov_net1", "subnet": "10.9.0.0/24", "gateway": "10.9.0.254", "ip_range": "10.9.0.0/25",
                "vni": 900, "mtu": 1400, "internal": true, "labels": {"team": "db"}
            })
        );
        let dual = json!({"subnet": ["fd00:9::/64", "10.9.0.0/24"], "gateway": "fd00:9::99"});
        let dual = self::wishes(&dual).unwrap().network;
        assert_eq!(dual.subnet, "10.9.0.0/24".parse().ok());
        let ipv6 = CreateIpv6 { subnet: "fd00:9::/64".parse().ok(), gateway: "fd00:9::99".parse().ok() };
        assert_eq!((dual.gateway, dual.ipv6), (None, Some(ipv6)));
        let chosen = self::wishes(&json!({"ipv6": true})).unwrap().network.ipv6;
        assert_eq!(chosen, Some(CreateIpv6::default()));
        let plain = config(&json!({})).unwrap().wishes(&Args::default()).unwrap();
        assert_eq!((plain.network.name.as_str(), plain.internal, plain.network.vni), ("blue", None, None));
    }

    #[test]
    fn what_the_runtime_has_for_the_container_arrives() {
        let said = json!({
            "runtimeConfig": {
                "portMappings": [
                    {"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": ""},
                    {"hostPort": 53, "containerPort": 5353, "protocol": "udp"},
                    {"containerPort": 99, "protocol": "tcp"}
                ],
                "ips": ["fd00:9::7/64", "10.9.0.7/16"], "mac": "02:42:00:00:00:07",
                "aliases": {"blue": ["www", "4f2a"], "red": ["other"]},
                "dns": {"servers": ["9.9.9.9"], "searches": ["example.org"], "options": ["ndots:2"]},
                "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 1, "egressRate": 0, "egressBurst": 0}
            },
            "args": {"cni": {"labels": [{"key": "app", "value": "web"}]}, "podman_labels": {}},
            "dns": {"nameservers": ["1.1.1.1"], "domain": "example.com"}
        });
        let wishes = wishes(&said).unwrap();
        let publish: Vec<String> = wishes.publish.iter().map(Publication::to_string).collect();
        assert_eq!(publish, ["8080:80/tcp", "53:5353/udp"]);
        assert_eq!(wishes.ipv6, "fd00:9::7".parse().ok());
        assert_eq!((wishes.ip, wishes.mac), (Some([10, 9, 0, 7].into()), "02:42:00:00:00:07".parse().ok()));
        assert_eq!(wishes.aliases.iter().map(Name::as_str).collect::<Vec<_>>(), ["www", "4f2a"]);
        let receives = Limits { egress_bits_per_s: None, ingress_bits_per_s: "8mbit".parse().ok() };
        assert_eq!(wishes.limits, receives);
        assert_eq!(wishes.labels, [("app".to_owned(), "web".to_owned())].into());
        assert_eq!(
            serde_json::to_value(&wishes.dns).unwrap(),
            json!({"nameservers": ["9.9.9.9"], "domain": "example.com", "search": ["example.org"], "options": ["ndots:2"]})
        );
    }

    #[rstest]
    #[case(json!({"subnets": "10.9.0.0/24"}), 2, "subnets \"10.9.0.0/24\": there is no such option")]
    #[case(json!({"ipam": {"type": "host-local"}}), 2, "ipam {\"type\":\"host-local\"}")]
    #[case(json!({"runtimeConfig": {"ips": ["10.0.0.1", "10.0.0.2"]}}), 2, "one of each")]
    #[case(json!({"runtimeConfig": {"ips": ["fd00::1", "10.0.0.1", "fd00::2/64"]}}), 2, "one of each")]
    #[case(json!({"subnet": ["10.9.0.0/24", "10.8.0.0/24"]}), 7, "subnet 10.9.0.0/24 and 10.8.0.0/24")]
    #[case(json!({"ipv6": "yes"}), 7, "ipv6 \"yes\"")]
    #[case(json!({"runtimeConfig": {"ips": ["ten"]}}), 2, "ips [\"ten\"]: invalid IP address")]
    #[case(json!({"runtimeConfig": {"mac": "x"}}), 2, "mac x")]
    #[case(json!({"runtimeConfig": {"aliases": {"blue": ["a b"]}}}), 2, "aliases a b")]
    #[case(json!({"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "sctp"}]}}), 2, "protocol sctp")]
    #[case(json!({"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1, "hostIP": "127.0.0.1"}]}}), 2, "hostIP 127.0.0.1")]
    #[case(json!({"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 0}]}}), 2, "containerPort 0")]
    #[case(json!({"runtimeConfig": {"portMappings": [{"hostPort": 70000, "containerPort": 1}]}}), 7, "70000")]
    #[case(json!({"runtimeConfig": {"bandwidth": {"egressRate": 10}}}), 2, "bandwidth 10: ")]
    #[case(json!({"subnet": "10.9.0.0"}), 7, "subnet \"10.9.0.0\"")]
    #[case(json!({"vni": 0}), 7, "vni 0")]
    #[case(json!({"mtu": "large"}), 7, "mtu \"large\"")]
    #[case(json!({"network": "a/b"}), 7, "network \"a/b\"")]
    fn what_cannot_be_is_refused_with_key_and_value(
        #[case] said: Value,
        #[case] code: u32,
        #[case] expected: &str,
    ) {
        let error = wishes(&said).unwrap_err();
        assert_eq!(error.code, code, "{error:?}");
        assert!(error.details.contains(expected), "{error:?}");
    }

    #[rstest]
    #[case("", 6)]
    #[case("{", 6)]
    #[case("[]", 6)]
    #[case("null", 6)]
    #[case(r#"{"name": "x"}"#, 1)]
    #[case(r#"{"cniVersion": "0.2.0", "name": "x"}"#, 1)]
    #[case(r#"{"cniVersion": 1, "name": "x"}"#, 7)]
    #[case(r#"{"cniVersion": "1.0.0"}"#, 7)]
    #[case(r#"{"cniVersion": "1.0.0", "name": "../x"}"#, 7)]
    #[case(r#"{"cniVersion": "1.0.0", "name": "x", "socket": 1}"#, 7)]
    fn a_configuration_without_its_least_is_refused(#[case] input: &str, #[case] code: u32) {
        assert_eq!(Config::read(input.as_bytes()).unwrap_err().code, code);
    }

    #[test]
    fn a_container_can_be_deleted_by_a_configuration_that_could_not_add_it() {
        let config = config(&json!({"subnets": 1, "ipam": {"type": "x"}, "runtimeConfig": 7})).unwrap();
        assert_eq!(config.name.as_str(), "blue");
        assert!(config.wishes(&Args::default()).is_err());
    }

    #[test]
    fn a_long_name_of_a_cni_network_needs_one_of_ours() {
        let long = "x".repeat(64);
        let error = config(&json!({"name": long})).unwrap().network().unwrap_err();
        assert!(error.code == 7 && error.details.contains("`network`"), "{error:?}");
        let named = config(&json!({"name": long, "network": "short"})).unwrap();
        assert_eq!(named.network().unwrap().as_str(), "short");
    }
}
