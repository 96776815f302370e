//! What a gateway says by itself: errors about packets that do not go on (RFC 792), and answers to ping.

use aya_ebpf::{
    bindings::{BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_SHOT, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    programs::TcContext,
};
use overlay_common::{
    verdict::DropReason,
    wire::{
        Ethernet, Ipv4,
        headers::{ethertype, ip_proto},
        icmp::{
            Answer, CHECKSUM_OFFSET, ECHO_REPLY, ECHO_REQUEST, Error, ErrorMessage, PREFIX_LEN, QUOTE_LEN,
        },
    },
};

use crate::{
    count,
    from_endpoint::Source,
    packet::{Bytes, InnerIp, SkbExt as _, Verdict, redirect},
};

/// Bytes of the frame that stay: Ethernet header and quote.
const KEPT: usize = Ethernet::LEN + QUOTE_LEN;

/// Turns a container's packet into an error about it, and sends that back.
#[inline(never)]
pub fn answer(ctx: &TcContext, source: &Source, error: Error) -> i32 {
    if ctx.set_len(KEPT as u32).is_none() || ctx.pull_data(KEPT as u32).is_err() {
        return TC_ACT_SHOT;
    }
    write_answer(ctx, source, error).unwrap_or(TC_ACT_SHOT)
}

#[inline(always)]
fn write_answer(ctx: &TcContext, source: &Source, error: Error) -> Option<i32> {
    let sum = Bytes::of_skb(ctx).sum::<QUOTE_LEN>(Ethernet::LEN)?;
    let headers = ErrorMessage::new(
        &Answer {
            gateway_mac: source.network.gateway_mac,
            gateway_ip: source.network.gateway_ipv4,
            sender_mac: source.endpoint.mac,
            sender_ip: source.endpoint.ipv4,
            error,
        },
        sum,
    );
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    ctx.adjust_room(PREFIX_LEN as i32, BPF_ADJ_ROOM_MAC, flags).ok()?;
    ctx.store(0, &headers, 0).ok()?;
    Some(redirect(source.ifindex))
}

/// Whether the packet is a ping that fits into one packet.
#[inline(always)]
pub fn is_echo_request(ctx: &TcContext, ip: &InnerIp) -> bool {
    let is_whole_icmp = ip.header.protocol == ip_proto::ICMP && !ip.header.is_fragment();
    is_whole_icmp && ctx.load::<u8>(ip.payload) == Ok(ECHO_REQUEST)
}

/// Turns a container's ping of its gateway into the answer. Swapping the addresses leaves their sum as it was.
#[inline(never)]
pub fn answer_echo(ctx: &TcContext, source: &Source, ip: &InnerIp) -> Verdict {
    write_echo(ctx, source, ip).ok_or(DropReason::Truncated)?;
    count::sent(source.ifindex, u64::from(ctx.len()));
    Ok(redirect(source.ifindex))
}

#[inline(always)]
fn write_echo(ctx: &TcContext, source: &Source, ip: &InnerIp) -> Option<()> {
    let eth = Ethernet {
        dst: source.endpoint.mac,
        src: source.network.gateway_mac,
        ethertype_be: ethertype::IPV4.to_be(),
    };
    let word = |kind| u64::from(u16::from_ne_bytes([kind, 0]));
    let size = size_of::<u16>() as u64;
    ctx.l4_csum_replace(ip.payload + CHECKSUM_OFFSET, word(ECHO_REQUEST), word(ECHO_REPLY), size).ok()?;
    ctx.store(ip.payload, &ECHO_REPLY, 0).ok()?;
    ctx.store(Ethernet::LEN + Ipv4::SRC_OFFSET, &[ip.header.dst, ip.header.src], 0).ok()?;
    ctx.store(0, &eth, 0).ok()
}
