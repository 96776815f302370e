//! ICMPv6: errors that a gateway answers with (RFC 4443), and neighbour discovery (RFC 4861).

use super::{
    Ethernet, Ipv6, checksum,
    headers::{ethertype, ip_proto},
    ipv6::{ALL_NODES, ALL_NODES_MAC, UNSPECIFIED, same},
    outer::OUTER_TTL,
};

/// Type of a ping.
pub const ECHO_REQUEST: u8 = 128;
/// Type of its answer.
pub const ECHO_REPLY: u8 = 129;
/// Types of multicast listener discovery: query, report, done (RFC 2710).
pub const MLD: core::ops::RangeInclusive<u8> = 130..=132;
/// Type of the report of its second version (RFC 3810).
pub const MLD2_REPORT: u8 = 143;
/// Type of a question for routers.
pub const ROUTER_SOLICITATION: u8 = 133;
/// Type of what a router says of itself.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Type of a question for a neighbour.
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Type of the answer to that.
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Type of an error that names another router.
pub const REDIRECT: u8 = 137;
/// Length of every ICMPv6 header that we read.
pub const HEADER_LEN: usize = size_of::<Header>();
/// Where the message's checksum is.
pub const CHECKSUM_OFFSET: usize = core::mem::offset_of!(Header, checksum_be);
/// The hop limit without which nobody believes neighbour discovery: nobody could have sent it from another link.
pub const ND_HOP_LIMIT: u8 = 255;

/// Whether messages of a type quote the packet that they are about.
#[inline(always)]
#[must_use]
pub const fn is_error(kind: u8) -> bool {
    kind < 128
}

/// Whether a message speaks of a link's neighbours or routers, and so never leaves its link.
#[inline(always)]
#[must_use]
pub const fn is_neighbour_discovery(kind: u8) -> bool {
    matches!(kind, ROUTER_SOLICITATION..=REDIRECT)
}

/// Header of a message.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum over the message and a pseudo-header.
    pub checksum_be: u16,
    /// What the type says: an MTU, flags, an identifier.
    pub word_be: [u16; 2],
}

/// The checksum of a message of `len` bytes, given the sum over both addresses and the message, which lie one behind the
/// other: the rest of the pseudo-header (RFC 8200 section 8.1) is its length and protocol.
#[inline(always)]
#[must_use]
pub const fn checksum_over(sum: u32, len: u16) -> u16 {
    checksum::complement(
        checksum::fold(sum) as u32 + len.to_be() as u32 + (ip_proto::ICMPV6 as u16).to_be() as u32,
    )
}

/// What was wrong with a packet: type, code and MTU in one word, so that it passes between programs in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(u32);

impl Error {
    /// Nothing is to be said.
    pub const NONE: Self = Self(0);

    /// Whether nothing is to be said.
    #[inline(always)]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The word.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u32 {
        self.0
    }

    /// The error that is this word.
    #[inline(always)]
    #[must_use]
    pub const fn of_word(word: u32) -> Self {
        Self(word)
    }

    /// Its life ended at a router.
    pub const TIME_EXCEEDED: Self = Self::new(3, 0, 0);
    /// No way leads to its destination.
    pub const NO_ROUTE: Self = Self::new(1, 0, 0);
    /// A way leads there, but it may not be gone.
    pub const PROHIBITED: Self = Self::new(1, 1, 0);
    /// The destination's link has nobody of that address.
    pub const ADDRESS_UNREACHABLE: Self = Self::new(1, 3, 0);

    /// One of this many bytes would have passed (RFC 8201).
    #[inline(always)]
    #[must_use]
    pub const fn packet_too_big(mtu: u16) -> Self {
        Self::new(2, 0, mtu)
    }

    const fn new(kind: u8, code: u8, mtu: u16) -> Self {
        Self((kind as u32) << 24 | (code as u32) << 16 | mtu as u32)
    }

    #[inline(always)]
    const fn header(self) -> Header {
        let (kind, code, mtu) = ((self.0 >> 24) as u8, (self.0 >> 16) as u8, self.0 as u16);
        Header { kind, code, checksum_be: 0, word_be: [0, mtu.to_be()] }
    }
}

/// Bytes of the offending packet that are quoted: its header, and so much more that its ports and its sequence number are
/// among it, and the checksum field that the kernel refuses to cut off a packet.
pub const QUOTE_LEN: usize = Ipv6::LEN + 64;
/// Bytes that an answer puts between the Ethernet header and the quote.
pub const PREFIX_LEN: usize = Ipv6::LEN + HEADER_LEN;

/// Everything that goes before the quote of the offending packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorMessage {
    /// Ethernet header, back to the sender.
    pub eth: Ethernet,
    /// IPv6 header, from the gateway.
    pub ip: Ipv6,
    /// ICMPv6 header.
    pub icmp: Header,
}

const _: () = assert!(size_of::<ErrorMessage>() == Ethernet::LEN + PREFIX_LEN);

/// An end of a message on a link.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Address.
    pub ip: [u8; 16],
}

#[inline(always)]
const fn headers(from: End, to: End, payload_len: u16, hop_limit: u8) -> (Ethernet, Ipv6) {
    let eth = Ethernet { dst: to.mac, src: from.mac, ethertype_be: ethertype::IPV6.to_be() };
    let ip = Ipv6 {
        version_class: Ipv6::VERSION_CLASS,
        payload_len_be: payload_len.to_be(),
        next_header: ip_proto::ICMPV6,
        hop_limit,
        src: from.ip,
        dst: to.ip,
        class_flow: 0,
        flow: [0; 2],
    };
    (eth, ip)
}

