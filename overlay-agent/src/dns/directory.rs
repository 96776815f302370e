//! Which endpoints have a name, without a look at all of them.
//!
//! It follows the cluster's journal: only what changed since the last question is looked at.

use std::collections::{BTreeSet, HashMap};

use crate::model::{Cluster, Endpoint, EndpointId, Name, journal::Position};

/// Digits of an endpoint's id that are enough to name it, as with Docker's container ids.
const SHORT_ID: usize = 12;

/// Endpoints by network and name: their own, aliases and short ids, all in small letters.
#[derive(Default)]
pub struct Directory {
    seen: Option<Position>,
    networks: HashMap<Name, HashMap<String, BTreeSet<EndpointId>>>,
    entries: HashMap<EndpointId, (Name, BTreeSet<String>)>,
}

impl Directory {
    /// Takes over what changed.
    pub fn follow(&mut self, cluster: &Cluster) {
        let now = cluster.journal.position();
        if self.seen == Some(now) {
            return;
        }
        match self.seen.and_then(|seen| cluster.journal.endpoints_since(seen)) {
            Some(changed) => changed.into_iter().for_each(|id| self.renew(id, cluster)),
            None => self.rebuild(cluster),
        }
        self.seen = Some(now);
    }

    /// The endpoints of a network that have this name, in small letters.
    pub fn find(&self, network: &Name, name: &str) -> impl Iterator<Item = &EndpointId> {
        self.networks.get(network).and_then(|names| names.get(name)).into_iter().flatten()
    }

    fn rebuild(&mut self, cluster: &Cluster) {
        *self = Self::default();
        cluster.endpoints.values().for_each(|endpoint| self.add(&endpoint.record));
    }

    fn renew(&mut self, id: &EndpointId, cluster: &Cluster) {
        self.remove(id);
        if let Some(endpoint) = cluster.endpoints.get(id) {
            self.add(&endpoint.record);
        }
    }

    fn add(&mut self, endpoint: &Endpoint) {
        let names = names_of(endpoint);
        let network = self.networks.entry(endpoint.network.clone()).or_default();
        for name in &names {
            network.entry(name.clone()).or_default().insert(endpoint.id.clone());
        }
        self.entries.insert(endpoint.id.clone(), (endpoint.network.clone(), names));
    }

    fn remove(&mut self, id: &EndpointId) {
        let Some((name, names)) = self.entries.remove(id) else { return };
        let Some(network) = self.networks.get_mut(&name) else { return };
        for name in names {
            if let Some(ids) = network.get_mut(&name) {
                ids.remove(id);
                if ids.is_empty() {
                    network.remove(&name);
                }
            }
        }
        if network.is_empty() {
            self.networks.remove(&name);
        }
    }
}

fn names_of(endpoint: &Endpoint) -> BTreeSet<String> {
    let given = std::iter::once(&endpoint.name).chain(&endpoint.aliases).map(Name::as_str);
    given.chain([&endpoint.id.as_str()[..SHORT_ID]]).map(str::to_ascii_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::store::{Entry, Event, Revision};

    fn key(id: u8, network: u8) -> String {
        format!("overlay/v1/endpoints/net{network}/{:016x}", u64::from(id) << 32)
    }

    fn put(id: u8, network: u8, name: u8, aliases: &[u8]) -> Event {
        let text = |name: &u8| format!("Box{name}");
        let aliases: Vec<_> = aliases.iter().map(text).collect();
        let value = json!({"id": format!("{:016x}", u64::from(id) << 32), "network": format!("net{network}"),
                           "name": text(&name), "node": "host1", "ipv4": "10.0.0.2", "mac": "02:42:0a:00:00:02",
                           "ifname": "eth0", "netns": "/run/netns/x", "aliases": aliases});
        let value = value.to_string().into_bytes();
        Event::Put(Entry { key: key(id, network), value, revision: Revision(1), lease: None })
    }

    /// Everything in it, for comparison.
    fn content(directory: &Directory) -> BTreeMap<(String, String), BTreeSet<EndpointId>> {
        let rows = directory.networks.iter().flat_map(|(network, names)| {
            let row = move |(name, ids): (&String, &BTreeSet<EndpointId>)| {
                ((network.to_string(), name.clone()), ids.clone())
            };
            names.iter().map(row)
        });
        rows.collect()
    }

    proptest! {
        #[test]
        fn what_followed_each_change_or_none_knows_what_a_new_one_knows(
            acts in prop::collection::vec(
                (0..6_u8, 0..2_u8, 0..4_u8, prop::collection::vec(0..4_u8, 0..3), any::<bool>(), any::<bool>()),
                0..40,
            ),
        ) {
            let mut cluster = Cluster::default();
            let mut followed = Directory::default();
            for (id, network, name, aliases, is_put, is_asked) in acts {
                let event = if is_put {
                    put(id, network, name, &aliases)
                } else {
                    Event::Delete { key: key(id, network), revision: Revision(1) }
                };
                cluster.apply(&event);
                if is_asked {
                    followed.follow(&cluster);
                    let mut fresh = Directory::default();
                    fresh.follow(&cluster);
                    prop_assert_eq!(content(&followed), content(&fresh));
                    prop_assert_eq!(followed.entries.len(), cluster.endpoints.len());
                }
            }
        }
    }

    #[test]
    fn another_state_is_taken_over_whole() {
        let mut directory = Directory::default();
        let mut cluster = Cluster::default();
        cluster.apply(&put(1, 0, 1, &[]));
        directory.follow(&cluster);
        directory.follow(&Cluster::default());
        assert!(content(&directory).is_empty());
    }
}
