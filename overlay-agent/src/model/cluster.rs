//! Everything in the store, parsed: what one agent knows of the cluster.
//!
//! Each value is parsed where it enters. One that cannot be read is quarantined: it is left out, its
//! predecessor forgotten, and the reason kept for `overlay status`. It never stops the rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Bound,
};

use overlay_common::vni::Vni;
use serde::de::DeserializeOwned;

use super::{
    Address, ClusterRecord, Endpoint, EndpointId, Name, Network, Node, Policy, Rule, RuleId,
    journal::Journal, keys::Key,
};
use crate::store::{Entry, Event, Revision};

/// A record and the revision at which it was last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The record.
    pub record: T,
    /// When it was written, for compare-and-set and for ordering by age.
    pub revision: Revision,
}

/// The cluster's state at one revision.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// The cluster's own record.
    pub identity: Option<Versioned<ClusterRecord>>,
    /// Networks by name.
    pub networks: BTreeMap<Name, Versioned<Network>>,
    /// Claimed VNIs.
    pub vnis: BTreeSet<Vni>,
    /// Nodes by name, also those whose agent does not run.
    pub nodes: BTreeMap<Name, Versioned<Node>>,
    /// Nodes whose agent runs.
    pub alive: BTreeSet<Name>,
    /// Endpoints by identity.
    pub endpoints: BTreeMap<EndpointId, Versioned<Endpoint>>,
    /// What is kept of collected endpoints, by node and identity.
    pub collected: BTreeMap<(Name, EndpointId), Versioned<Endpoint>>,
    /// Claims on IPv4 addresses, by network.
    pub addresses: BTreeMap<Name, BTreeMap<Ipv4Addr, Versioned<Address>>>,
    /// Claims on IPv6 addresses, by network.
    pub addresses_ipv6: BTreeMap<Name, BTreeMap<Ipv6Addr, Versioned<Address>>>,
    /// Claims on endpoint names, by network and name.
    pub endpoint_names: BTreeMap<(Name, Name), Revision>,
    /// Policies by direction (from, to).
    pub policies: BTreeMap<(Name, Name), Policy>,
    /// Rules by direction (from, to).
    pub rules: BTreeMap<(Name, Name), BTreeMap<RuleId, Versioned<Rule>>>,
    /// Keys whose value cannot be read, with the reason.
    pub quarantined: BTreeMap<String, String>,
    /// Revision up to which this is complete.
    pub revision: Revision,
    /// What changed lately.
    pub journal: Journal,
}

/// Why half of another store's state is in this one.
const UNFINISHED_IMPORT: &str = "an import into this store is not finished: run `overlay store import` again";

impl Cluster {
    /// Whether an import into the store is not finished: what there is may be half of it.
    #[must_use]
    pub fn is_half_imported(&self) -> bool {
        self.quarantined.contains_key(&Key::Import.to_string())
    }

