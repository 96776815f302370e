//! The underlay device's XDP program: the checks of `from_underlay` before a socket buffer exists.
//!
//! Mode `filter` drops what is hostile and leaves the rest to tc. Mode `decap` also delivers what is not
//! TCP: one protocol takes one path, so that no flow is reordered, and TCP keeps the merging of GRO.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    helpers::generated as helper,
    programs::XdpContext,
};
use overlay_common::{
    config::FLAG_XDP_DECAP,
    fdb::{FLAG_HOST, FLAG_LIMITED},
    verdict::DropReason,
    wire::{headers::ip_proto, outer::OVERHEAD},
};

use crate::{
    count::{self, Place},
    ingress::{self, Admission, Admitted, Rejected},
    limit, maps,
    packet::{Bytes, redirect},
};

/// The program.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> u32 {
    receive(ctx).unwrap_or_else(|rejected| {
        let place = Place { vni: rejected.vni, ifindex: 0 };
        count::dropped(ctx, place, rejected.reason, Bytes::of_xdp(ctx).len() as u64);
        XDP_DROP
    })
}

#[inline(always)]
fn receive(ctx: &XdpContext) -> Result<u32, Rejected> {
    let Some(config) = maps::host_config() else { return Ok(XDP_PASS) };
    let bytes = Bytes::of_xdp(ctx);
    // Questions are answered by helpers that only tc has.
    let Some(Admission::Frame(frame)) = ingress::admit(bytes, bytes.len(), config)? else {
        return Ok(XDP_PASS);
    };
    // A congestion mark goes inward by a helper that only tc has, as copies do; rules are for tc too, and the
    // way to the host itself.
    let for_tc = frame.protocol == ip_proto::TCP
        || frame.congested
        || frame.ruled
        || frame.ifindex == 0
        || frame.flags & FLAG_HOST != 0;
    if config.flags & FLAG_XDP_DECAP == 0 || for_tc {
        return Ok(XDP_PASS);
    }
    to_container(ctx, &frame).ok_or(Rejected { vni: frame.vni, reason: DropReason::DecapFailed })
}

/// Takes the outer headers off and sends the inner frame, which is whole, into the container's veth.
#[inline(always)]
fn to_container(ctx: &XdpContext, frame: &Admitted) -> Option<u32> {
    // SAFETY: the helper checks that the frame is long enough.
    let moved = unsafe { helper::bpf_xdp_adjust_head(ctx.as_ptr().cast(), OVERHEAD as i32) };
    if moved != 0 {
        return None;
    }
    let bytes = Bytes::of_xdp(ctx).len() as u64;
    if frame.flags & FLAG_LIMITED != 0 && !limit::to_container(ctx, frame.place(), bytes) {
        return Some(XDP_DROP);
    }
    count::delivered(frame.ifindex, bytes);
    Some(redirect(frame.ifindex) as u32)
}
