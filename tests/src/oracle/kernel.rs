//! What a host has: its maps by `bpftool`, its devices and neighbours by `ip`, its programs by asking the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, Ipv6Addr},
};

use aya::{
    maps::{Array, Map, MapData},
    programs::{SchedClassifier, TcAttachType},
};
use overlay_common::abi;
use serde_json::Value;

use super::store::{Records, number, text};
use crate::{exec, host::Host, underlay::UNDERLAY_IFNAME};

pub(super) const TUNNEL: &str = "ovl-tunnel";
pub(super) const BRIDGE: &str = "ovl-headroom";
pub(super) const GATEWAY: &str = "ovl-gw";
pub(super) const GATEWAY_INNER: &str = "ovl-gw-in";

/// A host as it is, in lines of text; and what the expectations need to know of it.
pub(super) struct Kernel {
    pub(super) lines: BTreeSet<String>,
    pub(super) devices: BTreeMap<String, Value>,
}

impl Kernel {
    #[track_caller]
    pub(super) fn read(host: &Host, records: &Records) -> Self {
        let devices = devices(host);
        let mut lines = BTreeSet::new();
        lines.extend(map_lines(host));
        lines.extend(devices.values().filter_map(device_line));
        lines.extend(devices.iter().flat_map(|(name, device)| program_lines(host, name, device)));
        lines.extend(neighbour_lines(host));
        lines.extend(pin_lines(host));
        lines.extend(offload_lines(host, records));
        Self { lines, devices }
    }
}

