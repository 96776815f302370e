//! Replacing addresses in place. Stateless: what to replace follows from the maps alone.
//!
//! The kernel's checksum helpers know whether a checksum is finished, still to be finished by a device, or already
//! summed up by one, so segments of any size go through as they are.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    programs::TcContext,
};
use overlay_common::wire::{Ethernet, Ipv4, headers::ip_proto, icmp};

use crate::packet::InnerIp;

/// An address of an IPv4 header.
#[derive(Clone, Copy)]
pub enum Field {
    /// Who sent it.
    Source,
    /// Who is to get it.
    Destination,
}

impl Field {
    #[inline(always)]
    fn offset(self) -> usize {
        match self {
            Self::Source => Ipv4::SRC_OFFSET,
            Self::Destination => Ipv4::DST_OFFSET,
        }
    }

    #[inline(always)]
    fn of(self, header: &Ipv4) -> [u8; 4] {
        match self {
            Self::Source => header.src,
            Self::Destination => header.dst,
        }
    }
}

/// Replaces an address, with the checksums over it. `None` if the packet ends before its headers do.
#[inline(always)]
pub fn replace(ctx: &TcContext, ip: &InnerIp, field: Field, new: [u8; 4]) -> Option<()> {
    let old = field.of(&ip.header);
    if let Some((at, flags)) = transport_checksum(ip) {
        ctx.l4_csum_replace(at, word(old), word(new), flags | size_of_val(&new) as u64).ok()?;
    }
    write(ctx, Ethernet::LEN, field, old, new)
}

/// Replaces an address in the packet that an ICMP error quotes, so that its receiver knows its own packet again. The
/// message's checksum stays true: the sum over the quoted header is what it was.
#[inline(always)]
pub fn replace_quoted(ctx: &TcContext, ip: &InnerIp, field: Field, old: [u8; 4], new: [u8; 4]) -> Option<()> {
    if ip.header.protocol != ip_proto::ICMP || ip.header.is_fragment() {
        return Some(());
    }
    let kind: u8 = ctx.load(ip.payload).ok()?;
    if !icmp::is_error(kind) {
        return Some(());
    }
    let at = ip.payload + icmp::HEADER_LEN;
    let quoted: [u8; 4] = ctx.load(at + field.offset()).ok()?;
    if quoted == old { write(ctx, at, field, old, new) } else { Some(()) }
}

/// Writes an address and the header's checksum of the IPv4 header at `at`.
#[inline(always)]
fn write(ctx: &TcContext, at: usize, field: Field, old: [u8; 4], new: [u8; 4]) -> Option<()> {
    ctx.l3_csum_replace(at + Ipv4::CHECKSUM_OFFSET, word(old), word(new), size_of_val(&new) as u64).ok()?;
    ctx.store(at + field.offset(), &new, 0).ok()
}

/// Where the checksum is that covers the addresses too, and how it is to be changed. Only the first fragment has it.
#[inline(always)]
fn transport_checksum(ip: &InnerIp) -> Option<(usize, u64)> {
    if ip.header.is_later_fragment() {
        return None;
    }
    match ip.header.protocol {
        ip_proto::TCP => Some((ip.payload + 16, u64::from(BPF_F_PSEUDO_HDR))),
        ip_proto::UDP => Some((ip.payload + 6, u64::from(BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0))),
        _ => None,
    }
}

#[inline(always)]
fn word(ipv4: [u8; 4]) -> u64 {
    u64::from(u32::from_ne_bytes(ipv4))
}
