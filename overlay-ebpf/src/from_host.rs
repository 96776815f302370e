//! What the host's stack sends to containers: replies from the world, connections to published ports, the host's own,
//! and the agent's answers. Seen on the inner end of the gateway device, from where nothing but this program goes on.

use aya_ebpf::{bindings::TC_ACT_SHOT, programs::TcContext};
use overlay_common::{
    endpoint::Endpoint,
    gateway::{Gateway, HostAddr},
    network::{FLAG_INTERNAL, Network},
    verdict::DropReason,
    wire::{Ethernet, headers::ethertype},
};

use crate::{
    count::{self, Place},
    deliver, gateway,
    maps::{self, lookup},
    nat::{self, Field},
    packet::{InnerIp, Verdict, linear},
};

/// Ethernet header, the longest IPv4 header and the ports.
const HEADERS: u32 = (Ethernet::LEN + 60 + 4) as u32;

/// Who gets a packet.
#[derive(Clone, Copy)]
struct Receiver {
    place: Place,
    endpoint: &'static Endpoint,
    network: &'static Network,
}

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let nobody = Place { vni: 0, ifindex: 0 };
    let (place, reason) = match admit(ctx) {
        Ok((gateway, receiver, ip)) => match hand_over(ctx, gateway, &receiver, &ip) {
            Ok(verdict) => return verdict,
            Err(reason) => (receiver.place, reason),
        },
        Err(reason) => (nobody, reason),
    };
    count::dropped(ctx, place, reason, u64::from(ctx.len()));
    TC_ACT_SHOT
}

/// Finds the container that a packet is for.
#[inline(always)]
fn admit(ctx: &TcContext) -> Result<(&'static Gateway, Receiver, InnerIp), DropReason> {
    let gateway = maps::host_gateway().ok_or(DropReason::HostUnknown)?;
    let bytes = linear(ctx, HEADERS);
    let eth: Ethernet = bytes.read(0).ok_or(DropReason::HostMalformed)?;
    if eth.ethertype_be != ethertype::IPV4.to_be() {
        return Err(DropReason::HostMalformed);
    }
    let malformed = DropReason::HostMalformed;
    let ip = InnerIp::parse(bytes, 0, ctx.len() as usize, malformed, malformed)?;
    let receiver = receiver(ip.header.dst).ok_or(DropReason::HostUnknown)?;
    Ok((gateway, receiver, ip))
}

#[inline(always)]
fn receiver(ipv4: [u8; 4]) -> Option<Receiver> {
    let ifindex = *lookup!(host_owners, HostAddr { ipv4 })?;
    let endpoint = lookup!(endpoints, ifindex)?;
    let network = lookup!(networks, endpoint.vni)?;
    Some(Receiver { place: Place { vni: endpoint.vni, ifindex }, endpoint, network })
}

/// Rewrites the packet for its container and hands it over.
#[inline(always)]
fn hand_over(ctx: &TcContext, gateway: &Gateway, to: &Receiver, ip: &InnerIp) -> Verdict {
    let from_agent = ip.header.src == gateway.agent;
    // No container reaches another this way: what the host forwards between two of them has the agent's address.
    if gateway.holds(ip.header.src) && !from_agent {
        return Err(DropReason::HostSpoofed);
    }
    if to.network.flags & FLAG_INTERNAL != 0 && !(from_agent && gateway::has_port(ctx, ip, 0)) {
        return Err(DropReason::HostInternal);
    }
    rewrite(ctx, gateway, to, ip, from_agent).ok_or(DropReason::HostFailed)?;
    let eth =
        Ethernet { dst: to.endpoint.mac, src: to.network.gateway_mac, ethertype_be: ethertype::IPV4.to_be() };
    ctx.store(0, &eth, 0).map_err(|_| DropReason::HostFailed)?;
    deliver::to(ctx, to.place, to.endpoint.flags_as_receiver())
}

#[inline(always)]
fn rewrite(ctx: &TcContext, gateway: &Gateway, to: &Receiver, ip: &InnerIp, from_agent: bool) -> Option<()> {
    nat::replace_quoted(ctx, ip, Field::Source, ip.header.dst, to.endpoint.ipv4)?;
    nat::replace_quoted(ctx, ip, Field::Destination, gateway.agent, to.network.gateway_ipv4)?;
    nat::replace(ctx, ip, Field::Destination, to.endpoint.ipv4)?;
    if from_agent {
        return nat::replace(ctx, ip, Field::Source, to.network.gateway_ipv4);
    }
    Some(())
}
