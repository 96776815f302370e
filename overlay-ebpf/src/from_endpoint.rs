//! What a container sends: check who it says it is, find where the packet goes, and send it there.

use aya_ebpf::{bindings::TC_ACT_SHOT, programs::TcContext};
use overlay_common::{
    abi::tail_call,
    endpoint::Endpoint,
    fdb::FdbKey,
    mac::Mac,
    network::Network,
    verdict::DropReason,
    wire::{Ethernet, headers::ethertype, icmp::Error},
};

use crate::{
    arp,
    count::{self, Place},
    deliver,
    encap::{self, Payload},
    flood, gateway, icmp, limit,
    maps::{self, lookup},
    packet::{Bytes, InnerIp, SkbExt as _, Verdict, linear},
    route, too_big,
};

/// Ethernet header, the longest IPv4 header, or IPv6 and an advertisement, and enough of TCP to know its length.
const HEADERS: u32 = (Ethernet::LEN + 60 + 20) as u32;

/// Who sent the packet, by the device that it came from.
#[derive(Clone, Copy)]
pub struct Source {
    /// Host veth.
    pub ifindex: u32,
    /// Its record.
    pub endpoint: &'static Endpoint,
    /// Its network.
    pub network: &'static Network,
}

/// Where the packet goes next.
#[derive(Clone, Copy)]
pub struct Destination {
    /// The network that it is delivered in.
    pub vni: u32,
    /// Largest IP packet in it, in bytes.
    pub mtu: u16,
    /// The frame's header as the receiver sees it.
    pub eth: Ethernet,
    /// The header differs from the one in the packet.
    pub rewritten: bool,
}

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let ifindex = ctx.ifindex();
    let Some(source) = identify(ifindex) else {
        count::dropped(ctx, Place { vni: 0, ifindex }, DropReason::UnknownEndpoint, u64::from(ctx.len()));
        return TC_ACT_SHOT;
    };
    receive(ctx, &source).unwrap_or_else(|refusal| refuse(ctx, &source, refusal))
}

/// The container behind a host veth.
#[inline(always)]
pub fn identify(ifindex: u32) -> Option<Source> {
    let endpoint = lookup!(endpoints, ifindex)?;
    let network = lookup!(networks, endpoint.vni)?;
    Some(Source { ifindex, endpoint, network })
}

/// Why a container's packet does not go on, and what a router would say to that.
#[derive(Clone, Copy)]
struct Refusal {
    reason: DropReason,
    answer: Option<Error>,
}

impl Refusal {
    /// Larger than this many bytes, which would have passed.
    #[inline(always)]
    fn too_big(mtu: u16) -> Self {
        Self { reason: DropReason::TooBig, answer: Some(Error::fragmentation_needed(mtu)) }
    }
}

impl From<DropReason> for Refusal {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        let expired = reason as u32 == DropReason::TtlExceeded as u32;
        Self { reason, answer: expired.then_some(Error::TIME_EXCEEDED) }
    }
}

/// Drops the packet, with an answer where its sender should know.
#[inline(always)]
fn refuse(ctx: &TcContext, source: &Source, refusal: Refusal) -> i32 {
    let place = Place { vni: source.endpoint.vni, ifindex: source.ifindex };
    count::dropped(ctx, place, refusal.reason, u64::from(ctx.len()));
    // Whoever found that out has noted it.
    let is_path = refusal.reason as u32 == DropReason::PathTooBig as u32;
    let path = is_path.then(|| Error::fragmentation_needed(ctx.note() as u16));
    match path.or(refusal.answer) {
        None => TC_ACT_SHOT,
        Some(error) => icmp::answer(ctx, source, error),
    }
}

