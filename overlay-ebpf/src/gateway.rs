//! From a container to the world, to the host, and to what the agent serves: through the gateway device, under the
//! container's host-local address. The host's stack does the rest, and takes one hop off the packet's life.

use aya_ebpf::programs::TcContext;
use overlay_common::{
    gateway::{self, Gateway, RESOLVER_PORT},
    network::FLAG_INTERNAL,
    verdict::DropReason,
    wire::{Ethernet, headers::ethertype, headers::ip_proto},
};

use crate::{
    count,
    from_endpoint::Source,
    icmp,
    maps::{self, lookup},
    nat::{self, Field},
    packet::{InnerIp, Verdict, redirect_ingress},
    resolver,
};

/// Hands a packet that is for no container to the host's stack. Its parts are programs of their own, one beside the
/// other: together with their caller each has 512 bytes of stack.
#[inline(always)]
pub fn to_host(ctx: &TcContext, source: &Source, ip: &InnerIp) -> Verdict {
    if ip.header.dst == source.network.gateway_ipv4 && icmp::is_echo_request(ctx, ip) {
        return icmp::answer_echo(ctx, source, ip);
    }
    admit(ctx, source, ip)?;
    leave(ctx, source, ip)
}

/// Decides whether the packet may leave.
#[inline(never)]
fn admit(ctx: &TcContext, source: &Source, ip: &InnerIp) -> Result<(), DropReason> {
    let to_gateway = ip.header.dst == source.network.gateway_ipv4;
    // A host without a gateway device has no way out.
    let gateway = maps::host_gateway().ok_or(DropReason::NoRoute)?;
    check_destination(source, ip, gateway, to_gateway)?;
    let to_resolver = to_gateway && has_port(ctx, ip, 2);
    if source.network.flags & FLAG_INTERNAL != 0 && !to_resolver {
        return Err(DropReason::InternalNetwork);
    }
    // Fragments, too: the host's stack may make queries of them.
    if to_resolver || to_gateway && ip.header.is_fragment() {
        return resolver::admit(source.ifindex);
    }
    Ok(())
}

/// Rewrites the packet and sends it.
#[inline(never)]
fn leave(ctx: &TcContext, source: &Source, ip: &InnerIp) -> Verdict {
    let gateway = maps::host_gateway().ok_or(DropReason::NoRoute)?;
    let own = lookup!(host_addrs, source.ifindex).ok_or(DropReason::GatewayFailed)?.ipv4;
    let agent = (ip.header.dst == source.network.gateway_ipv4).then_some(gateway.agent);
    replace_source(ctx, ip, own).ok_or(DropReason::GatewayFailed)?;
    if let Some(agent) = agent {
        replace_destination(ctx, ip, agent).ok_or(DropReason::GatewayFailed)?;
    }
    let eth =
        Ethernet { dst: gateway.mac, src: source.network.gateway_mac, ethertype_be: ethertype::IPV4.to_be() };
    ctx.store(0, &eth, 0).map_err(|_| DropReason::GatewayFailed)?;
    count::sent(source.ifindex, u64::from(ctx.len()));
    Ok(redirect_ingress(gateway.ifindex))
}

/// Host-local addresses are for the host alone; the agent's is known to containers under another.
#[inline(always)]
fn check_destination(
    source: &Source,
    ip: &InnerIp,
    gateway: &Gateway,
    to_gateway: bool,
) -> Result<(), DropReason> {
    if to_gateway {
        return Ok(());
    }
    if gateway::is_martian(ip.header.dst) {
        return Err(DropReason::Martian);
    }
    if source.network.flags & FLAG_INTERNAL == 0 && gateway.holds(ip.header.dst) {
        return Err(DropReason::HostLocal);
    }
    Ok(())
}

/// Whether the packet is UDP or TCP with the resolver's port at this place of its header. Fragments have no ports.
#[inline(always)]
pub fn has_port(ctx: &TcContext, ip: &InnerIp, offset: usize) -> bool {
    let has_ports = matches!(ip.header.protocol, ip_proto::UDP | ip_proto::TCP) && !ip.header.is_fragment();
    has_ports && ctx.load::<u16>(ip.payload + offset) == Ok(RESOLVER_PORT.to_be())
}

/// An ICMP error quotes what the container received: under the same addresses, the other way round.
#[inline(always)]
fn replace_source(ctx: &TcContext, ip: &InnerIp, own: [u8; 4]) -> Option<()> {
    nat::replace_quoted(ctx, ip, Field::Destination, ip.header.src, own)?;
    nat::replace(ctx, ip, Field::Source, own)
}

#[inline(always)]
fn replace_destination(ctx: &TcContext, ip: &InnerIp, agent: [u8; 4]) -> Option<()> {
    nat::replace_quoted(ctx, ip, Field::Source, ip.header.dst, agent)?;
    nat::replace(ctx, ip, Field::Destination, agent)
}
