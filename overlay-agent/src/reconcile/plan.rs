//! The changes that lead from one content of the maps to another.

use std::collections::BTreeMap;

use overlay_common::{
    config::Config,
    endpoint::Endpoint,
    fdb::{FdbEntry, FdbKey},
    flood::{FloodKey, Receiver},
    gateway::{Gateway, HostAddr},
    limit::Limits,
    neigh::{Neigh, NeighKey},
    network::Network,
    policy::{Policy, PolicyKey, RuleBits, RuleBitsKey, RuleSet},
    stats::RuleKey,
    vtep::{Vtep, VtepMemberKey},
};

use super::tables::{RouteTarget, Tables};

/// The changes of one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edits<K, V> {
    /// Entries to write, new or changed.
    pub put: Vec<(K, V)>,
    /// Keys to delete.
    pub delete: Vec<K>,
}

impl<K, V> Default for Edits<K, V> {
    fn default() -> Self {
        Self { put: Vec::new(), delete: Vec::new() }
    }
}

impl<K: Ord + Copy, V: PartialEq + Copy> Edits<K, V> {
    /// The changes of the entries that were as `before` says, and are now as in `after`.
    pub(super) fn of(before: &BTreeMap<K, Option<V>>, after: &BTreeMap<K, V>) -> Self {
        let mut edits = Self::default();
        for (key, old) in before {
            match after.get(key) {
                Some(new) if Some(*new) != *old => edits.put.push((*key, *new)),
                None if old.is_some() => edits.delete.push(*key),
                _ => {}
            }
        }
        edits
    }

    fn between(observed: &BTreeMap<K, V>, desired: &BTreeMap<K, V>) -> Self {
        let differs = |(k, v): &(&K, &V)| observed.get(k) != Some(v);
        Self {
            put: desired.iter().filter(differs).map(|(k, v)| (*k, *v)).collect(),
            delete: observed.keys().filter(|k| !desired.contains_key(k)).copied().collect(),
        }
    }

    fn carry_out(&self, table: &mut BTreeMap<K, V>) {
        table.extend(self.put.iter().copied());
        for key in &self.delete {
            table.remove(key);
        }
    }

    fn extend(&mut self, other: Self) {
        self.put.extend(other.put);
        self.delete.extend(other.delete);
    }

    /// Number of changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.put.len() + self.delete.len()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The changes of all maps, in the order in which they are carried out: first every `put` from top to
/// bottom, so that what an entry refers to is there before it, then every `delete` from bottom to top.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Map `config`.
    pub config: Option<Config>,
    /// Map `gateway`.
    pub gateway: Option<Gateway>,
    /// Map `networks`.
    pub networks: Edits<u32, Network>,
    /// Map `vteps`.
    pub vteps: Edits<u32, Vtep>,
    /// Map `vtep_members`.
    pub vtep_members: Edits<VtepMemberKey, u32>,
    /// Map `limits`.
    pub limits: Edits<u32, Limits>,
    /// Map `endpoints`.
    pub endpoints: Edits<u32, Endpoint>,
    /// Map `host_addrs`.
    pub host_addrs: Edits<u32, HostAddr>,
    /// Map `host_owners`.
    pub host_owners: Edits<HostAddr, u32>,
    /// Map `fdb`.
    pub fdb: Edits<FdbKey, FdbEntry>,
    /// Map `neigh`.
    pub neigh: Edits<NeighKey, Neigh>,
    /// Map `flood`.
    pub flood: Edits<FloodKey, Receiver>,
    /// Map `rule_bits`.
    pub rule_bits: Edits<RuleBitsKey, RuleBits>,
    /// Map `rule_stats`: counters to start at zero, and those that are no longer needed.
    pub rule_stats: Edits<RuleKey, ()>,
    /// Map `rules`.
    pub rules: Edits<PolicyKey, RuleSet>,
    /// Map `policy`.
    pub policy: Edits<PolicyKey, Policy>,
    /// Map `routes`.
    pub routes: Edits<RouteTarget, u32>,
    /// Map `endpoint_stats`: counters to start at zero, and those that are no longer needed.
    pub endpoint_stats: Edits<u32, ()>,
}

