//! Who gets copies of broadcast and multicast, in networks that were made with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use overlay_common::flood::{FloodKey, HERE, MOST, Receiver, THERE};

use super::{
    desired::{Basis, Local},
    tables::Tables,
};
use crate::model::{Cluster, Name};

/// The networks with broadcast and multicast.
pub(super) fn vnis(cluster: &Cluster) -> BTreeSet<u32> {
    let networks = cluster.networks.values().map(|network| &network.record);
    networks.filter(|network| network.multicast).map(|network| network.vni.get()).collect()
}

/// Adds the lists of all such networks. Those of one change together, with any endpoint of it: they have no gaps.
pub(super) fn add(tables: &mut Tables, cluster: &Cluster, local: &Local, basis: &Basis) {
    let members = || -> BTreeMap<&Name, Members> {
        let networks = cluster.networks.values().map(|network| &network.record);
        networks
            .filter(|n| n.multicast)
            .map(|n| (&n.name, Members { vni: n.vni.get(), ..Members::default() }))
            .collect()
    };
    let mut networks = members();
    if networks.is_empty() {
        return;
    }
    for endpoint in cluster.endpoints.values().map(|endpoint| &endpoint.record) {
        let Some(members) = networks.get_mut(&endpoint.network) else { continue };
        if endpoint.node == local.node {
            members.here.extend(local.host_veths.get(&endpoint.id));
        } else {
            members.there.extend(basis.vtep_of(endpoint));
        }
    }
    for members in networks.values() {
        tables.flood.extend(members.entries());
    }
}

#[derive(Default)]
struct Members {
    vni: u32,
    here: BTreeSet<u32>,
    there: BTreeSet<Ipv4Addr>,
}

impl Members {
    fn entries(&self) -> impl Iterator<Item = (FloodKey, Receiver)> {
        let vni = self.vni;
        let here = self.here.iter().map(|ifindex| Receiver { ifindex: *ifindex, vtep_addr: [0; 4] });
        let there = self.there.iter().map(|vtep| Receiver { ifindex: 0, vtep_addr: vtep.octets() });
        let numbered = move |(number, receiver), side| (FloodKey { vni, side, number }, receiver);
        let here = (0..MOST).zip(here).map(move |row| numbered(row, HERE));
        here.chain((0..MOST).zip(there).map(move |row| numbered(row, THERE)))
    }
}
