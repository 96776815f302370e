//! Counters. Every packet that is ours ends in exactly one of them.

use aya_ebpf::{EbpfContext, bindings::BPF_NOEXIST};
use aya_log_ebpf::info;
use overlay_common::{
    stats::{DropCount, DropKey},
    verdict::DropReason,
};

use crate::maps;

/// Counts a packet that a container sent and that was forwarded.
#[inline(always)]
pub fn sent(ifindex: u32, bytes: u64) {
    if let Some(stats) = maps::endpoint_stats.get_ptr_mut(ifindex) {
        // SAFETY: the value is this CPU's own, and programs on one CPU do not interrupt each other here.
        let stats = unsafe { &mut *stats };
        stats.tx_packets += 1;
        stats.tx_bytes += bytes;
    }
}

/// Counts a packet that was delivered to a container.
#[inline(always)]
pub fn delivered(ifindex: u32, bytes: u64) {
    if let Some(stats) = maps::endpoint_stats.get_ptr_mut(ifindex) {
        // SAFETY: as in `sent`.
        let stats = unsafe { &mut *stats };
        stats.rx_packets += 1;
        stats.rx_bytes += bytes;
    }
}

/// Where a packet was dropped.
#[derive(Clone, Copy)]
pub struct Place {
    /// The network, 0 if not known.
    pub vni: u32,
    /// Host veth of the container concerned, 0 if none is.
    pub ifindex: u32,
}

/// Counts a dropped packet, and logs it where the agent asked for that.
#[inline(never)]
pub fn dropped(ctx: &impl EbpfContext, place: Place, reason: DropReason, bytes: u64) {
    info!(ctx, "drop reason {} vni {} ifindex {} bytes {}", reason as u32, place.vni, place.ifindex, bytes);
    let key = DropKey { vni: place.vni, ifindex: place.ifindex, reason: reason as u32 };
    if add(&key, bytes).is_none() {
        // First of its kind. Another CPU may be quicker with the same key: then the entry is there.
        let _ = maps::drops.insert(key, DropCount::default(), u64::from(BPF_NOEXIST));
        let _ = add(&key, bytes);
    }
}

#[inline(always)]
fn add(key: &DropKey, bytes: u64) -> Option<()> {
    let count = maps::drops.get_ptr_mut(key)?;
    // SAFETY: as in `sent`.
    let count = unsafe { &mut *count };
    count.packets += 1;
    count.bytes += bytes;
    Some(())
}
