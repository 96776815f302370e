//! Many entries in one system call (`BPF_MAP_UPDATE_BATCH`, Linux 5.6), which aya 0.14 does not have.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use aya::{
    Pod,
    maps::{HashMap, IterableMap as _, MapData},
};
use nix::libc;

/// `BPF_MAP_UPDATE_BATCH` of `enum bpf_cmd`.
const UPDATE_BATCH: libc::c_int = 26;
/// Entries in one call: some hundred kilobytes.
const MOST: usize = 4096;

/// The part of `union bpf_attr` that batch commands read.
#[repr(C)]
#[derive(Default)]
struct Attr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Writes entries from the first on; how many it wrote. It stops where the kernel does: at the first entry that the map
/// does not take, and before all of them if this kind of map has no batches. To write the next one alone tells why.
pub(super) fn update<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>, entries: &[(K, V)]) -> usize {
    let mut written = 0;
    for part in entries.chunks(MOST) {
        let taken = update_part(map.map().fd().as_fd(), part);
        written += taken;
        if taken < part.len() {
            break;
        }
    }
    written
}

/// The types have to be those of the map; a [`HashMap`] is, since aya compares their sizes when it makes one.
fn update_part<K: Pod, V: Pod>(map: BorrowedFd<'_>, entries: &[(K, V)]) -> usize {
    let keys: Vec<K> = entries.iter().map(|(key, _)| *key).collect();
    let values: Vec<V> = entries.iter().map(|(_, value)| *value).collect();
    let mut attr = Attr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(entries.len()).unwrap_or_default(),
        map_fd: map.as_raw_fd().unsigned_abs(),
        ..Attr::default()
    };
    // SAFETY: `attr` is a whole batch command that lives through the call, which writes to its `count` alone. `keys` and
    // `values` are arrays of `count` of the map's keys and values, which the call only reads; they are `Pod`, so every
    // byte of them is initialised.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, UPDATE_BATCH, &raw mut attr, size_of::<Attr>()) };
    // What the kernel has not looked at it has not counted; a failure before that leaves our own number there.
    let untouched = outcome != 0 && attr.count as usize == entries.len();
    if untouched { 0 } else { attr.count as usize }
}
