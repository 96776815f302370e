//! What a name means to a container.

use std::{collections::BTreeSet, net::IpAddr};

use super::directory::Directory;
use crate::{
    model::{Address, Cluster, Endpoint, EndpointId, Name, Network},
    reconcile::desired::is_reachable,
};

/// All there is to know.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The cluster's state.
    pub cluster: &'a Cluster,
    /// Its endpoints by name.
    pub directory: &'a Directory,
    /// This node.
    pub here: &'a Name,
    /// Nodes that count as down.
    pub down: &'a BTreeSet<Name>,
}

/// What a container may know of it.
pub struct View<'a> {
    known: Known<'a>,
    networks: Vec<&'a Network>,
}

/// What a name or address means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Containers, by their addresses.
    Containers(Vec<IpAddr>),
    /// The name of the container that has the address, with its network's.
    Name(String),
    /// Nothing: the name would be in a network that the asker sees, or it has no way to ask others.
    Nothing,
    /// Somebody else's name.
    Foreign,
}

impl<'a> View<'a> {
    /// The view of a container with these endpoints.
    #[must_use]
    pub fn of(known: Known<'a>, asker: &BTreeSet<EndpointId>) -> Self {
        let endpoints = asker.iter().filter_map(|id| known.cluster.endpoints.get(id));
        let names: BTreeSet<&Name> = endpoints.map(|endpoint| &endpoint.record.network).collect();
        let networks = names.into_iter().filter_map(|name| known.cluster.networks.get(name));
        Self { known, networks: networks.map(|network| &network.record).collect() }
    }

    /// What a name without its closing dot means: a container's name, alias or short id, alone or with its
    /// network's name behind it. Upper and lower case are the same.
    #[must_use]
    pub fn meaning(&self, name: &str) -> Meaning {
        let name = name.to_ascii_lowercase();
        let with_network =
            self.networks.iter().filter_map(|network| Some((network, before(&name, network)?)));
        let with_network: Vec<_> = with_network.collect();
        let alone = self.networks.iter().map(|network| (network, name.as_str()));
        let asked = alone.chain(with_network.iter().copied());
        let mut found: Vec<IpAddr> = asked.flat_map(|(network, name)| self.find(network, name)).collect();
        found.sort_unstable();
        found.dedup();
        if !found.is_empty() {
            Meaning::Containers(found)
        } else if with_network.is_empty() {
            self.foreign()
        } else {
            Meaning::Nothing
        }
    }

    /// Who has an address.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Meaning {
        let ours: Vec<_> = self.networks.iter().filter(|n| has(n, address)).collect();
        let mut owners = ours.iter().filter_map(|network| {
            let owner = self.holder(network, address)?;
            Some(Meaning::Name(format!("{}.{}", owner.name, network.name)))
        });
        match owners.next() {
            Some(name) => name,
            None if ours.is_empty() => self.foreign(),
            None => Meaning::Nothing,
        }
    }

    fn foreign(&self) -> Meaning {
        if self.networks.iter().any(|network| !network.internal) {
            Meaning::Foreign
        } else {
            Meaning::Nothing
        }
    }

    fn find(&self, network: &Network, name: &str) -> Vec<IpAddr> {
        let ids = self.known.directory.find(&network.name, name);
        ids.filter_map(|id| self.endpoint(id)).flat_map(Endpoint::addresses).collect()
    }

    /// By the claim on the address: one look-up.
    fn holder(&self, network: &Network, address: IpAddr) -> Option<&'a Endpoint> {
        let claim = self.known.cluster.address_claim(&network.name, address)?;
        let Address::Held { endpoint } = &claim.record else { return None };
        self.endpoint(endpoint).filter(|holder| holder.addresses().any(|own| own == address))
    }

    /// An endpoint that packets reach: those of withdrawn nodes have no names either.
    fn endpoint(&self, id: &EndpointId) -> Option<&'a Endpoint> {
        let Known { cluster, here, down, .. } = self.known;
        let endpoint = &cluster.endpoints.get(id)?.record;
        let node = || cluster.nodes.get(&endpoint.node);
        let is_there = endpoint.is_external()
            || endpoint.node == *here
            || node().is_some_and(|node| is_reachable(cluster, &node.record, down));
        is_there.then_some(endpoint)
    }
}

