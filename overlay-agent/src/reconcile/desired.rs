//! What the maps of this host should hold, given the cluster's state and what only this host knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::{IpNet, Ipv4Net};
use overlay_common::{
    addr::{Addr, MAPPED_BITS},
    config::{Config, FLAG_GENERIC_CHECKSUM, FLAG_XDP_DECAP},
    endpoint,
    fdb::{FdbEntry, FdbKey},
    gateway::{Gateway, HostAddr},
    mac::Mac,
    neigh::{Neigh, NeighKey},
    network,
    policy::{RuleBits, RuleBitsKey},
    route::{self, RouteKey},
    vtep::{self, Vtep, VtepMemberKey},
    wire::outer::{MTU_OVERHEAD, OuterHeader, TunnelEnd},
};

use super::{
    flood, host_addrs,
    rules::{self, Selectors},
    tables::{RouteTarget, Tables},
};
use crate::model::{Cluster, Endpoint, EndpointId, Name, Network, Node, Standing};

/// What only this host knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Its name.
    pub node: Name,
    /// Nodes that count as down, as far as they have not said goodbye.
    pub down: BTreeSet<Name>,
    /// The underlay device.
    pub underlay: Underlay,
    /// The slow path's device.
    pub tunnel_ifindex: u32,
    /// UDP port on which it receives VXLAN packets.
    pub vxlan_port: u16,
    /// XDP delivers.
    pub xdp_decap: bool,
    /// Host veths that are there, by endpoint.
    pub host_veths: BTreeMap<EndpointId, u32>,
    /// Hardware addresses of the next hops to other VTEPs, as far as they are known.
    pub next_hops: BTreeMap<Ipv4Addr, Mac>,
    /// Largest IP packets on the way to VTEPs, where a route or a path discovery says so.
    pub path_mtus: BTreeMap<Ipv4Addr, u16>,
    /// The gateway device, if there is one.
    pub gateway: Option<GatewayDevice>,
    /// What stays as it is while it is in use.
    pub kept: Kept,
}

/// What the maps hold now and must not change its meaning while it is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Indices of VTEPs.
    pub vtep_indices: BTreeMap<Ipv4Addr, u32>,
    /// Host-local addresses by ifindex of the host veth.
    pub host_addrs: BTreeMap<u32, Ipv4Addr>,
}

impl Kept {
    /// What these tables hold.
    #[must_use]
    pub fn of(tables: &Tables) -> Self {
        let vtep = |(index, vtep): (&u32, &Vtep)| (Ipv4Addr::from(vtep.header.ip.dst), *index);
        let addr = |(ifindex, addr): (&u32, &HostAddr)| (*ifindex, Ipv4Addr::from(addr.ipv4));
        Self {
            vtep_indices: tables.vteps.iter().map(vtep).collect(),
            host_addrs: tables.host_addrs.iter().map(addr).collect(),
        }
    }
}

/// The gateway device: the way between containers and the host's own stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayDevice {
    /// Index of the end that the host's stack knows.
    pub ifindex: u32,
    /// Index of the inner end.
    pub inner_ifindex: u32,
    /// Hardware address of the outer end.
    pub mac: Mac,
    /// Range of host-local addresses.
    pub range: Ipv4Net,
}

impl GatewayDevice {
    /// The host's own address on it, the first of the range.
    #[must_use]
    pub fn agent(&self) -> Ipv4Addr {
        Self::agent_in(self.range)
    }

    /// The host's own address in a range.
    #[must_use]
    pub fn agent_in(range: Ipv4Net) -> Ipv4Addr {
        range.hosts().next().unwrap_or(range.addr())
    }
}

/// The underlay device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Its index.
    pub ifindex: u32,
    /// Its hardware address.
    pub mac: Mac,
    /// The VTEP address on it.
    pub addr: Ipv4Addr,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// It checksums at any offset.
    pub generic_checksum: bool,
}

