//! The maps, by the names that `bpftool map` shows. Keys and values are those of `overlay-common`.
//!
//! Hash maps, not LRU maps: an LRU map forgets entries silently. All are filled by the agent alone, except the counters
//! and those that may forget: `flows`, of which there may be any number, come back by themselves; a container that
//! `resolver_turns`, `flood_turns` or `limit_turns` forgets has a burst more. `BPF_F_NO_PREALLOC` where the bound is large, so
//! that memory follows use.
#![expect(non_upper_case_globals, reason = "the kernel shows a map under its symbol's name")]

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray},
    macros::btf_map,
};
use overlay_common::{
    abi::{capacity, tail_call},
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
    route::RouteKey,
    stats::{DropCount, DropKey, EndpointStats, RuleCount, RuleKey},
    vtep::{Vtep, VtepMemberKey},
};

use crate::{rules::Question, turns::Taken};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static config: Array<Config, 1> = Array::new();
#[btf_map]
pub static endpoints: HashMap<u32, Endpoint, { capacity::ENDPOINTS }> = HashMap::new();
#[btf_map]
pub static fdb: HashMap<FdbKey, FdbEntry, { capacity::FDB }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static neigh: HashMap<NeighKey, Neigh, { capacity::NEIGH }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static vteps: Array<Vtep, { capacity::VTEPS }> = Array::new();
#[btf_map]
pub static vtep_members: HashMap<VtepMemberKey, u32, { capacity::VTEP_MEMBERS }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
pub static networks: HashMap<u32, Network, { capacity::NETWORKS }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static routes: LpmTrie<RouteKey, u32, { capacity::ROUTES }> = LpmTrie::new();
#[btf_map]
pub static policy: HashMap<PolicyKey, Policy, { capacity::POLICY }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static rules: HashMap<PolicyKey, RuleSet, { capacity::RULES }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static rule_bits: HashMap<RuleBitsKey, RuleBits, { capacity::RULE_BITS }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static gateway: Array<Gateway, 1> = Array::new();
#[btf_map]
pub static host_addrs: HashMap<u32, HostAddr, { capacity::ENDPOINTS }> = HashMap::new();
#[btf_map]
pub static host_owners: HashMap<HostAddr, u32, { capacity::ENDPOINTS }> = HashMap::new();
#[btf_map]
pub static resolver_turns: Taken = LruHashMap::new();
#[btf_map]
pub static flood: HashMap<FloodKey, Receiver, { capacity::FLOOD }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static flood_turns: Taken = LruHashMap::new();
#[btf_map]
pub static limits: HashMap<u32, Limits, { capacity::ENDPOINTS }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static limit_turns: Taken<{ 2 * capacity::ENDPOINTS }> = LruHashMap::new();
#[btf_map]
pub static endpoint_stats: PerCpuHashMap<u32, EndpointStats, { capacity::ENDPOINTS }> = PerCpuHashMap::new();
#[btf_map]
pub static drops: PerCpuHashMap<DropKey, DropCount, { capacity::DROPS }, NO_PREALLOC> = PerCpuHashMap::new();
#[btf_map]
pub static rule_stats: PerCpuHashMap<RuleKey, RuleCount, { capacity::RULE_STATS }, NO_PREALLOC> =
    PerCpuHashMap::new();
#[btf_map]
pub static flows: LruHashMap<FlowKey, Flow, { capacity::FLOWS }> = LruHashMap::new();
#[btf_map]
pub static tail_calls: ProgramArray<{ tail_call::COUNT }> = ProgramArray::new();
#[btf_map]
pub static question: PerCpuArray<Question, 1> = PerCpuArray::new();

/// Looks a value up in a hash map that only the agent writes.
///
/// The agent replaces and deletes whole entries, referrers before what they refer to, and a container's
/// entries only after its device is gone; so what one look-up led to stays true while the program runs.
macro_rules! lookup {
    ($map:ident, $key:expr) => {
        // SAFETY: no program writes these maps, and the kernel keeps the memory while the program runs (RCU).
        unsafe { $crate::maps::$map.get($key) }
    };
}
pub(crate) use lookup;

/// This host's settings.
#[inline(always)]
pub fn host_config() -> Option<&'static Config> {
    config.get(0)
}

/// The gateway device, if this host has one.
#[inline(always)]
pub fn host_gateway() -> Option<&'static Gateway> {
    gateway.get(0).filter(|device| device.ifindex != 0)
}
