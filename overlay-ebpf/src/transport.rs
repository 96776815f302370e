//! What a packet says of the flow that it belongs to: addresses, ports, and whether it can open a flow or answer one.
//!
//! A word of ICMP: a query is a flow of its identifier and type, and its reply the answer to that. An error speaks of
//! the packet that it quotes: it belongs to that one's flow, in the direction opposite to it.

use aya_ebpf::programs::TcContext;
use overlay_common::{
    addr::Addr,
    flow::FlowKey,
    policy::PolicyKey,
    wire::{
        Ipv4, Udp,
        headers::ip_proto,
        icmp,
        tcp::{self, SYN},
    },
};

use crate::packet::InnerIp;

/// What an ICMP error quotes at least of the transport header (RFC 792).
const QUOTED_LEN: usize = 8;

const FIN: u8 = 1 << 0;
const RST: u8 = 1 << 2;
const ACK: u8 = 1 << 4;

/// A packet's part in a flow: a sum of bits, so that it passes between programs in a register.
#[derive(Clone, Copy)]
pub struct Part(u32);

impl Part {
    /// It has one, if only that.
    const KNOWN: u32 = 1 << 0;
    const OPENS: u32 = Self::KNOWN | 1 << 1;
    const ANSWERS: u32 = Self::KNOWN | 1 << 2;
    const CLOSES: u32 = Self::KNOWN | 1 << 3;

    /// What [`read`] found; `None` if the packet's transport header is cut off or lies.
    #[inline(always)]
    pub fn new(found: u32) -> Option<Self> {
        (found != 0).then_some(Self(found))
    }

    #[inline(always)]
    const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }

    /// It can open a flow.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.has(Self::OPENS)
    }

    /// It can be the answer to a flow.
    #[inline(always)]
    pub const fn answers(self) -> bool {
        self.has(Self::ANSWERS)
    }

    /// One end says that the flow is over.
    #[inline(always)]
    pub const fn closes(self) -> bool {
        self.has(Self::CLOSES)
    }
}

/// Makes `key` the flow of a packet between two networks, without ports. In place: a copy would not fit on the stack.
#[inline(always)]
pub fn begin(key: &mut FlowKey, pair: &PolicyKey, ip: &Ipv4) {
    key.src_vni = pair.src_vni;
    key.dst_vni = pair.dst_vni;
    key.src = Addr::v4(ip.src);
    key.dst = Addr::v4(ip.dst);
    key.protocol = ip.protocol;
    key.kind = FlowKey::FLOW;
    key.pad = [0; 2];
    set_ports(key, [0; 2]);
}

/// Reads the transport header of a packet that is no later fragment. `key` becomes the flow, if the packet's sender opened
/// it; if the receiver did, it is that one reversed. Returns the bits of [`Part`].
#[inline(never)]
pub fn read(ctx: &TcContext, ip: &InnerIp, key: &mut FlowKey) -> u32 {
    let len = ip.header.total_len() - ip.header.header_len();
    let bits = match ip.header.protocol {
        ip_proto::TCP => read_tcp(ctx, ip, len, key),
        ip_proto::UDP => read_udp(ctx, ip, len, key),
        ip_proto::ICMP => read_icmp(ctx, ip, len, key),
        _ => Some(Part::OPENS | Part::ANSWERS),
    };
    bits.unwrap_or(0)
}

#[inline(always)]
fn set_ports(key: &mut FlowKey, [src_port_be, dst_port_be]: [u16; 2]) {
    key.src_port_be = src_port_be;
    key.dst_port_be = dst_port_be;
}