/// Whether a device is the host's end of a container's veth.
fn is_host_veth(name: &str) -> bool {
    name.strip_prefix("ovl").is_some_and(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[track_caller]
fn parse(json: &str) -> Vec<Value> {
    serde_json::from_str(json).unwrap_or_else(|e| panic!("no JSON list: {e}: {json}"))
}

#[track_caller]
fn devices(host: &Host) -> BTreeMap<String, Value> {
    let all = parse(&host.netns().ip(&["-j", "-d", "link", "show"]));
    all.into_iter().map(|device| (text(&device, "ifname").to_owned(), device)).collect()
}

/// As an endpoint's namespace: its node itself.
pub(super) const HOST_NETNS: &str = "/proc/thread-self/ns/net";

/// Entries of a map by field names.
#[track_caller]
fn entries(host: &Host, map: &str) -> Vec<(Value, Value)> {
    let pin = host.map_pin(map).display().to_string();
    let entries = parse(&exec::must(["bpftool", "-j", "map", "dump", "pinned", &pin]));
    let formatted = |entry: Value| (entry["formatted"]["key"].clone(), entry["formatted"]["value"].clone());
    entries.into_iter().map(formatted).collect()
}

/// A `_be` field, which bpftool prints as this machine reads it.
fn be16(value: &Value) -> u16 {
    u16::try_from(value.as_u64().unwrap_or_default()).unwrap_or_default().swap_bytes()
}

fn dotted(bytes: &Value) -> String {
    join(bytes, ".", |byte| byte.to_string())
}

/// Sixteen bytes as an IPv6 address.
fn ip(bytes: &Value) -> String {
    let bytes: Vec<u8> = serde_json::from_value(bytes.clone()).unwrap_or_default();
    <[u8; 16]>::try_from(bytes).map_or_else(|_| "no address".to_owned(), |b| Ipv6Addr::from(b).to_string())
}

/// An address of either family.
fn addr(addr: &Value) -> String {
    let ip = ip(&addr["bytes"]);
    ip.strip_prefix("::ffff:").map(str::to_owned).unwrap_or(ip)
}

fn mac(bytes: &Value) -> String {
    join(bytes, ":", |byte| format!("{byte:02x}"))
}

fn join(bytes: &Value, separator: &str, show: impl Fn(u64) -> String) -> String {
    let bytes = bytes.as_array().into_iter().flatten().filter_map(Value::as_u64);
    bytes.map(show).collect::<Vec<_>>().join(separator)
}

#[track_caller]
fn map_lines(host: &Host) -> Vec<String> {
    let of = |map, line: &dyn Fn(&Value, &Value) -> String| -> Vec<String> {
        entries(host, map).iter().map(|(key, value)| line(key, value)).collect()
    };
    let vteps = vteps(host);
    let owners = entries(host, "host_owners");
    [
        of("config", &|_, c| {
            format!(
                "config: underlay {} tunnel {} vtep {} port {} mtu {} mac {} flags {}",
                c["underlay_ifindex"],
                c["tunnel_ifindex"],
                dotted(&c["vtep_addr"]),
                be16(&c["vxlan_port_be"]),
                c["underlay_mtu"],
                mac(&c["underlay_mac"]),
                c["flags"]
            )
        }),
        of("networks", &|vni, n| {
            let (gateway, gateway_mac) = (dotted(&n["gateway_ipv4"]), mac(&n["gateway_mac"]));
            let ipv6 = ip(&n["gateway_ipv6"]);
            format!(
                "networks: {vni} gateway {gateway} {ipv6} {gateway_mac} mtu {} flags {}",
                n["mtu"], n["flags"]
            )
        }),
        of("endpoints", &|ifindex, e| {
            let addresses = [dotted(&e["ipv4"]), ip(&e["ipv6"])].join(" ");
            let mac = mac(&e["mac"]);
            format!("endpoints: {ifindex} vni {} ip {addresses} mac {mac} flags {}", e["vni"], e["flags"])
        }),
        of("gateway", &|_, g| format!("gateway: {} mac {}", g["ifindex"], mac(&g["mac"]))),
        of("host_addrs", &|ifindex, addr| format!("host_addrs: {ifindex} {}", owner(&owners, addr))),
        of("host_owners", &|_, ifindex| format!("host_owners: {ifindex}")),
        of("endpoint_stats", &|ifindex, _| format!("endpoint_stats: {ifindex}")),
        of("fdb", &|key, entry| {
            let index = entry["vtep"].as_u64().unwrap_or_default();
            let header = vteps.get(&index).map_or_else(String::new, |header| header.to().to_string());
            let behind = format!(" vtep {} header to {header}", dotted(&entry["vtep_addr"]));
            let behind = if index == 0 { "" } else { &behind };
            let place = format!("veth {} flags {}{behind}", entry["ifindex"], entry["flags"]);
            format!("fdb: {} {} {place}", key["vni"], mac(&key["mac"]))
        }),
        of("neigh", &|key, n| format!("neigh: {} {} {}", key["vni"], addr(&key["addr"]), mac(&n["mac"]))),
        of("flood", &flood_line),
        of("limits", &limits_line),
        of("policy", &|key, p| format!("policy: {} {} {}", key["src_vni"], key["dst_vni"], p["action"])),
        of("rules", &|key, set| rules_line(key, set)),
        of("rule_bits", &|key, bits| {
            let ip = addr(&key["addr"]);
            format!("rule_bits: {} {} {ip} {} {}", key["vni"], key["peer_vni"], bits["src"], bits["dst"])
        }),
        of("rule_stats", &|key, _| {
            format!("rule_stats: {} {} {}", key["src_vni"], key["dst_vni"], key["rule"])
        }),
        of("routes", &route_line),
        of("vtep_members", &member_line),
        vteps.values().map(Header::line).collect(),
    ]
    .concat()
}

fn route_line(key: &Value, vni: &Value) -> String {
    let (data, length) = (&key["data"], number(key, "prefix_len") - 32);
    let scope = u32::try_from(number(data, "scope_vni_be")).unwrap_or_default().swap_bytes();
    let first = addr(&data["addr"]);
    // Behind 96 bits that are the same for all of them, if it is an IPv4 one (RFC 4291 section 2.5.5.2).
    let length = if first.contains(':') { length } else { length - 96 };
    format!("routes: for {scope} {first}/{length} is in {vni}")
}

fn flood_line(key: &Value, to: &Value) -> String {
    format!("flood: {} veth {} vtep {}", key["vni"], to["ifindex"], dotted(&to["vtep_addr"]))
}

fn limits_line(ifindex: &Value, limits: &Value) -> String {
    format!("limits: {ifindex} {} {}", limits["egress_bytes_per_s"], limits["ingress_bytes_per_s"])
}

fn member_line(key: &Value, kind: &Value) -> String {
    format!("vtep_members: {} {} kind {kind}", key["vni"], dotted(&key["vtep_addr"]))
}

/// A direction's rules, in no order.
fn rules_line(key: &Value, set: &Value) -> String {
    let count = usize::try_from(number(set, "count")).unwrap_or_default();
    let rules = set["rules"].as_array().into_iter().flatten().take(count).map(|rule| {
        let field = |name: &str| number(rule, name).to_string();
        ["id", "slot", "protocol", "protocol_mask", "first_port", "last_port"].map(field).join(" ")
    });
    let rules: BTreeSet<String> = rules.collect();
    format!(
        "rules: {} {} flags {} labelled {} {}: {}",
        key["src_vni"],
        key["dst_vni"],
        set["flags"],
        set["src_labelled"],
        set["dst_labelled"],
        rules.into_iter().collect::<Vec<_>>().join(", ")
    )
}

/// An outer header, as it would begin a packet.
struct Header([u8; 72]);

/// The header templates that are in use, by index. Not by `bpftool`, which takes a second for thousands of empty ones.
#[track_caller]
fn vteps(host: &Host) -> BTreeMap<u64, Header> {
    let pin = host.pins().join(format!("maps-v{}/vteps", abi::VERSION));
    let map = MapData::from_pin(&pin).unwrap_or_else(|e| panic!("cannot open {}: {e}", pin.display()));
    let map = Array::<_, [u8; 72]>::try_from(Map::Array(map)).expect("an array of headers");
    let headers = map.iter().map(|header| header.expect("a header"));
    (0..)
        .zip(headers)
        .filter(|(_, header)| *header != [0; 72])
        .map(|(index, header)| (index, Header(header)))
        .collect()
}

impl Header {
    fn be16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    fn ip(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3])
    }

    fn mac(&self, at: usize) -> String {
        self.0[at..at + 6].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
    }

    fn to(&self) -> Ipv4Addr {
        self.ip(30)
    }

    /// Everything in it that is not zero, at the offsets of RFC 791, 768 and 7348.
    fn line(&self) -> String {
        format!(
            "vteps: from {} {} to {} {} port {} type {:04x} version {:02x} ttl {} protocol {} fragment {:04x} vxlan {} checksum {}",
            self.mac(6),
            self.ip(26),
            self.mac(0),
            self.to(),
            self.be16(36),
            self.be16(12),
            self.0[14],
            self.0[22],
            self.0[23],
            self.be16(20),
            self.0[42],
            self.be16(24),
        )
    }
}

