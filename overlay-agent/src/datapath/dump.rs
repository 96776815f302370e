//! Map contents for people: each entry one JSON object, addresses in their usual form.

use std::net::{IpAddr, Ipv4Addr};

use overlay_common::{
    abi::{capacity, map},
    addr::{Addr, MAPPED_BITS},
    config::Config,
    endpoint::{Endpoint, FLAG_HOST, FLAG_INGRESS_LIMIT},
    fdb::{self, FdbEntry, FdbKey},
    flood::{EXTERNAL_SENDER, FloodKey, HERE, Receiver},
    flow::{Flow, FlowKey},
    gateway::{Gateway, HostAddr},
    limit::{INGRESS, Limits},
    mac::Mac,
    neigh::{Neigh, NeighKey},
    network::Network,
    policy::{Policy, PolicyKey, RuleBits, RuleBitsKey, RuleSet},
    stats::{RuleCount, RuleKey},
    turns::Turns,
    verdict::DropReason,
    vtep::{self, Vtep, VtepMemberKey},
};
use serde_json::{Map, Value, json};

use super::{Datapath, DatapathError};
use crate::reconcile::{RouteTarget, Tables};

/// One entry.
pub type Row = Map<String, Value>;

/// A map and what it is.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Its name.
    pub name: &'static str,
    /// Most entries it can hold.
    pub max_entries: usize,
    /// What it maps.
    pub text: &'static str,
}

/// All maps that can be dumped.
pub const MAPS: [Description; 23] = [
    describe(map::CONFIG, 1, "this host's settings"),
    describe(map::NETWORKS, capacity::NETWORKS, "VNI → gateway, MTU, flags"),
    describe(map::VTEPS, capacity::VTEPS, "index → outer header of another host"),
    describe(
        map::VTEP_MEMBERS,
        capacity::VTEP_MEMBERS,
        "VNI, VTEP → may send, and whether without an agent (VNI 0: is known)",
    ),
    describe(map::ENDPOINTS, capacity::ENDPOINTS, "host veth → VNI, addresses of the container behind it"),
    describe(map::FDB, capacity::FDB, "VNI, MAC → host veth or VTEP"),
    describe(map::NEIGH, capacity::NEIGH, "VNI, address → MAC"),
    describe(map::POLICY, capacity::POLICY, "source VNI, destination VNI → allow, or ask the rules"),
    describe(map::RULES, capacity::RULES, "source VNI, destination VNI → rules by slot"),
    describe(
        map::RULE_BITS,
        capacity::RULE_BITS,
        "VNI, other VNI, address → slots of rules whose labels it has",
    ),
    describe(map::ROUTES, capacity::ROUTES, "sender's VNI (0: any), subnet → VNI"),
    describe(
        map::GATEWAY,
        1,
        "the device that leads to the host's stack, and the range of host-local addresses",
    ),
    describe(map::HOST_ADDRS, capacity::ENDPOINTS, "host veth → host-local address"),
    describe(map::HOST_OWNERS, capacity::ENDPOINTS, "host-local address → host veth"),
    describe(
        map::RESOLVER_TURNS,
        capacity::ENDPOINTS,
        "host veth → how far it has used up its turns at the resolver",
    ),
    describe(map::FLOOD, capacity::FLOOD, "VNI, side, number → who gets copies of broadcast and multicast"),
    describe(
        map::FLOOD_TURNS,
        capacity::ENDPOINTS,
        "host veth, or VTEP without an agent → how far it has used up its turns at broadcast and multicast",
    ),
    describe(
        map::LIMITS,
        capacity::ENDPOINTS,
        "host veth → bytes a second that its container may send and receive",
    ),
    describe(
        map::LIMIT_TURNS,
        2 * capacity::ENDPOINTS,
        "host veth, direction → how far its container has used up its rate",
    ),
    describe(map::ENDPOINT_STATS, capacity::ENDPOINTS, "host veth → packets and bytes"),
    describe(map::DROPS, capacity::DROPS, "VNI, host veth, reason → packets and bytes"),
    describe(map::RULE_STATS, capacity::RULE_STATS, "VNIs, rule (0: none, audited) → packets and flows"),
    describe(map::FLOWS, capacity::FLOWS, "flow that a rule let through → when it was last seen"),
];

