//! Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums run over 16-bit words as they lie in memory: one's complement addition does not care for byte
//! order as long as it is the same throughout.

/// One's complement sum folded to 16 bits, not complemented.
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Checksum field that results from a sum.
#[must_use]
pub const fn complement(sum: u32) -> u16 {
    !fold(sum)
}

/// The checksum field after one 16-bit word under it changed (RFC 1624 equation 3).
#[must_use]
pub const fn update(checksum: u16, old_word: u16, new_word: u16) -> u16 {
    complement(!checksum as u32 + !old_word as u32 + new_word as u32)
}

/// Sum over the bytes of a header, not folded. At most 64 KiB, or the sum may overflow.
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    let mut pairs = bytes.chunks_exact(2);
    let mut sum: u32 = pairs.by_ref().map(|p| u32::from(u16::from_ne_bytes([p[0], p[1]]))).sum();
    if let [last] = pairs.remainder() {
        sum += u32::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn updating_a_word_equals_summing_anew(mut bytes in proptest::collection::vec(any::<u8>(), 20), word in 0usize..10, new: u16) {
            // A header of nothing but zero words has two representations of zero; real headers are not.
            bytes[0] = 0x45;
            prop_assume!(word != 0);
            let before = complement(sum(&bytes));
            let at = word * 2..word * 2 + 2;
            let old = u16::from_ne_bytes([bytes[at.start], bytes[at.start + 1]]);
            bytes[at].copy_from_slice(&new.to_ne_bytes());
            prop_assert_eq!(update(before, old, new), complement(sum(&bytes)));
        }

        #[test]
        fn a_header_with_its_checksum_sums_to_all_ones(mut bytes in proptest::collection::vec(any::<u8>(), 20)) {
            bytes[10..12].fill(0);
            let checksum = complement(sum(&bytes));
            bytes[10..12].copy_from_slice(&checksum.to_ne_bytes());
            prop_assert_eq!(fold(sum(&bytes)), 0xffff);
        }
    }
}