impl Underlay {
    /// MTU that encapsulation leaves to containers.
    #[must_use]
    pub fn overlay_mtu(&self) -> u16 {
        self.mtu.saturating_sub(MTU_OVERHEAD)
    }
}

impl Network {
    /// The network's MTU on a host with this underlay.
    #[must_use]
    pub fn effective_mtu(&self, underlay: &Underlay) -> u16 {
        let most = underlay.overlay_mtu();
        self.mtu.map_or(most, |mtu| mtu.min(most))
    }
}

/// The content that the maps should have.
#[must_use]
pub fn desired(cluster: &Cluster, local: &Local) -> Tables {
    let (mut tables, basis) = ground(cluster, local);
    for endpoint in cluster.endpoints.values().map(|e| &e.record) {
        if endpoint.node == local.node {
            add_local(&mut tables, endpoint, cluster, local, &basis);
        } else if let Some(remote) = Remote::of(endpoint, cluster, &basis) {
            remote.add_to(&mut tables);
        }
    }
    flood::add(&mut tables, cluster, local, &basis);
    tables
}

/// The content without any container's entries, and what those of containers on other hosts are made from.
pub(super) fn ground(cluster: &Cluster, local: &Local) -> (Tables, Basis) {
    let networks: BTreeMap<&Name, &Network> = cluster.networks.iter().map(|(n, v)| (n, &v.record)).collect();
    let nodes = reachable_nodes(cluster, &local.node, &local.down);
    let externals = external_vteps(cluster, &nodes);
    let vteps = nodes.values().map(|node| node.vtep).chain(externals.iter().copied());
    let indices = assign_indices(vteps, &local.kept.vtep_indices);
    let mut tables = Tables { config: config(local), ..Tables::default() };
    for network in networks.values() {
        add_network(&mut tables, network, local);
    }
    for node in nodes.values() {
        tables.vteps.insert(indices[&node.vtep], vtep_entry(node.vtep, node.vxlan_port, local));
        tables.vtep_members.insert(member(vtep::ANY_NETWORK, node.vtep), vtep::HOST);
    }
    for vtep in &externals {
        tables.vteps.insert(indices[vtep], vtep_entry(*vtep, local.vxlan_port, local));
        tables.vtep_members.insert(member(vtep::ANY_NETWORK, *vtep), vtep::EXTERNAL);
    }
    let directions = rules::directions(cluster);
    rules::add(&mut tables, cluster, &directions, &networks);
    if let Some(gateway) = &local.gateway {
        add_gateway(&mut tables, gateway, local);
    }
    let place = |(name, node): (&&Name, &&Node)| ((*name).clone(), (node.vtep, indices[&node.vtep]));
    let basis = Basis {
        nodes: nodes.iter().map(place).collect(),
        externals: externals.iter().map(|vtep| (*vtep, indices[vtep])).collect(),
        vnis: networks.iter().map(|(name, network)| ((*name).clone(), network.vni.get())).collect(),
        multicast: flood::vnis(cluster),
        directions,
        selectors: Selectors::of(cluster),
    };
    (tables, basis)
}

/// All that the entries of a container on another host are made from, but its own record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Basis {
    /// VTEP address and index of each other host that packets may go to.
    nodes: BTreeMap<Name, (Ipv4Addr, u32)>,
    /// Index of each VTEP without an agent, by its address.
    externals: BTreeMap<Ipv4Addr, u32>,
    vnis: BTreeMap<Name, u32>,
    /// Networks with broadcast and multicast.
    pub(super) multicast: BTreeSet<u32>,
    /// Directions between networks in which packets may go.
    directions: BTreeSet<(Name, Name)>,
    /// The labels that rules ask for.
    selectors: Selectors,
}