const fn describe(name: &'static str, max_entries: usize, text: &'static str) -> Description {
    Description { name, max_entries, text }
}

impl Datapath {
    /// The entries of a map; `None` if there is no such map.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn dump(&self, name: &str) -> Result<Option<Vec<Row>>, DatapathError> {
        self.dump_from(&self.observe()?, name)
    }

    /// Every map with its number of entries; the maps are read once.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn sizes(&self) -> Result<Vec<(Description, usize)>, DatapathError> {
        let tables = self.observe()?;
        let size =
            |map: Description| Ok((map, self.dump_from(&tables, map.name)?.map_or(0, |rows| rows.len())));
        MAPS.into_iter().map(size).collect()
    }

    fn dump_from(&self, tables: &Tables, name: &str) -> Result<Option<Vec<Row>>, DatapathError> {
        Ok(match name {
            map::ENDPOINT_STATS => Some(self.dump_stats()?),
            map::DROPS => Some(self.dump_drops()?),
            map::RESOLVER_TURNS => Some(rows(&self.maps().resolver_turns()?, turns)),
            map::LIMIT_TURNS => Some(rows(&self.maps().limit_turns()?, limit_turns)),
            map::FLOOD_TURNS => Some(rows(&self.maps().flood_turns()?, turns)),
            map::RULE_STATS => Some(rows(&self.maps().rule_stats()?, rule_count)),
            map::FLOWS => Some(rows(&self.maps().flows()?, flow)),
            _ => dump_table(tables, name),
        })
    }

    fn dump_stats(&self) -> Result<Vec<Row>, DatapathError> {
        let stats = self.maps().endpoint_stats()?;
        let row = |(ifindex, s): (&u32, &overlay_common::stats::EndpointStats)| {
            row(json!({ "ifindex": ifindex, "tx_packets": s.tx_packets, "tx_bytes": s.tx_bytes,
                "rx_packets": s.rx_packets, "rx_bytes": s.rx_bytes }))
        };
        Ok(stats.iter().map(row).collect())
    }

    fn dump_drops(&self) -> Result<Vec<Row>, DatapathError> {
        let drops = self.maps().drops()?;
        let name = |number| DropReason::from_number(number).map_or("?", DropReason::name);
        let row = |(k, v): (&overlay_common::stats::DropKey, &overlay_common::stats::DropCount)| {
            row(json!({ "vni": k.vni, "ifindex": k.ifindex, "reason": k.reason, "name": name(k.reason),
                "packets": v.packets, "bytes": v.bytes }))
        };
        Ok(drops.iter().map(row).collect())
    }
}

fn dump_table(t: &Tables, name: &str) -> Option<Vec<Row>> {
    Some(match name {
        map::CONFIG => vec![row(config(&t.config))],
        map::NETWORKS => rows(&t.networks, network),
        map::VTEPS => rows(&t.vteps, vtep),
        map::VTEP_MEMBERS => rows(&t.vtep_members, vtep_member),
        map::ENDPOINTS => rows(&t.endpoints, endpoint),
        map::FDB => rows(&t.fdb, fdb),
        map::NEIGH => rows(&t.neigh, neigh),
        map::POLICY => rows(&t.policy, policy),
        map::RULES => rows(&t.rules, rules),
        map::RULE_BITS => rows(&t.rule_bits, rule_bits),
        map::ROUTES => rows(&t.routes, route),
        map::FLOOD => rows(&t.flood, flood),
        map::LIMITS => rows(&t.limits, limits),
        map::GATEWAY => vec![row(gateway(&t.gateway))],
        map::HOST_ADDRS => rows(&t.host_addrs, host_addr),
        map::HOST_OWNERS => rows(&t.host_owners, |addr, ifindex| host_addr(ifindex, addr)),
        _ => return None,
    })
}

