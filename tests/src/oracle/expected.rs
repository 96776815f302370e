//! What the store's records ask of one host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use serde_json::Value;

use super::{
    kernel::{BRIDGE, GATEWAY, GATEWAY_INNER, HOST_NETNS, Kernel, TUNNEL},
    rules,
    store::{Records, number, text},
};
use crate::{host::Host, underlay::UNDERLAY_IFNAME};

/// VXLAN takes these bytes of the underlay's MTU: outer IPv4, UDP, VXLAN, inner Ethernet.
const OVERHEAD: u64 = 20 + 8 + 8 + 14;

/// What a host should have, in the lines of [`Kernel`].
pub(super) struct Expected<'a> {
    pub(super) lines: BTreeSet<String>,
    records: &'a Records,
    host: &'a Host,
    found: &'a Kernel,
    hosts: &'a [Host],
}

impl<'a> Expected<'a> {
    pub(super) fn of(records: &'a Records, host: &'a Host, found: &'a Kernel, hosts: &'a [Host]) -> Self {
        let mut expected = Self { lines: BTreeSet::new(), records, host, found, hosts };
        expected.config();
        expected.networks();
        expected.endpoints();
        expected.nodes();
        expected.devices();
        expected.programs();
        expected
    }

    fn line(&mut self, line: String) {
        self.lines.insert(line);
    }