impl Basis {
    /// Where packets for an endpoint on another host, or for a machine without an agent, go.
    pub(super) fn vtep_of(&self, endpoint: &Endpoint) -> Option<Ipv4Addr> {
        match endpoint.vtep {
            Some(vtep) => self.externals.contains_key(&vtep).then_some(vtep),
            None => self.nodes.get(&endpoint.node).map(|(vtep, _)| *vtep),
        }
    }

    /// Whether every entry that was made from this one is the same if made from `new`. `is_used` tells whether an
    /// entry leads to the VTEP with this index: hosts without containers come and go at no cost.
    pub(super) fn holds_in(&self, new: &Self, is_used: impl Fn(u32) -> bool) -> bool {
        let stays = |(name, place): (&Name, &(Ipv4Addr, u32))| {
            new.nodes.get(name).map_or_else(|| !is_used(place.1), |now| now == place)
        };
        let nodes = self.nodes.iter().all(stays);
        let networks = self.vnis.iter().all(|(name, vni)| new.vnis.get(name) == Some(vni));
        nodes
            && networks
            && self.externals == new.externals
            && self.multicast == new.multicast
            && self.directions == new.directions
            && self.selectors == new.selectors
    }
}

/// What a container on another host, or a machine without an agent, adds to the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remote {
    /// What sends for it: [`vtep::HOST`] or [`vtep::EXTERNAL`].
    pub(super) peer: u32,
    pub(super) fdb: (FdbKey, FdbEntry),
    pub(super) neigh: BTreeMap<NeighKey, Neigh>,
    /// The VTEP may send under these VNIs because of it.
    pub(super) members: Vec<VtepMemberKey>,
    /// Rules whose labels it has.
    pub(super) rule_bits: BTreeMap<RuleBitsKey, RuleBits>,
}

impl Remote {
    /// Nothing, if its network or node is not known.
    pub(super) fn of(endpoint: &Endpoint, cluster: &Cluster, basis: &Basis) -> Option<Self> {
        let network = &cluster.networks.get(&endpoint.network)?.record;
        let vni = network.vni.get();
        let (peer, (vtep, index), sends) = match endpoint.vtep {
            // It does not route, so it sends in its own network alone.
            Some(vtep) => (vtep::EXTERNAL, (vtep, *basis.externals.get(&vtep)?), [vni].into()),
            None => (vtep::HOST, *basis.nodes.get(&endpoint.node)?, vnis_sent_to(network, cluster, basis)),
        };
        Some(Self {
            peer,
            fdb: (FdbKey::new(vni, endpoint.mac.0), FdbEntry::remote(index, vtep.octets())),
            neigh: neigh(vni, endpoint),
            members: sends.into_iter().map(|vni| member(vni, vtep)).collect(),
            rule_bits: basis.selectors.entries(vni, endpoint),
        })
    }

    pub(super) fn add_to(&self, tables: &mut Tables) {
        tables.fdb.insert(self.fdb.0, self.fdb.1);
        tables.neigh.extend(&self.neigh);
        tables.vtep_members.extend(self.members.iter().map(|key| (*key, self.peer)));
        tables.rule_bits.extend(&self.rule_bits);
    }
}

/// The other nodes that packets may go to and come from. The endpoints of the rest are withdrawn.
#[must_use]
pub fn reachable_nodes<'a>(
    cluster: &'a Cluster,
    here: &Name,
    down: &BTreeSet<Name>,
) -> BTreeMap<&'a Name, &'a Node> {
    let others =
        cluster.nodes.iter().map(|(name, node)| (name, &node.record)).filter(|(name, _)| *name != here);
    others.filter(|(_, node)| is_reachable(cluster, node, down)).collect()
}

/// VTEPs of machines without an agent. A node that has such an address by now is the one that is meant.
fn external_vteps(cluster: &Cluster, nodes: &BTreeMap<&Name, &Node>) -> BTreeSet<Ipv4Addr> {
    let taken: BTreeSet<Ipv4Addr> = nodes.values().map(|node| node.vtep).collect();
    cluster.externals().filter_map(|member| member.vtep).filter(|vtep| !taken.contains(vtep)).collect()
}

