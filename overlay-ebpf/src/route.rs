//! Routing between networks, at the sender's host: find the destination's network, ask policy, and address
//! the packet as that network's gateway would. The packet then crosses the underlay once, under the
//! destination's VNI.

use core::{cmp::min, num::NonZeroU32};

use aya_ebpf::{btf_maps::lpm_trie::Key, programs::TcContext};
use overlay_common::{
    addr::Addr,
    neigh::{Neigh, NeighKey},
    policy::PolicyKey,
    route::{ANY_NETWORK, RouteKey, SCOPE_BITS},
    verdict::DropReason,
    wire::{Ethernet, Ipv4, checksum, headers::ethertype},
};

use crate::{
    from_endpoint::{Destination, Source},
    maps::{self, lookup},
    packet::{Bytes, InnerIp},
    rules,
};

/// Where a packet to the gateway's MAC goes: to a container of an overlay network, or, if absent, to the host.
#[inline(always)]
pub fn next(ctx: &TcContext, source: &Source, packet: &InnerIp) -> Result<Option<Destination>, DropReason> {
    let ip = &packet.header;
    if ip.dst == source.network.gateway_ipv4 {
        return Ok(None);
    }
    let dst = u32::from_ne_bytes(ip.dst);
    let Some(vni) = network_of_ipv4(source.endpoint.vni, dst) else { return Ok(None) };
    let vni = vni.get();
    if vni != source.endpoint.vni {
        rules::admit(ctx, &PolicyKey { src_vni: source.endpoint.vni, dst_vni: vni }, packet)?;
    }
    if ip.ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let network = lookup!(networks, vni).ok_or(DropReason::NoRoute)?;
    let dst = neighbour_ipv4(vni, dst).ok_or(DropReason::UnknownDestination)?.mac;
    let eth = Ethernet { dst, src: network.gateway_mac, ethertype_be: ethertype::IPV4.to_be() };
    Ok(Some(Destination { vni, mtu: min(source.network.mtu, network.mtu), eth, rewritten: true }))
}

/// Takes one hop off the packet's life.
#[inline(always)]
pub fn decrement_ttl(bytes: Bytes, ip: &Ipv4) -> Option<()> {
    let word = |ttl| u16::from_ne_bytes([ttl, ip.protocol]);
    let ttl = ip.ttl - 1;
    let checksum_be = checksum::update(ip.checksum_be, word(ip.ttl), word(ttl));
    bytes.write(Ethernet::LEN, &Ipv4 { ttl, checksum_be, ..*ip })
}

/// The network that holds an address, as the sender's network sees it. Programs of their own, this and the next three: the
/// keys would lie on their callers' stack.
#[inline(never)]
pub fn network_of(sender_vni: u32, addr: &Addr) -> Option<NonZeroU32> {
    reachable(sender_vni, *addr).or_else(|| reachable(ANY_NETWORK, *addr)).and_then(NonZeroU32::new)
}

#[inline(never)]
fn network_of_ipv4(sender_vni: u32, ipv4: u32) -> Option<NonZeroU32> {
    let addr = Addr::v4(ipv4.to_ne_bytes());
    reachable(sender_vni, addr).or_else(|| reachable(ANY_NETWORK, addr)).and_then(NonZeroU32::new)
}

/// Who has an address of a network.
#[inline(never)]
pub fn neighbour(vni: u32, addr: &Addr) -> Option<&'static Neigh> {
    lookup!(neigh, &NeighKey { vni, addr: *addr })
}

/// The same of an IPv4 address, in network order.
#[inline(never)]
pub fn neighbour_ipv4(vni: u32, ipv4: u32) -> Option<&'static Neigh> {
    lookup!(neigh, &NeighKey { vni, addr: Addr::v4(ipv4.to_ne_bytes()) })
}

/// The network that holds an address, of those that a network may send to or answer.
#[inline(always)]
pub fn reachable(scope: u32, addr: Addr) -> Option<u32> {
    let key = RouteKey { scope_vni_be: scope.to_be(), addr };
    maps::routes.get(&Key::new(SCOPE_BITS + 128, key)).copied()
}
