//! The last step: to whoever is behind a host veth.
//!
//! A container is in another namespace and gets its packet there at once. The host's own port in a network is in this one,
//! which that way does not lead to: its packet takes the veth's ordinary way. And it must be for the port's own address: the
//! host has others, and may forward, but not what comes from a network.

use aya_ebpf::{bindings::TC_ACT_SHOT, programs::TcContext};
use overlay_common::{
    fdb::{FLAG_HOST, FLAG_LIMITED},
    mac::Mac,
    verdict::DropReason,
    wire::{Ethernet, Ipv4, Ipv6, headers::ethertype, ipv6::same},
};

use crate::{
    count::{self, Place},
    limit,
    maps::lookup,
    packet::{Verdict, redirect, redirect_peer},
};

/// Hands over a frame whose headers are as the receiver shall see them. `flags` are those of its entry in map `fdb`; who has
/// none pays one comparison for them.
#[inline(always)]
pub fn to(ctx: &TcContext, place: Place, flags: u32) -> Verdict {
    if flags != 0 {
        return with_care(ctx, place.vni, place.ifindex, flags);
    }
    count::delivered(place.ifindex, u64::from(ctx.len()));
    Ok(redirect_peer(place.ifindex))
}

#[inline(never)]
fn with_care(ctx: &TcContext, vni: u32, ifindex: u32, flags: u32) -> Verdict {
    let bytes = u64::from(ctx.len());
    if flags & FLAG_HOST != 0 && is_for_port(ctx, ifindex).is_none() {
        return Err(DropReason::HostPortAddress);
    }
    if flags & FLAG_LIMITED != 0 && !limit::to_container(ctx, Place { vni, ifindex }, bytes) {
        return Ok(TC_ACT_SHOT);
    }
    count::delivered(ifindex, bytes);
    Ok(if flags & FLAG_HOST != 0 { redirect(ifindex) } else { redirect_peer(ifindex) })
}

/// Whether a frame is for an address of the host's port.
#[inline(always)]
fn is_for_port(ctx: &TcContext, ifindex: u32) -> Option<()> {
    let port = lookup!(endpoints, ifindex)?;
    let eth: Ethernet = ctx.load(0).ok()?;
    if Mac(eth.dst).is_group() {
        return Some(());
    }
    let is_own = if eth.ethertype_be == ethertype::IPV6.to_be() {
        let dst: [u8; 16] = ctx.load(Ethernet::LEN + Ipv6::DST_OFFSET).ok()?;
        port.has_ipv6() && (same(dst, port.ipv6) || same(dst, Mac(port.mac).link_local()))
    } else {
        ctx.load::<[u8; 4]>(Ethernet::LEN + Ipv4::DST_OFFSET) == Ok(port.ipv4)
    };
    is_own.then_some(())
}