/// All VTEPs that packets may go to: other nodes', and those of machines without an agent.
#[must_use]
pub fn other_vteps(cluster: &Cluster, here: &Name, down: &BTreeSet<Name>) -> BTreeSet<Ipv4Addr> {
    let nodes = reachable_nodes(cluster, here, down);
    nodes.values().map(|node| node.vtep).chain(external_vteps(cluster, &nodes)).collect()
}

/// Whether packets may go to another node: one that is down or gone does not answer, and one whose address another
/// has by now must not be mistaken for it.
#[must_use]
pub fn is_reachable(cluster: &Cluster, node: &Node, down: &BTreeSet<Name>) -> bool {
    match cluster.standing(node) {
        Standing::Up => true,
        Standing::Stopped => !cluster.address_was_taken(node),
        Standing::Silent => !down.contains(&node.name) && !cluster.address_was_taken(node),
        Standing::Gone => false,
    }
}

fn add_gateway(tables: &mut Tables, device: &GatewayDevice, local: &Local) {
    tables.gateway = Gateway {
        ifindex: device.ifindex,
        range: device.range.network().octets(),
        mask: device.range.netmask().octets(),
        agent: device.agent().octets(),
        mac: device.mac.0,
        pad: [0; 2],
    };
    for (ifindex, addr) in host_addrs::assign(device, &local.host_veths, &local.kept.host_addrs) {
        let addr = HostAddr { ipv4: addr.octets() };
        tables.host_addrs.insert(ifindex, addr);
        tables.host_owners.insert(addr, ifindex);
    }
}

fn config(local: &Local) -> Config {
    Config {
        underlay_ifindex: local.underlay.ifindex,
        tunnel_ifindex: local.tunnel_ifindex,
        vtep_addr: local.underlay.addr.octets(),
        vxlan_port_be: local.vxlan_port.to_be(),
        underlay_mtu: local.underlay.mtu,
        flags: flag(local.underlay.generic_checksum, FLAG_GENERIC_CHECKSUM)
            | flag(local.xdp_decap, FLAG_XDP_DECAP),
        underlay_mac: local.underlay.mac.0,
        pad: [0; 2],
    }
}

fn flag(on: bool, flag: u32) -> u32 {
    if on { flag } else { 0 }
}

fn add_network(tables: &mut Tables, net: &Network, local: &Local) {
    let vni = net.vni.get();
    let record = network::Network {
        gateway_ipv4: net.gateway.octets(),
        gateway_mac: net.gateway_mac().0,
        mtu: net.effective_mtu(&local.underlay),
        flags: flag(net.internal, network::FLAG_INTERNAL) | flag(net.multicast, network::FLAG_MULTICAST),
        gateway_ipv6: net.ipv6.map(|ipv6| ipv6.gateway.octets()).unwrap_or_default(),
    };
    tables.networks.insert(vni, record);
    let gateways = [Some(net.gateway.into()), net.ipv6.map(|ipv6| ipv6.gateway.into())];
    let gateways = gateways.into_iter().flatten().map(|addr| NeighKey { vni, addr });
    tables.neigh.extend(gateways.map(|key| (key, Neigh::new(record.gateway_mac))));
    for subnet in net.subnets() {
        tables.routes.insert(route_to(vni, subnet), vni);
        // Where subnets of several networks overlap, the lowest VNI stands for all: it only decides which
        // reason a drop gets, since no policy can name an overlapping network.
        let any = tables.routes.entry(route_to(route::ANY_NETWORK, subnet)).or_insert(vni);
        *any = vni.min(*any);
    }
}

