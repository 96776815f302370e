//! An IPv6 packet of a container's: its header, and what stands behind its extension headers.

use aya_ebpf::programs::TcContext;
use overlay_common::{
    verdict::DropReason,
    wire::{
        Ethernet, Ipv6,
        headers::ip_proto,
        ipv6::{Extension, FRAGMENT, MAX_EXTENSIONS, is_extension},
    },
};

use crate::packet::{Bytes, linear};

/// Longest chain of extension headers that we follow, in bytes.
const MAX_EXTENSIONS_LEN: usize = 256;
/// No payload begins behind this: the verifier forgets bounds of what lies in memory.
const PAYLOAD_MASK: u32 = 0x1ff;
/// Bytes of a packet that must be at hand to follow its extension headers and read the ports behind them.
const WITH_EXTENSIONS: usize = Ethernet::LEN + Ipv6::LEN + MAX_EXTENSIONS_LEN + 8;

/// An IPv6 header whose own words are true, and its payload's place. Its addresses stay in the packet: copies of them would
/// not fit on the stack.
#[derive(Clone, Copy)]
pub struct InnerIp6 {
    total_len: u32,
    /// Traffic class: DSCP and ECN.
    pub class: u8,
    /// How many routers it may still pass.
    pub hop_limit: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// It is a fragment, the first included.
    pub is_fragment: bool,
    /// It is a fragment without the payload's beginning.
    pub is_later_fragment: bool,
    payload: u32,
}

/// The reasons to give for a packet that is not as it should be.
#[derive(Clone, Copy)]
pub struct Reasons {
    /// It ends before its headers do.
    pub truncated: DropReason,
    /// Its header lies.
    pub malformed: DropReason,
    /// Its extension headers are too many or too long.
    pub extensions: DropReason,
}

impl InnerIp6 {
    /// Reads the headers behind the Ethernet header at `eth_offset` of a packet of `len` bytes.
    #[inline(always)]
    pub fn parse(bytes: Bytes, eth_offset: usize, len: usize, reasons: &Reasons) -> Result<Self, DropReason> {
        let offset = eth_offset + Ethernet::LEN;
        let header: Ipv6 = bytes.read(offset).ok_or(reasons.truncated)?;
        let total_len = header.total_len();
        if !header.is_plausible() || offset + total_len > len {
            return Err(reasons.malformed);
        }
        let bare = Self {
            total_len: total_len as u32,
            class: header.traffic_class(),
            hop_limit: header.hop_limit,
            protocol: header.next_header,
            is_fragment: false,
            is_later_fragment: false,
            payload: (offset + Ipv6::LEN) as u32,
        };
        let packet = if is_extension(bare.protocol) { bare.behind_extensions(bytes, reasons)? } else { bare };
        if packet.payload() > offset + total_len {
            return Err(reasons.malformed);
        }
        Ok(packet)
    }

    /// Follows the extension headers, up to the payload or to a fragment that lacks its beginning.
    #[inline(always)]
    fn behind_extensions(self, bytes: Bytes, reasons: &Reasons) -> Result<Self, DropReason> {
        let mut packet = self;
        for _ in 0..MAX_EXTENSIONS {
            if packet.is_later_fragment || !is_extension(packet.protocol) {
                break;
            }
            let extension: Extension = bytes.read(packet.payload()).ok_or(reasons.truncated)?;
            if packet.protocol == FRAGMENT {
                packet.is_fragment = true;
                packet.is_later_fragment = extension.is_later();
            }
            packet.payload += extension.len(packet.protocol) as u32;
            packet.protocol = extension.next_header;
            if packet.payload() > self.payload() + MAX_EXTENSIONS_LEN {
                return Err(reasons.extensions);
            }
        }
        if !packet.is_later_fragment && is_extension(packet.protocol) {
            return Err(reasons.extensions);
        }
        Ok(packet)
    }

    /// Length of the whole packet in bytes.
    #[inline(always)]
    pub fn total_len(&self) -> usize {
        self.total_len as usize
    }

    /// Where the payload begins, from the packet's start.
    #[inline(always)]
    pub fn payload(&self) -> usize {
        (self.payload & PAYLOAD_MASK) as usize
    }

    /// Whether the packet carries `port` as its UDP destination. Fragments carry no port that one may trust.
    #[inline(always)]
    pub fn is_udp_to(&self, bytes: Bytes, port_be: u16) -> bool {
        self.protocol == ip_proto::UDP
            && !self.is_later_fragment
            && bytes.read::<u16>(self.payload() + 2) == Some(port_be)
    }

    /// The type of the ICMPv6 message that the packet carries, if it does and its beginning is here.
    #[inline(always)]
    pub fn icmp_type(&self, bytes: Bytes) -> Option<u8> {
        let has_type = self.protocol == ip_proto::ICMPV6 && !self.is_later_fragment;
        // Of two bytes: from the proof that one byte is there the verifier learns nothing.
        has_type.then(|| bytes.read::<[u8; 2]>(self.payload())).flatten().map(|[kind, _]| kind)
    }
}

/// Makes sure that the extension headers of the IPv6 packet behind the Ethernet header at `eth_offset` are linear, if it
/// has any.
#[inline(always)]
pub fn linear_extensions(ctx: &TcContext, bytes: Bytes, eth_offset: usize) -> Bytes {
    let next_header = eth_offset + Ethernet::LEN + core::mem::offset_of!(Ipv6, next_header);
    match bytes.read::<u8>(next_header) {
        Some(kind) if is_extension(kind) => linear(ctx, (eth_offset + WITH_EXTENSIONS) as u32),
        _ => bytes,
    }
}
