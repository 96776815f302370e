//! The kernel's own means, as flannel's VXLAN backend puts them together: a bridge with a subnet of its own on each
//! host, routes between the subnets, and a VXLAN device that learns nothing because its entries are written for it.

use std::net::Ipv4Addr;

use anyhow::Result;
use overlay_tests::{
    netns::Netns,
    underlay::{MTU, Machine, UNDERLAY_IFNAME, Underlay},
};

use super::{Setting, Stage};
use crate::place::{Place, Route};

const BRIDGE: &str = "cni0";
const VXLAN: &str = "flannel.1";
/// Room for the outer headers.
const CONTAINER_MTU: &str = "1450";

/// A host's part of the network: its number is in all its addresses.
#[derive(Clone, Copy)]
struct Node(u8);

impl Node {
    fn subnet(self) -> String {
        format!("10.244.{}.0/24", self.0)
    }

    /// Address of the VXLAN device, the first of the subnet.
    fn vtep_inner(self) -> String {
        format!("10.244.{}.0", self.0)
    }

    fn gateway(self) -> String {
        format!("10.244.{}.1", self.0)
    }

    fn vtep_mac(self) -> String {
        format!("02:00:00:00:f1:{:02x}", self.0)
    }

    fn container(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.0, number)
    }
}

/// Builds it: one container on the first host, two on the second.
pub fn build(setting: Setting) -> Result<Stage> {
    let underlay = Underlay::new(setting.wire);
    let hosts = [underlay.add_host("kernel1", MTU), underlay.add_host("kernel2", MTU)];
    let [one, two] = [Node(1), Node(2)];
    set_up(&hosts[0], one, &hosts[1], two);
    set_up(&hosts[1], two, &hosts[0], one);
    let client = container(&hosts[0], one, 2);
    let (server, neighbour) = (container(&hosts[1], two, 2), container(&hosts[1], two, 3));
    let from = |netns| Route { client: Place::of(netns), server: Place::of(&server), addr: two.container(2) };
    let (across, same_host) = (from(&client), from(&neighbour));
    let hostile = setting.hostile(hosts[1].addr, &underlay);
    Ok(Stage::new(across, same_host, hostile, (client, neighbour, server, hosts, underlay)))
}

fn set_up(host: &Machine, node: Node, other: &Machine, other_node: Node) {
    let netns = &host.netns;
    netns.sysctl("net/ipv4/ip_forward", "1");
    netns.sysctl("net/bridge/bridge-nf-call-iptables", "0");
    netns.ip(&["link", "add", BRIDGE, "mtu", CONTAINER_MTU, "type", "bridge"]);
    netns.ip(&["addr", "add", &format!("{}/24", node.gateway()), "dev", BRIDGE]);
    netns.ip(&["link", "set", BRIDGE, "up"]);
    let local = host.addr.ip.to_string();
    let vxlan = [
        "type",
        "vxlan",
        "id",
        "1",
        "dev",
        UNDERLAY_IFNAME,
        "local",
        &local,
        "dstport",
        "4789",
        "nolearning",
    ];
    netns.ip(&[&["link", "add", VXLAN, "address", &node.vtep_mac()], &vxlan[..]].concat());
    netns.ip(&["addr", "add", &format!("{}/32", node.vtep_inner()), "dev", VXLAN]);
    netns.ip(&["link", "set", VXLAN, "up"]);
    let (inner, mac, outer) = (other_node.vtep_inner(), other_node.vtep_mac(), other.addr.ip.to_string());
    netns.ip(&["neigh", "add", &inner, "lladdr", &mac, "dev", VXLAN, "nud", "permanent"]);
    netns.must(&["bridge", "fdb", "append", &mac, "dev", VXLAN, "dst", &outer]);
    netns.ip(&["route", "add", &other_node.subnet(), "via", &inner, "dev", VXLAN, "onlink"]);
}

/// A container on a host's bridge.
fn container(host: &Machine, node: Node, number: u8) -> Netns {
    let netns = Netns::new("kernel-container");
    let port = format!("veth{number}");
    let peer = ["type", "veth", "peer", "name", "eth0", "mtu", CONTAINER_MTU, "netns", netns.name()];
    host.netns.ip(&[&["link", "add", &port, "mtu", CONTAINER_MTU], &peer[..]].concat());
    host.netns.ip(&["link", "set", &port, "master", BRIDGE, "up"]);
    netns.ip(&["addr", "add", &format!("{}/24", node.container(number)), "dev", "eth0"]);
    netns.ip(&["link", "set", "eth0", "up"]);
    netns.ip(&["route", "add", "default", "via", &node.gateway()]);
    netns
}
