//! Packets larger than the network's MTU: answered with ICMP fragmentation-needed (RFC 1191) or packet-too-big, never
//! fragmented silently, never lost without a word. A BPF redirect checks no MTU, so we must.

use aya_ebpf::programs::TcContext;
use overlay_common::wire::{Ethernet, Udp, headers::ip_proto, tcp};

use crate::packet::{Bytes, SkbExt as _};

/// Whether the packet, or any segment of it, is larger than `mtu`. What the sender put behind the IP packet
/// counts too: it would be on the underlay. `payload` is where that of the IP packet begins.
#[inline(always)]
pub fn exceeds(ctx: &TcContext, bytes: Bytes, protocol: u8, payload: usize, mtu: u16) -> bool {
    let gso_size = ctx.gso_size() as usize;
    if gso_size == 0 {
        return ctx.len() as usize - Ethernet::LEN > mtu as usize;
    }
    gso_size + payload - Ethernet::LEN + transport_header_len(bytes, protocol, payload) > mtu as usize
}

#[inline(always)]
fn transport_header_len(bytes: Bytes, protocol: u8, payload: usize) -> usize {
    if protocol != ip_proto::TCP {
        return Udp::LEN;
    }
    bytes.read::<u8>(payload + tcp::DATA_OFFSET_OFFSET).map_or(tcp::MIN_LEN, tcp::header_len)
}
