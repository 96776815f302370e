//! The BPF maps against what the cluster's state asks for.

use std::{collections::BTreeMap, net::Ipv4Addr};

use overlay_common::{abi::map, addr::Addr, mac::Mac};
use serde_json::Value;

use super::{Concerns, Difference, Layer};
use crate::{
    datapath::dump,
    model::{Cluster, Endpoint, Name},
    reconcile::{Local, Tables},
};

/// Every entry that is not as it should be.
#[must_use]
pub fn differences(cluster: &Cluster, local: &Local, found: &Tables, wanted: &Tables) -> Vec<Difference> {
    if found == wanted {
        return Vec::new();
    }
    let who = Who::of(cluster, local);
    let config = |t: &Tables| BTreeMap::from([((), t.config)]);
    let gateway = |t: &Tables| BTreeMap::from([((), t.gateway)]);
    [
        compare(map::CONFIG, &config(found), &config(wanted), |(), c| dump::config(c), |(), _| who.local()),
        compare(map::NETWORKS, &found.networks, &wanted.networks, dump::network, |vni, _| who.vni(*vni)),
        compare(map::VTEPS, &found.vteps, &wanted.vteps, dump::vtep, |_, v| who.vtep(v.header.ip.dst)),
        compare(map::VTEP_MEMBERS, &found.vtep_members, &wanted.vtep_members, dump::vtep_member, |key, _| {
            who.member(key.vni, key.vtep_addr)
        }),
        compare(map::ENDPOINTS, &found.endpoints, &wanted.endpoints, dump::endpoint, |ifindex, _| {
            who.veth(*ifindex)
        }),
        compare(map::FDB, &found.fdb, &wanted.fdb, dump::fdb, |key, _| who.mac(key.vni, Mac(key.mac))),
        compare(map::NEIGH, &found.neigh, &wanted.neigh, dump::neigh, |key, _| who.ip(key.vni, key.addr)),
        compare(map::LIMITS, &found.limits, &wanted.limits, dump::limits, |ifindex, _| who.veth(*ifindex)),
        compare(map::FLOOD, &found.flood, &wanted.flood, dump::flood, |key, _| who.vni(key.vni)),
        compare(map::POLICY, &found.policy, &wanted.policy, dump::policy, |key, _| who.vni(key.src_vni)),
        compare(map::RULES, &found.rules, &wanted.rules, dump::rules, |key, _| who.vni(key.src_vni)),
        compare(map::RULE_BITS, &found.rule_bits, &wanted.rule_bits, dump::rule_bits, |key, _| {
            who.ip(key.vni, key.addr)
        }),
        compare(map::ROUTES, &found.routes, &wanted.routes, dump::route, |_, vni| who.vni(*vni)),
        compare(
            map::GATEWAY,
            &gateway(found),
            &gateway(wanted),
            |(), g| dump::gateway(g),
            |(), _| who.local(),
        ),
        compare(map::HOST_ADDRS, &found.host_addrs, &wanted.host_addrs, dump::host_addr, |ifindex, _| {
            who.veth(*ifindex)
        }),
        compare(
            map::HOST_OWNERS,
            &found.host_owners,
            &wanted.host_owners,
            |addr, ifindex| dump::host_addr(ifindex, addr),
            |_, ifindex| who.veth(*ifindex),
        ),
        compare(
            map::ENDPOINT_STATS,
            &found.endpoint_stats,
            &wanted.endpoint_stats,
            |ifindex, ()| serde_json::json!({ "ifindex": ifindex }),
            |ifindex, ()| who.veth(*ifindex),
        ),
        compare(
            map::RULE_STATS,
            &found.rule_stats,
            &wanted.rule_stats,
            |key, ()| dump::rule_key(key),
            |key, ()| who.vni(key.src_vni),
        ),
    ]
    .concat()
}

fn compare<K: Ord + Copy, V: PartialEq>(
    map: &'static str,
    found: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
    row: impl Fn(&K, &V) -> Value,
    concerns: impl Fn(&K, &V) -> Concerns,
) -> Vec<Difference> {
    let missing_or_changed = wanted.iter().filter(|(k, v)| found.get(k) != Some(v)).map(|(k, v)| {
        let there = found.get(k);
        let reason = match there {
            None => "the entry is missing",
            Some(_) => "the entry has another value",
        };
        let there = there.map(|v| text(&row(k, v)));
        difference(map, there, Some(text(&row(k, v))), reason, concerns(k, v))
    });
    let foreign = found.iter().filter(|(k, _)| !wanted.contains_key(k)).map(|(k, v)| {
        let reason = "nothing in the cluster's state asks for this entry";
        difference(map, Some(text(&row(k, v))), None, reason, concerns(k, v))
    });
    missing_or_changed.chain(foreign).collect()
}

fn difference(
    map: &str,
    found: Option<String>,
    wanted: Option<String>,
    reason: &str,
    concerns: Concerns,
) -> Difference {
    Difference {
        layer: Layer::Map,
        subject: map.to_owned(),
        found,
        wanted,
        reason: reason.to_owned(),
        concerns,
    }
}

/// `vni=256 mac=02:42:0a:00:00:02 …`
fn text(row: &Value) -> String {
    let field = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    };
    let fields = row.as_object().into_iter().flatten().map(field);
    fields.collect::<Vec<_>>().join(" ")
}

/// Who is meant by the numbers in keys.
struct Who<'a> {
    local: &'a Local,
    networks: BTreeMap<u32, &'a Name>,
    endpoints: Vec<(u32, &'a Endpoint)>,
    nodes: BTreeMap<Ipv4Addr, &'a Name>,
}

