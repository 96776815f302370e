//! Host-local addresses: which container of this host has which.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

use super::desired::GatewayDevice;
use crate::model::EndpointId;

/// The address of each host veth. Addresses that are in use stay, or connections would break; a new one follows from
/// the endpoint's id, which is random, so that an address that became free is not used again soon.
///
/// A range that is full leaves the rest without an address.
#[must_use]
pub fn assign(
    gateway: &GatewayDevice,
    host_veths: &BTreeMap<EndpointId, u32>,
    in_use: &BTreeMap<u32, Ipv4Addr>,
) -> BTreeMap<u32, Ipv4Addr> {
    let mut taken = BTreeSet::from([gateway.agent()]);
    let mut assigned = BTreeMap::new();
    for ifindex in host_veths.values() {
        let kept = in_use.get(ifindex).filter(|addr| is_usable(gateway.range, **addr));
        if let Some(addr) = kept.filter(|addr| taken.insert(**addr)) {
            assigned.insert(*ifindex, *addr);
        }
    }
    for (id, ifindex) in host_veths {
        if assigned.contains_key(ifindex) {
            continue;
        }
        if let Some(addr) = candidates(gateway.range, id).find(|addr| taken.insert(*addr)) {
            assigned.insert(*ifindex, addr);
        }
    }
    assigned
}

fn is_usable(range: Ipv4Net, addr: Ipv4Addr) -> bool {
    range.contains(&addr) && addr != range.network() && addr != range.broadcast()
}

/// All addresses of the range, beginning where the id says.
fn candidates(range: Ipv4Net, id: &EndpointId) -> impl Iterator<Item = Ipv4Addr> {
    let usable = (1u64 << range.max_prefix_len().saturating_sub(range.prefix_len())).saturating_sub(2);
    let start = u64::from_str_radix(id.as_str(), 16).unwrap_or_default();
    let first = u64::from(u32::from(range.network())) + 1;
    (0..usable).map(move |step| {
        let offset = (start % usable + step) % usable;
        Ipv4Addr::from(u32::try_from(first + offset).unwrap_or(u32::MAX))
    })
}

#[cfg(test)]
mod tests {
    use overlay_common::mac::Mac;
    use proptest::prelude::*;

    use super::*;

    fn gateway(range: &str) -> GatewayDevice {
        GatewayDevice { ifindex: 9, inner_ifindex: 10, mac: Mac::default(), range: range.parse().unwrap() }
    }

    fn veths(ids: &BTreeSet<u64>) -> BTreeMap<EndpointId, u32> {
        ids.iter().zip(100..).map(|(id, ifindex)| (format!("{id:016x}").parse().unwrap(), ifindex)).collect()
    }

    proptest! {
        #[test]
        fn no_two_have_one_address_and_what_is_in_use_stays(
            ids in proptest::collection::btree_set(any::<u64>(), 0..40),
            more in proptest::collection::btree_set(any::<u64>(), 0..20),
        ) {
            let gateway = gateway("172.18.0.0/26");
            let first = assign(&gateway, &veths(&ids), &BTreeMap::new());
            prop_assert_eq!(first.len(), ids.len());
            let mut all = veths(&ids);
            let free = 200u32..;
            all.extend(veths(&more).into_keys().filter(|id| !veths(&ids).contains_key(id)).zip(free));
            let second = assign(&gateway, &all, &first);
            let addresses: BTreeSet<_> = second.values().collect();
            prop_assert_eq!(addresses.len(), second.len());
            prop_assert!(second.values().all(|addr| is_usable(gateway.range, *addr) && *addr != gateway.agent()));
            prop_assert!(first.iter().all(|(ifindex, addr)| second.get(ifindex) == Some(addr)));
        }
    }

    #[test]
    fn a_full_range_leaves_the_rest_without() {
        let ids = (1..=10).collect();
        assert_eq!(assign(&gateway("172.18.0.0/29"), &veths(&ids), &BTreeMap::new()).len(), 5);
    }

    #[test]
    fn an_address_outside_the_range_or_used_twice_is_replaced() {
        let gateway = gateway("172.18.0.0/16");
        let ids = BTreeSet::from([1, 2, 3]);
        let same = Ipv4Addr::new(172, 18, 3, 3);
        let in_use = BTreeMap::from([(100, Ipv4Addr::new(172, 17, 0, 9)), (101, same), (102, same)]);
        let assigned = assign(&gateway, &veths(&ids), &in_use);
        assert_eq!(assigned[&101], same);
        assert_eq!(assigned.values().collect::<BTreeSet<_>>().len(), 3);
        assert!(assigned.values().all(|addr| gateway.range.contains(addr)));
    }
}
