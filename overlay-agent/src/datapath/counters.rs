//! What the programs counted, summed over the CPUs.

use std::{collections::BTreeMap, ops::Add};

use aya::{
    Pod,
    maps::{MapData, PerCpuHashMap},
};
use overlay_common::{
    abi::capacity,
    flow::{Flow, FlowKey},
    stats::{DropCount, DropKey, EndpointStats, RuleCount, RuleKey},
    turns::Turns,
};

use super::{
    DatapathError,
    maps::{Maps, Table},
};

impl Maps {
    /// Traffic of each local endpoint, by ifindex of its host veth.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn endpoint_stats(&self) -> Result<BTreeMap<u32, EndpointStats>, DatapathError> {
        sums(&self.endpoint_stats)
    }

    /// How far each container has used up its turns at the resolver, by ifindex of its host veth.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn resolver_turns(&self) -> Result<BTreeMap<u32, Turns>, DatapathError> {
        self.resolver_turns.entries()
    }

    /// How far each container has used up its rates, by ifindex of its host veth and direction.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn limit_turns(&self) -> Result<BTreeMap<u32, Turns>, DatapathError> {
        self.limit_turns.entries()
    }

    /// How far each sender has used up its turns at broadcast and multicast.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn flood_turns(&self) -> Result<BTreeMap<u32, Turns>, DatapathError> {
        self.flood_turns.entries()
    }

    /// Dropped packets.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn drops(&self) -> Result<BTreeMap<DropKey, DropCount>, DatapathError> {
        sums(&self.drops)
    }

    /// Flows that rules let through lately.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn flows(&self) -> Result<BTreeMap<FlowKey, Flow>, DatapathError> {
        // As many as fit: while others come and go, the kernel may begin the list anew.
        let entries = self.flows.map.iter().take(capacity::FLOWS);
        entries.collect::<Result<_, _>>().map_err(self.flows.fail("read"))
    }

    /// Packets that passed by rules.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn rule_stats(&self) -> Result<BTreeMap<RuleKey, RuleCount>, DatapathError> {
        sums(&self.rule_stats)
    }
}

fn sums<K, V>(table: &Table<PerCpuHashMap<MapData, K, V>>) -> Result<BTreeMap<K, V>, DatapathError>
where
    K: Pod + Ord,
    V: Pod + Default + Add<Output = V>,
{
    let sum = |values: &[V]| values.iter().copied().fold(V::default(), V::add);
    let entries = table.map.iter().map(|entry| entry.map(|(key, values)| (key, sum(&values))));
    entries.collect::<Result<_, _>>().map_err(table.fail("read"))
}
