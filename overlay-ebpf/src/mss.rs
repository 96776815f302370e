//! The largest segment that two ends agree on as they open a TCP connection: no larger than what the way between them takes, so
//! that nobody has to learn it from packets that were lost.

use aya_ebpf::programs::TcContext;
use overlay_common::wire::tcp::{self, option};

use crate::packet::Bytes;

/// More options than anybody puts before the one that is looked for.
const MAX_OPTIONS: usize = 10;

/// Whether the TCP header at `at` is of a segment that opens a connection, from either end.
#[inline(always)]
pub fn is_agreed_on(bytes: Bytes, at: usize) -> bool {
    // Of two bytes: from the proof that one byte is there the verifier learns nothing.
    let here: Option<[u8; 2]> = bytes.read(at + tcp::DATA_OFFSET_OFFSET);
    here.is_some_and(|[_, flags]| flags & tcp::SYN != 0)
}

/// Lowers the size that the segment with its TCP header at `at` asks for, if that is more than `most` bytes.
#[inline(never)]
pub fn clamp(ctx: &TcContext, at: u32, most: u16) {
    let at = at as usize;
    let Some((value_at, asked_be)) = find(ctx, at) else { return };
    if u16::from_be(asked_be) <= most {
        return;
    }
    let most_be = most.to_be();
    // The sum is over words. A value that lies across two of them counts with its bytes swapped.
    let word = |value: u16| u64::from(if (value_at - at) % 2 == 0 { value } else { value.swap_bytes() });
    let size = size_of::<u16>() as u64;
    if ctx.l4_csum_replace(at + tcp::CHECKSUM_OFFSET, word(asked_be), word(most_be), size).is_ok() {
        let _ = ctx.store(value_at, &most_be, 0);
    }
}

/// Where the segment says it, and what.
#[inline(always)]
fn find(ctx: &TcContext, at: usize) -> Option<(usize, u16)> {
    let data_offset: u8 = ctx.load(at + tcp::DATA_OFFSET_OFFSET).ok()?;
    let end = at + tcp::header_len(data_offset);
    let mut option_at = at + tcp::MIN_LEN;
    for _ in 0..MAX_OPTIONS {
        if option_at + option::MSS_LEN > end {
            return None;
        }
        let [kind, len]: [u8; 2] = ctx.load(option_at).ok()?;
        match kind {
            option::END => return None,
            option::NOTHING => option_at += 1,
            option::MSS if len as usize == option::MSS_LEN => {
                return Some((option_at + 2, ctx.load(option_at + 2).ok()?));
            }
            _ if len < 2 => return None,
            _ => option_at += len as usize,
        }
    }
    None
}