    fn underlay(&self) -> &'a Value {
        &self.found.devices[UNDERLAY_IFNAME]
    }

    fn ifindex(&self, device: &str) -> u64 {
        self.found.devices.get(device).map_or(0, |device| number(device, "ifindex"))
    }

    fn flag(&self, flag: &str) -> &'a str {
        self.host.flags().get(flag).unwrap_or_default()
    }

    fn port(&self) -> &'a str {
        Some(self.flag("--vxlan-port")).filter(|port| !port.is_empty()).unwrap_or("4789")
    }

    fn config(&mut self) {
        let features = self.host.netns().must(&["ethtool", "-k", UNDERLAY_IFNAME]);
        let generic = features.lines().any(|line| line.trim().starts_with("tx-checksum-ip-generic: on"));
        let flags = u8::from(generic) + if self.flag("--xdp") == "decap" { 2 } else { 0 };
        let (underlay, tunnel) = (self.underlay(), self.ifindex(TUNNEL));
        self.line(format!(
            "config: underlay {} tunnel {tunnel} vtep {} port {} mtu {} mac {} flags {flags}",
            underlay["ifindex"],
            self.host.addr().ip,
            self.port(),
            underlay["mtu"],
            text(underlay, "address"),
        ));
    }

    fn networks(&mut self) {
        let most = number(self.underlay(), "mtu") - OVERHEAD;
        let mut everywhere: BTreeMap<String, u64> = BTreeMap::new();
        for (name, network) in self.records.of("networks") {
            let (vni, gateway, subnet) =
                (number(network, "vni"), text(network, "gateway"), network_of(network));
            let mtu = network["mtu"].as_u64().map_or(most, |mtu| mtu.min(most));
            let ruled = if rules::decide_for(self.records, name) { 256 } else { 0 };
            let flood = if network["multicast"] == true { 2 } else { 0 };
            let flags = u16::from(network["internal"] == true) + flood + ruled;
            let mac = mac_of(gateway);
            let ipv6 = &network["ipv6"];
            let gateway_ipv6 = ipv6["gateway"].as_str().unwrap_or("::");
            self.line(format!(
                "networks: {vni} gateway {gateway} {gateway_ipv6} {mac} mtu {mtu} flags {flags}"
            ));
            self.line(format!("neigh: {vni} {gateway} {mac}"));
            self.line(format!("routes: for {vni} {subnet} is in {vni}"));
            if let Some(subnet) = ipv6["subnet"].as_str() {
                self.line(format!("neigh: {vni} {gateway_ipv6} {mac}"));
                self.line(format!("routes: for {vni} {subnet} is in {vni}"));
                let lowest = everywhere.entry(subnet.to_owned()).or_insert(vni);
                *lowest = vni.min(*lowest);
            }
            for other in rules::reachable(self.records, name) {
                let there = &self.records.get(&format!("networks/{other}")).cloned().unwrap_or_default();
                let decide = rules::decide(self.records, name, other);
                self.line(format!("policy: {vni} {} {}", number(there, "vni"), if decide { 2 } else { 1 }));
                self.lines
                    .extend(decide.then(|| rules::lines(self.records, name, other)).into_iter().flatten());
                let subnets = [Some(network_of(there)), there["ipv6"]["subnet"].as_str().map(str::to_owned)];
                for subnet in subnets.into_iter().flatten() {
                    self.line(format!("routes: for {vni} {subnet} is in {}", number(there, "vni")));
                }
            }
            let lowest = everywhere.entry(subnet).or_insert(vni);
            *lowest = vni.min(*lowest);
        }
        let everywhere =
            everywhere.into_iter().map(|(subnet, vni)| format!("routes: for 0 {subnet} is in {vni}"));
        self.lines.extend(everywhere);
    }

    fn endpoints(&mut self) {
        for (_, endpoint) in self.records.of("endpoints") {
            let (network, node) = (text(endpoint, "network"), text(endpoint, "node"));
            let (vni, ip, mac) = (self.records.vni(network), text(endpoint, "ipv4"), text(endpoint, "mac"));
            if endpoint["vtep"].is_null() && node != self.host.label() && self.is_withdrawn(node) {
                continue;
            }
            let ipv6 = endpoint["ipv6"].as_str();
            self.line(format!("neigh: {vni} {ip} {mac}"));
            self.lines.extend(ipv6.map(|ip| format!("neigh: {vni} {ip} {mac}")));
            self.flood(vni, network, endpoint);
            self.lines.extend(rules::bits(self.records, network, endpoint));
            if endpoint["vtep"].is_string() {
                self.external(vni, endpoint);
                continue;
            }
            if node == self.host.label() {
                let veth = format!("ovl{}", &text(endpoint, "id")[..12]);
                let ifindex = self.ifindex(&veth);
                let limits = &endpoint["limits"];
                let [sends, receives] = ["egress", "ingress"]
                    .map(|direction| u8::from(limits[format!("{direction}_bits_per_s")].is_u64()));
                let is_host = u8::from(endpoint["netns"] == HOST_NETNS);
                self.line(format!("fdb: {vni} {mac} veth {ifindex} flags {}", receives + 2 * is_host));
                self.line(format!(
                    "endpoints: {ifindex} vni {vni} ip {ip} {} mac {mac} flags {}",
                    ipv6.unwrap_or("::"),
                    sends + 2 * receives + 4 * is_host
                ));
                self.line(format!("host_addrs: {ifindex} of {ifindex}"));
                self.line(format!("host_owners: {ifindex}"));
                self.line(format!("endpoint_stats: {ifindex}"));
                self.limits(ifindex, limits);
                self.line(format!("device: {veth} up port of {BRIDGE} mtu 65535"));
                self.line(format!("program: from_endpoint at tcx of {veth}"));
                self.line(format!("pin: links/from_endpoint-{veth}"));
                self.line(format!("offload: on in {}", text(endpoint, "netns")));
                continue;
            }
            let vtep = self.vtep(node);
            self.line(format!("fdb: {vni} {mac} veth 0 flags 0 vtep {vtep} header to {vtep}"));
            for network in rules::reachable(self.records, network).into_iter().chain([network]) {
                let vni = self.records.vni(network);
                self.lines.insert(format!("vtep_members: {vni} {vtep} kind 1"));
            }
        }
    }

    /// A machine without an agent: its addresses lead to its VTEP, which sends in that network alone.
    fn external(&mut self, vni: u64, endpoint: &Value) {
        let (vtep, mac) = (text(endpoint, "vtep"), text(endpoint, "mac"));
        self.line(format!("fdb: {vni} {mac} veth 0 flags 0 vtep {vtep} header to {vtep}"));
        self.line(format!("vtep_members: {vni} {vtep} kind 2"));
        self.line(format!("vtep_members: 0 {vtep} kind 2"));
        let known = self.host.netns().ip(&["-j", "neigh", "show", vtep]);
        let known: Vec<Value> = serde_json::from_str(&known).unwrap_or_default();
        let hop = known.first().and_then(|entry| entry["lladdr"].as_str()).unwrap_or("unknown").to_owned();
        self.vtep_to(vtep, self.port().parse().expect("a port"), &hop);
    }

    fn limits(&mut self, ifindex: u64, limits: &Value) {
        if !limits.is_null() {
            let bytes = |field: &str| limits[field].as_u64().unwrap_or_default() / 8;
            let (egress, ingress) = (bytes("egress_bits_per_s"), bytes("ingress_bits_per_s"));
            self.line(format!("limits: {ifindex} {egress} {ingress}"));
        }
    }

    /// A member gets copies of broadcast and multicast, if its network has that: by its device or at its VTEP.
    fn flood(&mut self, vni: u64, network: &str, endpoint: &Value) {
        let record = self.records.get(&format!("networks/{network}"));
        if record.is_none_or(|record| record["multicast"] != true) {
            return;
        }
        let node = text(endpoint, "node");
        let (veth, vtep) = if node == self.host.label() {
            (self.ifindex(&format!("ovl{}", &text(endpoint, "id")[..12])), "0.0.0.0")
        } else {
            (0, endpoint["vtep"].as_str().unwrap_or_else(|| self.vtep(node)))
        };
        self.line(format!("flood: {vni} veth {veth} vtep {vtep}"));
    }

    /// Whether a node was collected or removed, or died: it gives no sign of life and said no goodbye. An export
    /// holds no signs of life; what it is asked about lives.
    fn is_withdrawn(&self, node: &str) -> bool {
        let life = self.records.get(&format!("nodes/{node}")).map_or("", |record| text(record, "life"));
        let signs = self.records.of("alive").next().is_some();
        let is_silent = signs && self.records.get(&format!("alive/{node}")).is_none();
        ["", "collected", "removed"].contains(&life) || life == "running" && is_silent
    }

    fn vtep(&self, node: &str) -> &'a str {
        self.records.get(&format!("nodes/{node}")).map_or("unknown", |node| text(node, "vtep"))
    }

    fn nodes(&mut self) {
        for (name, node) in self.records.of("nodes").filter(|(name, _)| *name != self.host.label()) {
            if self.is_withdrawn(name) {
                continue;
            }
            let (vtep, port) = (text(node, "vtep"), number(node, "vxlan_port"));
            let mac = self.mac_of_host(name);
            self.line(format!("vtep_members: 0 {vtep} kind 1"));
            self.vtep_to(vtep, port, &mac);
        }
    }

    /// The way to a VTEP: a neighbour that the kernel keeps, and a header.
    fn vtep_to(&mut self, vtep: &str, port: u64, mac: &str) {
        let here = (text(self.underlay(), "address"), self.host.addr().ip);
        let checksum = sum(here.1, vtep.parse().expect("a VTEP address"));
        self.line(format!("neighbour: {vtep} {mac}"));
        self.line(format!(
            "vteps: from {} {} to {mac} {vtep} port {port} type 0800 version 45 ttl 64 protocol 17 fragment 4000 vxlan 8 checksum {checksum}",
            here.0, here.1
        ));
    }

    /// Hardware address of a host's underlay device, as it says itself.
    fn mac_of_host(&self, name: &str) -> String {
        let host = self.hosts.iter().find(|host| host.label() == name);
        let shown = host.map(|host| host.netns().ip(&["-j", "link", "show", UNDERLAY_IFNAME]));
        let links: Vec<Value> = serde_json::from_str(&shown.unwrap_or_default()).unwrap_or_default();
        links.first().map_or("unknown", |link| text(link, "address")).to_owned()
    }

    fn devices(&mut self) {
        self.line(format!("device: {TUNNEL} up port of {BRIDGE} mtu 65485"));
        self.line(format!("device: {BRIDGE} down port of none"));
        let (found, most) = (self.found, number(self.underlay(), "mtu") - OVERHEAD);
        let mac = found.devices.get(GATEWAY).map_or("unknown", |device| text(device, "address"));
        self.line(format!("gateway: {} mac {mac}", self.ifindex(GATEWAY)));
        self.line(format!("device: {GATEWAY} up port of none mtu {most}"));
        self.line(format!("device: {GATEWAY_INNER} up port of none mtu 65535"));
    }

    fn programs(&mut self) {
        self.line(format!("program: from_underlay at tcx of {UNDERLAY_IFNAME}"));
        self.line(format!("program: from_tunnel at tcx of {TUNNEL}"));
        self.line(format!("pin: links/from_underlay-{UNDERLAY_IFNAME}"));
        self.line(format!("pin: links/from_tunnel-{TUNNEL}"));
        self.line(format!("program: from_host at tcx of {GATEWAY_INNER}"));
        self.line(format!("pin: links/from_host-{GATEWAY_INNER}"));
        for program in
            ["from_endpoint", "from_endpoint6", "from_host", "from_tunnel", "from_underlay", "xdp_underlay"]
        {
            self.line(format!("pin: programs/{program}"));
        }
        if ["filter", "decap"].contains(&self.flag("--xdp")) {
            self.line(format!("program: xdp_underlay at xdp of {UNDERLAY_IFNAME}"));
            self.line(format!("pin: links/xdp_native-{UNDERLAY_IFNAME}"));
        }
    }
}