pub(super) fn add_local(
    tables: &mut Tables,
    endpoint: &Endpoint,
    cluster: &Cluster,
    local: &Local,
    basis: &Basis,
) {
    let network = cluster.networks.get(&endpoint.network).map(|n| &n.record);
    let (Some(network), Some(&ifindex)) = (network, local.host_veths.get(&endpoint.id)) else { return };
    let vni = network.vni.get();
    let record = endpoint::Endpoint {
        vni,
        ipv4: endpoint.ipv4.octets(),
        mac: endpoint.mac.0,
        flags: endpoint.limits.flags() | if endpoint.is_host_port() { endpoint::FLAG_HOST } else { 0 },
        ipv6: endpoint.ipv6.map(|ip| ip.octets()).unwrap_or_default(),
    };
    tables.endpoints.insert(ifindex, record);
    tables.endpoint_stats.insert(ifindex, ());
    if !endpoint.limits.is_empty() {
        tables.limits.insert(ifindex, endpoint.limits.in_bytes());
    }
    let place = FdbEntry::local(ifindex).with_flags(record.flags_as_receiver());
    tables.fdb.insert(FdbKey::new(vni, endpoint.mac.0), place);
    tables.neigh.extend(neigh(vni, endpoint));
    tables.rule_bits.extend(basis.selectors.entries(vni, endpoint));
}

fn neigh(vni: u32, endpoint: &Endpoint) -> BTreeMap<NeighKey, Neigh> {
    let entry = |ip: std::net::IpAddr| (NeighKey { vni, addr: ip.into() }, Neigh::new(endpoint.mac.0));
    endpoint.addresses().map(entry).collect()
}

/// VNIs that packets of a network's containers may carry: its own, and those that policy routes them to.
fn vnis_sent_to(network: &Network, cluster: &Cluster, basis: &Basis) -> BTreeSet<u32> {
    let allowed = basis.directions.iter().filter(|(from, _)| *from == network.name);
    let vnis = allowed.filter_map(|(_, to)| cluster.networks.get(to)).map(|n| n.record.vni.get());
    vnis.chain([network.vni.get()]).collect()
}

fn vtep_entry(vtep: Ipv4Addr, port: u16, local: &Local) -> Vtep {
    let here = TunnelEnd { mac: local.underlay.mac.0, addr: local.underlay.addr.octets() };
    let next_hop = local.next_hops.get(&vtep).copied().unwrap_or_default();
    let there = TunnelEnd { mac: next_hop.0, addr: vtep.octets() };
    let path_mtu = local.path_mtus.get(&vtep).filter(|mtu| **mtu < local.underlay.mtu);
    let path_mtu = path_mtu.map_or(0, |mtu| mtu.saturating_sub(MTU_OVERHEAD));
    Vtep { header: OuterHeader::template(here, there, port), path_mtu, pad: [0; 6] }
}

/// Keeps the indices that are in use and gives new VTEPs the lowest ones that no entry may still refer to.
fn assign_indices(
    vteps: impl Iterator<Item = Ipv4Addr>,
    in_use: &BTreeMap<Ipv4Addr, u32>,
) -> BTreeMap<Ipv4Addr, u32> {
    let taken: BTreeSet<u32> = in_use.values().copied().collect();
    let mut free = (1u32..).filter(|index| !taken.contains(index));
    let mut indices = BTreeMap::new();
    for vtep in vteps {
        indices.entry(vtep).or_insert_with(|| {
            in_use.get(&vtep).copied().or_else(|| free.next()).expect("u32 has more values than hosts")
        });
    }
    indices
}

fn member(vni: u32, vtep: Ipv4Addr) -> VtepMemberKey {
    VtepMemberKey { vni, vtep_addr: vtep.octets() }
}

pub(super) fn route_to(scope_vni: u32, subnet: IpNet) -> RouteTarget {
    let key = RouteKey { scope_vni_be: scope_vni.to_be(), addr: Addr::from(subnet.network()) };
    let before = if subnet.addr().is_ipv4() { MAPPED_BITS } else { 0 };
    RouteTarget { prefix_len: before + subnet.prefix_len(), key }
}