impl Plan {
    /// What leads from `observed` to `desired`.
    #[must_use]
    pub fn between(observed: &Tables, desired: &Tables) -> Self {
        Self {
            config: (observed.config != desired.config).then_some(desired.config),
            gateway: (observed.gateway != desired.gateway).then_some(desired.gateway),
            networks: Edits::between(&observed.networks, &desired.networks),
            vteps: Edits::between(&observed.vteps, &desired.vteps),
            vtep_members: Edits::between(&observed.vtep_members, &desired.vtep_members),
            limits: Edits::between(&observed.limits, &desired.limits),
            endpoints: Edits::between(&observed.endpoints, &desired.endpoints),
            host_addrs: Edits::between(&observed.host_addrs, &desired.host_addrs),
            host_owners: Edits::between(&observed.host_owners, &desired.host_owners),
            fdb: Edits::between(&observed.fdb, &desired.fdb),
            neigh: Edits::between(&observed.neigh, &desired.neigh),
            flood: Edits::between(&observed.flood, &desired.flood),
            rule_bits: Edits::between(&observed.rule_bits, &desired.rule_bits),
            rule_stats: Edits::between(&observed.rule_stats, &desired.rule_stats),
            rules: Edits::between(&observed.rules, &desired.rules),
            policy: Edits::between(&observed.policy, &desired.policy),
            routes: Edits::between(&observed.routes, &desired.routes),
            endpoint_stats: Edits::between(&observed.endpoint_stats, &desired.endpoint_stats),
        }
    }

    /// Changes the tables as the maps are changed.
    pub(super) fn carry_out(&self, tables: &mut Tables) {
        tables.config = self.config.unwrap_or(tables.config);
        tables.gateway = self.gateway.unwrap_or(tables.gateway);
        self.networks.carry_out(&mut tables.networks);
        self.vteps.carry_out(&mut tables.vteps);
        self.vtep_members.carry_out(&mut tables.vtep_members);
        self.limits.carry_out(&mut tables.limits);
        self.endpoints.carry_out(&mut tables.endpoints);
        self.host_addrs.carry_out(&mut tables.host_addrs);
        self.host_owners.carry_out(&mut tables.host_owners);
        self.fdb.carry_out(&mut tables.fdb);
        self.neigh.carry_out(&mut tables.neigh);
        self.flood.carry_out(&mut tables.flood);
        self.rule_bits.carry_out(&mut tables.rule_bits);
        self.rule_stats.carry_out(&mut tables.rule_stats);
        self.rules.carry_out(&mut tables.rules);
        self.policy.carry_out(&mut tables.policy);
        self.routes.carry_out(&mut tables.routes);
        self.endpoint_stats.carry_out(&mut tables.endpoint_stats);
    }

    /// Adds the changes of another plan, of other entries.
    pub(super) fn extend(&mut self, other: Self) {
        self.config = other.config.or(self.config);
        self.gateway = other.gateway.or(self.gateway);
        self.networks.extend(other.networks);
        self.vteps.extend(other.vteps);
        self.vtep_members.extend(other.vtep_members);
        self.limits.extend(other.limits);
        self.endpoints.extend(other.endpoints);
        self.host_addrs.extend(other.host_addrs);
        self.host_owners.extend(other.host_owners);
        self.fdb.extend(other.fdb);
        self.neigh.extend(other.neigh);
        self.flood.extend(other.flood);
        self.rule_bits.extend(other.rule_bits);
        self.rule_stats.extend(other.rule_stats);
        self.rules.extend(other.rules);
        self.policy.extend(other.policy);
        self.routes.extend(other.routes);
        self.endpoint_stats.extend(other.endpoint_stats);
    }

    /// Number of changes.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.config.is_some())
            + usize::from(self.gateway.is_some())
            + self.networks.len()
            + self.vteps.len()
            + self.vtep_members.len()
            + self.limits.len()
            + self.endpoints.len()
            + self.host_addrs.len()
            + self.host_owners.len()
            + self.fdb.len()
            + self.neigh.len()
            + self.flood.len()
            + self.rule_bits.len()
            + self.rule_stats.len()
            + self.rules.len()
            + self.policy.len()
            + self.routes.len()
            + self.endpoint_stats.len()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn carrying_edits_out_gives_what_was_desired_and_then_nothing_is_left_to_do(
            observed in proptest::collection::btree_map(0u32..20, any::<u8>(), 0..15),
            desired in proptest::collection::btree_map(0u32..20, any::<u8>(), 0..15),
        ) {
            let mut tables = observed.clone();
            Edits::between(&observed, &desired).carry_out(&mut tables);
            prop_assert_eq!(&tables, &desired);
            prop_assert!(Edits::between(&tables, &desired).is_empty());
        }

        #[test]
        fn edits_touch_only_what_differs(
            common in proptest::collection::btree_map(0u32..20, any::<u8>(), 0..15), extra_key in 100u32..120, value: u8,
        ) {
            let mut desired = common.clone();
            desired.insert(extra_key, value);
            let edits = Edits::between(&common, &desired);
            prop_assert_eq!(edits.put, vec![(extra_key, value)]);
            prop_assert!(edits.delete.is_empty());
        }
    }
}
