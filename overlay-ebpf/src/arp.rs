//! ARP (RFC 826), answered from the neighbour table: no request ever leaves the host.

use aya_ebpf::programs::TcContext;
use overlay_common::{
    addr::Addr,
    neigh::NeighKey,
    verdict::DropReason,
    wire::{Arp, Ethernet},
};

use crate::{
    from_endpoint::Source,
    maps::lookup,
    packet::{Bytes, Verdict, redirect},
};

/// An answer as it goes back to the container.
#[repr(C)]
struct Frame {
    eth: Ethernet,
    arp: Arp,
}

/// Answers a container's request for a container of its network or for the gateway.
#[inline(always)]
pub fn answer(ctx: &TcContext, source: &Source, bytes: Bytes) -> Verdict {
    let eth: Ethernet = bytes.read(0).ok_or(DropReason::Truncated)?;
    let arp: Arp = bytes.read(Ethernet::LEN).ok_or(DropReason::Truncated)?;
    check_sender(source, &arp)?;
    if !is_question(source, &arp) {
        return Err(DropReason::ArpUnanswered);
    }
    let key = NeighKey { vni: source.endpoint.vni, addr: Addr::v4(arp.target_ip) };
    let mac = lookup!(neigh, &key).ok_or(DropReason::ArpUnanswered)?.mac;
    let reply = Frame {
        eth: Ethernet { dst: source.endpoint.mac, src: mac, ethertype_be: eth.ethertype_be },
        arp: arp.reply(mac),
    };
    ctx.store(0, &reply, 0).map_err(|_| DropReason::Truncated)?;
    // Out of the host veth, so the container's end sees an ordinary frame addressed to it.
    Ok(redirect(source.ifindex))
}

/// The sender must be the container itself; 0.0.0.0 is how it probes for duplicates (RFC 5227).
#[inline(always)]
fn check_sender(source: &Source, arp: &Arp) -> Result<(), DropReason> {
    let own_ip = arp.sender_ip == source.endpoint.ipv4 || arp.sender_ip == [0; 4];
    if arp.is_ipv4_over_ethernet() && arp.sender_mac == source.endpoint.mac && own_ip {
        Ok(())
    } else {
        Err(DropReason::SpoofedArp)
    }
}

/// Announcements and probes for the own address ask nobody.
#[inline(always)]
fn is_question(source: &Source, arp: &Arp) -> bool {
    arp.operation_be == Arp::REQUEST.to_be() && arp.target_ip != source.endpoint.ipv4
}