/// The entry of map `config`.
pub(crate) fn config(c: &Config) -> Value {
    json!({ "underlay_ifindex": c.underlay_ifindex, "tunnel_ifindex": c.tunnel_ifindex,
        "vtep_addr": ip(c.vtep_addr), "vxlan_port": u16::from_be(c.vxlan_port_be),
        "underlay_mtu": c.underlay_mtu, "flags": c.flags, "underlay_mac": mac(c.underlay_mac) })
}

/// An entry of map `networks`.
pub(crate) fn network(vni: &u32, n: &Network) -> Value {
    json!({ "vni": vni, "gateway_ipv4": ip(n.gateway_ipv4), "gateway_mac": mac(n.gateway_mac),
        "mtu": n.mtu, "flags": n.flags, "gateway_ipv6": n.has_ipv6().then(|| addr(Addr::v6(n.gateway_ipv6))) })
}

/// An entry of map `vteps`.
pub(crate) fn vtep(index: &u32, vtep: &Vtep) -> Value {
    let header = &vtep.header;
    json!({ "index": index, "remote": ip(header.ip.dst), "local": ip(header.ip.src),
        "port": u16::from_be(header.udp.dst_port_be), "next_hop_mac": mac(header.eth.dst),
        "local_mac": mac(header.eth.src), "path_mtu": vtep.path_mtu })
}

/// An entry of map `vtep_members`.
pub(crate) fn vtep_member(key: &VtepMemberKey, kind: &u32) -> Value {
    json!({ "vni": key.vni, "vtep_addr": ip(key.vtep_addr), "external": *kind == vtep::EXTERNAL })
}

/// An entry of map `endpoints`.
pub(crate) fn endpoint(ifindex: &u32, e: &Endpoint) -> Value {
    json!({ "ifindex": ifindex, "vni": e.vni, "ipv4": ip(e.ipv4), "mac": mac(e.mac),
        "ipv6": e.has_ipv6().then(|| addr(Addr::v6(e.ipv6))), "egress_limit": e.has_egress_limit(),
        "ingress_limit": e.flags & FLAG_INGRESS_LIMIT != 0, "host": e.flags & FLAG_HOST != 0 })
}

/// An entry of map `fdb`.
pub(crate) fn fdb(key: &FdbKey, entry: &FdbEntry) -> Value {
    json!({ "vni": key.vni, "mac": mac(key.mac), "ifindex": entry.ifindex, "vtep": entry.vtep,
        "vtep_addr": ip(entry.vtep_addr), "limited": entry.flags & fdb::FLAG_LIMITED != 0,
        "host": entry.flags & fdb::FLAG_HOST != 0 })
}

/// An entry of map `neigh`.
pub(crate) fn neigh(key: &NeighKey, entry: &Neigh) -> Value {
    json!({ "vni": key.vni, "ip": addr(key.addr), "mac": mac(entry.mac) })
}

/// An entry of map `flood`.
pub(crate) fn flood(key: &FloodKey, to: &Receiver) -> Value {
    let side = if key.side == HERE { "here" } else { "there" };
    json!({ "vni": key.vni, "side": side, "number": key.number, "ifindex": to.ifindex, "vtep_addr": ip(to.vtep_addr) })
}

/// An entry of map `limits`.
pub(crate) fn limits(ifindex: &u32, limits: &Limits) -> Value {
    json!({ "ifindex": ifindex, "egress_bytes_per_s": limits.egress_bytes_per_s,
        "ingress_bytes_per_s": limits.ingress_bytes_per_s })
}

fn limit_turns(key: &u32, turns: &Turns) -> Value {
    let direction = if key & INGRESS == 0 { "egress" } else { "ingress" };
    json!({ "ifindex": key & !INGRESS, "direction": direction, "taken_until_ns": turns.taken_until_ns })
}

fn turns(sender: &u32, turns: &Turns) -> Value {
    let is_external = sender & EXTERNAL_SENDER != 0;
    let sender = sender & !EXTERNAL_SENDER;
    let (ifindex, vtep) = if is_external { (0, sender) } else { (sender, 0) };
    json!({ "ifindex": ifindex, "vtep": vtep, "taken_until_ns": turns.taken_until_ns })
}

