//! ICMP (RFC 792): the errors that a gateway answers with, and what must be known of others' messages.

use super::{
    Ethernet, Ipv4, checksum,
    headers::{ethertype, ip_proto},
};

/// Type of a ping.
pub const ECHO_REQUEST: u8 = 8;
/// Type of its answer.
pub const ECHO_REPLY: u8 = 0;
/// Type of an error that names another router.
pub const REDIRECT: u8 = 5;
/// Length of every ICMP header.
pub const HEADER_LEN: usize = size_of::<IcmpError>();
/// Where the message's checksum is.
pub const CHECKSUM_OFFSET: usize = core::mem::offset_of!(IcmpError, checksum_be);

/// Whether messages of a type quote the packet that they are about: unreachable, quench, redirect, time exceeded,
/// parameter problem.
#[inline(always)]
#[must_use]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, 3..=5 | 11 | 12)
}

/// Where queries and replies have their identifier.
pub const ID_OFFSET: usize = 4;

/// The type of the queries that messages of a type reply to: echo, timestamp, information, address mask.
#[inline(always)]
#[must_use]
pub const fn query_of(kind: u8) -> Option<u8> {
    match kind {
        ECHO_REPLY => Some(ECHO_REQUEST),
        14 => Some(13),
        16 => Some(15),
        18 => Some(17),
        _ => None,
    }
}

/// What was wrong with a packet: type, code and MTU in one word, so that it passes between programs in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(u32);

impl Error {
    /// Its life ended at a router.
    pub const TIME_EXCEEDED: Self = Self::new(11, 0, 0);

    /// It may not be fragmented; one of this many bytes would have passed (RFC 1191).
    #[inline(always)]
    #[must_use]
    pub const fn fragmentation_needed(mtu: u16) -> Self {
        Self::new(3, 4, mtu)
    }

    const fn new(kind: u8, code: u8, mtu: u16) -> Self {
        Self((kind as u32) << 24 | (code as u32) << 16 | mtu as u32)
    }

    #[inline(always)]
    const fn parts(self) -> (u8, u8, u16) {
        ((self.0 >> 24) as u8, (self.0 >> 16) as u8, self.0 as u16)
    }
}

/// ICMP header of an error (RFC 792, with the MTU of RFC 1191).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IcmpError {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum over header and quote.
    pub checksum_be: u16,
    /// Zero.
    pub unused_be: u16,
    /// Largest IP packet that would have passed, in bytes; zero where that was not what was wrong.
    pub mtu_be: u16,
}

/// Everything that goes before the quote of the offending packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorMessage {
    /// Ethernet header, back to the sender.
    pub eth: Ethernet,
    /// IPv4 header, from the gateway.
    pub ip: Ipv4,
    /// ICMP header.
    pub icmp: IcmpError,
}

/// Bytes of the offending IP packet that are quoted: the longest IPv4 header (60) and 28 more, so that the
/// quote holds the transport header's checksum field, which the kernel refuses to cut off a packet.
pub const QUOTE_LEN: usize = 88;
/// Bytes that the answer puts between the Ethernet header and the quote.
pub const PREFIX_LEN: usize = Ipv4::LEN + HEADER_LEN;

const _: () = assert!(size_of::<ErrorMessage>() == Ethernet::LEN + PREFIX_LEN);

/// Who answers whom.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The gateway's hardware address.
    pub gateway_mac: [u8; 6],
    /// The gateway's address.
    pub gateway_ip: [u8; 4],
    /// The sender's hardware address.
    pub sender_mac: [u8; 6],
    /// The sender's address.
    pub sender_ip: [u8; 4],
    /// What was wrong.
    pub error: Error,
}

impl ErrorMessage {
    /// The headers of the answer. `quote_sum` is the sum over the [`QUOTE_LEN`] quoted bytes.
    #[inline(always)]
    #[must_use]
    pub fn new(answer: &Answer, quote_sum: u32) -> Self {
        let mut ip = Ipv4 {
            version_ihl: Ipv4::VERSION_IHL,
            total_len_be: ((PREFIX_LEN + QUOTE_LEN) as u16).to_be(),
            ttl: super::outer::OUTER_TTL,
            protocol: ip_proto::ICMP,
            src: answer.gateway_ip,
            dst: answer.sender_ip,
            ..Ipv4::default()
        };
        ip.checksum_be = checksum::complement(ip.sum());
        let (kind, code, mtu) = answer.error.parts();
        let kind_code = u16::from_ne_bytes([kind, code]);
        let sum = u32::from(kind_code) + u32::from(mtu.to_be()) + u32::from(checksum::fold(quote_sum));
        Self {
            eth: Ethernet {
                dst: answer.sender_mac,
                src: answer.gateway_mac,
                ethertype_be: ethertype::IPV4.to_be(),
            },
            ip,
            icmp: IcmpError {
                kind,
                code,
                checksum_be: checksum::complement(sum),
                unused_be: 0,
                mtu_be: mtu.to_be(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_independent_parser_accepts_both_checksums() {
        let quote = [0x45u8; QUOTE_LEN];
        let answer = Answer {
            gateway_mac: [2; 6],
            gateway_ip: [10, 0, 0, 1],
            sender_mac: [4; 6],
            sender_ip: [10, 0, 0, 2],
            error: Error::fragmentation_needed(1450),
        };
        let headers = ErrorMessage::new(&answer, checksum::sum(&quote));
        // SAFETY: `ErrorMessage` is `repr(C)`, 42 bytes, without padding (asserted above).
        let raw: [u8; 42] = unsafe { core::mem::transmute(headers) };
        let ip = etherparse::Ipv4HeaderSlice::from_slice(&raw[14..34]).unwrap();
        assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
        let message = [&raw[34..], &quote].concat();
        let icmp = etherparse::Icmpv4Slice::from_slice(&message).unwrap();
        assert_eq!(checksum::fold(checksum::sum(&message)), 0xffff);
        assert_eq!((icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8()), (3, 4, [0, 0, 0x05, 0xaa]));
    }
}
