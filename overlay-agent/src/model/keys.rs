//! The layout of the store: the one home of every key.
//!
//! ```text
//! overlay/v1/cluster                         ClusterRecord
//! overlay/v1/networks/<network>              Network
//! overlay/v1/vnis/<vni>                      name of the network that claimed it
//! overlay/v1/subnets/<address>_<length>      name of the network that was given it automatically
//! overlay/v1/nodes/<node>                    Node
//! overlay/v1/alive/<node>                    NodeAlive, leased
//! overlay/v1/endpoints/<network>/<id>        Endpoint
//! overlay/v1/collected/<node>/<id>           Endpoint that was collected, for its node should it return
//! overlay/v1/names/<network>/<endpoint>      id of the endpoint that claimed the name
//! overlay/v1/addresses/<network>/<ip>        Address
//! overlay/v1/macs/<network>/<mac>            id of the endpoint that claimed it
//! overlay/v1/policies/<from>/<to>            Policy
//! overlay/v1/rules/<from>/<to>/<id>          Rule
//! overlay/v1/import                          only while another store's state is being imported
//! ```

use std::net::IpAddr;

use ipnet::Ipv4Net;
use overlay_common::{mac::Mac, vni::Vni};

use super::{EndpointId, Name, RuleId};

/// Everything of ours lies below this prefix.
pub const ROOT: &str = "overlay/v1/";

/// A key, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The cluster's own record.
    Cluster,
    /// A network's record.
    Network(Name),
    /// The claim on a VNI.
    Vni(Vni),
    /// The claim on an automatically given subnet.
    Subnet(Ipv4Net),
    /// A node's record.
    Node(Name),
    /// A node's sign of life.
    Alive(Name),
    /// An endpoint's record.
    Endpoint(Name, EndpointId),
    /// What is kept of an endpoint that was collected, by its node.
    Collected(Name, EndpointId),
    /// The claim on an endpoint name.
    EndpointName(Name, Name),
    /// The claim on an address.
    Address(Name, IpAddr),
    /// The claim on a hardware address.
    Mac(Name, Mac),
    /// A policy, from one network to another.
    Policy(Name, Name),
    /// A rule, from one network to another.
    Rule(Name, Name, RuleId),
    /// The marker of an import that is not finished: see [`crate::store::transfer`].
    Import,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster => write!(f, "{ROOT}cluster"),
            Self::Network(name) => write!(f, "{ROOT}networks/{name}"),
            Self::Vni(vni) => write!(f, "{ROOT}vnis/{vni}"),
            Self::Subnet(net) => write!(f, "{ROOT}subnets/{}_{}", net.network(), net.prefix_len()),
            Self::Node(name) => write!(f, "{ROOT}nodes/{name}"),
            Self::Alive(name) => write!(f, "{ROOT}alive/{name}"),
            Self::Endpoint(network, id) => write!(f, "{ROOT}endpoints/{network}/{id}"),
            Self::Collected(node, id) => write!(f, "{ROOT}collected/{node}/{id}"),
            Self::EndpointName(network, name) => write!(f, "{ROOT}names/{network}/{name}"),
            Self::Address(network, ip) => write!(f, "{ROOT}addresses/{network}/{ip}"),
            Self::Mac(network, mac) => write!(f, "{ROOT}macs/{network}/{mac}"),
            Self::Policy(from, to) => write!(f, "{ROOT}policies/{from}/{to}"),
            Self::Rule(from, to, id) => write!(f, "{ROOT}rules/{from}/{to}/{id}"),
            Self::Import => write!(f, "{ROOT}import"),
        }
    }
}

/// A text that is no key of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no key of this layout")]
pub struct InvalidKey;

impl std::str::FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        fn part<T: std::str::FromStr>(text: &str) -> Result<T, InvalidKey> {
            text.parse().map_err(|_| InvalidKey)
        }
        let path: Vec<&str> = text.strip_prefix(ROOT).ok_or(InvalidKey)?.split('/').collect();
        let key = match path.as_slice() {
            ["cluster"] => Self::Cluster,
            ["networks", name] => Self::Network(part(name)?),
            ["vnis", vni] => Self::Vni(part(vni)?),
            ["subnets", subnet] => Self::Subnet(part(&subnet.replacen('_', "/", 1))?),
            ["nodes", name] => Self::Node(part(name)?),
            ["alive", name] => Self::Alive(part(name)?),
            ["endpoints", network, id] => Self::Endpoint(part(network)?, part(id)?),
            ["collected", node, id] => Self::Collected(part(node)?, part(id)?),
            ["names", network, name] => Self::EndpointName(part(network)?, part(name)?),
            ["addresses", network, ip] => Self::Address(part(network)?, part(ip)?),
            ["macs", network, mac] => Self::Mac(part(network)?, part(mac)?),
            ["policies", from, to] => Self::Policy(part(from)?, part(to)?),
            ["rules", from, to, id] => Self::Rule(part(from)?, part(to)?, part(id)?),
            ["import"] => Self::Import,
            _ => return Err(InvalidKey),
        };
        // One object, one key: `vnis/0256` is not another way to write `vnis/256`.
        if key.to_string() == text { Ok(key) } else { Err(InvalidKey) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("overlay/v1/cluster")]
    #[case("overlay/v1/networks/ov_net1")]
    #[case("overlay/v1/vnis/256")]
    #[case("overlay/v1/subnets/10.0.0.0_24")]
    #[case("overlay/v1/nodes/host1")]
    #[case("overlay/v1/alive/host1")]
    #[case("overlay/v1/endpoints/ov_net1/00112233445566ff")]
    #[case("overlay/v1/collected/host1/00112233445566ff")]
    #[case("overlay/v1/names/ov_net1/bbox1")]
    #[case("overlay/v1/addresses/ov_net1/10.0.0.2")]
    #[case("overlay/v1/addresses/ov_net1/fd00::2")]
    #[case("overlay/v1/macs/ov_net1/02:42:0a:00:00:02")]
    #[case("overlay/v1/policies/ov_net1/ov_net2")]
    #[case("overlay/v1/rules/ov_net1/ov_net2/0a1b2c3d")]
    #[case("overlay/v1/import")]
    fn keys_round_trip(#[case] text: &str) {
        assert_eq!(text.parse::<Key>().unwrap().to_string(), text);
    }

    #[rstest]
    #[case("")]
    #[case("overlay/v2/networks/a")]
    #[case("overlay/v1/networks/")]
    #[case("overlay/v1/cluster/x")]
    #[case("overlay/v1/networks/../nodes")]
    #[case("overlay/v1/networks/a/b")]
    #[case("overlay/v1/vnis/0")]
    #[case("overlay/v1/endpoints/net/XYZ")]
    #[case("overlay/v1/rules/a/b/1")]
    #[case("overlay/v1/rules/a/b")]
    #[case("overlay/v1/unknown/a")]
    #[case("overlay/v1/vnis/0256")]
    #[case("overlay/v1/vnis/+256")]
    #[case("overlay/v1/subnets/10.0.0.9_24")]
    #[case("overlay/v1/addresses/ov_net1/fd00:0::2")]
    fn anything_else_is_no_key(#[case] text: &str) {
        assert_eq!(text.parse::<Key>(), Err(InvalidKey));
    }
}
