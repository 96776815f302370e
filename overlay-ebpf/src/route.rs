//! Routing between networks, at the sender's host: find the destination's network, ask policy, and address
//! the packet as that network's gateway would. The packet then crosses the underlay once, under the
//! destination's VNI.

use core::cmp::min;

use aya_ebpf::{btf_maps::lpm_trie::Key, programs::TcContext};
use overlay_common::{
    neigh::NeighKey,
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
    let Some(vni) = network_of(source.endpoint.vni, ip.dst) else { return Ok(None) };
    if vni != source.endpoint.vni {
        rules::admit(ctx, &PolicyKey { src_vni: source.endpoint.vni, dst_vni: vni }, packet)?;
    }
    if ip.ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let network = lookup!(networks, vni).ok_or(DropReason::NoRoute)?;
    let dst = lookup!(neigh, &NeighKey { vni, ipv4: ip.dst }).ok_or(DropReason::UnknownDestination)?.mac;
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

/// The network that holds an address, as the sender's network sees it.
#[inline(always)]
fn network_of(sender_vni: u32, ipv4: [u8; 4]) -> Option<u32> {
    reachable(sender_vni, ipv4).or_else(|| reachable(ANY_NETWORK, ipv4))
}

/// The network that holds an address, of those that a network may send to or answer.
#[inline(always)]
pub fn reachable(scope: u32, ipv4: [u8; 4]) -> Option<u32> {
    let key = RouteKey { scope_vni_be: scope.to_be(), ipv4 };
    maps::routes.get(&Key::new(SCOPE_BITS + 32, key)).copied()
}
