//! Broadcast and multicast: a copy to each member of the network, from a list that the agent keeps.
//!
//! Copies for other hosts take the slow path: the kernel's tunnel device finds the way and grows each copy by itself. What
//! a sender may send is bounded, so what it can cost is too.

use aya_ebpf::{bindings::TC_ACT_SHOT, helpers::generated as helper, programs::TcContext};
use overlay_common::{
    config::Config,
    fdb::FdbKey,
    flood::{EXTERNAL_SENDER, FloodKey, HERE, MOST, PACE, Receiver, THERE},
    network::FLAG_MULTICAST,
    verdict::DropReason,
};

use crate::{
    count::{self, Place},
    encap, external,
    from_endpoint::Source,
    ingress::Admitted,
    limit,
    maps::{self, flood_turns, lookup},
    packet::{SkbExt as _, Verdict},
    turns,
};

/// Copies a container's packet to all others in its network.
#[inline(never)]
pub fn from_container(ctx: &TcContext, source: &Source) -> Verdict {
    if source.network.flags & FLAG_MULTICAST == 0 {
        return Err(DropReason::Multicast);
    }
    let config = maps::host_config().ok_or(DropReason::EncapFailed)?;
    if !may_send(source.ifindex) {
        return Err(DropReason::MulticastStorm);
    }
    count::sent(source.ifindex, u64::from(ctx.len()));
    to_containers(ctx, source.endpoint.vni, source.ifindex);
    to_vteps(ctx, config, source.endpoint.vni);
    // All that there is to send are copies.
    Ok(TC_ACT_SHOT)
}

/// Copies a packet from the underlay, without its outer headers, to this host's containers in the network; to no other
/// host, which its sender has done.
#[inline(never)]
pub fn from_wire(ctx: &TcContext, frame: &Admitted) -> Verdict {
    let sender = lookup!(fdb, &FdbKey::new(frame.vni, frame.eth.src));
    // Other hosts have bounded what their containers send.
    if let Some(entry) = sender.filter(|entry| external::is_external(frame.vni, entry))
        && !may_send(EXTERNAL_SENDER | entry.vtep)
    {
        return Err(DropReason::MulticastStorm);
    }
    to_containers(ctx, frame.vni, 0);
    Ok(TC_ACT_SHOT)
}

#[inline(always)]
fn to_containers(ctx: &TcContext, vni: u32, sender: u32) {
    for number in 0..MOST {
        let Some(receiver) = receiver(vni, HERE, number) else { break };
        let (ifindex, bytes) = (receiver.ifindex, u64::from(ctx.len()));
        if ifindex != sender && limit::to_container(ctx, Place { vni, ifindex }, bytes) {
            count::delivered(ifindex, bytes);
            copy_to(ctx, ifindex);
        }
    }
}

#[inline(always)]
fn to_vteps(ctx: &TcContext, config: &Config, vni: u32) {
    for number in 0..MOST {
        let Some(receiver) = receiver(vni, THERE, number) else { break };
        let is_sent =
            encap::set_tunnel(ctx, config, vni, receiver.vtep_addr) && copy_to(ctx, config.tunnel_ifindex);
        if !is_sent {
            let place = Place { vni, ifindex: 0 };
            count::dropped(ctx, place, DropReason::EncapFailed, u64::from(ctx.len()));
        }
    }
}

#[inline(always)]
fn may_send(sender: u32) -> bool {
    turns::take(&flood_turns, sender, |turns, now_ns| PACE.take(turns, now_ns))
}

#[inline(always)]
fn receiver(vni: u32, side: u32, number: u32) -> Option<&'static Receiver> {
    lookup!(flood, &FloodKey { vni, side, number })
}

/// Sends a copy out of a device.
#[inline(always)]
fn copy_to(ctx: &TcContext, ifindex: u32) -> bool {
    // SAFETY: the helper takes any index, and leaves the packet as it is.
    unsafe { helper::bpf_clone_redirect(ctx.raw(), ifindex, 0) == 0 }
}
