//! How fast a container may send and receive: `overlay_common::limit`. Called for those that a flag says it of.

use aya_ebpf::EbpfContext;
use overlay_common::{
    limit::{self, INGRESS},
    verdict::DropReason,
};

use crate::{
    count::{self, Place},
    maps::{limit_turns, lookup},
    turns,
};

/// Whether a container may send so many bytes more.
#[inline(always)]
pub fn from_container(ifindex: u32, bytes: u64) -> Result<(), DropReason> {
    let rate = lookup!(limits, ifindex).map_or(0, |limits| limits.egress_bytes_per_s);
    if take(ifindex, bytes, rate) { Ok(()) } else { Err(DropReason::EgressLimit) }
}

/// Whether a container may receive so many bytes more. If not, that is counted for it: whoever sent it is not to blame.
#[inline(always)]
pub fn to_container(ctx: &impl EbpfContext, to: Place, bytes: u64) -> bool {
    let rate = lookup!(limits, to.ifindex).map_or(0, |limits| limits.ingress_bytes_per_s);
    let may = take(to.ifindex | INGRESS, bytes, rate);
    if !may {
        count::dropped(ctx, to, DropReason::IngressLimit, bytes);
    }
    may
}

#[inline(never)]
fn take(bucket: u32, bytes: u64, bytes_per_s: u64) -> bool {
    if bytes_per_s == 0 {
        return true;
    }
    turns::take(&limit_turns, bucket, |turns, now_ns| limit::take(turns, now_ns, bytes, bytes_per_s))
}