    /// The state that a full listing of the store shows.
    #[must_use]
    pub fn from_listing<'a>(entries: impl IntoIterator<Item = &'a Entry>, revision: Revision) -> Self {
        let mut cluster = Self { revision, ..Self::default() };
        for entry in entries {
            cluster.put(entry);
        }
        cluster
    }

    /// Takes over one change that a watch reported.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Put(entry) => self.put(entry),
            Event::Delete { key, .. } => self.forget(key),
        }
        if let Ok(key) = event.key().parse() {
            self.journal.note(key);
        }
        self.revision = self.revision.max(event.revision());
    }

    /// The endpoints of a network, on all nodes.
    pub fn endpoints_of<'a>(&'a self, network: &'a Name) -> impl Iterator<Item = &'a Endpoint> {
        self.endpoints.values().map(|e| &e.record).filter(move |e| e.network == *network)
    }

    /// The members without an agent, in all networks.
    pub fn externals(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values().map(|e| &e.record).filter(|e| e.is_external())
    }

    /// The claim on an address of a network.
    #[must_use]
    pub fn address_claim(&self, network: &Name, ip: IpAddr) -> Option<&Versioned<Address>> {
        match ip {
            IpAddr::V4(ip) => self.addresses.get(network)?.get(&ip),
            IpAddr::V6(ip) => self.addresses_ipv6.get(network)?.get(&ip),
        }
    }

    /// The endpoints of a node, in all networks.
    pub fn endpoints_on<'a>(&'a self, node: &'a Name) -> impl Iterator<Item = &'a Versioned<Endpoint>> {
        self.endpoints.values().filter(move |e| e.record.node == *node)
    }

    /// What is kept of a node's collected endpoints.
    pub fn collected_on<'a>(&'a self, node: &'a Name) -> impl Iterator<Item = &'a Versioned<Endpoint>> {
        self.collected.iter().filter(move |((of, _), _)| of == node).map(|(_, endpoint)| endpoint)
    }

    /// The endpoint with this name in this network.
    #[must_use]
    pub fn endpoint_named(&self, network: &Name, name: &Name) -> Option<&Versioned<Endpoint>> {
        self.endpoints.values().find(|e| e.record.network == *network && e.record.name == *name)
    }

    /// The endpoints whose identity begins with these digits.
    pub fn endpoints_from(&self, digits: &str) -> impl Iterator<Item = &Endpoint> {
        let from = self.endpoints.range::<str, _>((Bound::Included(digits), Bound::Unbounded));
        from.take_while(move |(id, _)| id.as_str().starts_with(digits)).map(|(_, e)| &e.record)
    }

    /// Takes an endpoint out of this view of the state.
    pub fn hide(&mut self, id: &EndpointId) {
        if let Some(hidden) = self.endpoints.remove(id) {
            self.journal.note(Key::Endpoint(hidden.record.network, id.clone()));
        }
    }

    fn put(&mut self, entry: &Entry) {
        let Ok(key) = entry.key.parse::<Key>() else {
            self.quarantine(&entry.key, "no key of this layout");
            return;
        };
        self.forget(&entry.key);
        if let Err(reason) = self.insert(key, entry) {
            self.quarantine(&entry.key, &reason);
        }
    }

    fn insert(&mut self, key: Key, entry: &Entry) -> Result<(), String> {
        let revision = entry.revision;
        match key {
            Key::Cluster => self.identity = Some(Versioned { record: parse(entry)?, revision }),
            Key::Network(name) => {
                let record: Network = parse(entry)?;
                check_same(&record.name, &name)?;
                self.networks.insert(name, Versioned { record, revision });
            }
            Key::Vni(vni) => drop(self.vnis.insert(vni)),
            Key::Subnet(_) | Key::Mac(..) => {}
            Key::Node(name) => {
                let record: Node = parse(entry)?;
                check_same(&record.name, &name)?;
                self.nodes.insert(name, Versioned { record, revision });
            }
            Key::Alive(name) => drop(self.alive.insert(name)),
            Key::Endpoint(network, id) => {
                let record: Endpoint = parse(entry)?;
                check_same(&record.network, &network)?;
                check_same(&record.id, &id)?;
                if self.endpoints.contains_key(&id) {
                    return Err(format!("endpoint {id} is in another network already"));
                }
                self.endpoints.insert(id, Versioned { record, revision });
            }
            Key::Collected(node, id) => {
                let record: Endpoint = parse(entry)?;
                check_same(&record.node, &node)?;
                check_same(&record.id, &id)?;
                self.collected.insert((node, id), Versioned { record, revision });
            }
            Key::EndpointName(network, name) => drop(self.endpoint_names.insert((network, name), revision)),
            Key::Address(network, ip) => {
                let claim = Versioned { record: parse(entry)?, revision };
                match ip {
                    IpAddr::V4(ip) => drop(self.addresses.entry(network).or_default().insert(ip, claim)),
                    IpAddr::V6(ip) => drop(self.addresses_ipv6.entry(network).or_default().insert(ip, claim)),
                }
            }
            Key::Policy(from, to) => drop(self.policies.insert((from, to), parse(entry)?)),
            Key::Rule(from, to, id) => {
                let record: Rule = parse(entry)?;
                let rules = self.rules.entry((from, to)).or_default();
                rules.insert(id, Versioned { record, revision });
            }
            Key::Import => return Err(UNFINISHED_IMPORT.to_owned()),
        }
        Ok(())
    }

    fn forget(&mut self, key: &str) {
        self.quarantined.remove(key);
        let Ok(key) = key.parse::<Key>() else { return };
        match key {
            Key::Cluster => self.identity = None,
            Key::Network(name) => drop(self.networks.remove(&name)),
            Key::Vni(vni) => drop(self.vnis.remove(&vni)),
            Key::Subnet(_) | Key::Mac(..) => {}
            Key::Node(name) => drop(self.nodes.remove(&name)),
            Key::Alive(name) => drop(self.alive.remove(&name)),
            Key::Endpoint(network, id) => {
                if self.endpoints.get(&id).is_some_and(|e| e.record.network == network) {
                    self.endpoints.remove(&id);
                }
            }
            Key::Collected(node, id) => drop(self.collected.remove(&(node, id))),
            Key::EndpointName(network, name) => drop(self.endpoint_names.remove(&(network, name))),
            Key::Address(network, IpAddr::V4(ip)) => remove_below(&mut self.addresses, &network, &ip),
            Key::Address(network, IpAddr::V6(ip)) => remove_below(&mut self.addresses_ipv6, &network, &ip),
            Key::Policy(from, to) => drop(self.policies.remove(&(from, to))),
            Key::Rule(from, to, id) => remove_below(&mut self.rules, &(from, to), &id),
            Key::Import => {}
        }
    }

    fn quarantine(&mut self, key: &str, reason: &str) {
        tracing::warn!(key, reason, "store value quarantined");
        self.quarantined.insert(key.to_owned(), reason.to_owned());
    }
}

