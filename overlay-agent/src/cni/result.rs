//! What a successful ADD prints: what was made before, and what was made here, in the shape of the version asked for.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::version::Version;
use crate::api::types::{AttachResult, CniInterface, CniIp, CniRoute};

/// Whom a container asks for names. Empty fields say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Resolvers, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The domain of short names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Domains that short names are looked for in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// For the client's resolver, as in resolv.conf(5).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Field by field what `stronger` says, else what this says.
    #[must_use]
    pub fn or(self, stronger: Self) -> Self {
        let list = |strong: Vec<String>, weak| if strong.is_empty() { weak } else { strong };
        Self {
            nameservers: list(stronger.nameservers, self.nameservers),
            domain: stronger.domain.or(self.domain),
            search: list(stronger.search, self.search),
            options: list(stronger.options, self.options),
        }
    }
}

/// A result of plugins before this one. Its parts go on as they are: they are of the same version.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Previous {
    interfaces: Vec<Value>,
    ips: Vec<Value>,
    routes: Vec<Value>,
    dns: Dns,
}

/// The result, after what came before. `dns` is what the configuration says.
#[must_use]
pub fn result(version: Version, previous: Previous, made: &AttachResult, dns: Dns) -> Value {
    let Previous { mut interfaces, mut ips, mut routes, dns: dns_before } = previous;
    let offset = interfaces.len();
    interfaces.extend(made.interfaces.iter().map(|made| interface(version, made)));
    ips.extend(made.ips.iter().map(|made| ip(version, made, offset)));
    routes.extend(made.routes.iter().map(route));
    let ours = Dns {
        nameservers: made.dns.nameservers.iter().map(ToString::to_string).collect(),
        options: made.dns.options.clone(),
        ..Dns::default()
    };
    let dns = dns_before.or(ours).or(dns);
    json!({
        "cniVersion": version.as_str(), "interfaces": interfaces, "ips": ips, "routes": routes, "dns": dns
    })
}

fn interface(version: Version, made: &CniInterface) -> Value {
    let mut shown = Map::new();
    shown.insert("name".to_owned(), made.name.clone().into());
    shown.insert("mac".to_owned(), made.mac.to_string().into());
    if version >= Version::V1_1_0 {
        shown.insert("mtu".to_owned(), made.mtu.into());
    }
    shown.insert("sandbox".to_owned(), made.sandbox.clone().into());
    shown.into()
}

fn ip(version: Version, made: &CniIp, offset: usize) -> Value {
    let mut shown = Map::new();
    if version < Version::V1_0_0 {
        shown.insert("version".to_owned(), if made.address.addr().is_ipv4() { "4" } else { "6" }.into());
    }
    shown.insert("interface".to_owned(), (made.interface + offset).into());
    shown.insert("address".to_owned(), made.address.to_string().into());
    shown.insert("gateway".to_owned(), made.gateway.to_string().into());
    shown.into()
}

fn route(made: &CniRoute) -> Value {
    json!({"dst": made.dst.to_string(), "gw": made.gw.to_string()})
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::api::types::CniDns;

    fn made() -> AttachResult {
        let endpoint = json!({
            "id": "00112233445566ff", "name": "web", "network": "blue", "node": "host1", "ip": "10.9.0.2/24",
            "mac": "02:42:0a:09:00:02", "ifname": "eth0", "netns": "/run/netns/web", "local": null
        });
        let interface = |name: &str, mtu, sandbox: &str| CniInterface {
            name: name.to_owned(),
            mac: "02:42:0a:09:00:02".parse().unwrap(),
            mtu,
            sandbox: sandbox.to_owned(),
        };
        AttachResult {
            cni_version: "1.1.0".to_owned(),
            interfaces: vec![interface("ovl0011", 65_535, ""), interface("eth0", 1450, "/run/netns/web")],
            ips: vec![CniIp {
                interface: 1,
                address: "10.9.0.2/24".parse().unwrap(),
                gateway: [10, 9, 0, 1].into(),
            }],
            routes: vec![CniRoute { dst: "0.0.0.0/0".parse().unwrap(), gw: [10, 9, 0, 1].into() }],
            dns: CniDns { nameservers: vec![[10, 9, 0, 1].into()], options: vec!["ndots:0".to_owned()] },
            endpoint: serde_json::from_value(endpoint).unwrap(),
        }
    }

    #[rstest]
    #[case(Version::V0_3_0, true, false)]
    #[case(Version::V0_3_1, true, false)]
    #[case(Version::V0_4_0, true, false)]
    #[case(Version::V1_0_0, false, false)]
    #[case(Version::V1_1_0, false, true)]
    fn each_version_has_its_shape(#[case] version: Version, #[case] ip_version: bool, #[case] mtu: bool) {
        let result = result(version, Previous::default(), &made(), Dns::default());
        let mut container = json!({"name": "eth0", "mac": "02:42:0a:09:00:02", "sandbox": "/run/netns/web"});
        let mut host = json!({"name": "ovl0011", "mac": "02:42:0a:09:00:02", "sandbox": ""});
        if mtu {
            (container["mtu"], host["mtu"]) = (1450.into(), 65_535.into());
        }
        let mut ip = json!({"interface": 1, "address": "10.9.0.2/24", "gateway": "10.9.0.1"});
        if ip_version {
            ip["version"] = "4".into();
        }
        let expected = json!({
            "cniVersion": version.as_str(), "interfaces": [host, container], "ips": [ip],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}],
            "dns": {"nameservers": ["10.9.0.1"], "options": ["ndots:0"]}
        });
        assert_eq!(result, expected);
    }

    #[test]
    fn what_came_before_stays_before_as_it_is() {
        let before = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "lo", "sandbox": "/run/netns/web", "socketPath": "/x"}],
            "ips": [{"address": "127.0.0.1/8", "interface": 0}],
            "routes": [{"dst": "192.0.2.0/24"}],
            "dns": {"nameservers": ["192.0.2.1"], "search": ["example.org"]}
        });
        let previous = serde_json::from_value(before.clone()).unwrap();
        let said = Dns { options: vec!["ndots:2".to_owned()], ..Dns::default() };
        let result = result(Version::V1_0_0, previous, &made(), said);
        assert_eq!(result["interfaces"][0], before["interfaces"][0]);
        assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
        assert_eq!(result["ips"][0], before["ips"][0]);
        assert_eq!(result["ips"][1]["interface"], 2);
        assert_eq!(result["routes"][0], before["routes"][0]);
        let dns = json!({"nameservers": ["10.9.0.1"], "search": ["example.org"], "options": ["ndots:2"]});
        assert_eq!(result["dns"], dns);
    }
}
