//! The IPv6 that a container sends: as `from_endpoint` does for IPv4, under the same rules. A program of its own, since both
//! together do not fit into 512 bytes of stack.

use aya_ebpf::{bindings::TC_ACT_SHOT, programs::TcContext};
use overlay_common::{
    mac::Mac,
    verdict::DropReason,
    wire::{
        Ethernet, Ipv6,
        icmpv6::{Error, is_error},
        ipv6::same,
    },
};

use crate::{
    count::{self, Place},
    encap::Payload,
    from_endpoint::{Destination, Source, identify, send},
    icmp6,
    inner6::{InnerIp6, Reasons, linear_extensions},
    maps, nd,
    packet::{Bytes, SkbExt as _, Verdict},
    route6, too_big,
};

/// Why a container's packet is not as it should be.
const REASONS: Reasons = Reasons {
    truncated: DropReason::Truncated,
    malformed: DropReason::MalformedIp,
    extensions: DropReason::ExtensionHeaders,
};

/// Why a packet does not go on, and what a router would say to that.
#[derive(Clone, Copy)]
struct Refusal {
    reason: DropReason,
    answer: Error,
}

impl Refusal {
    /// The answer; what the way to another host takes was noted by whoever found that out.
    #[inline(always)]
    fn answer_of(self, ctx: &TcContext) -> Error {
        let is_path = self.reason as u32 == DropReason::PathTooBig as u32;
        if is_path { Error::packet_too_big(ctx.note() as u16) } else { self.answer }
    }
}

impl From<DropReason> for Refusal {
    /// An application that has an IPv4 address to turn to should do so at once, not after its time is up.
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        let answer = match reason {
            DropReason::TtlExceeded => Error::TIME_EXCEEDED,
            DropReason::NoRoute => Error::NO_ROUTE,
            _ => Error::NONE,
        };
        Self { reason, answer }
    }
}

/// What [`forward`] says of a packet for the gateway itself.
const FOR_GATEWAY: u64 = 1 << 62;
/// Bit of an outcome that is a refusal: the reason is behind it, the answer in the low half.
const REFUSED: u64 = 1 << 63;

/// An outcome in one register. In memory parts of it would stay unwritten, and the verifier does not let those be copied.
#[inline(always)]
fn pack(outcome: Result<i32, Refusal>) -> u64 {
    match outcome {
        Ok(verdict) => u64::from(verdict as u32),
        Err(Refusal { reason, answer }) => {
            REFUSED | u64::from(reason as u32) << 32 | u64::from(answer.word())
        }
    }
}

#[inline(always)]
fn unpack(outcome: u64) -> Result<i32, Refusal> {
    if outcome & REFUSED == 0 {
        return Ok(outcome as i32);
    }
    let reason = DropReason::from_number((outcome >> 32) as u32 & 0xffff).unwrap_or(DropReason::MalformedIp);
    Err(Refusal { reason, answer: Error::of_word(outcome as u32) })
}

/// The program. `from_endpoint` has found the container, and checked hardware address and tag. What it calls are programs of
/// their own, one beside the other: together with it each has 512 bytes of stack.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let Some(source) = identify(ctx.ifindex()) else { return TC_ACT_SHOT };
    receive(ctx, &source).unwrap_or_else(|refusal| refuse(ctx, &source, refusal))
}

#[inline(always)]
fn receive(ctx: &TcContext, source: &Source) -> Result<i32, Refusal> {
    if !source.endpoint.has_ipv6() {
        return Err(DropReason::UnsupportedProtocol.into());
    }
    let bytes = linear_extensions(ctx, Bytes::of_skb(ctx), 0);
    let ip = InnerIp6::parse(bytes, 0, ctx.len() as usize, &REASONS)?;
    let kind = ip.icmp_type(bytes);
    if let Some(verdict) = nd::receive(ctx, source, &ip, kind) {
        return Ok(verdict?);
    }
    let outcome = forward(ctx, source, &ip);
    if outcome == FOR_GATEWAY {
        return Ok(icmp6::answer_echo(ctx, source, &ip)?);
    }
    // Nobody answers an error with another (RFC 4443 section 2.4).
    let may_answer = !kind.is_some_and(is_error) && !ip.is_later_fragment;
    unpack(outcome).map_err(|refusal| Refusal {
        answer: if may_answer { refusal.answer_of(ctx) } else { Error::NONE },
        ..refusal
    })
}

#[inline(always)]
fn refuse(ctx: &TcContext, source: &Source, refusal: Refusal) -> i32 {
    let place = Place { vni: source.endpoint.vni, ifindex: source.ifindex };
    count::dropped(ctx, place, refusal.reason, u64::from(ctx.len()));
    if refusal.answer.is_none() { TC_ACT_SHOT } else { icmp6::answer(ctx, source, refusal.answer) }
}

/// A packet that says nothing of its link: bridge within the network, or route through its gateway.
#[inline(never)]
fn forward(ctx: &TcContext, source: &Source, ip: &InnerIp6) -> u64 {
    match go_on(ctx, source, ip) {
        Ok(None) => FOR_GATEWAY,
        Ok(Some(verdict)) => pack(Ok(verdict)),
        Err(refusal) => pack(Err(refusal)),
    }
}

/// `None`: the packet is for the gateway itself.
#[inline(always)]
fn go_on(ctx: &TcContext, source: &Source, ip: &InnerIp6) -> Result<Option<i32>, Refusal> {
    let bytes = Bytes::of_skb(ctx);
    let src = bytes.read(Ethernet::LEN + Ipv6::SRC_OFFSET).ok_or(DropReason::Truncated)?;
    if !is_own(source, src) {
        return Err(DropReason::SpoofedIp.into());
    }
    let config = maps::host_config().ok_or(DropReason::EncapFailed)?;
    if ip.is_udp_to(bytes, config.vxlan_port_be) {
        return Err(DropReason::NestedVxlan.into());
    }
    let eth: Ethernet = bytes.read(0).ok_or(DropReason::Truncated)?;
    let dst: [u8; 16] = bytes.read(Ethernet::LEN + Ipv6::DST_OFFSET).ok_or(DropReason::Truncated)?;
    if Mac(eth.dst).is_group() || dst[0] == 0xff {
        return Err(DropReason::Multicast.into());
    }
    let own = Destination { vni: source.endpoint.vni, mtu: source.network.mtu, eth, rewritten: false };
    let is_routed = eth.dst == source.network.gateway_mac;
    if is_routed && route6::is_gateway(source, dst) {
        return Ok(None);
    }
    let destination = if is_routed { route6::next(source, dst, ip.hop_limit)? } else { own };
    if too_big::exceeds(ctx, bytes, ip.protocol, ip.payload(), destination.mtu) {
        let answer = Error::packet_too_big(destination.mtu);
        return Err(Refusal { reason: DropReason::TooBig, answer });
    }
    let payload = Payload::of_ipv6(ip, bytes);
    if destination.rewritten {
        let at = Ethernet::LEN + Ipv6::HOP_LIMIT_OFFSET;
        bytes.write(at, &(ip.hop_limit - 1)).ok_or(DropReason::Truncated)?;
    }
    Ok(Some(send(ctx, source, &destination, &payload)?))
}

/// Whether the container may use a source address: its own, or the link-local one that its hardware address makes.
#[inline(always)]
pub fn is_own(source: &Source, ipv6: [u8; 16]) -> bool {
    same(ipv6, source.endpoint.ipv6) || same(ipv6, Mac(source.endpoint.mac).link_local())
}

/// What [`nd::receive`] decides.
pub type Decided = Option<Verdict>;
