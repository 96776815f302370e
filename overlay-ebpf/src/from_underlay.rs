//! What comes from other hosts, after GRO has merged it.

use aya_ebpf::programs::TcContext;
use overlay_common::{
    config::MARK_ADMITTED,
    wire::{headers::ip_proto, outer::OVERHEAD},
};

use crate::{
    decap, external,
    ingress::{self, Admission, Rejected},
    maps,
    packet::{PASS, SkbExt as _},
    rules,
};

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    receive(ctx).unwrap_or_else(|rejected| rejected.shoot(ctx))
}

#[inline(always)]
fn receive(ctx: &TcContext) -> Result<i32, Rejected> {
    let Some(config) = maps::host_config() else { return Ok(PASS) };
    // A VLAN on the same device is another wire.
    if ctx.has_vlan_tag() {
        return Ok(PASS);
    }
    let bytes = ingress::linear_headers(ctx, OVERHEAD);
    let frame = match ingress::admit(bytes, ctx.len() as usize, config)? {
        None => return Ok(PASS),
        Some(Admission::Question(question)) => {
            return external::answer(ctx, &question).map_err(|reason| Rejected { vni: question.vni, reason });
        }
        Some(Admission::Frame(frame)) => frame,
    };
    // The kernel's tunnel device can segment an inner UDP packet, we cannot: slow path.
    if ctx.gso_size() != 0 && frame.protocol != ip_proto::TCP {
        ctx.set_mark(MARK_ADMITTED);
        return Ok(PASS);
    }
    let known = |reason| Rejected { vni: frame.vni, reason };
    if frame.ruled {
        rules::admit_routed(ctx, OVERHEAD, frame.vni).map_err(known)?;
    }
    decap::to_container(ctx, &frame).map_err(known)
}
