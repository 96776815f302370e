//! The maps, typed.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuHashMap, PerCpuValues, lpm_trie::Key},
};
use overlay_common::{
    abi::map,
    config::Config,
    endpoint::Endpoint,
    fdb::{FdbEntry, FdbKey},
    flood::{FloodKey, Receiver},
    flow::{Flow, FlowKey},
    gateway::{Gateway, HostAddr},
    limit::Limits,
    neigh::{Neigh, NeighKey},
    network::Network,
    policy::{Policy, PolicyKey, RuleBits, RuleBitsKey, RuleSet},
    route::{RouteKey, SCOPE_BITS},
    stats::{DropCount, DropKey, EndpointStats, RuleCount, RuleKey},
    turns::Turns,
    vtep::{Vtep, VtepMemberKey},
};

use super::{DatapathError, batch};
use crate::reconcile::{Plan, RouteTarget, Tables, plan::Edits};

type Hash<K, V> = Table<HashMap<MapData, K, V>>;

/// A map with its name, for errors.
pub(super) struct Table<M> {
    pub(super) name: &'static str,
    pub(super) map: M,
}

/// Handles of all maps.
pub struct Maps {
    config: Table<Array<MapData, Config>>,
    networks: Hash<u32, Network>,
    vteps: Table<Array<MapData, Vtep>>,
    vtep_members: Hash<VtepMemberKey, u32>,
    endpoints: Hash<u32, Endpoint>,
    gateway: Table<Array<MapData, Gateway>>,
    host_addrs: Hash<u32, HostAddr>,
    host_owners: Hash<HostAddr, u32>,
    fdb: Hash<FdbKey, FdbEntry>,
    neigh: Hash<NeighKey, Neigh>,
    policy: Hash<PolicyKey, Policy>,
    rules: Hash<PolicyKey, RuleSet>,
    rule_bits: Hash<RuleBitsKey, RuleBits>,
    routes: Table<LpmTrie<MapData, RouteKey, u32>>,
    flood: Hash<FloodKey, Receiver>,
    limits: Hash<u32, Limits>,
    pub(super) limit_turns: Hash<u32, Turns>,
    pub(super) resolver_turns: Hash<u32, Turns>,
    pub(super) flood_turns: Hash<u32, Turns>,
    pub(super) endpoint_stats: Table<PerCpuHashMap<MapData, u32, EndpointStats>>,
    pub(super) drops: Table<PerCpuHashMap<MapData, DropKey, DropCount>>,
    pub(super) rule_stats: Table<PerCpuHashMap<MapData, RuleKey, RuleCount>>,
    pub(super) flows: Hash<FlowKey, Flow>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            config: take(ebpf, map::CONFIG)?,
            networks: take(ebpf, map::NETWORKS)?,
            vteps: take(ebpf, map::VTEPS)?,
            vtep_members: take(ebpf, map::VTEP_MEMBERS)?,
            endpoints: take(ebpf, map::ENDPOINTS)?,
            gateway: take(ebpf, map::GATEWAY)?,
            host_addrs: take(ebpf, map::HOST_ADDRS)?,
            host_owners: take(ebpf, map::HOST_OWNERS)?,
            fdb: take(ebpf, map::FDB)?,
            neigh: take(ebpf, map::NEIGH)?,
            policy: take(ebpf, map::POLICY)?,
            rules: take(ebpf, map::RULES)?,
            rule_bits: take(ebpf, map::RULE_BITS)?,
            routes: take(ebpf, map::ROUTES)?,
            flood: take(ebpf, map::FLOOD)?,
            limits: take(ebpf, map::LIMITS)?,
            limit_turns: take(ebpf, map::LIMIT_TURNS)?,
            resolver_turns: take(ebpf, map::RESOLVER_TURNS)?,
            flood_turns: take(ebpf, map::FLOOD_TURNS)?,
            endpoint_stats: take(ebpf, map::ENDPOINT_STATS)?,
            drops: take(ebpf, map::DROPS)?,
            rule_stats: take(ebpf, map::RULE_STATS)?,
            flows: take(ebpf, map::FLOWS)?,
        })
    }

    /// What the maps hold.
    pub(super) fn observe(&self) -> Result<Tables, DatapathError> {
        let unused = Vtep::default();
        let vteps = self.vteps.map.iter().zip(0..).filter(|(vtep, _)| !matches!(vtep, Ok(v) if *v == unused));
        let routes = self.routes.map.iter().map(|entry| entry.map(|(key, vni)| (route_target(&key), vni)));
        Ok(Tables {
            config: self.config.map.get(&0, 0).map_err(self.config.fail("read"))?,
            networks: self.networks.entries()?,
            vteps: vteps
                .map(|(vtep, index)| vtep.map(|v| (index, v)))
                .collect::<Result<_, _>>()
                .map_err(self.vteps.fail("read"))?,
            vtep_members: self.vtep_members.entries()?,
            endpoints: self.endpoints.entries()?,
            gateway: self.gateway.map.get(&0, 0).map_err(self.gateway.fail("read"))?,
            host_addrs: self.host_addrs.entries()?,
            host_owners: self.host_owners.entries()?,
            fdb: self.fdb.entries()?,
            neigh: self.neigh.entries()?,
            flood: self.flood.entries()?,
            limits: self.limits.entries()?,
            policy: self.policy.entries()?,
            rules: self.rules.entries()?,
            rule_bits: self.rule_bits.entries()?,
            routes: routes.collect::<Result<_, _>>().map_err(self.routes.fail("read"))?,
            endpoint_stats: self.endpoint_stats()?.into_keys().map(|ifindex| (ifindex, ())).collect(),
            rule_stats: self.rule_stats()?.into_keys().map(|key| (key, ())).collect(),
        })
    }

    /// Carries out a plan, in its order.
    pub(super) fn apply(&mut self, plan: &Plan) -> Result<(), DatapathError> {
        if let Some(config) = plan.config {
            self.config.map.set(0, config, 0).map_err(self.config.fail("write"))?;
        }
        if let Some(gateway) = plan.gateway {
            self.gateway.map.set(0, gateway, 0).map_err(self.gateway.fail("write"))?;
        }
        self.networks.put(&plan.networks)?;
        self.put_vteps(&plan.vteps.put)?;
        self.vtep_members.put(&plan.vtep_members)?;
        self.create_stats(&plan.endpoint_stats)?;
        self.limits.put(&plan.limits)?;
        self.endpoints.put(&plan.endpoints)?;
        self.host_addrs.put(&plan.host_addrs)?;
        self.host_owners.put(&plan.host_owners)?;
        self.fdb.put(&plan.fdb)?;
        self.neigh.put(&plan.neigh)?;
        self.flood.put(&plan.flood)?;
        self.rule_bits.put(&plan.rule_bits)?;
        self.create_rule_stats(&plan.rule_stats)?;
        self.rules.put(&plan.rules)?;
        self.policy.put(&plan.policy)?;
        self.put_routes(&plan.routes)?;

        self.delete_routes(&plan.routes)?;
        self.policy.delete(&plan.policy)?;
        self.rules.delete(&plan.rules)?;
        self.delete_rule_stats(&plan.rule_stats)?;
        self.rule_bits.delete(&plan.rule_bits)?;
        self.flood.delete(&plan.flood)?;
        self.neigh.delete(&plan.neigh)?;
        self.fdb.delete(&plan.fdb)?;
        self.host_owners.delete(&plan.host_owners)?;
        self.host_addrs.delete(&plan.host_addrs)?;
        self.endpoints.delete(&plan.endpoints)?;
        self.limits.delete(&plan.limits)?;
        self.delete_stats(&plan.endpoint_stats)?;
        self.retire_drops(&plan.endpoints.delete)?;
        self.vtep_members.delete(&plan.vtep_members)?;
        let unused: Vec<_> = plan.vteps.delete.iter().map(|index| (*index, Vtep::default())).collect();
        self.put_vteps(&unused)?;
        self.networks.delete(&plan.networks)
    }

    fn put_vteps(&mut self, entries: &[(u32, Vtep)]) -> Result<(), DatapathError> {
        for (index, vtep) in entries {
            self.vteps.map.set(*index, vtep, 0).map_err(self.vteps.fail("write"))?;
        }
        Ok(())
    }

    fn put_routes(&mut self, edits: &Edits<RouteTarget, u32>) -> Result<(), DatapathError> {
        for (target, vni) in &edits.put {
            self.routes.map.insert(&trie_key(target), vni, 0).map_err(self.routes.fail("write"))?;
        }
        Ok(())
    }

    fn delete_routes(&mut self, edits: &Edits<RouteTarget, u32>) -> Result<(), DatapathError> {
        for target in &edits.delete {
            gone_is_success(self.routes.map.remove(&trie_key(target)))
                .map_err(self.routes.fail("delete from"))?;
        }
        Ok(())
    }

    /// Counters of a new endpoint start at zero.
    fn create_stats(&mut self, edits: &Edits<u32, ()>) -> Result<(), DatapathError> {
        for (ifindex, ()) in &edits.put {
            self.reset_stats(*ifindex)?;
        }
        Ok(())
    }

    fn reset_stats(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        let zero = zeros(self.endpoint_stats.name)?;
        let table = &mut self.endpoint_stats;
        table.map.insert(ifindex, zero, 0).map_err(table.fail("write"))
    }

    /// Counters of a new rule start at zero.
    fn create_rule_stats(&mut self, edits: &Edits<RuleKey, ()>) -> Result<(), DatapathError> {
        let table = &mut self.rule_stats;
        for (key, ()) in &edits.put {
            table.map.insert(key, zeros(table.name)?, 0).map_err(table.fail("write"))?;
        }
        Ok(())
    }

    fn delete_rule_stats(&mut self, edits: &Edits<RuleKey, ()>) -> Result<(), DatapathError> {
        for key in &edits.delete {
            gone_is_success(self.rule_stats.map.remove(key)).map_err(self.rule_stats.fail("delete from"))?;
        }
        Ok(())
    }

    /// Takes away what is counted for devices that are no endpoint's.
    pub(super) fn retire_counters(&mut self) -> Result<(), DatapathError> {
        let endpoints = self.endpoints.entries()?;
        let dropped = self.drops()?.into_keys().map(|key| key.ifindex).filter(|ifindex| *ifindex != 0);
        let counted: BTreeSet<u32> = self.endpoint_stats()?.into_keys().chain(dropped).collect();
        let gone = counted.into_iter().filter(|ifindex| !endpoints.contains_key(ifindex)).collect();
        let gone = Edits { put: Vec::new(), delete: gone };
        self.delete_stats(&gone)?;
        self.retire_drops(&gone.delete)
    }

    /// Hands the drop counts of endpoints that are gone to their networks: the map must not grow with every
    /// container that ever was.
    fn retire_drops(&mut self, ifindices: &[u32]) -> Result<(), DatapathError> {
        if ifindices.is_empty() {
            return Ok(());
        }
        let table = &mut self.drops;
        let rows: Vec<_> = table.map.iter().collect::<Result<_, _>>().map_err(table.fail("read"))?;
        for (key, counts) in rows.into_iter().filter(|(key, _)| ifindices.contains(&key.ifindex)) {
            let network = DropKey { ifindex: 0, ..key };
            let sum = match table.map.get(&network, 0) {
                Ok(known) => known.iter().zip(counts.iter()).map(|(a, b)| *a + *b).collect(),
                Err(_) => counts.to_vec(),
            };
            let sum = PerCpuValues::try_from(sum).map_err(|e| DatapathError::Map {
                operation: "size",
                map: table.name,
                source: e.into(),
            })?;
            table.map.insert(network, sum, 0).map_err(table.fail("write"))?;
            gone_is_success(table.map.remove(&key)).map_err(table.fail("delete from"))?;
        }
        Ok(())
    }

    fn delete_stats(&mut self, edits: &Edits<u32, ()>) -> Result<(), DatapathError> {
        for ifindex in &edits.delete {
            gone_is_success(self.endpoint_stats.map.remove(ifindex))
                .map_err(self.endpoint_stats.fail("delete from"))?;
        }
        Ok(())
    }
}