/// Whose a host-local address is.
fn owner(owners: &[(Value, Value)], addr: &Value) -> String {
    let found = owners.iter().find(|(key, _)| key == addr);
    found.map_or_else(|| "of nobody".to_owned(), |(_, ifindex)| format!("of {ifindex}"))
}

fn device_line(device: &Value) -> Option<String> {
    let name = text(device, "ifname");
    let is_ours = [TUNNEL, BRIDGE, GATEWAY, GATEWAY_INNER].contains(&name) || is_host_veth(name);
    let up = device["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
    let (master, mtu) = (device["master"].as_str().unwrap_or("none"), &device["mtu"]);
    // The bridge takes the MTU of its ports.
    let mtu = if name == BRIDGE { String::new() } else { format!(" mtu {mtu}") };
    is_ours.then(|| format!("device: {name} {} port of {master}{mtu}", if up { "up" } else { "down" }))
}

/// Our programs on a device: those whose ids are pinned.
#[track_caller]
fn program_lines(host: &Host, ifname: &str, device: &Value) -> Vec<String> {
    let tcx = host.netns().enter(|| SchedClassifier::query_tcx(ifname, TcAttachType::Ingress));
    let tcx = tcx.map(|(_, programs)| programs).unwrap_or_default();
    let tcx = tcx.iter().map(|program| ("tcx", u64::from(program.id())));
    let xdp = device["xdp"]["prog"]["id"].as_u64().map(|id| ("xdp", id));
    let pinned = pinned_programs(host);
    let ours = tcx.chain(xdp).filter_map(|(hook, id)| Some((hook, pinned.get(&id)?)));
    ours.map(|(hook, name)| format!("program: {name} at {hook} of {ifname}")).collect()
}

#[track_caller]
fn pinned_programs(host: &Host) -> BTreeMap<u64, String> {
    let id = |pin: String| {
        let shown = exec::run(["bpftool", "-j", "prog", "show", "pinned", &pin]);
        let program: Value = serde_json::from_str(&shown.stdout).unwrap_or_default();
        Some((program["id"].as_u64()?, pin.rsplit('/').next()?.to_owned()))
    };
    pins(host, "programs").into_iter().filter_map(id).collect()
}

#[track_caller]
fn neighbour_lines(host: &Host) -> Vec<String> {
    let entries = parse(&host.netns().ip(&["-j", "neigh", "show", "dev", UNDERLAY_IFNAME]));
    let kept = entries.iter().filter(|entry| entry.get("managed").is_some());
    kept.map(|entry| {
        format!("neighbour: {} {}", text(entry, "dst"), entry["lladdr"].as_str().unwrap_or("unknown"))
    })
    .collect()
}

fn pins(host: &Host, kind: &str) -> Vec<String> {
    let entries = fs::read_dir(host.pins().join(kind)).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

/// Pinned links and programs by name; the maps' pins are what their entries were read from.
fn pin_lines(host: &Host) -> Vec<String> {
    let line = |kind: &'static str| {
        let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
        pins(host, kind).iter().map(|path| format!("pin: {kind}/{}", name(path))).collect::<Vec<_>>()
    };
    [line("links"), line("programs")].concat()
}

/// Containers of this host whose interface merges what it receives.
#[track_caller]
fn offload_lines(host: &Host, records: &Records) -> Vec<String> {
    let here =
        records.of("endpoints").map(|(_, endpoint)| endpoint).filter(|e| text(e, "node") == host.label());
    let on = |endpoint: &&Value| {
        let there = text(endpoint, "netns");
        let own = host.netns().path().display().to_string();
        let netns = format!("--net={}", if there == HOST_NETNS { &own } else { there });
        let features = exec::run(["nsenter", &netns, "ethtool", "-k", text(endpoint, "ifname")]).stdout;
        features.contains("generic-receive-offload: on")
    };
    here.filter(on).map(|endpoint| format!("offload: on in {}", text(endpoint, "netns"))).collect()
}