/// A first fragment that holds less than the header is refused: ports that come later are ports that nobody checked
/// (RFC 1858).
#[inline(always)]
fn read_tcp(ctx: &TcContext, ip: &InnerIp, len: usize, key: &mut FlowKey) -> Option<u32> {
    if len < tcp::MIN_LEN {
        return None;
    }
    set_ports(key, ctx.load(ip.payload).ok()?);
    let [data_offset, flags]: [u8; 2] = ctx.load(ip.payload + tcp::DATA_OFFSET_OFFSET).ok()?;
    let header_len = tcp::header_len(data_offset);
    if header_len < tcp::MIN_LEN || header_len > len {
        return None;
    }
    // Who asks for a new connection answers nobody.
    let answers = if flags & (SYN | ACK) == SYN { 0 } else { Part::ANSWERS };
    let closes = if flags & (FIN | RST) == 0 { 0 } else { Part::CLOSES };
    Some(Part::OPENS | answers | closes)
}

#[inline(always)]
fn read_udp(ctx: &TcContext, ip: &InnerIp, len: usize, key: &mut FlowKey) -> Option<u32> {
    if len < Udp::LEN {
        return None;
    }
    let header: Udp = ctx.load(ip.payload).ok()?;
    let udp_len = u16::from_be(header.len_be) as usize;
    // A first fragment tells the length of the whole.
    if udp_len < Udp::LEN || (udp_len > len && !ip.header.is_fragment()) {
        return None;
    }
    set_ports(key, [header.src_port_be, header.dst_port_be]);
    Some(Part::OPENS | Part::ANSWERS)
}

#[inline(always)]
fn read_icmp(ctx: &TcContext, ip: &InnerIp, len: usize, key: &mut FlowKey) -> Option<u32> {
    if len < icmp::HEADER_LEN {
        return None;
    }
    let kind: u8 = ctx.load(ip.payload).ok()?;
    if icmp::is_error(kind) {
        // A redirect would lead the flow elsewhere, and no router is on its way.
        return if kind == icmp::REDIRECT { Some(Part::KNOWN) } else { quoted(ctx, ip, len, key) };
    }
    set_ports(key, query_ports(kind, ctx.load(ip.payload + icmp::ID_OFFSET).ok()?));
    Some(if icmp::query_of(kind).is_none() { Part::OPENS } else { Part::ANSWERS })
}

/// A query and its reply differ as ports do: what is first in one is second in the other.
#[inline(always)]
fn query_ports(kind: u8, id_be: u16) -> [u16; 2] {
    match icmp::query_of(kind) {
        None => [id_be, u16::from(kind).to_be()],
        Some(query) => [u16::from(query).to_be(), id_be],
    }
}

/// The flow of the packet that an error quotes, which must have gone from the error's receiver to its sender.
#[inline(always)]
fn quoted(ctx: &TcContext, ip: &InnerIp, len: usize, key: &mut FlowKey) -> Option<u32> {
    let at = ip.payload + icmp::HEADER_LEN;
    let header: Ipv4 = ctx.load(at).ok()?;
    let header_len = header.header_len();
    if !header.is_plausible() || len < icmp::HEADER_LEN + header_len + QUOTED_LEN {
        return None;
    }
    let is_between_them = header.src == ip.header.dst && header.dst == ip.header.src;
    if !is_between_them || header.is_later_fragment() {
        // It speaks of no flow of theirs, or does not say of which.
        return Some(Part::KNOWN);
    }
    let [src_port_be, dst_port_be] = quoted_ports(ctx, header.protocol, at + header_len)?;
    key.protocol = header.protocol;
    // As that packet's receiver would have sent it.
    set_ports(key, [dst_port_be, src_port_be]);
    Some(Part::ANSWERS)
}

#[inline(always)]
fn quoted_ports(ctx: &TcContext, protocol: u8, at: usize) -> Option<[u16; 2]> {
    match protocol {
        ip_proto::TCP | ip_proto::UDP => ctx.load(at).ok(),
        ip_proto::ICMP => Some(query_ports(ctx.load(at).ok()?, ctx.load(at + icmp::ID_OFFSET).ok()?)),
        _ => Some([0; 2]),
    }
}