/// Whether an address is one of a network.
fn has(network: &Network, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => network.subnet.contains(&ip),
        IpAddr::V6(ip) => network.ipv6.is_some_and(|ipv6| ipv6.subnet.contains(&ip)),
    }
}

/// What of a name stands before `.NETWORK`.
fn before<'n>(name: &'n str, network: &Network) -> Option<&'n str> {
    let split = name.len().checked_sub(network.name.as_str().len() + 1)?;
    let (short, rest) = name.split_at_checked(split)?;
    let rest = rest.strip_prefix('.')?;
    (!short.is_empty() && rest.eq_ignore_ascii_case(network.name.as_str())).then_some(short)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::store::{Entry, Revision};

    /// `web` in blue and green, `db` with an alias in blue, `other` in red; red is internal, and so is green. `far` in
    /// blue is on another node, which gives no sign of life.
    fn cluster() -> Cluster {
        let network = |name: &str, vni: u32, net: u8, internal: bool| {
            let value = json!({"name": name, "vni": vni, "subnet": format!("10.0.{net}.0/24"),
                               "gateway": format!("10.0.{net}.1"), "internal": internal});
            (format!("overlay/v1/networks/{name}"), value)
        };
        let endpoint = |id: &str, node: &str, network: &str, name: &str, ip: &str, aliases: &[&str]| {
            let value = json!({"id": id, "network": network, "name": name, "node": node, "ipv4": ip,
                               "mac": "02:42:0a:00:00:02", "ifname": "eth0", "netns": name, "aliases": aliases});
            let claim = json!({"state": "held", "endpoint": id});
            [
                (format!("overlay/v1/endpoints/{network}/{id}"), value),
                (format!("overlay/v1/addresses/{network}/{ip}"), claim),
            ]
        };
        let node =
            json!({"name": "host2", "id": "x", "vtep": "192.0.2.2", "vxlan_port": 4789, "version": "1"});
        let endpoints = [
            endpoint("00000000000000a1", "host1", "blue", "web", "10.0.0.2", &["front", "www"]),
            endpoint("00000000000000a2", "host1", "green.site", "web", "10.0.1.2", &[]),
            endpoint("00000000000000b1", "host1", "blue", "db", "10.0.0.3", &["front"]),
            endpoint("c0ffee00000000d1", "host1", "red", "other", "10.0.2.2", &[]),
            endpoint("00000000000000f1", "host2", "blue", "far", "10.0.0.4", &["front"]),
        ];
        let others = [
            network("blue", 256, 0, false),
            network("green.site", 257, 1, true),
            network("red", 258, 2, true),
            ("overlay/v1/nodes/host2".to_owned(), node),
        ];
        let entries: Vec<Entry> = others
            .into_iter()
            .chain(endpoints.into_iter().flatten())
            .map(|(key, value)| Entry {
                key,
                value: value.to_string().into_bytes(),
                revision: Revision(1),
                lease: None,
            })
            .collect();
        let cluster = Cluster::from_listing(&entries, Revision(1));
        assert_eq!(cluster.quarantined.len(), 0, "{:?}", cluster.quarantined);
        cluster
    }

    /// What the container of that name sees while these nodes are down.
    fn seen_by<T>(asker: &str, down: &[&str], look: impl FnOnce(View<'_>) -> T) -> T {
        let (cluster, mut directory) = (cluster(), Directory::default());
        directory.follow(&cluster);
        let down = down.iter().map(|name| name.parse().unwrap()).collect();
        let own = cluster.endpoints.values().filter(|e| e.record.name.as_str() == asker);
        let own = own.map(|e| e.record.id.clone()).collect();
        let here = "host1".parse().unwrap();
        look(View::of(Known { cluster: &cluster, directory: &directory, here: &here, down: &down }, &own))
    }

    fn asked_by(asker: &str, name: &str) -> Meaning {
        seen_by(asker, &[], |view| view.meaning(name))
    }

    fn containers(last: &[[u8; 2]]) -> Meaning {
        Meaning::Containers(last.iter().map(|[net, host]| IpAddr::from([10, 0, *net, *host])).collect())
    }

    #[rstest]
    #[case::name("db", "web", &[[0, 2]])]
    #[case::of_both_networks("web", "web", &[[0, 2], [1, 2]])]
    #[case::with_network("web", "web.blue", &[[0, 2]])]
    #[case::network_with_a_dot("web", "web.green.site", &[[1, 2]])]
    #[case::any_case("db", "WeB.BlUe", &[[0, 2]])]
    #[case::alias_of_three("web", "front", &[[0, 2], [0, 3], [0, 4]])]
    #[case::on_another_node("db", "far", &[[0, 4]])]
    #[case::alias_with_network("db", "www.blue", &[[0, 2]])]
    #[case::short_id("other", "c0ffee000000", &[[2, 2]])]
    #[case::itself("other", "other", &[[2, 2]])]
    fn a_name_means_the_containers_that_have_it(
        #[case] asker: &str,
        #[case] name: &str,
        #[case] last: &[[u8; 2]],
    ) {
        assert_eq!(asked_by(asker, name), containers(last));
    }

    #[rstest]
    #[case::network_of_others("db", "other", Meaning::Foreign)]
    #[case::network_of_others_named("db", "other.red", Meaning::Foreign)]
    #[case::no_such_container("db", "none.blue", Meaning::Nothing)]
    #[case::the_world("db", "example.org", Meaning::Foreign)]
    #[case::the_world_from_inside("other", "example.org", Meaning::Nothing)]
    #[case::one_of_two_networks_leads_out("web", "example.org", Meaning::Foreign)]
    #[case::empty("other", "", Meaning::Nothing)]
    #[case::network_alone("db", "blue", Meaning::Foreign)]
    #[case::dot_before_the_network("db", ".blue", Meaning::Foreign)]
    #[case::no_ascii("db", "ä.blue", Meaning::Nothing)]
    fn other_names_are_nobodys_or_somebody_elses(
        #[case] asker: &str,
        #[case] name: &str,
        #[case] meaning: Meaning,
    ) {
        assert_eq!(asked_by(asker, name), meaning);
    }

    #[rstest]
    #[case([10, 0, 0, 3], Meaning::Name("db.blue".to_owned()))]
    #[case([10, 0, 1, 2], Meaning::Name("web.green.site".to_owned()))]
    #[case([10, 0, 0, 99], Meaning::Nothing)]
    #[case([10, 0, 2, 2], Meaning::Foreign)]
    #[case([10, 0, 0, 4], Meaning::Name("far.blue".to_owned()))]
    fn an_address_means_its_owner_in_the_networks_of_the_asker(
        #[case] address: [u8; 4],
        #[case] meaning: Meaning,
    ) {
        assert_eq!(seen_by("web", &[], |view| view.owner(IpAddr::from(address))), meaning);
    }

    #[test]
    fn the_containers_of_a_node_that_is_down_have_no_names() {
        let down = |name: &str| seen_by("web", &["host2"], |view| view.meaning(name));
        assert_eq!(down("far.blue"), Meaning::Nothing);
        assert_eq!(down("front"), containers(&[[0, 2], [0, 3]]));
        assert_eq!(
            seen_by("web", &["host2"], |view| view.owner(IpAddr::from([10, 0, 0, 4]))),
            Meaning::Nothing
        );
    }

    #[test]
    fn who_has_no_endpoint_any_more_sees_nothing() {
        assert_eq!(seen_by("nobody", &[], |view| view.meaning("web")), Meaning::Nothing);
    }
}
