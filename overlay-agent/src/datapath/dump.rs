//! Map contents for people: each entry one JSON object, addresses in their usual form.

use std::net::Ipv4Addr;

use overlay_common::{
    abi::{capacity, map},
    mac::Mac,
    verdict::DropReason,
    vtep::Vtep,
};
use serde_json::{Map, Value, json};

use super::{Datapath, DatapathError};
use crate::reconcile::Tables;

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
pub const MAPS: [Description; 11] = [
    describe(map::CONFIG, 1, "this host's settings"),
    describe(map::NETWORKS, capacity::NETWORKS, "VNI → gateway, MTU, flags"),
    describe(map::VTEPS, capacity::VTEPS, "index → outer header of another host"),
    describe(map::VTEP_MEMBERS, capacity::VTEP_MEMBERS, "VNI, VTEP → may send (VNI 0: is a node)"),
    describe(map::ENDPOINTS, capacity::ENDPOINTS, "host veth → VNI, addresses of the container behind it"),
    describe(map::FDB, capacity::FDB, "VNI, MAC → host veth or VTEP"),
    describe(map::NEIGH, capacity::NEIGH, "VNI, IPv4 → MAC"),
    describe(map::POLICY, capacity::POLICY, "source VNI, destination VNI → allow"),
    describe(map::ROUTES, capacity::ROUTES, "sender's VNI (0: any), subnet → VNI"),
    describe(map::ENDPOINT_STATS, capacity::ENDPOINTS, "host veth → packets and bytes"),
    describe(map::DROPS, capacity::DROPS, "VNI, host veth, reason → packets and bytes"),
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
        map::CONFIG => vec![row(json!({
            "underlay_ifindex": t.config.underlay_ifindex, "tunnel_ifindex": t.config.tunnel_ifindex,
            "vtep_addr": ip(t.config.vtep_addr), "vxlan_port": u16::from_be(t.config.vxlan_port_be),
            "underlay_mtu": t.config.underlay_mtu, "flags": t.config.flags,
        }))],
        map::NETWORKS => rows(&t.networks, |vni, n| {
            json!({ "vni": vni, "gateway_ipv4": ip(n.gateway_ipv4), "gateway_mac": mac(n.gateway_mac),
                "mtu": n.mtu, "flags": n.flags })
        }),
        map::VTEPS => rows(&t.vteps, |index, vtep| vtep_row(*index, vtep)),
        map::VTEP_MEMBERS => {
            rows(&t.vtep_members, |k, _| json!({ "vni": k.vni, "vtep_addr": ip(k.vtep_addr) }))
        }
        map::ENDPOINTS => rows(
            &t.endpoints,
            |ifindex, e| json!({ "ifindex": ifindex, "vni": e.vni, "ipv4": ip(e.ipv4), "mac": mac(e.mac) }),
        ),
        map::FDB => rows(&t.fdb, |k, v| {
            json!({ "vni": k.vni, "mac": mac(k.mac), "ifindex": v.ifindex, "vtep": v.vtep,
                "vtep_addr": ip(v.vtep_addr) })
        }),
        map::NEIGH => rows(&t.neigh, |k, v| json!({ "vni": k.vni, "ipv4": ip(k.ipv4), "mac": mac(v.mac) })),
        map::POLICY => {
            rows(&t.policy, |k, v| json!({ "src_vni": k.src_vni, "dst_vni": k.dst_vni, "action": v.action }))
        }
        map::ROUTES => rows(&t.routes, |target, vni| {
            json!({ "scope_vni": u32::from_be(target.key.scope_vni_be),
                "subnet": format!("{}/{}", ip(target.key.ipv4), target.prefix_len), "vni": vni })
        }),
        _ => return None,
    })
}

fn vtep_row(index: u32, vtep: &Vtep) -> Value {
    let header = &vtep.header;
    json!({ "index": index, "remote": ip(header.ip.dst), "local": ip(header.ip.src),
        "port": u16::from_be(header.udp.dst_port_be), "next_hop_mac": mac(header.eth.dst),
        "local_mac": mac(header.eth.src) })
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

fn ip(bytes: [u8; 4]) -> Ipv4Addr {
    Ipv4Addr::from(bytes)
}

fn mac(bytes: [u8; 6]) -> Mac {
    Mac(bytes)
}
