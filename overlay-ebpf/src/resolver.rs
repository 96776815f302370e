//! How many packets of a container reach the resolver: `overlay_common::resolver`.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_ktime_get_ns};
use overlay_common::{resolver::ResolverTurns, verdict::DropReason};

use crate::maps::resolver_turns;

/// Whether one more may go there.
#[inline(always)]
pub fn admit(ifindex: u32) -> Result<(), DropReason> {
    // SAFETY: it only reads the clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let flood = DropReason::ResolverFlood;
    let Some(turns) = resolver_turns.get_ptr_mut(ifindex) else {
        let first = ResolverTurns::default().take(now).ok_or(flood)?;
        // Another CPU may be quicker with its first: then that one counts for both.
        let _ = resolver_turns.insert(ifindex, first, u64::from(BPF_NOEXIST));
        return Ok(());
    };
    // SAFETY: the value is aligned memory of the map's that lasts while the program runs. CPUs may write it at once:
    // one of two packets then goes uncounted.
    let taken = unsafe { turns.read_volatile() }.take(now).ok_or(flood)?;
    // SAFETY: as above.
    unsafe { turns.write_volatile(taken) };
    Ok(())
}
