//! What a name means to a container.

use std::net::Ipv4Addr;

use crate::model::{Cluster, Endpoint, Network};

/// Digits of an endpoint's id that are enough to name it, as with Docker's container ids.
const SHORT_ID: usize = 12;

/// What a container may know.
pub struct View<'a> {
    cluster: &'a Cluster,
    networks: Vec<&'a Network>,
}

/// What a name or address means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Containers, by their addresses.
    Containers(Vec<Ipv4Addr>),
    /// The name of the container that has the address, with its network's.
    Name(String),
    /// Nothing: the name would be in a network that the asker sees, or it has no way to ask others.
    Nothing,
    /// Somebody else's name.
    Foreign,
}

impl<'a> View<'a> {
    /// The view of the container behind an endpoint: that of all its endpoints on this host.
    #[must_use]
    pub fn of(cluster: &'a Cluster, asker: &Endpoint) -> Self {
        let same = |e: &&Endpoint| e.node == asker.node && e.netns == asker.netns;
        let endpoints = cluster.endpoints.values().map(|e| &e.record);
        let mut names: Vec<_> = endpoints.filter(same).map(|e| &e.network).collect();
        names.sort_unstable();
        names.dedup();
        let networks = names.into_iter().filter_map(|name| cluster.networks.get(name));
        Self { cluster, networks: networks.map(|n| &n.record).collect() }
    }

    /// What a name without its closing dot means: a container's name, alias or short id, alone or with its
    /// network's name behind it. Upper and lower case are the same.
    #[must_use]
    pub fn meaning(&self, name: &str) -> Meaning {
        let alone = self.networks.iter().flat_map(|network| self.find(network, name));
        let with_network = self.networks.iter().flat_map(|network| {
            let short = strip_network(name, network);
            short.into_iter().flat_map(|short| self.find(network, short))
        });
        let mut found: Vec<Ipv4Addr> = alone.chain(with_network).collect();
        found.sort_unstable();
        found.dedup();
        let ours = || self.networks.iter().any(|network| strip_network(name, network).is_some());
        if !found.is_empty() {
            Meaning::Containers(found)
        } else if ours() {
            Meaning::Nothing
        } else {
            self.foreign()
        }
    }

    /// Who has an address.
    #[must_use]
    pub fn owner(&self, address: Ipv4Addr) -> Meaning {
        let ours: Vec<_> = self.networks.iter().filter(|n| n.subnet.contains(&address)).collect();
        let mut owners = ours.iter().filter_map(|network| {
            let owner = self.cluster.endpoints_of(&network.name).find(|e| e.ipv4 == address)?;
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

    fn find<'s>(&'s self, network: &'s Network, name: &'s str) -> impl Iterator<Item = Ipv4Addr> + 's {
        self.cluster.endpoints_of(&network.name).filter(move |e| is_called(e, name)).map(|e| e.ipv4)
    }
}

fn is_called(endpoint: &Endpoint, name: &str) -> bool {
    let names = std::iter::once(&endpoint.name).chain(&endpoint.aliases);
    names.map(|n| n.as_str()).chain([&endpoint.id.as_str()[..SHORT_ID]]).any(|n| n.eq_ignore_ascii_case(name))
}

/// What stands before `.NETWORK`.
fn strip_network<'n>(name: &'n str, network: &Network) -> Option<&'n str> {
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

    /// `web` in blue and green, `db` with an alias in blue, `other` in red; red is internal, and so is green.
    fn cluster() -> Cluster {
        let network = |name: &str, vni: u32, net: u8, internal: bool| {
            let value = json!({"name": name, "vni": vni, "subnet": format!("10.0.{net}.0/24"),
                               "gateway": format!("10.0.{net}.1"), "internal": internal});
            (format!("overlay/v1/networks/{name}"), value)
        };
        let endpoint = |id: &str, network: &str, name: &str, ip: &str, netns: &str, aliases: &[&str]| {
            let value = json!({"id": id, "network": network, "name": name, "node": "host1", "ipv4": ip,
                               "mac": "02:42:0a:00:00:02", "ifname": "eth0", "netns": netns, "aliases": aliases});
            (format!("overlay/v1/endpoints/{network}/{id}"), value)
        };
        let entries = [
            network("blue", 256, 0, false),
            network("green.site", 257, 1, true),
            network("red", 258, 2, true),
            endpoint("00000000000000a1", "blue", "web", "10.0.0.2", "/run/netns/web", &["front", "www"]),
            endpoint("00000000000000a2", "green.site", "web", "10.0.1.2", "/run/netns/web", &[]),
            endpoint("00000000000000b1", "blue", "db", "10.0.0.3", "/run/netns/db", &["front"]),
            endpoint("c0ffee00000000d1", "red", "other", "10.0.2.2", "/run/netns/other", &[]),
        ];
        let entries: Vec<Entry> = entries
            .into_iter()
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

    fn asked_by(cluster: &Cluster, asker: &str, name: &str) -> Meaning {
        let asker = &cluster.endpoints.values().find(|e| e.record.name.as_str() == asker).unwrap().record;
        View::of(cluster, asker).meaning(name)
    }

    fn containers(last: &[[u8; 2]]) -> Meaning {
        Meaning::Containers(last.iter().map(|[net, host]| Ipv4Addr::new(10, 0, *net, *host)).collect())
    }

    #[rstest]
    #[case::name("db", "web", &[[0, 2]])]
    #[case::of_both_networks("web", "web", &[[0, 2], [1, 2]])]
    #[case::with_network("web", "web.blue", &[[0, 2]])]
    #[case::network_with_a_dot("web", "web.green.site", &[[1, 2]])]
    #[case::any_case("db", "WeB.BlUe", &[[0, 2]])]
    #[case::alias_of_two("web", "front", &[[0, 2], [0, 3]])]
    #[case::alias_with_network("db", "www.blue", &[[0, 2]])]
    #[case::short_id("other", "c0ffee000000", &[[2, 2]])]
    #[case::itself("other", "other", &[[2, 2]])]
    fn a_name_means_the_containers_that_have_it(
        #[case] asker: &str,
        #[case] name: &str,
        #[case] last: &[[u8; 2]],
    ) {
        assert_eq!(asked_by(&cluster(), asker, name), containers(last));
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
        assert_eq!(asked_by(&cluster(), asker, name), meaning);
    }

    #[rstest]
    #[case([10, 0, 0, 3], Meaning::Name("db.blue".to_owned()))]
    #[case([10, 0, 1, 2], Meaning::Name("web.green.site".to_owned()))]
    #[case([10, 0, 0, 99], Meaning::Nothing)]
    #[case([10, 0, 2, 2], Meaning::Foreign)]
    fn an_address_means_its_owner_in_the_networks_of_the_asker(
        #[case] address: [u8; 4],
        #[case] meaning: Meaning,
    ) {
        let cluster = cluster();
        let web = &cluster.endpoints.values().find(|e| e.record.name.as_str() == "web").unwrap().record;
        assert_eq!(View::of(&cluster, web).owner(address.into()), meaning);
    }
}
