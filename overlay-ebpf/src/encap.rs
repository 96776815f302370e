//! Encapsulation: one header before the packet, made from the VTEP's template.

use core::cmp::min;

use aya_ebpf::{
    bindings::{
        BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
        BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_DONT_FRAGMENT, BPF_F_ZERO_CSUM_TX,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_tunnel_key,
    },
    helpers::generated as helper,
    programs::TcContext,
};
use aya_log_ebpf::debug;
use overlay_common::{
    config::{Config, FLAG_GENERIC_CHECKSUM},
    verdict::DropReason,
    vtep::Vtep,
    wire::{
        Arp, Ethernet, Ipv4,
        headers::ip_proto,
        outer::{MAX_INNER_LEN, OUTER_TTL, OVERHEAD, Packet},
        tcp,
    },
};

use crate::{
    from_endpoint::Destination,
    inner6::InnerIp6,
    maps, mss,
    packet::{Bytes, InnerIp, SkbExt as _, Verdict, redirect, redirect_neigh},
    too_big,
};

/// What the kernel must know of a packet whose segments or checksum it finishes later. The inner Ethernet
/// header counts as 14 bytes: with any other length every transmit segments in software, or drops.
const ENCAP_FLAGS: u64 = BPF_F_ADJ_ROOM_FIXED_GSO as u64
    | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 as u64
    | BPF_F_ADJ_ROOM_ENCAP_L4_UDP as u64
    | BPF_F_ADJ_ROOM_ENCAP_L2_ETH as u64
    | (Ethernet::LEN as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;

/// What encapsulation must know of the inner packet.
#[derive(Clone, Copy)]
pub struct Payload {
    total_len: usize,
    tos: u8,
    protocol: u8,
    is_ipv6: bool,
    /// Where what it carries begins.
    transport: u32,
    /// Where the TCP header of a segment is that opens a connection; 0 for anything else.
    opening: u32,
}

impl Payload {
    /// Takes it from the packet's header.
    #[inline(always)]
    pub fn of(packet: &InnerIp, bytes: Bytes) -> Self {
        let ip = &packet.header;
        let is_tcp = ip.protocol == ip_proto::TCP && !ip.is_later_fragment();
        let opening = if is_tcp { opening(bytes, packet.payload) } else { 0 };
        let transport = packet.payload as u32;
        Self {
            total_len: ip.total_len(),
            tos: ip.tos,
            protocol: ip.protocol,
            is_ipv6: false,
            transport,
            opening,
        }
    }

    /// The same of an IPv6 packet.
    #[inline(always)]
    pub fn of_ipv6(ip: &InnerIp6, bytes: Bytes) -> Self {
        let is_tcp = ip.protocol == ip_proto::TCP && !ip.is_later_fragment;
        let opening = if is_tcp { opening(bytes, ip.payload()) } else { 0 };
        let transport = ip.payload() as u32;
        Self {
            total_len: ip.total_len(),
            tos: ip.class,
            protocol: ip.protocol,
            is_ipv6: true,
            transport,
            opening,
        }
    }

    /// An ARP packet, without padding.
    #[inline(always)]
    pub fn of_arp() -> Self {
        Self { total_len: Arp::LEN, tos: 0, protocol: 0, is_ipv6: false, transport: 0, opening: 0 }
    }

    /// Has a TCP connection that is being opened keep to this MTU, and to that of the way to the VTEP with this index, if it
    /// is one.
    #[inline(always)]
    pub fn fit_into(&self, ctx: &TcContext, mtu: u16, vtep: u32) {
        if self.opening != 0 {
            let path = maps::vteps.get(vtep).map_or(0, |vtep| vtep.path_mtu);
            let mtu = if path == 0 { mtu } else { min(mtu, path) };
            let headers = if self.is_ipv6 { tcp::IPV6_HEADERS } else { tcp::IPV4_HEADERS };
            mss::clamp(ctx, self.opening, mtu.saturating_sub(headers));
        }
    }

    /// Whether the packet is larger than what the way to a VTEP takes.
    #[inline(always)]
    fn is_too_big(&self, ctx: &TcContext, path_mtu: u16) -> bool {
        too_big::exceeds(ctx, Bytes::of_skb(ctx), self.protocol, self.transport as usize, path_mtu)
    }
}

#[inline(always)]
fn opening(bytes: Bytes, at: usize) -> u32 {
    if mss::is_agreed_on(bytes, at) { at as u32 } else { 0 }
}

/// Sends the packet to the VTEP with this index.
#[inline(always)]
pub fn to_vtep(ctx: &TcContext, index: u32, destination: &Destination, payload: &Payload) -> Verdict {
    let config = maps::host_config().ok_or(DropReason::EncapFailed)?;
    let vtep = maps::vteps.get(index).ok_or(DropReason::EncapFailed)?;
    if vtep.header.ip.version_ihl != Ipv4::VERSION_IHL {
        return Err(DropReason::EncapFailed);
    }
    if vtep.path_mtu != 0 && payload.is_too_big(ctx, vtep.path_mtu) {
        ctx.set_note(vtep.path_mtu.into());
        return Err(DropReason::PathTooBig);
    }
    // After decapsulation the kernel cannot tell how to segment an inner UDP packet: slow path, both ways.
    let is_gso = ctx.gso_size() != 0;
    if is_gso && payload.protocol != ip_proto::TCP {
        return to_tunnel(ctx, config, vtep, destination);
    }
    // Larger than the outer length can say. The container's device makes no such packets.
    if payload.total_len > MAX_INNER_LEN {
        return Err(DropReason::EncapFailed);
    }
    let mut header = vtep.header;
    header.finish(&Packet {
        vni: destination.vni,
        inner_len: payload.total_len as u16,
        inner_tos: payload.tos,
        // Before the packet grows: afterwards the kernel would hash the outer flow.
        flow_hash: ctx.flow_hash(),
        inner_eth: destination.eth,
    });
    // The kernel must learn that an IPv6 packet became an IPv4 one: only the flags say so.
    let plain = !is_gso && !payload.is_ipv6 && config.flags & FLAG_GENERIC_CHECKSUM != 0;
    let flags = if plain { 0 } else { ENCAP_FLAGS };
    if ctx.adjust_room(OVERHEAD as i32, BPF_ADJ_ROOM_MAC, flags).is_err() {
        return to_tunnel(ctx, config, vtep, destination);
    }
    ctx.store(0, &header, 0).map_err(|_| DropReason::EncapFailed)?;
    let next_hop_known = header.eth.dst != [0; 6];
    let ifindex = config.underlay_ifindex;
    Ok(if next_hop_known { redirect(ifindex) } else { redirect_neigh(ifindex) })
}

/// The slow path: the kernel's tunnel device encapsulates what the fast path cannot.
#[inline(never)]
fn to_tunnel(ctx: &TcContext, config: &Config, vtep: &Vtep, destination: &Destination) -> Verdict {
    debug!(ctx, "slow path vni {} bytes {}", destination.vni, ctx.len());
    if destination.rewritten {
        ctx.store(0, &destination.eth, 0).map_err(|_| DropReason::EncapFailed)?;
    }
    let is_set = set_tunnel(ctx, config, destination.vni, vtep.header.ip.dst);
    if is_set { Ok(redirect(config.tunnel_ifindex)) } else { Err(DropReason::EncapFailed) }
}

/// Tells the tunnel device where the packet goes.
#[inline(always)]
pub fn set_tunnel(ctx: &TcContext, config: &Config, vni: u32, vtep_addr: [u8; 4]) -> bool {
    // SAFETY: the type is made of integers; all zero is a value.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = vni;
    key.tunnel_ttl = OUTER_TTL;
    key.__bindgen_anon_1.remote_ipv4 = u32::from_be_bytes(vtep_addr);
    key.__bindgen_anon_3.local_ipv4 = u32::from_be_bytes(config.vtep_addr);
    let flags = u64::from(BPF_F_ZERO_CSUM_TX | BPF_F_DONT_FRAGMENT);
    // SAFETY: `key` lives on the stack for the call and its size is given.
    let result = unsafe {
        helper::bpf_skb_set_tunnel_key(ctx.raw(), &mut key, size_of::<bpf_tunnel_key>() as u32, flags)
    };
    result == 0
}
