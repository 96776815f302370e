//! What a gateway says by itself over IPv6: errors about packets that do not go on (RFC 4443), and answers to ping.

use aya_ebpf::{
    bindings::{BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_SHOT, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    programs::TcContext,
};
use overlay_common::{
    verdict::DropReason,
    wire::{
        Ethernet, Ipv6,
        headers::{ethertype, ip_proto},
        icmpv6::{
            CHECKSUM_OFFSET, ECHO_REPLY, ECHO_REQUEST, End, Error, ErrorMessage, PREFIX_LEN, QUOTE_LEN,
            checksum_over,
        },
        ipv6::is_link_local,
    },
};

use crate::{
    count,
    from_endpoint::Source,
    inner6::InnerIp6,
    packet::{Bytes, SkbExt as _, Verdict, redirect},
};

/// Bytes of the frame that stay: Ethernet header and quote.
const KEPT: usize = Ethernet::LEN + QUOTE_LEN;

/// Turns a container's packet into an error about it, and sends that back to the address that it came from.
#[inline(never)]
pub fn answer(ctx: &TcContext, source: &Source, error: Error) -> i32 {
    if ctx.set_len(KEPT as u32).is_none() || ctx.pull_data(KEPT as u32).is_err() {
        return TC_ACT_SHOT;
    }
    write_answer(ctx, source, error).unwrap_or(TC_ACT_SHOT)
}

#[inline(always)]
fn write_answer(ctx: &TcContext, source: &Source, error: Error) -> Option<i32> {
    let asker: [u8; 16] = Bytes::of_skb(ctx).read(Ethernet::LEN + Ipv6::SRC_OFFSET)?;
    let gateway = End { mac: source.network.gateway_mac, ip: source.network.gateway_ipv6 };
    let headers = ErrorMessage::new(gateway, End { mac: source.endpoint.mac, ip: asker }, error);
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    ctx.adjust_room(PREFIX_LEN as i32, BPF_ADJ_ROOM_MAC, flags).ok()?;
    ctx.store(0, &headers, 0).ok()?;
    write_checksum::<{ ErrorMessage::MESSAGE_LEN }, { 32 + ErrorMessage::MESSAGE_LEN }>(ctx)?;
    Some(redirect(source.ifindex))
}

/// Completes a message of `LEN` bytes right behind the IPv6 header, which has a checksum of zero; `WITH_ADDRESSES` are 32
/// more.
#[inline(always)]
pub fn write_checksum<const LEN: usize, const WITH_ADDRESSES: usize>(ctx: &TcContext) -> Option<()> {
    let frame_len = Ethernet::LEN + Ipv6::LEN + LEN;
    ctx.pull_data(frame_len as u32).ok()?;
    let sum = Bytes::of_skb(ctx).sum::<WITH_ADDRESSES>(Ethernet::LEN + Ipv6::SRC_OFFSET)?;
    let at = Ethernet::LEN + Ipv6::LEN + CHECKSUM_OFFSET;
    ctx.store(at, &checksum_over(sum, LEN as u16), 0).ok()
}

/// Turns a container's ping of its gateway into the answer. Swapping the addresses leaves their sum as it was. Anything else
/// is for nobody.
#[inline(never)]
pub fn answer_echo(ctx: &TcContext, source: &Source, ip: &InnerIp6) -> Verdict {
    let is_ping = ip.protocol == ip_proto::ICMPV6
        && !ip.is_fragment
        && ctx.load::<u8>(ip.payload()) == Ok(ECHO_REQUEST);
    let dst = ctx.load(Ethernet::LEN + Ipv6::DST_OFFSET).map_err(|_| DropReason::Truncated)?;
    if !is_ping {
        // A link-local address has no route, and who asks there knows what is on its link.
        return Err(if is_link_local(dst) { DropReason::Martian } else { DropReason::NoRoute });
    }
    write_echo(ctx, source, ip).ok_or(DropReason::Truncated)?;
    count::sent(source.ifindex, u64::from(ctx.len()));
    Ok(redirect(source.ifindex))
}

#[inline(always)]
fn write_echo(ctx: &TcContext, source: &Source, ip: &InnerIp6) -> Option<()> {
    let eth = Ethernet {
        dst: source.endpoint.mac,
        src: source.network.gateway_mac,
        ethertype_be: ethertype::IPV6.to_be(),
    };
    let word = |kind| u64::from(u16::from_ne_bytes([kind, 0]));
    let size = size_of::<u16>() as u64;
    ctx.l4_csum_replace(ip.payload() + CHECKSUM_OFFSET, word(ECHO_REQUEST), word(ECHO_REPLY), size).ok()?;
    ctx.store(ip.payload(), &ECHO_REPLY, 0).ok()?;
    let [src, dst]: [[u8; 16]; 2] = ctx.load(Ethernet::LEN + Ipv6::SRC_OFFSET).ok()?;
    ctx.store(Ethernet::LEN + Ipv6::SRC_OFFSET, &[dst, src], 0).ok()?;
    ctx.store(0, &eth, 0).ok()
}
