//! What the kernel's tunnel device decapsulated. Nothing of it ever reaches the host's own stack: what is
//! not for a container is dropped.

use aya_ebpf::{bindings::bpf_tunnel_key, helpers::generated as helper, programs::TcContext};
use overlay_common::{config::MARK_ADMITTED, verdict::DropReason};

use crate::{
    deliver, flood,
    ingress::{self, Delivery, Rejected},
    maps::{self, lookup},
    packet::SkbExt as _,
    rules,
};

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    receive(ctx).unwrap_or_else(|rejected| rejected.shoot(ctx))
}

#[inline(always)]
fn receive(ctx: &TcContext) -> Result<i32, Rejected> {
    let unknown = |reason| Rejected { vni: 0, reason };
    let config = maps::host_config().ok_or(unknown(DropReason::NotTunnelled))?;
    // The kernel's tunnel socket listens on every device of the host; our checks of the outer packet run on
    // the underlay alone.
    if ctx.mark() != MARK_ADMITTED {
        return Err(unknown(DropReason::NotTunnelled));
    }
    ctx.set_mark(0);
    let (vni, source) = tunnel_source(ctx).ok_or(unknown(DropReason::NotTunnelled))?;
    let network = lookup!(networks, vni).ok_or(unknown(DropReason::UnknownVni))?;
    let known = |reason| Rejected { vni, reason };
    let peer = ingress::peer(vni, source).map_err(known)?;
    if ctx.has_vlan_tag() {
        return Err(known(DropReason::InnerVlanTagged));
    }
    let len = ctx.len() as usize;
    let bytes = ingress::linear_headers(ctx, 0);
    let frame = ingress::admit_frame(bytes, 0, len, Delivery { vni, network }, config).map_err(known)?;
    peer.check_sender(bytes, 0, vni).map_err(known)?;
    if frame.ruled {
        rules::admit_routed(ctx, 0, vni).map_err(known)?;
    }
    if frame.ifindex == 0 {
        return flood::from_wire(ctx, &frame).map_err(known);
    }
    deliver::to(ctx, frame.place(), frame.flags).map_err(known)
}

/// Network and outer source of the packet, as the tunnel device noted them.
#[inline(always)]
fn tunnel_source(ctx: &TcContext) -> Option<(u32, [u8; 4])> {
    // SAFETY: the type is made of integers; all zero is a value.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    // SAFETY: `key` lives on the stack for the call and its size is given.
    let result =
        unsafe { helper::bpf_skb_get_tunnel_key(ctx.raw(), &mut key, size_of::<bpf_tunnel_key>() as u32, 0) };
    // SAFETY: without flags the helper fills the IPv4 member; both members are integers.
    let remote = unsafe { key.__bindgen_anon_1.remote_ipv4 };
    (result == 0).then_some((key.tunnel_id, remote.to_be_bytes()))
}