impl<'a> Who<'a> {
    fn of(cluster: &'a Cluster, local: &'a Local) -> Self {
        let vni = |network: &Name| cluster.networks.get(network).map(|n| n.record.vni.get());
        let endpoints = cluster.endpoints.values().map(|e| &e.record);
        Self {
            local,
            networks: cluster.networks.values().map(|n| (n.record.vni.get(), &n.record.name)).collect(),
            endpoints: endpoints.filter_map(|e| Some((vni(&e.network)?, e))).collect(),
            nodes: cluster.nodes.values().map(|n| (n.record.vtep, &n.record.name)).collect(),
        }
    }

    fn local(&self) -> Concerns {
        Concerns::node(&self.local.node)
    }

    fn vni(&self, vni: u32) -> Concerns {
        Concerns { network: self.networks.get(&vni).map(|name| (*name).clone()), ..Concerns::default() }
    }

    fn vtep(&self, addr: [u8; 4]) -> Concerns {
        Concerns { node: self.nodes.get(&addr.into()).map(|name| (*name).clone()), ..Concerns::default() }
    }

    fn member(&self, vni: u32, vtep: [u8; 4]) -> Concerns {
        Concerns { network: self.vni(vni).network, ..self.vtep(vtep) }
    }

    fn mac(&self, vni: u32, mac: Mac) -> Concerns {
        self.endpoint_or(vni, |e| e.mac == mac)
    }

    fn ip(&self, vni: u32, addr: Addr) -> Concerns {
        self.endpoint_or(vni, |e| e.addresses().any(|ip| Addr::from(ip) == addr))
    }

    fn endpoint_or(&self, vni: u32, is_meant: impl Fn(&Endpoint) -> bool) -> Concerns {
        let found = self.endpoints.iter().find(|(of, endpoint)| *of == vni && is_meant(endpoint));
        found.map_or_else(|| self.vni(vni), |(_, endpoint)| Concerns::endpoint(endpoint))
    }

    fn veth(&self, ifindex: u32) -> Concerns {
        let id = self.local.host_veths.iter().find(|(_, index)| **index == ifindex).map(|(id, _)| id);
        let endpoint = self.endpoints.iter().find(|(_, endpoint)| Some(&endpoint.id) == id);
        endpoint.map_or_else(|| self.local(), |(_, endpoint)| Concerns::endpoint(endpoint))
    }
}

#[cfg(test)]
mod tests {
    use overlay_common::{fdb::FdbEntry, fdb::FdbKey, neigh::Neigh, neigh::NeighKey};
    use proptest::prelude::*;

    use super::*;
    use crate::reconcile::{Kept, desired::Underlay};

    fn local() -> Local {
        let underlay = Underlay {
            ifindex: 2,
            mac: Mac::default(),
            addr: Ipv4Addr::LOCALHOST,
            mtu: 1500,
            generic_checksum: false,
        };
        Local {
            node: "host1".parse().unwrap(),
            down: std::collections::BTreeSet::new(),
            underlay,
            tunnel_ifindex: 3,
            vxlan_port: 4789,
            xdp_decap: false,
            host_veths: BTreeMap::new(),
            next_hops: BTreeMap::new(),
            path_mtus: BTreeMap::new(),
            gateway: None,
            kept: Kept::default(),
        }
    }

    fn fdb(entries: &BTreeMap<u8, u8>) -> Tables {
        let entry = |(mac, ifindex): (&u8, &u8)| {
            (FdbKey::new(256, [*mac; 6]), FdbEntry::local(u32::from(*ifindex) + 1))
        };
        Tables { fdb: entries.iter().map(entry).collect(), ..Tables::default() }
    }

    proptest! {
        #[test]
        fn each_entry_that_differs_is_named_once_and_no_other(
            found in proptest::collection::btree_map(0u8..20, 0u8..3, 0..15),
            wanted in proptest::collection::btree_map(0u8..20, 0u8..3, 0..15),
        ) {
            let differing = (0u8..20).filter(|key| found.get(key) != wanted.get(key)).count();
            let named = differences(&Cluster::default(), &local(), &fdb(&found), &fdb(&wanted));
            prop_assert_eq!(named.len(), differing);
            for difference in named {
                prop_assert_eq!((difference.layer, difference.subject.as_str()), (Layer::Map, "fdb"));
                prop_assert_ne!(&difference.found, &difference.wanted);
            }
        }
    }

    #[test]
    fn what_is_there_and_what_should_be_there_stand_in_words() {
        let key = NeighKey { vni: 256, addr: Addr::v4([10, 0, 0, 2]) };
        let mut found = Tables::default();
        found.neigh.insert(key, Neigh::new([2, 0, 0, 0, 0, 1]));
        let [foreign] = &*differences(&Cluster::default(), &local(), &found, &Tables::default()) else {
            panic!("one difference")
        };
        assert_eq!(foreign.found.as_deref(), Some("vni=256 ip=10.0.0.2 mac=02:00:00:00:00:01"));
        assert_eq!((foreign.wanted.as_ref(), foreign.subject.as_str()), (None, "neigh"));
    }

    #[test]
    fn counters_without_which_nothing_is_counted_are_missed() {
        let mut wanted = Tables::default();
        wanted.endpoint_stats.insert(7, ());
        let named = differences(&Cluster::default(), &local(), &Tables::default(), &wanted);
        assert_eq!(named.iter().map(|d| d.subject.as_str()).collect::<Vec<_>>(), ["endpoint_stats"]);
    }
}
