//! The store's records against each other: claims without owner, owners without claim, values that cannot be
//! read.
//!
//! The agent leaves these as they are: which of two records is right is for people to say.

use std::collections::BTreeMap;

use super::{Concerns, Difference, Layer};
use crate::{
    model::{Address, Cluster, Endpoint, EndpointId, Name, keys::Key},
    store::Entry,
};

/// Every contradiction in a listing of the store. `cluster` is the same listing, parsed.
#[must_use]
pub fn differences(entries: &[Entry], cluster: &Cluster) -> Vec<Difference> {
    let store =
        Listed { values: entries.iter().map(|e| (e.key.as_str(), e.value.as_slice())).collect(), cluster };
    let mut found: Vec<Difference> =
        cluster.quarantined.iter().map(|(key, why)| quarantined(key, why)).collect();
    found.extend(cluster.networks.values().filter_map(|n| {
        let wanted = Some(quoted(&n.record.name));
        let reason = "the network's VNI is not claimed, so another network may take it";
        store.check(&Key::Vni(n.record.vni), wanted, reason, Concerns::network(&n.record.name))
    }));
    found.extend(cluster.endpoints.values().flat_map(|e| store.claims_of(&e.record)));
    found.extend(entries.iter().filter_map(|entry| store.orphan(entry)));
    found
}

/// A listing by key.
struct Listed<'a> {
    values: BTreeMap<&'a str, &'a [u8]>,
    cluster: &'a Cluster,
}

impl Listed<'_> {
    /// What an endpoint must have: its claims, its network, its node.
    fn claims_of(&self, endpoint: &Endpoint) -> Vec<Difference> {
        let (network, concerns) = (&endpoint.network, Concerns::endpoint(endpoint));
        let id = Some(quoted(&endpoint.id));
        let held = serde_json::to_string(&Address::Held { endpoint: endpoint.id.clone() }).ok();
        let claim = |key, wanted, reason| self.check(&key, wanted, reason, concerns.clone());
        let claims = [
            claim(
                Key::EndpointName(network.clone(), endpoint.name.clone()),
                id.clone(),
                "the endpoint's name is not claimed, so another endpoint may take it",
            ),
            claim(
                Key::Mac(network.clone(), endpoint.mac),
                id,
                "the endpoint's MAC address is not claimed, so another endpoint may take it",
            ),
        ];
        let addresses = endpoint.addresses().map(|ip| {
            let reason = "the endpoint's address is not held for it, so another endpoint may get it";
            claim(Key::Address(network.clone(), ip), held.clone(), reason)
        });
        let there = |key: Key, known: bool, reason| {
            (!known).then(|| difference(&key, None, Some("a record".to_owned()), reason, concerns.clone()))
        };
        let network_known = self.cluster.networks.contains_key(network);
        let node_known = endpoint.is_external() || self.cluster.nodes.contains_key(&endpoint.node);
        let parents = [
            there(
                Key::Network(network.clone()),
                network_known,
                "the endpoint is in a network that is not there",
            ),
            there(
                Key::Node(endpoint.node.clone()),
                node_known,
                "the endpoint is on a node that is not there",
            ),
        ];
        claims.into_iter().chain(addresses).chain(parents).flatten().collect()
    }

    /// A difference if a key does not hold this value.
    fn check(
        &self,
        key: &Key,
        wanted: Option<String>,
        reason: &str,
        concerns: Concerns,
    ) -> Option<Difference> {
        let found = self.values.get(key.to_string().as_str()).map(|value| shown(value));
        (found != wanted).then(|| difference(key, found, wanted, reason, concerns))
    }

    /// A difference if a key claims something for an owner that is not there.
    fn orphan(&self, entry: &Entry) -> Option<Difference> {
        let key: Key = entry.key.parse().ok()?;
        let has = |network: &Name, id: &EndpointId| {
            self.cluster.endpoints.get(id).is_some_and(|e| e.record.network == *network)
        };
        let (is_owned, reason) = match &key {
            Key::EndpointName(network, _) | Key::Mac(network, _) => (
                serde_json::from_slice(&entry.value).is_ok_and(|id| has(network, &id)),
                "it is claimed for an endpoint that is not there: nobody can use it",
            ),
            Key::Address(network, ip) => (
                match self.cluster.address_claim(network, *ip).map(|claim| &claim.record) {
                    Some(Address::Held { endpoint }) => has(network, endpoint),
                    _ => true,
                },
                "it is held for an endpoint that is not there: the address has leaked",
            ),
            Key::Vni(_) | Key::Subnet(_) => (
                serde_json::from_slice(&entry.value)
                    .is_ok_and(|n: Name| self.cluster.networks.contains_key(&n)),
                "it is claimed for a network that is not there: nobody can use it",
            ),
            Key::Policy(from, to) | Key::Rule(from, to, _) => (
                [from, to].iter().all(|name| self.cluster.networks.contains_key(*name)),
                "it speaks of a network that is not there",
            ),
            Key::Alive(node) => {
                (self.cluster.nodes.contains_key(node), "a node gives a sign of life that has no record")
            }
            _ => (true, ""),
        };
        (!is_owned).then(|| difference(&key, Some(shown(&entry.value)), None, reason, Concerns::of(&key)))
    }
}

