//! Members without an agent: machines that speak VXLAN by themselves, such as a kernel's vxlan device or a switch.
//!
//! No program of ours has looked at what they send, so who a frame says it is from is asked here: its MAC must be that of
//! a member behind the sending VTEP, its IP that member's. And they do not know the cluster's maps, so they ask with ARP,
//! by broadcast to whatever VTEP they were given. The host where the address lives answers; another one hands the question
//! on there, once. So the answer comes from the VTEP that the asker has to send to, which is what it learns from.

use aya_ebpf::{
    bindings::{BPF_F_ADJ_ROOM_FIXED_GSO, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    programs::TcContext,
};
use overlay_common::{
    fdb::{FdbEntry, FdbKey},
    verdict::DropReason,
    vtep::{EXTERNAL, VtepMemberKey},
    wire::{Arp, Ethernet, Ipv4, headers::ethertype, outer::OVERHEAD},
};

use crate::{
    encap::{self, Payload},
    from_endpoint::Destination,
    ingress::Peer,
    maps::lookup,
    packet::{Bytes, Verdict},
    route::neighbour_ipv4,
};

/// Who asks for an address.
#[derive(Clone, Copy)]
pub struct Question {
    /// The network.
    pub vni: u32,
    /// Hardware address of who asks.
    asker: [u8; 6],
    /// Index of the asker's VTEP.
    vtep: u32,
    /// Another host was asked, and handed it on.
    handed_on: bool,
}

/// Checks that the frame at `offset` is from a member behind this VTEP.
#[inline(always)]
pub fn check_sender(bytes: Bytes, offset: usize, vni: u32, vtep_addr: [u8; 4]) -> Result<(), DropReason> {
    let eth: Ethernet = bytes.read(offset).ok_or(DropReason::InnerTruncated)?;
    // Such a member has an IPv4 address and no other.
    if eth.ethertype_be != ethertype::IPV4.to_be() {
        return Err(DropReason::ExternalIp);
    }
    let ip: Ipv4 = bytes.read(offset + Ethernet::LEN).ok_or(DropReason::InnerTruncated)?;
    member(vni, eth.src).filter(|entry| entry.vtep_addr == vtep_addr).ok_or(DropReason::ExternalMac)?;
    if has_address(vni, ip.src, eth.src) { Ok(()) } else { Err(DropReason::ExternalIp) }
}

/// Whether the frame at `offset` is ARP.
#[inline(always)]
pub fn is_arp(bytes: Bytes, offset: usize) -> bool {
    bytes.read::<Ethernet>(offset).is_some_and(|eth| eth.ethertype_be == ethertype::ARP.to_be())
}

/// Reads an external member's question, asked of us or handed on by another host. No container's ARP leaves its host.
#[inline(always)]
pub fn question(bytes: Bytes, offset: usize, vni: u32, peer: Peer) -> Result<Question, DropReason> {
    let eth: Ethernet = bytes.read(offset).ok_or(DropReason::InnerTruncated)?;
    let arp: Arp = bytes.read(offset + Ethernet::LEN).ok_or(DropReason::InnerTruncated)?;
    let stranger = if peer.is_external { DropReason::ExternalArp } else { DropReason::InnerUnsupported };
    let asker = member(vni, arp.sender_mac).ok_or(stranger)?;
    let is_honest = arp.is_ipv4_over_ethernet()
        && arp.operation_be == Arp::REQUEST.to_be()
        && arp.sender_mac == eth.src
        && has_address(vni, arp.sender_ip, arp.sender_mac)
        && (!peer.is_external || asker.vtep_addr == peer.vtep_addr);
    if !is_honest {
        return Err(DropReason::ExternalArp);
    }
    Ok(Question { vni, asker: arp.sender_mac, vtep: asker.vtep, handed_on: !peer.is_external })
}

/// Answers the question if the address is a container's on this host, or hands it on to the host where it is.
#[inline(never)]
pub fn answer(ctx: &TcContext, question: &Question) -> Verdict {
    let vni = question.vni;
    let arp: Arp = Bytes::of_skb(ctx).read(OVERHEAD + Ethernet::LEN).ok_or(DropReason::InnerTruncated)?;
    let unanswered = DropReason::ExternalArpUnanswered;
    let mac = neighbour_ipv4(vni, u32::from_ne_bytes(arp.target_ip)).ok_or(unanswered)?.mac;
    let owner = lookup!(fdb, &FdbKey::new(vni, mac)).ok_or(unanswered)?;
    let is_here = owner.ifindex != 0;
    // Two external machines know each other or do not: we are not between them.
    if !is_here && (question.handed_on || is_external(vni, owner)) {
        return Err(unanswered);
    }
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    ctx.adjust_room(-(OVERHEAD as i32), BPF_ADJ_ROOM_MAC, flags).map_err(|_| DropReason::DecapFailed)?;
    if is_here {
        ctx.store(Ethernet::LEN, &arp.reply(mac), 0).map_err(|_| DropReason::EncapFailed)?;
    }
    let (src, dst) = if is_here { (mac, question.asker) } else { (question.asker, mac) };
    let eth = Ethernet { dst, src, ethertype_be: ethertype::ARP.to_be() };
    let destination = Destination { vni, mtu: 0, eth, rewritten: true };
    let vtep = if is_here { question.vtep } else { owner.vtep };
    encap::to_vtep(ctx, vtep, &destination, &Payload::of_arp())
}

/// Where an external member is.
#[inline(always)]
fn member(vni: u32, mac: [u8; 6]) -> Option<&'static FdbEntry> {
    lookup!(fdb, &FdbKey::new(vni, mac)).filter(|entry| is_external(vni, entry))
}

/// Whether what is there has no agent.
#[inline(always)]
pub fn is_external(vni: u32, entry: &FdbEntry) -> bool {
    let key = VtepMemberKey { vni, vtep_addr: entry.vtep_addr };
    lookup!(vtep_members, &key).is_some_and(|kind| *kind == EXTERNAL)
}

#[inline(always)]
fn has_address(vni: u32, ipv4: [u8; 4], mac: [u8; 6]) -> bool {
    neighbour_ipv4(vni, u32::from_ne_bytes(ipv4)).is_some_and(|neigh| neigh.mac == mac)
}