/// The subnet of a network, with the bits after the prefix zero.
fn network_of(network: &Value) -> String {
    let (addr, length) = text(network, "subnet").split_once('/').expect("a subnet in CIDR form");
    let (addr, length): (Ipv4Addr, u32) =
        (addr.parse().expect("an address"), length.parse().expect("a length"));
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or_default();
    format!("{}/{length}", Ipv4Addr::from(u32::from(addr) & mask))
}

/// The hardware address that Docker would give to this address.
fn mac_of(ip: &str) -> String {
    let [a, b, c, d] = ip.parse::<Ipv4Addr>().expect("an address").octets();
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// The sum over an outer header's constant fields (RFC 1071), not yet complemented.
fn sum(from: Ipv4Addr, to: Ipv4Addr) -> u32 {
    let halves = |ip: Ipv4Addr| (u32::from(ip) >> 16) + (u32::from(ip) & 0xffff);
    let sum = 0x4500 + 0x4000 + ((64 << 8) | 17) + halves(from) + halves(to);
    let folded = (sum >> 16) + (sum & 0xffff);
    (folded >> 16) + (folded & 0xffff)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_subnet_is_told_by_its_first_address() {
        assert_eq!(network_of(&json!({ "subnet": "10.1.2.3/16" })), "10.1.0.0/16");
    }

    #[test]
    fn an_outer_headers_sum_is_that_of_its_words() {
        // 4500 0000 0000 4000 4011 0000 c0a8 4d01 c0a8 4d02
        assert_eq!(sum(Ipv4Addr::new(192, 168, 77, 1), Ipv4Addr::new(192, 168, 77, 2)), 0xe066);
    }
}
