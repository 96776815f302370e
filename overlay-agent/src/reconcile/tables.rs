//! The content of all maps that the agent fills.

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
    route::RouteKey,
    stats::RuleKey,
    vtep::{Vtep, VtepMemberKey},
};

/// A subnet as the `routes` map holds it: prefix length (of the address alone, of 128 bits: an IPv4 one has
/// [`MAPPED_BITS`](overlay_common::addr::MAPPED_BITS) more) and address with its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteTarget {
    /// Bits of the address that count.
    pub prefix_len: u8,
    /// Scope and network address.
    pub key: RouteKey,
}

/// All maps. Of the counters only the keys that the agent makes are in it: the programs write the values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Map `config`.
    pub config: Config,
    /// Map `networks`, by VNI.
    pub networks: BTreeMap<u32, Network>,
    /// Map `vteps`, by index; indices that are not in use are absent.
    pub vteps: BTreeMap<u32, Vtep>,
    /// Map `vtep_members`.
    pub vtep_members: BTreeMap<VtepMemberKey, u32>,
    /// Map `endpoints`, by ifindex of the host veth.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// Map `limits`, by ifindex of the host veth.
    pub limits: BTreeMap<u32, Limits>,
    /// Map `fdb`.
    pub fdb: BTreeMap<FdbKey, FdbEntry>,
    /// Map `neigh`.
    pub neigh: BTreeMap<NeighKey, Neigh>,
    /// Map `flood`.
    pub flood: BTreeMap<FloodKey, Receiver>,
    /// Map `policy`.
    pub policy: BTreeMap<PolicyKey, Policy>,
    /// Map `rules`.
    pub rules: BTreeMap<PolicyKey, RuleSet>,
    /// Map `rule_bits`.
    pub rule_bits: BTreeMap<RuleBitsKey, RuleBits>,
    /// Map `routes`: the VNI that each subnet leads to.
    pub routes: BTreeMap<RouteTarget, u32>,
    /// Map `gateway`; all zero if there is none.
    pub gateway: Gateway,
    /// Map `host_addrs`, by ifindex of the host veth.
    pub host_addrs: BTreeMap<u32, HostAddr>,
    /// Map `host_owners`.
    pub host_owners: BTreeMap<HostAddr, u32>,
    /// Keys of map `endpoint_stats`: without an entry the programs do not count.
    pub endpoint_stats: BTreeMap<u32, ()>,
    /// Keys of map `rule_stats`, likewise.
    pub rule_stats: BTreeMap<RuleKey, ()>,
}