fn quarantined(key: &str, why: &str) -> Difference {
    Difference {
        layer: Layer::Store,
        subject: key.to_owned(),
        found: Some(why.to_owned()),
        wanted: Some("a value of this version".to_owned()),
        reason: "it cannot be read and counts as not there: write it anew or delete it".to_owned(),
        concerns: Concerns::default(),
    }
}

fn difference(
    key: &Key,
    found: Option<String>,
    wanted: Option<String>,
    reason: &str,
    concerns: Concerns,
) -> Difference {
    Difference {
        layer: Layer::Store,
        subject: key.to_string(),
        found,
        wanted,
        reason: reason.to_owned(),
        concerns,
    }
}

fn quoted(name: &dyn std::fmt::Display) -> String {
    format!("\"{name}\"")
}

fn shown(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::store::Revision;

    const ID: &str = "00112233445566ff";

    /// A network with one endpoint, and everything that goes with them.
    fn whole() -> BTreeMap<String, String> {
        let quoted_id = format!("\"{ID}\"");
        let endpoint = format!(
            r#"{{"id":"{ID}","network":"net","name":"box","node":"host1","ipv4":"10.0.0.2","mac":"02:42:0a:00:00:02","ifname":"eth0","netns":"/run/netns/box"}}"#
        );
        let held = format!(r#"{{"state":"held","endpoint":"{ID}"}}"#);
        let network = r#"{"name":"net","vni":256,"subnet":"10.0.0.0/24","gateway":"10.0.0.1","internal":false,"state":"active"}"#;
        let node = r#"{"name":"host1","id":"1","vtep":"192.0.2.1","vxlan_port":4789,"version":"1"}"#;
        let all = [
            ("networks/net", network),
            ("vnis/256", "\"net\""),
            ("subnets/10.0.0.0_24", "\"net\""),
            ("nodes/host1", node),
            ("alive/host1", r#"{"id":"1"}"#),
            (&format!("endpoints/net/{ID}"), &endpoint),
            ("names/net/box", &quoted_id),
            ("macs/net/02:42:0a:00:00:02", &quoted_id),
            ("addresses/net/10.0.0.2", &held),
            ("addresses/net/10.0.0.3", r#"{"state":"released"}"#),
        ];
        all.iter().map(|(key, value)| (format!("overlay/v1/{key}"), (*value).to_owned())).collect()
    }

    fn subjects(keys: &BTreeMap<String, String>) -> Vec<String> {
        let entry = |(key, value): (&String, &String)| Entry {
            key: key.clone(),
            value: value.as_bytes().to_vec(),
            revision: Revision(1),
            lease: None,
        };
        let entries: Vec<Entry> = keys.iter().map(entry).collect();
        let cluster = Cluster::from_listing(&entries, Revision(1));
        let short = |d: Difference| d.subject.replace("overlay/v1/", "");
        differences(&entries, &cluster).into_iter().map(short).collect()
    }

    #[test]
    fn a_whole_store_has_no_difference() {
        assert_eq!(subjects(&whole()), Vec::<String>::new());
    }

    #[rstest]
    #[case::vni("vnis/256", &["vnis/256"])]
    #[case::name("names/net/box", &["names/net/box"])]
    #[case::mac("macs/net/02:42:0a:00:00:02", &["macs/net/02:42:0a:00:00:02"])]
    #[case::address("addresses/net/10.0.0.2", &["addresses/net/10.0.0.2"])]
    #[case::node("nodes/host1", &["nodes/host1", "alive/host1"])]
    #[case::network("networks/net", &["networks/net", "subnets/10.0.0.0_24", "vnis/256"])]
    #[case::endpoint("endpoints/net/00112233445566ff",
        &["addresses/net/10.0.0.2", "macs/net/02:42:0a:00:00:02", "names/net/box"])]
    fn what_is_missed_when_a_key_is_lost(#[case] lost: &str, #[case] named: &[&str]) {
        let mut keys = whole();
        keys.remove(&format!("overlay/v1/{lost}")).unwrap();
        assert_eq!(subjects(&keys), named);
    }

    #[rstest]
    #[case("networks/net", "{")]
    #[case("unknown", "1")]
    #[case("policies/net/other", r#"{"action":"allow"}"#)]
    #[case("rules/net/other/0a1b2c3d", r#"{"slot":0}"#)]
    #[case("names/net/box", "\"ffffffffffffffff\"")]
    fn a_value_that_makes_no_sense_is_named(#[case] key: &str, #[case] value: &str) {
        let mut keys = whole();
        keys.insert(format!("overlay/v1/{key}"), value.to_owned());
        assert!(subjects(&keys).contains(&key.to_owned()));
    }
}