#[inline(always)]
fn receive(ctx: &TcContext, source: &Source) -> Result<i32, Refusal> {
    let bytes = linear(ctx, HEADERS);
    let eth: Ethernet = bytes.read(0).ok_or(DropReason::Truncated)?;
    let kind = u16::from_be(eth.ethertype_be);
    if ctx.has_vlan_tag() || ethertype::is_vlan(kind) {
        return Err(DropReason::VlanTagged.into());
    }
    if eth.src != source.endpoint.mac {
        return Err(DropReason::SpoofedMac.into());
    }
    if source.endpoint.has_egress_limit() && kind != ethertype::ARP {
        limit::from_container(source.ifindex, u64::from(ctx.len()))?;
    }
    match kind {
        ethertype::IPV4 => forward(ctx, source, eth),
        ethertype::IPV6 if source.network.has_ipv6() => Err(go_on_with_ipv6(ctx).into()),
        ethertype::ARP => Ok(arp::answer(ctx, source, bytes)?),
        _ => Err(DropReason::UnsupportedProtocol.into()),
    }
}

/// Leaves an IPv6 packet, whose tag and hardware address are checked, to its own program. Comes back if there is none.
#[inline(always)]
fn go_on_with_ipv6(ctx: &TcContext) -> DropReason {
    // SAFETY: the index lies within the map; without a program in it the call does nothing.
    unsafe { maps::tail_calls.tail_call(ctx, tail_call::FROM_ENDPOINT6) };
    DropReason::UnsupportedProtocol
}

/// An IPv4 packet: bridge within the network, or route through its gateway.
#[inline(always)]
fn forward(ctx: &TcContext, source: &Source, eth: Ethernet) -> Result<i32, Refusal> {
    let bytes = Bytes::of_skb(ctx);
    let len = ctx.len() as usize;
    let ip = InnerIp::parse(bytes, 0, len, DropReason::Truncated, DropReason::MalformedIp)?;
    if ip.header.src != source.endpoint.ipv4 {
        return Err(DropReason::SpoofedIp.into());
    }
    let config = maps::host_config().ok_or(DropReason::EncapFailed)?;
    if ip.is_udp_to(bytes, config.vxlan_port_be) {
        return Err(DropReason::NestedVxlan.into());
    }
    if Mac(eth.dst).is_group() {
        // Nobody is told of a group's packet that is too large (RFC 1122 section 3.2.2).
        if too_big::exceeds(ctx, bytes, ip.header.protocol, ip.payload, source.network.mtu) {
            return Err(DropReason::TooBig.into());
        }
        return Ok(flood::from_container(ctx, source)?);
    }
    let own = Destination { vni: source.endpoint.vni, mtu: source.network.mtu, eth, rewritten: false };
    let destination =
        if eth.dst == source.network.gateway_mac { route::next(ctx, source, &ip)? } else { Some(own) };
    let mtu = destination.as_ref().map_or(source.network.mtu, |destination| destination.mtu);
    if too_big::exceeds(ctx, bytes, ip.header.protocol, ip.payload, mtu) {
        return Err(Refusal::too_big(mtu));
    }
    let Some(destination) = destination else { return Ok(gateway::to_host(ctx, source, &ip)?) };
    let payload = Payload::of(&ip, bytes);
    if destination.rewritten {
        route::decrement_ttl(bytes, &ip.header).ok_or(DropReason::Truncated)?;
    }
    Ok(send(ctx, source, &destination, &payload)?)
}

/// Sends the packet to where its destination MAC lives.
#[inline(always)]
pub fn send(ctx: &TcContext, source: &Source, destination: &Destination, payload: &Payload) -> Verdict {
    let key = FdbKey::new(destination.vni, destination.eth.dst);
    let entry = lookup!(fdb, &key).ok_or(DropReason::UnknownMac)?;
    payload.fit_into(ctx, destination.mtu, entry.vtep);
    let bytes = u64::from(ctx.len());
    let verdict = if entry.ifindex != 0 {
        if destination.rewritten {
            ctx.store(0, &destination.eth, 0).map_err(|_| DropReason::Truncated)?;
        }
        deliver::to(ctx, Place { vni: destination.vni, ifindex: entry.ifindex }, entry.flags)?
    } else {
        encap::to_vtep(ctx, entry.vtep, destination, payload)?
    };
    count::sent(source.ifindex, bytes);
    Ok(verdict)
}