impl<M> Table<M> {
    /// Turns a map's error into ours.
    pub(super) fn fail(&self, operation: &'static str) -> impl Fn(MapError) -> DatapathError + use<M> {
        let map = self.name;
        move |source| DatapathError::Map { operation, map, source }
    }
}

impl<K: Pod + Ord, V: Pod> Hash<K, V> {
    pub(super) fn entries(&self) -> Result<BTreeMap<K, V>, DatapathError> {
        self.map.iter().collect::<Result<_, _>>().map_err(self.fail("read"))
    }

    fn put(&mut self, edits: &Edits<K, V>) -> Result<(), DatapathError> {
        // Together what can be, the rest one by one: that has an error of its own for each.
        let written = batch::update(&self.map, &edits.put);
        for (key, value) in &edits.put[written..] {
            self.map.insert(key.borrow(), value, 0).map_err(self.fail("write"))?;
        }
        Ok(())
    }

    fn delete(&mut self, edits: &Edits<K, V>) -> Result<(), DatapathError> {
        for key in &edits.delete {
            gone_is_success(self.map.remove(key)).map_err(self.fail("delete from"))?;
        }
        Ok(())
    }
}

fn take<M: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<Table<M>, DatapathError> {
    let map = ebpf.take_map(name).ok_or(DatapathError::Missing(name))?;
    let fail = |source| DatapathError::Map { operation: "open", map: name, source };
    Ok(Table { name, map: map.try_into().map_err(fail)? })
}

/// A zero for each CPU.
fn zeros<V: Pod + Default>(map: &'static str) -> Result<PerCpuValues<V>, DatapathError> {
    let cpus = aya::util::nr_cpus().map_err(|(_, e)| e);
    let zeros = cpus.and_then(|cpus| PerCpuValues::try_from(vec![V::default(); cpus]));
    zeros.map_err(|e| DatapathError::Map { operation: "size", map, source: e.into() })
}

fn gone_is_success(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn trie_key(target: &RouteTarget) -> Key<RouteKey> {
    Key::new(SCOPE_BITS + u32::from(target.prefix_len), target.key)
}

fn route_target(key: &Key<RouteKey>) -> RouteTarget {
    let prefix_len = u8::try_from(key.prefix_len().saturating_sub(SCOPE_BITS)).unwrap_or(u8::MAX);
    RouteTarget { prefix_len, key: key.data() }
}
