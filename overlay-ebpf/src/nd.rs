//! Neighbour discovery (RFC 4861), answered from the neighbour table: no question ever leaves the host. Nobody but the
//! gateway is a router, and what that would advertise each container has been told.

use aya_ebpf::programs::TcContext;
use overlay_common::{
    addr::Addr,
    fdb::FdbKey,
    mac::Mac,
    neigh::NeighKey,
    verdict::DropReason,
    wire::{
        Ethernet, Ipv6,
        icmpv6::{self, Advertisement, End},
        ipv6::{UNSPECIFIED, same},
    },
};

use crate::{
    from_endpoint::Source,
    from_endpoint6::{Decided, is_own},
    icmp6::write_checksum,
    inner6::InnerIp6,
    maps::lookup,
    packet::{SkbExt as _, Verdict, redirect},
};

/// Where the target is in a solicitation or advertisement.
const TARGET: usize = Ethernet::LEN + Ipv6::LEN + icmpv6::HEADER_LEN;

/// Handles a message about the link, whatever stands before it; `None` if the packet is none.
#[inline(always)]
pub fn receive(ctx: &TcContext, source: &Source, ip: &InnerIp6, kind: Option<u8>) -> Decided {
    Some(Err(match kind? {
        icmpv6::NEIGHBOUR_SOLICITATION => return Some(answer(ctx, source, ip)),
        icmpv6::NEIGHBOUR_ADVERTISEMENT => announced(ctx, source, ip),
        icmpv6::ROUTER_ADVERTISEMENT => DropReason::RouterAdvertisement,
        icmpv6::ROUTER_SOLICITATION => DropReason::RouterSolicitation,
        icmpv6::REDIRECT => DropReason::NdRedirect,
        icmpv6::MLD2_REPORT => DropReason::MulticastListener,
        kind if icmpv6::MLD.contains(&kind) => DropReason::MulticastListener,
        _ => return None,
    }))
}

/// Answers a container's question for a container of its network or for the gateway.
#[inline(never)]
fn answer(ctx: &TcContext, source: &Source, ip: &InnerIp6) -> Verdict {
    let src = ctx.load(Ethernet::LEN + Ipv6::SRC_OFFSET).map_err(|_| DropReason::Truncated)?;
    let asker = End { mac: source.endpoint.mac, ip: src };
    let is_probe = same(asker.ip, UNSPECIFIED);
    if !is_probe && !is_own(source, asker.ip) {
        return Err(DropReason::SpoofedNd);
    }
    if ip.payload() != Ethernet::LEN + Ipv6::LEN || ip.hop_limit != icmpv6::ND_HOP_LIMIT {
        return Err(DropReason::NdUnanswered);
    }
    let target: [u8; 16] = ctx.load(TARGET).map_err(|_| DropReason::Truncated)?;
    // Whether one's own address is free nobody else has to say.
    if is_own(source, target) {
        return Err(DropReason::NdUnanswered);
    }
    let mac = mac_of(source, target).ok_or(DropReason::NdUnanswered)?;
    let is_router = mac == source.network.gateway_mac;
    let reply = Advertisement::new(End { mac, ip: target }, is_router, asker);
    // A question may be shorter than the answer, or longer.
    ctx.set_len(Advertisement::LEN as u32).ok_or(DropReason::Truncated)?;
    ctx.store(0, &reply, 0).map_err(|_| DropReason::Truncated)?;
    write_checksum::<{ Advertisement::MESSAGE_LEN }, { 32 + Advertisement::MESSAGE_LEN }>(ctx)
        .ok_or(DropReason::Truncated)?;
    Ok(redirect(source.ifindex))
}

/// Who has an address. A link-local one says so itself, if somebody of the network has that hardware address.
#[inline(always)]
fn mac_of(source: &Source, target: [u8; 16]) -> Option<[u8; 6]> {
    let vni = source.endpoint.vni;
    match Mac::of_link_local(target) {
        Some(Mac(mac)) => {
            let is_known =
                mac == source.network.gateway_mac || lookup!(fdb, &FdbKey::new(vni, mac)).is_some();
            is_known.then_some(mac)
        }
        None => lookup!(neigh, &NeighKey { vni, addr: Addr::v6(target) }).map(|neigh| neigh.mac),
    }
}

/// What is to be said of an advertisement. One for the own address asks nothing.
#[inline(never)]
fn announced(ctx: &TcContext, source: &Source, ip: &InnerIp6) -> DropReason {
    let target = ctx.load(ip.payload() + icmpv6::HEADER_LEN);
    let src = ctx.load(Ethernet::LEN + Ipv6::SRC_OFFSET);
    match (target, src) {
        (Ok(target), Ok(src)) if is_own(source, target) && is_own(source, src) => DropReason::NdUnanswered,
        _ => DropReason::SpoofedNd,
    }
}
