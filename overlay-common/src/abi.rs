//! Names and sizes that both sides look objects up by.
//!
//! Map and program names have at most 15 characters: the kernel cuts the rest (`BPF_OBJ_NAME_LEN`).

/// Layout version of the maps that the agent fills. It is part of the pin path: an agent with another layout
/// makes maps of its own beside the old ones, fills them, and only then swaps the programs on the pinned links.
///
/// The feature `next-layout` makes the next version before there is one: tests migrate to it and back.
pub const VERSION: u32 = if cfg!(feature = "next-layout") { 3 } else { 2 };

/// Layout version of the counters: keys and values of [`map::COUNTERS`]. It is apart from [`VERSION`] because what
/// was counted, and which flows there are, is nowhere else: programs of both layouts write the same maps, and a migration
/// loses nothing.
pub const COUNTERS_VERSION: u32 = 2;

/// Names of the programs in the BPF object.
pub mod program {
    /// tcx ingress on the host side of a container's veth.
    pub const FROM_ENDPOINT: &str = "from_endpoint";
    /// What [`FROM_ENDPOINT`] hands IPv6 packets over to.
    pub const FROM_ENDPOINT6: &str = "from_endpoint6";
    /// tcx ingress on the underlay device.
    pub const FROM_UNDERLAY: &str = "from_underlay";
    /// tcx ingress on the collect-metadata vxlan device: what the kernel decapsulated for us.
    pub const FROM_TUNNEL: &str = "from_tunnel";
    /// tcx ingress on the inner end of the gateway device: what the host's stack sends to containers.
    pub const FROM_HOST: &str = "from_host";
    /// XDP on the underlay device.
    pub const XDP_UNDERLAY: &str = "xdp_underlay";
}

/// Names of the maps in the BPF object, and of their pins.
pub mod map {
    /// One [`Config`](crate::config::Config) at index 0.
    pub const CONFIG: &str = "config";
    /// ifindex of a host veth → [`Endpoint`](crate::endpoint::Endpoint).
    pub const ENDPOINTS: &str = "endpoints";
    /// [`FdbKey`](crate::fdb::FdbKey) → [`FdbEntry`](crate::fdb::FdbEntry).
    pub const FDB: &str = "fdb";
    /// [`NeighKey`](crate::neigh::NeighKey) → [`Neigh`](crate::neigh::Neigh).
    pub const NEIGH: &str = "neigh";
    /// Index → [`Vtep`](crate::vtep::Vtep).
    pub const VTEPS: &str = "vteps";
    /// [`VtepMemberKey`](crate::vtep::VtepMemberKey) → [`HOST`](crate::vtep::HOST) or [`EXTERNAL`](crate::vtep::EXTERNAL).
    pub const VTEP_MEMBERS: &str = "vtep_members";
    /// VNI → [`Network`](crate::network::Network).
    pub const NETWORKS: &str = "networks";
    /// Longest prefix of [`RouteKey`](crate::route::RouteKey) → VNI.
    pub const ROUTES: &str = "routes";
    /// [`PolicyKey`](crate::policy::PolicyKey) → [`Policy`](crate::policy::Policy).
    pub const POLICY: &str = "policy";
    /// [`PolicyKey`](crate::policy::PolicyKey) → [`RuleSet`](crate::policy::RuleSet).
    pub const RULES: &str = "rules";
    /// [`RuleBitsKey`](crate::policy::RuleBitsKey) → [`RuleBits`](crate::policy::RuleBits).
    pub const RULE_BITS: &str = "rule_bits";
    /// One [`Gateway`](crate::gateway::Gateway) at index 0.
    pub const GATEWAY: &str = "gateway";
    /// ifindex of a host veth → [`HostAddr`](crate::gateway::HostAddr).
    pub const HOST_ADDRS: &str = "host_addrs";
    /// [`HostAddr`](crate::gateway::HostAddr) → ifindex of a host veth.
    pub const HOST_OWNERS: &str = "host_owners";
    /// ifindex of a host veth → [`Turns`](crate::turns::Turns) at the resolver.
    pub const RESOLVER_TURNS: &str = "resolver_turns";
    /// [`FloodKey`](crate::flood::FloodKey) → [`Receiver`](crate::flood::Receiver).
    pub const FLOOD: &str = "flood";
    /// Sender of broadcast and multicast → [`Turns`](crate::turns::Turns).
    pub const FLOOD_TURNS: &str = "flood_turns";
    /// Index → program that another goes on in: see [`tail_call`](super::tail_call).
    pub const TAIL_CALLS: &str = "tail_calls";
    /// ifindex of a host veth → [`Limits`](crate::limit::Limits).
    pub const LIMITS: &str = "limits";
    /// ifindex of a host veth, and direction → [`Turns`](crate::turns::Turns) of its limit.
    pub const LIMIT_TURNS: &str = "limit_turns";
    /// ifindex of a host veth → [`EndpointStats`](crate::stats::EndpointStats), per CPU.
    pub const ENDPOINT_STATS: &str = "endpoint_stats";
    /// [`DropKey`](crate::stats::DropKey) → [`DropCount`](crate::stats::DropCount), per CPU.
    pub const DROPS: &str = "drops";
    /// [`RuleKey`](crate::stats::RuleKey) → [`RuleCount`](crate::stats::RuleCount), per CPU.
    pub const RULE_STATS: &str = "rule_stats";
    /// [`FlowKey`](crate::flow::FlowKey) → [`Flow`](crate::flow::Flow).
    pub const FLOWS: &str = "flows";

    /// The maps that the programs write.
    pub const COUNTERS: [&str; 4] = [ENDPOINT_STATS, DROPS, RULE_STATS, FLOWS];
}

/// Places in map `tail_calls`.
pub mod tail_call {
    /// The program [`FROM_ENDPOINT6`](super::program::FROM_ENDPOINT6).
    pub const FROM_ENDPOINT6: u32 = 0;
    /// How many there are.
    pub const COUNT: usize = 1;
}

/// Most entries of each map. Hash maps take memory for the entries they have, not for these bounds
/// (`BPF_F_NO_PREALLOC` where the bound is large).
pub mod capacity {
    /// Containers on one host.
    pub const ENDPOINTS: usize = 4_096;
    /// Containers in the cluster, and gateways.
    pub const FDB: usize = 262_144;
    /// Container and gateway addresses in the cluster.
    pub const NEIGH: usize = 262_144;
    /// Other hosts.
    pub const VTEPS: usize = 16_384;
    /// Pairs of a network and a host that has a part in it.
    pub const VTEP_MEMBERS: usize = 262_144;
    /// Networks.
    pub const NETWORKS: usize = 16_384;
    /// Subnets, and subnets reachable by policy.
    pub const ROUTES: usize = 65_536;
    /// Ordered pairs of networks that may talk.
    pub const POLICY: usize = 65_536;
    /// Ordered pairs of networks between which rules decide.
    pub const RULES: usize = 16_384;
    /// Pairs of an endpoint and a network whose rules ask for labels that it has.
    pub const RULE_BITS: usize = 262_144;
    /// Rules, and directions that are audited.
    pub const RULE_STATS: usize = 65_536;
    /// Flows that rules let through, on one host. Beyond it the longest unused are forgotten.
    pub const FLOWS: usize = 131_072;
    /// Receivers of broadcast and multicast, of all networks.
    pub const FLOOD: usize = 65_536;
    /// Combinations of network, endpoint and reason that dropped a packet.
    pub const DROPS: usize = 65_536;
}
