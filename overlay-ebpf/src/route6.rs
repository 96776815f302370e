//! Routing of IPv6 between networks, at the sender's host: see `route`.

use core::cmp::min;

use overlay_common::{
    addr::Addr,
    mac::Mac,
    policy::{ALLOW, PolicyKey, RULES},
    verdict::DropReason,
    wire::{
        Ethernet,
        headers::ethertype,
        ipv6::{is_martian, same},
    },
};

use crate::{
    from_endpoint::{Destination, Source},
    maps::lookup,
    route::{neighbour, network_of},
};

/// Whether an address is the gateway's: the network's, or the link-local one that its hardware address makes.
#[inline(always)]
pub fn is_gateway(source: &Source, ipv6: [u8; 16]) -> bool {
    same(ipv6, source.network.gateway_ipv6) || same(ipv6, Mac(source.network.gateway_mac).link_local())
}

/// Where a packet to the gateway's MAC goes: to a container of an overlay network.
#[inline(always)]
pub fn next(source: &Source, dst: [u8; 16], hop_limit: u8) -> Result<Destination, DropReason> {
    if is_martian(dst) {
        return Err(DropReason::Martian);
    }
    let vni = network_of(source.endpoint.vni, &Addr::v6(dst)).ok_or(DropReason::NoRoute)?.get();
    if vni != source.endpoint.vni {
        admit(&PolicyKey { src_vni: source.endpoint.vni, dst_vni: vni })?;
    }
    if hop_limit <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let network = lookup!(networks, vni).ok_or(DropReason::NoRoute)?;
    let dst = neighbour(vni, &Addr::v6(dst)).ok_or(DropReason::UnknownDestination)?.mac;
    let eth = Ethernet { dst, src: network.gateway_mac, ethertype_be: ethertype::IPV6.to_be() };
    Ok(Destination { vni, mtu: min(source.network.mtu, network.mtu), eth, rewritten: true })
}

/// Whether packets may go from one network to the other.
#[inline(always)]
pub fn admit(pair: &PolicyKey) -> Result<(), DropReason> {
    match lookup!(policy, pair).map(|policy| policy.action) {
        Some(ALLOW) => Ok(()),
        Some(RULES) => Err(DropReason::NoRule),
        _ => Err(DropReason::PolicyDenied),
    }
}
