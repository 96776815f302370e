//! IPv6 (RFC 8200): the header, and the extension headers that may stand before a payload.

/// IPv6 header.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv6 {
    /// Version (high four bits) and the high half of the traffic class.
    pub version_class: u8,
    /// The low half of the traffic class and the high four bits of the flow label.
    pub class_flow: u8,
    /// The rest of the flow label.
    pub flow: [u8; 2],
    /// Length of all that follows this header, in bytes.
    pub payload_len_be: u16,
    /// What follows.
    pub next_header: u8,
    /// How many routers it may still pass.
    pub hop_limit: u8,
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
}

const _: () = assert!(Ipv6::LEN == 40);

impl Ipv6 {
    /// Length in bytes.
    pub const LEN: usize = size_of::<Self>();
    /// `version_class` without a traffic class.
    pub const VERSION_CLASS: u8 = 0x60;
    /// Where the source address is.
    pub const SRC_OFFSET: usize = core::mem::offset_of!(Self, src);
    /// Where the destination address is, right behind the source's.
    pub const DST_OFFSET: usize = core::mem::offset_of!(Self, dst);
    /// Where the hop limit is.
    pub const HOP_LIMIT_OFFSET: usize = core::mem::offset_of!(Self, hop_limit);

    /// Whether the version is the right one.
    #[inline(always)]
    #[must_use]
    pub const fn is_plausible(&self) -> bool {
        self.version_class >> 4 == 6
    }

    /// Length of the whole packet in bytes, as the header gives it.
    #[inline(always)]
    #[must_use]
    pub const fn total_len(&self) -> usize {
        Self::LEN + u16::from_be(self.payload_len_be) as usize
    }

    /// DSCP and, in the low two bits, ECN.
    #[inline(always)]
    #[must_use]
    pub const fn traffic_class(&self) -> u8 {
        self.version_class << 4 | self.class_flow >> 4
    }
}

/// The unspecified address.
pub const UNSPECIFIED: [u8; 16] = [0; 16];

/// Whether two addresses are the same. By words: the BPF back-end compares byte arrays byte by byte.
#[inline(always)]
#[must_use]
pub const fn same(a: [u8; 16], b: [u8; 16]) -> bool {
    u128::from_ne_bytes(a) == u128::from_ne_bytes(b)
}

/// Whether an address is link-local (RFC 4291 section 2.5.6).
#[inline(always)]
#[must_use]
pub const fn is_link_local(ipv6: [u8; 16]) -> bool {
    ipv6[0] == 0xfe && ipv6[1] & 0xc0 == 0x80
}

/// Whether no packet may be sent to an address beyond its own link: loopback and unspecified (and with them addresses that
/// IPv4 ones map to), link-local, multicast. To the host's stack such a packet could mean the host itself.
#[inline(always)]
#[must_use]
pub const fn is_martian(ipv6: [u8; 16]) -> bool {
    ipv6[0] == 0xff || is_link_local(ipv6) || matches!(ipv6, [0, 0, 0, 0, 0, 0, 0, 0, ..])
}

/// The multicast address of all nodes of a link.
pub const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// The hardware address of [`ALL_NODES`] (RFC 2464 section 7).
pub const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Protocol number of the header that says that a packet is a fragment.
pub const FRAGMENT: u8 = 44;

/// Most extension headers of a packet that we follow. Nobody sends more but to hide what stands behind them.
pub const MAX_EXTENSIONS: usize = 4;

/// Whether a protocol number is that of an extension header with its own length, or of [`FRAGMENT`]: hop-by-hop options,
/// routing, destination options.
#[inline(always)]
#[must_use]
pub const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, 0 | 43 | 60 | FRAGMENT)
}

/// The first bytes of an extension header, of any kind.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extension {
    /// What follows.
    pub next_header: u8,
    /// Its length in units of eight bytes, without the first; reserved in a [`FRAGMENT`].
    pub len: u8,
    /// In a [`FRAGMENT`]: the offset and, in the lowest bit, whether more follow.
    pub fragment_be: u16,
    /// In a [`FRAGMENT`]: the identification.
    pub id: [u8; 4],
}

const _: () = assert!(size_of::<Extension>() == 8);

impl Extension {
    /// Length in bytes of this header, of this kind.
    #[inline(always)]
    #[must_use]
    pub const fn len(&self, kind: u8) -> usize {
        if kind == FRAGMENT { 8 } else { 8 + self.len as usize * 8 }
    }

    /// Whether the payload's beginning is in another fragment.
    #[inline(always)]
    #[must_use]
    pub const fn is_later(&self) -> bool {
        self.fragment_be & 0xfff8_u16.to_be() != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> [u8; 16] {
        text.parse::<std::net::Ipv6Addr>().unwrap().octets()
    }

    #[test]
    fn an_independent_parser_reads_the_same_header() {
        let mut theirs = etherparse::Ipv6Header {
            payload_length: 1234,
            next_header: etherparse::ip_number::TCP,
            hop_limit: 9,
            source: ip("fd00::2"),
            destination: ip("fe80::42:aff:fe00:2"),
            ..Default::default()
        };
        theirs.traffic_class = 0xb9;
        // SAFETY: `Ipv6` is `repr(C)`, 40 bytes of integers without padding (asserted above).
        let ours: Ipv6 = unsafe { core::mem::transmute(theirs.to_bytes()) };
        assert!(ours.is_plausible());
        assert_eq!((ours.total_len(), ours.traffic_class(), ours.hop_limit), (1274, 0xb9, 9));
        assert_eq!((ours.src, ours.dst), (theirs.source, theirs.destination));
        assert!(same(ours.src, theirs.source) && !same(ours.src, ours.dst));
    }

    #[test]
    fn only_global_unicast_addresses_may_leave_a_link() {
        for martian in ["::", "::1", "::ffff:10.0.0.1", "fe80::1", "febf::1", "ff02::1", "ff0e::1"] {
            assert!(is_martian(ip(martian)), "{martian}");
        }
        for global in ["fd00::1", "2001:db8::1", "64:ff9b::1", "fec0::1"] {
            assert!(!is_martian(ip(global)), "{global}");
        }
    }

    #[test]
    fn a_fragment_is_a_later_one_by_its_offset_alone() {
        let fragment = |bits: u16| Extension { fragment_be: bits.to_be(), len: 9, ..Extension::default() };
        assert!(!fragment(1).is_later() && !fragment(6).is_later() && fragment(8).is_later());
        assert_eq!((fragment(0).len(FRAGMENT), fragment(0).len(60)), (8, 80), "its second byte is reserved");
    }
}