impl ErrorMessage {
    /// Length of the message in bytes, its quote included.
    pub const MESSAGE_LEN: usize = HEADER_LEN + QUOTE_LEN;

    /// The headers of an answer, without its checksum.
    #[inline(always)]
    #[must_use]
    pub const fn new(gateway: End, sender: End, error: Error) -> Self {
        let (eth, ip) = headers(gateway, sender, Self::MESSAGE_LEN as u16, OUTER_TTL);
        Self { eth, ip, icmp: error.header() }
    }
}

/// A neighbour advertisement as it goes back to who asked.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advertisement {
    /// Ethernet header.
    pub eth: Ethernet,
    /// IPv6 header.
    pub ip: Ipv6,
    /// ICMPv6 header; the first word holds the flags.
    pub icmp: Header,
    /// Whose hardware address is told.
    pub target: [u8; 16],
    /// Type of the option, and its length in units of eight bytes.
    pub option: [u8; 2],
    /// That hardware address.
    pub mac: [u8; 6],
}

const _: () = assert!(size_of::<Advertisement>() == Advertisement::LEN);

impl Advertisement {
    /// Length in bytes.
    pub const LEN: usize = Ethernet::LEN + Ipv6::LEN + Self::MESSAGE_LEN;
    /// Length of the message in bytes.
    pub const MESSAGE_LEN: usize = HEADER_LEN + 16 + 8;
    /// Option: the target's hardware address; one unit.
    const TARGET_MAC: [u8; 2] = [2, 1];
    const ROUTER: u16 = 0x8000;
    const SOLICITED: u16 = 0x4000;
    const OVERRIDE: u16 = 0x2000;

    /// What `target` says to who asked for it, without its checksum. To one without an address, who asks whether the address is free (RFC 4862
    /// section 5.4), it says so by way of all nodes.
    #[inline(always)]
    #[must_use]
    pub fn new(target: End, is_router: bool, asker: End) -> Self {
        let is_probe = same(asker.ip, UNSPECIFIED);
        let to = if is_probe { End { mac: ALL_NODES_MAC, ip: ALL_NODES } } else { asker };
        let len = Self::MESSAGE_LEN as u16;
        let (eth, ip) = headers(target, to, len, ND_HOP_LIMIT);
        let flags = Self::OVERRIDE
            | if is_router { Self::ROUTER } else { 0 }
            | if is_probe { 0 } else { Self::SOLICITED };
        let icmp =
            Header { kind: NEIGHBOUR_ADVERTISEMENT, code: 0, checksum_be: 0, word_be: [flags.to_be(), 0] };
        Self { eth, ip, icmp, target: target.ip, option: Self::TARGET_MAC, mac: target.mac }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv6Slice, Ipv6HeaderSlice};
    use rstest::rstest;

    use super::*;

    const GATEWAY: End = End { mac: [2, 0x42, 10, 0, 0, 1], ip: [0xfd; 16] };
    const SENDER: End = End { mac: [2, 0x42, 10, 0, 0, 2], ip: [0xfc; 16] };

    /// The frame with its checksum in place, if somebody else accepts that.
    fn checked(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
        let addresses_and_message = &frame[22..];
        let checksum_be = checksum_over(checksum::sum(addresses_and_message), u16::try_from(len).unwrap());
        frame[56..58].copy_from_slice(&checksum_be.to_ne_bytes());
        let ip = Ipv6HeaderSlice::from_slice(&frame[14..]).unwrap();
        assert_eq!(usize::from(ip.payload_length()), frame.len() - 54);
        let message = Icmpv6Slice::from_slice(&frame[54..]).unwrap();
        assert!(message.is_checksum_valid(ip.source(), ip.destination()));
        frame
    }

    #[test]
    fn an_independent_parser_accepts_an_error() {
        let headers = ErrorMessage::new(GATEWAY, SENDER, Error::packet_too_big(1430));
        // SAFETY: `ErrorMessage` is `repr(C)`, 62 bytes, without padding (asserted above).
        let raw: [u8; 62] = unsafe { core::mem::transmute(headers) };
        let frame = checked([&raw[..], &[0x65u8; QUOTE_LEN]].concat(), ErrorMessage::MESSAGE_LEN);
        assert_eq!(frame[54..56], [2, 0]);
        assert_eq!(frame[58..62], 1430_u32.to_be_bytes());
    }

    #[rstest]
    #[case::neighbour(false, SENDER, 0x60)]
    #[case::gateway(true, SENDER, 0xe0)]
    #[case::probe(false, End { ip: UNSPECIFIED, ..SENDER }, 0x20)]
    fn an_independent_parser_accepts_an_advertisement(
        #[case] router: bool,
        #[case] asker: End,
        #[case] flags: u8,
    ) {
        let target = End { ip: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], ..GATEWAY };
        let frame = Advertisement::new(target, router, asker);
        // SAFETY: `Advertisement` is `repr(C)`, 86 bytes, without padding (asserted above).
        let raw: [u8; Advertisement::LEN] = unsafe { core::mem::transmute(frame) };
        let raw = checked(raw.to_vec(), Advertisement::MESSAGE_LEN);
        assert_eq!((raw[54], raw[58], raw[21]), (136, flags, 255));
        assert_eq!((&raw[62..78], &raw[78..]), (&target.ip[..], &[2, 1, 2, 0x42, 10, 0, 0, 1][..]));
        let to_all = raw[..6] == ALL_NODES_MAC && raw[38..54] == ALL_NODES;
        assert_eq!(to_all, same(asker.ip, UNSPECIFIED));
    }
}
