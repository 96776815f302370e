//! What of TCP is looked at (RFC 9293 section 3.1).

/// Shortest header in bytes.
pub const MIN_LEN: usize = 20;
/// Offset of the byte whose high half is the header's length; the flags are the next one.
pub const DATA_OFFSET_OFFSET: usize = 12;
/// Offset of the checksum.
pub const CHECKSUM_OFFSET: usize = 16;
/// Flag of a segment that opens a connection.
pub const SYN: u8 = 1 << 1;

/// Length of a header in bytes, by the byte at [`DATA_OFFSET_OFFSET`].
#[inline(always)]
#[must_use]
pub const fn header_len(data_offset: u8) -> usize {
    (data_offset >> 4) as usize * 4
}

/// Options: a kind, and but for the first two the length of it all and a value.
pub mod option {
    /// No more options.
    pub const END: u8 = 0;
    /// Fills up.
    pub const NOTHING: u8 = 1;
    /// The largest segment that the sender takes.
    pub const MSS: u8 = 2;
    /// Length of that one.
    pub const MSS_LEN: usize = 4;
}

/// Bytes of a segment's packet that are no data, over IPv4 and without options: what a maximum segment size leaves out of an MTU
/// (RFC 6691).
pub const IPV4_HEADERS: u16 = 40;
/// The same over IPv6.
pub const IPV6_HEADERS: u16 = 60;
