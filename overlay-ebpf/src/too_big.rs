//! Packets larger than the network's MTU: answered with ICMP fragmentation-needed (RFC 1191), never
//! fragmented silently, never lost without a word. A BPF redirect checks no MTU, so we must.

use aya_ebpf::{
    bindings::{BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_SHOT, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    helpers::generated as helper,
    programs::TcContext,
};
use overlay_common::wire::{
    Ethernet, Udp,
    headers::ip_proto,
    icmp::{Answer, FragmentationNeeded, PREFIX_LEN, QUOTE_LEN},
};

use crate::{
    from_endpoint::Source,
    packet::{Bytes, InnerIp, SkbExt as _, redirect},
};

/// Bytes of the frame that stay: Ethernet header and quote.
const KEPT: usize = Ethernet::LEN + QUOTE_LEN;

/// Whether the packet, or any segment of it, is larger than `mtu`. What the sender put behind the IP packet
/// counts too: it would be on the underlay.
#[inline(always)]
pub fn exceeds(ctx: &TcContext, bytes: Bytes, ip: &InnerIp, mtu: u16) -> bool {
    let gso_size = ctx.gso_size() as usize;
    if gso_size == 0 {
        return ctx.len() as usize - Ethernet::LEN > mtu as usize;
    }
    gso_size + ip.header.header_len() + transport_header_len(bytes, ip) > mtu as usize
}

/// Turns the packet into an answer to its sender with the MTU that would have passed.
#[inline(never)]
pub fn answer(ctx: &TcContext, source: &Source, mtu: u16) -> i32 {
    // SAFETY: the helper checks the length.
    let cut = unsafe { helper::bpf_skb_change_tail(ctx.raw(), KEPT as u32, 0) };
    if cut != 0 || ctx.pull_data(KEPT as u32).is_err() {
        return TC_ACT_SHOT;
    }
    write_answer(ctx, source, mtu).unwrap_or(TC_ACT_SHOT)
}

#[inline(always)]
fn write_answer(ctx: &TcContext, source: &Source, mtu: u16) -> Option<i32> {
    let mut quote: [u32; QUOTE_LEN / 4] = ctx.load(Ethernet::LEN).ok()?;
    // SAFETY: both sizes are the arrays' own.
    let sum =
        unsafe { helper::bpf_csum_diff(core::ptr::null_mut(), 0, quote.as_mut_ptr(), QUOTE_LEN as u32, 0) };
    let headers = FragmentationNeeded::new(
        &Answer {
            gateway_mac: source.network.gateway_mac,
            gateway_ip: source.network.gateway_ipv4,
            sender_mac: source.endpoint.mac,
            sender_ip: source.endpoint.ipv4,
            mtu,
        },
        sum as u32,
    );
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    ctx.adjust_room(PREFIX_LEN as i32, BPF_ADJ_ROOM_MAC, flags).ok()?;
    ctx.store(0, &headers, 0).ok()?;
    Some(redirect(source.ifindex))
}

#[inline(always)]
fn transport_header_len(bytes: Bytes, ip: &InnerIp) -> usize {
    if ip.header.protocol != ip_proto::TCP {
        return Udp::LEN;
    }
    // The data offset is the high half of byte 12, in 32-bit words (RFC 9293).
    bytes.read::<u8>(ip.payload + 12).map_or(20, |b| ((b >> 4) as usize) * 4)
}
