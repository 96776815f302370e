//! Who may have his turn: `overlay_common::turns`.

use aya_ebpf::{bindings::BPF_NOEXIST, btf_maps::LruHashMap, helpers::bpf_ktime_get_ns};
use overlay_common::{abi::capacity, turns::Turns};

/// What each has taken. One that may be forgotten: who is has a burst more.
pub type Taken<const MOST: usize = { capacity::ENDPOINTS }> = LruHashMap<u32, Turns, MOST>;

/// Whether one more packet of a sender may come now: `next` says what is taken with it, by what was and by the time.
#[inline(always)]
pub fn take<const MOST: usize>(
    taken: &Taken<MOST>,
    sender: u32,
    next: impl Fn(Turns, u64) -> Option<Turns>,
) -> bool {
    // SAFETY: it only reads the clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(turns) = taken.get_ptr_mut(sender) else {
        let Some(first) = next(Turns::default(), now) else { return false };
        // Another CPU may be quicker with its first: then that one counts for both.
        let _ = taken.insert(sender, first, u64::from(BPF_NOEXIST));
        return true;
    };
    // SAFETY: the value is aligned memory of the map's that lasts while the program runs. CPUs may write it at once:
    // one of two packets then goes uncounted.
    let Some(next) = next(unsafe { turns.read_volatile() }, now) else { return false };
    // SAFETY: as above.
    unsafe { turns.write_volatile(next) };
    true
}