/// An entry of map `policy`.
pub(crate) fn policy(key: &PolicyKey, policy: &Policy) -> Value {
    json!({ "src_vni": key.src_vni, "dst_vni": key.dst_vni, "action": policy.action })
}

/// An entry of map `rules`.
pub(crate) fn rules(key: &PolicyKey, set: &RuleSet) -> Value {
    let rule = |r: &overlay_common::policy::Rule| {
        let slot = r.slot;
        json!({ "slot": slot, "id": rule_id(r.id), "protocol": r.protocol, "first_port": r.first_port,
            "last_port": r.last_port, "from_labels": set.src_labelled & (1 << (slot & 31)) != 0,
            "to_labels": set.dst_labelled & (1 << (slot & 31)) != 0 })
    };
    json!({ "src_vni": key.src_vni, "dst_vni": key.dst_vni, "audit": set.audits(), "answers": set.has_answers(),
        "rules": set.rules.iter().take(set.count as usize).map(rule).collect::<Vec<_>>() })
}

/// An entry of map `rule_bits`.
pub(crate) fn rule_bits(key: &RuleBitsKey, bits: &RuleBits) -> Value {
    let slots = |bits: u32| (0..u32::BITS).filter(|slot| bits & (1 << slot) != 0).collect::<Vec<_>>();
    json!({ "vni": key.vni, "peer_vni": key.peer_vni, "ip": addr(key.addr), "src_slots": slots(bits.src),
        "dst_slots": slots(bits.dst) })
}

/// The key of an entry of map `rule_stats`.
pub(crate) fn rule_key(key: &RuleKey) -> Value {
    json!({ "src_vni": key.src_vni, "dst_vni": key.dst_vni, "rule": rule_id(key.rule) })
}

fn rule_count(key: &RuleKey, count: &RuleCount) -> Value {
    let mut row = rule_key(key);
    row["packets"] = count.packets.into();
    row["flows"] = count.flows.into();
    row
}

fn flow(key: &FlowKey, flow: &Flow) -> Value {
    let what = if key.kind == FlowKey::FRAGMENTS { "fragments" } else { "flow" };
    json!({ "what": what, "src_vni": key.src_vni, "dst_vni": key.dst_vni, "protocol": key.protocol,
        "src": addr(key.src), "src_port": u16::from_be(key.src_port_be), "dst": addr(key.dst),
        "dst_port": u16::from_be(key.dst_port_be), "seen_ns": flow.seen_ns, "closing": flow.closing != 0 })
}

fn rule_id(id: u32) -> String {
    format!("{id:08x}")
}

/// The entry of map `gateway`.
pub(crate) fn gateway(g: &Gateway) -> Value {
    json!({ "ifindex": g.ifindex, "range": ip(g.range), "mask": ip(g.mask), "agent": ip(g.agent), "mac": mac(g.mac) })
}

/// An entry of map `host_addrs`, or, turned round, of `host_owners`.
pub(crate) fn host_addr(ifindex: &u32, addr: &HostAddr) -> Value {
    json!({ "ifindex": ifindex, "ipv4": ip(addr.ipv4) })
}

/// An entry of map `routes`.
pub(crate) fn route(target: &RouteTarget, vni: &u32) -> Value {
    let net = addr(target.key.addr);
    let before = if net.is_ipv4() { MAPPED_BITS } else { 0 };
    json!({ "scope_vni": u32::from_be(target.key.scope_vni_be),
        "subnet": format!("{net}/{}", target.prefix_len.saturating_sub(before)), "vni": vni })
}

fn rows<K, V>(table: &std::collections::BTreeMap<K, V>, to_json: impl Fn(&K, &V) -> Value) -> Vec<Row> {
    table.iter().map(|(k, v)| row(to_json(k, v))).collect()
}

fn row(value: Value) -> Row {
    match value {
        Value::Object(fields) => fields,
        other => Row::from_iter([("value".to_owned(), other)]),
    }
}

fn addr(addr: Addr) -> IpAddr {
    addr.into()
}

fn ip(bytes: [u8; 4]) -> Ipv4Addr {
    Ipv4Addr::from(bytes)
}

fn mac(bytes: [u8; 6]) -> Mac {
    Mac(bytes)
}