/// Removes an entry, and what it was the last one of.
fn remove_below<K: Ord, I: Ord, V>(maps: &mut BTreeMap<K, BTreeMap<I, V>>, key: &K, inner: &I) {
    if let Some(map) = maps.get_mut(key) {
        map.remove(inner);
        if map.is_empty() {
            maps.remove(key);
        }
    }
}

fn parse<T: DeserializeOwned>(entry: &Entry) -> Result<T, String> {
    serde_json::from_slice(&entry.value).map_err(|e| e.to_string())
}

fn check_same<T: PartialEq + std::fmt::Display>(in_value: &T, in_key: &T) -> Result<(), String> {
    if in_value == in_key {
        Ok(())
    } else {
        Err(format!("the value speaks of {in_value}, the key of {in_key}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    const NETWORK: &str = "overlay/v1/networks/blue";
    const ENDPOINT: &str = "overlay/v1/endpoints/blue/00112233445566ff";

    /// Every kind of key, each with a value that can be read.
    fn good_values() -> Vec<(&'static str, serde_json::Value)> {
        let network =
            |name| json!({"name": name, "vni": 256, "subnet": "10.0.0.0/24", "gateway": "10.0.0.1"});
        let endpoint = |network, id| {
            json!({"id": id, "network": network, "name": "web", "node": "host1", "ipv4": "10.0.0.2",
                   "mac": "02:42:0a:00:00:02", "ifname": "eth0", "netns": "/run/netns/web"})
        };
        vec![
            ("overlay/v1/cluster", json!({"id": "x", "created_unix_s": 0, "abi": 1, "restored": 0})),
            (NETWORK, network("blue")),
            ("overlay/v1/networks/red", network("red")),
            ("overlay/v1/vnis/256", json!("blue")),
            ("overlay/v1/subnets/10.0.0.0_24", json!("blue")),
            (
                "overlay/v1/nodes/host1",
                json!({"name": "host1", "id": "x", "vtep": "192.0.2.1", "vxlan_port": 4789, "version": "1"}),
            ),
            ("overlay/v1/alive/host1", json!({"id": "x"})),
            (ENDPOINT, endpoint("blue", "00112233445566ff")),
            ("overlay/v1/endpoints/red/aabbccddeeff0011", endpoint("red", "aabbccddeeff0011")),
            ("overlay/v1/collected/host1/0123456789abcdef", endpoint("blue", "0123456789abcdef")),
            ("overlay/v1/names/blue/web", json!("00112233445566ff")),
            ("overlay/v1/addresses/blue/10.0.0.2", json!({"state": "held", "endpoint": "00112233445566ff"})),
            ("overlay/v1/addresses/blue/10.0.0.3", json!({"state": "released"})),
            ("overlay/v1/addresses/red/10.0.0.2", json!({"state": "released"})),
            ("overlay/v1/addresses/red/fd00::2", json!({"state": "released"})),
            ("overlay/v1/policies/blue/red", json!({"action": "allow"})),
            ("overlay/v1/rules/blue/red/0a1b2c3d", json!({"proto": "tcp", "ports": "80", "slot": 0})),
            ("overlay/v1/rules/blue/red/0a1b2c3e", json!({"proto": "icmp", "slot": 1})),
        ]
    }

    fn good_value(key: &str) -> Vec<u8> {
        let (_, value) = good_values().into_iter().find(|(good, _)| *good == key).unwrap();
        value.to_string().into_bytes()
    }

    fn entry(key: &str, value: impl Into<Vec<u8>>, revision: u64) -> Entry {
        Entry { key: key.to_owned(), value: value.into(), revision: Revision(revision), lease: None }
    }

    fn listed(entries: &[Entry]) -> Cluster {
        let revision = entries.iter().map(|entry| entry.revision).max().unwrap_or_default();
        Cluster::from_listing(entries, revision)
    }

    fn all_good() -> Vec<Entry> {
        good_values().into_iter().map(|(key, value)| entry(key, value.to_string(), 1)).collect()
    }

    #[test]
    fn every_kind_of_record_is_taken_up() {
        let cluster = listed(&all_good());
        assert_eq!(cluster.quarantined, BTreeMap::new());
        assert_eq!(cluster.identity.as_ref().unwrap().record.id, "x");
        assert_eq!(cluster.networks.len(), 2);
        assert_eq!(cluster.vnis, BTreeSet::from([Vni::new(256).unwrap()]));
        assert_eq!((cluster.nodes.len(), cluster.alive.len()), (1, 1));
        assert_eq!((cluster.endpoints.len(), cluster.endpoint_names.len()), (2, 1));
        assert_eq!(cluster.addresses.values().map(BTreeMap::len).sum::<usize>(), 3);
        assert_eq!(cluster.addresses_ipv6.values().map(BTreeMap::len).sum::<usize>(), 1);
        assert_eq!((cluster.collected.len(), cluster.policies.len()), (1, 1));
        assert_eq!(cluster.rules.values().map(BTreeMap::len).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn what_is_deleted_leaves_nothing_behind() {
        let mut cluster = listed(&all_good());
        for entry in all_good() {
            cluster.apply(&Event::Delete { key: entry.key, revision: Revision(2) });
        }
        let empty = Cluster { revision: Revision(2), ..Cluster::default() };
        assert_eq!(format!("{cluster:?}"), format!("{empty:?}"));
    }

    #[rstest]
    #[case::no_json(NETWORK, "{", "EOF while parsing")]
    #[case::no_text(NETWORK, "\u{1}", "expected value")]
    #[case::empty(NETWORK, "", "EOF while parsing")]
    #[case::other_type(NETWORK, "[]", "invalid length 0")]
    #[case::field_missing(ENDPOINT, "{}", "missing field `id`")]
    #[case::illegal_vni(
        NETWORK,
        r#"{"name": "blue", "vni": 0, "subnet": "10.0.0.0/24", "gateway": "10.0.0.1"}"#,
        "0 is no VNI"
    )]
    #[case::another_name(
        NETWORK,
        r#"{"name": "red", "vni": 256, "subnet": "10.0.0.0/24", "gateway": "10.0.0.1"}"#,
        "the value speaks of red, the key of blue"
    )]
    #[case::unknown_action("overlay/v1/policies/blue/red", r#"{"action": "deny"}"#, "unknown variant `deny`")]
    #[case::port_without_protocol(
        "overlay/v1/rules/blue/red/0a1b2c3d",
        r#"{"ports": "80", "slot": 0}"#,
        "a port needs a protocol"
    )]
    #[case::unknown_state(
        "overlay/v1/addresses/blue/10.0.0.2",
        r#"{"state": "lent"}"#,
        "unknown variant `lent`"
    )]
    fn a_bad_value_is_quarantined_until_a_good_one_replaces_it(
        #[case] key: &str,
        #[case] bad: &str,
        #[case] reason: &str,
    ) {
        let good = listed(&all_good());
        let mut cluster = good.clone();
        cluster.apply(&Event::Put(entry(key, bad, 2)));
        assert_eq!(cluster.quarantined.keys().collect::<Vec<_>>(), [key]);
        assert!(cluster.quarantined[key].contains(reason), "{:?}", cluster.quarantined);
        let mut without = all_good();
        without.retain(|entry| entry.key != key);
        let rest =
            Cluster { quarantined: cluster.quarantined.clone(), revision: Revision(2), ..listed(&without) };
        assert_eq!(format!("{cluster:?}"), format!("{rest:?}"), "its predecessor is gone, all else is there");

        cluster.apply(&Event::Put(entry(key, good_value(key), 1)));
        cluster.revision = good.revision;
        assert_eq!(format!("{cluster:?}"), format!("{good:?}"));
    }

    #[rstest]
    fn a_bad_key_is_quarantined_until_it_is_deleted(
        #[values(
            "overlay/v1/networks/-x",
            "overlay/v1/tables/x",
            "overlay/v1/vnis/0",
            "overlay/v1/networks/blue/x"
        )]
        key: &str,
    ) {
        let good = listed(&all_good());
        let mut cluster = good.clone();
        cluster.apply(&Event::Put(entry(key, "{}", 1)));
        assert_eq!(cluster.quarantined[key], "no key of this layout");
        assert_eq!(cluster.networks, good.networks);
        cluster.apply(&Event::Delete { key: key.to_owned(), revision: Revision(1) });
        assert_eq!(format!("{cluster:?}"), format!("{good:?}"));
    }

    #[derive(Clone, Copy, Debug)]
    enum Act {
        PutGood,
        PutBad,
        Delete,
    }

    proptest! {
        /// Whatever happens, an agent that watched knows the same as one that starts now.
        #[test]
        fn a_listing_and_its_events_make_the_later_listing(
            acts in prop::collection::vec(
                (select(good_values()), select(vec![Act::PutGood, Act::PutBad, Act::Delete])),
                0..60,
            ),
            listed_after in 0..60_usize,
        ) {
            let mut store: BTreeMap<&str, Entry> = BTreeMap::new();
            let mut watched = Cluster::default();
            for (i, ((key, value), act)) in acts.into_iter().enumerate() {
                let revision = i as u64 + 1;
                let event = match act {
                    Act::PutGood => Event::Put(entry(key, value.to_string(), revision)),
                    Act::PutBad => Event::Put(entry(key, "bad", revision)),
                    Act::Delete => Event::Delete { key: key.to_owned(), revision: Revision(revision) },
                };
                match &event {
                    Event::Put(entry) => drop(store.insert(key, entry.clone())),
                    Event::Delete { .. } => drop(store.remove(key)),
                }
                watched.apply(&event);
                let fresh = Cluster::from_listing(&store.values().cloned().collect::<Vec<_>>(), Revision(revision));
                prop_assert_eq!(format!("{:?}", watched), format!("{:?}", fresh));
                if i == listed_after {
                    watched = fresh;
                }
            }
        }
    }
}
