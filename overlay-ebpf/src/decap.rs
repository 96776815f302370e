//! Decapsulation: the outer headers go, the container's own frame stays.

use aya_ebpf::{
    bindings::{BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    helpers::generated as helper,
    programs::TcContext,
};
use overlay_common::{
    verdict::DropReason,
    wire::{headers::ethertype, outer::OVERHEAD},
};

use crate::{
    deliver, flood,
    ingress::Admitted,
    packet::{Bytes, SkbExt as _, Verdict},
};

/// Takes the outer headers off an admitted packet and hands it to its container, or to all of the network's.
#[inline(always)]
pub fn to_container(ctx: &TcContext, frame: &Admitted) -> Verdict {
    // Room is taken away behind the Ethernet header, so what is left of the outer one becomes the inner one.
    let is_ipv6 = frame.eth.ethertype_be == ethertype::IPV6.to_be();
    let family = if is_ipv6 { BPF_F_ADJ_ROOM_DECAP_L3_IPV6 } else { 0 };
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO | family);
    ctx.adjust_room(-(OVERHEAD as i32), BPF_ADJ_ROOM_MAC, flags).map_err(|_| DropReason::DecapFailed)?;
    Bytes::of_skb(ctx).write(0, &frame.eth).ok_or(DropReason::DecapFailed)?;
    if frame.congested {
        mark_congestion(ctx)?;
    }
    if frame.ifindex == 0 {
        return flood::from_wire(ctx, frame);
    }
    deliver::to(ctx, frame.place(), frame.flags)
}

/// Carries congestion marks inward; a packet whose ends do not speak ECN is dropped, as congestion would
/// have dropped it (RFC 6040 section 4.2).
#[inline(always)]
fn mark_congestion(ctx: &TcContext) -> Result<(), DropReason> {
    // SAFETY: the helper checks the header itself.
    let marked = unsafe { helper::bpf_skb_ecn_set_ce(ctx.raw()) };
    if marked == 1 { Ok(()) } else { Err(DropReason::InnerNotEct) }
}
