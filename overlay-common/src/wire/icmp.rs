//! ICMP fragmentation-needed, the answer to a packet that is larger than the network's MTU.

use super::{
    Ethernet, Ipv4, checksum,
    headers::{ethertype, ip_proto},
};

/// ICMP header of a destination-unreachable message (RFC 792, with the MTU of RFC 1191).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IcmpUnreachable {
    /// [`IcmpUnreachable::TYPE`].
    pub kind: u8,
    /// [`IcmpUnreachable::FRAGMENTATION_NEEDED`].
    pub code: u8,
    /// Checksum over header and quote.
    pub checksum_be: u16,
    /// Zero.
    pub unused_be: u16,
    /// Largest IP packet that would have passed, in bytes.
    pub mtu_be: u16,
}

impl IcmpUnreachable {
    /// Destination unreachable.
    pub const TYPE: u8 = 3;
    /// Fragmentation needed and DF set.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
}

/// Everything that goes before the quote of the offending packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentationNeeded {
    /// Ethernet header, back to the sender.
    pub eth: Ethernet,
    /// IPv4 header, from the gateway.
    pub ip: Ipv4,
    /// ICMP header.
    pub icmp: IcmpUnreachable,
}

/// Bytes of the offending IP packet that are quoted: the longest IPv4 header (60) and 28 more, so that the
/// quote holds the transport header's checksum field, which the kernel refuses to cut off a packet.
pub const QUOTE_LEN: usize = 88;
/// Bytes that the answer puts between the Ethernet header and the quote.
pub const PREFIX_LEN: usize = Ipv4::LEN + size_of::<IcmpUnreachable>();

const _: () = assert!(size_of::<FragmentationNeeded>() == Ethernet::LEN + PREFIX_LEN);

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
    /// Largest IP packet of the network in bytes.
    pub mtu: u16,
}

impl FragmentationNeeded {
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
        let kind_code = u16::from_ne_bytes([IcmpUnreachable::TYPE, IcmpUnreachable::FRAGMENTATION_NEEDED]);
        let sum = u32::from(kind_code) + u32::from(answer.mtu.to_be()) + u32::from(checksum::fold(quote_sum));
        Self {
            eth: Ethernet {
                dst: answer.sender_mac,
                src: answer.gateway_mac,
                ethertype_be: ethertype::IPV4.to_be(),
            },
            ip,
            icmp: IcmpUnreachable {
                kind: IcmpUnreachable::TYPE,
                code: IcmpUnreachable::FRAGMENTATION_NEEDED,
                checksum_be: checksum::complement(sum),
                unused_be: 0,
                mtu_be: answer.mtu.to_be(),
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
            mtu: 1450,
        };
        let headers = FragmentationNeeded::new(&answer, checksum::sum(&quote));
        // SAFETY: `FragmentationNeeded` is `repr(C)`, 42 bytes, without padding (asserted above).
        let raw: [u8; 42] = unsafe { core::mem::transmute(headers) };
        let ip = etherparse::Ipv4HeaderSlice::from_slice(&raw[14..34]).unwrap();
        assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
        let message = [&raw[34..], &quote].concat();
        let icmp = etherparse::Icmpv4Slice::from_slice(&message).unwrap();
        assert_eq!(checksum::fold(checksum::sum(&message)), 0xffff);
        assert_eq!((icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8()), (3, 4, [0, 0, 0x05, 0xaa]));
    }
}
