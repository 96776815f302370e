//! IPv6 frames, built and read with `etherparse`.

use std::net::Ipv6Addr;

use etherparse::{
    Icmpv6Header, Icmpv6Slice, Icmpv6Type, IpNumber, Ipv6Header, TcpHeader, UdpHeader, ether_type,
    icmpv6::{NeighborAdvertisementHeader, RouterAdvertisementHeader},
    ip_number,
};

use crate::packet::{Addr, Frame};

/// One end at layers 2 and 3, over IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addr6 {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Address.
    pub ip: Ipv6Addr,
}

impl From<Addr> for Addr6 {
    fn from(addr: Addr) -> Self {
        Self { mac: addr.mac, ip: addr.ipv6() }
    }
}

impl Addr6 {
    /// The same hardware address with its link-local address.
    #[must_use]
    pub fn link_local(addr: Addr) -> Self {
        Self { mac: addr.mac, ip: addr.link_local() }
    }

    /// Another address behind the same hardware address.
    #[must_use]
    pub fn at(self, ip: Ipv6Addr) -> Self {
        Self { ip, ..self }
    }

    /// The same address behind another hardware address.
    #[must_use]
    pub fn behind(self, mac: [u8; 6]) -> Self {
        Self { mac, ..self }
    }

    /// Where questions for an address go (RFC 4291 section 2.7.1, RFC 2464 section 7).
    #[must_use]
    pub fn solicited_node(target: Ipv6Addr) -> Self {
        let [.., a, b, c] = target.octets();
        let (last, low) = (0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
        Self { mac: [0x33, 0x33, 0xff, a, b, c], ip: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, last, low) }
    }
}

/// Everybody on the link.
pub const ALL_NODES: Addr6 =
    Addr6 { mac: [0x33, 0x33, 0, 0, 0, 1], ip: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) };
/// All routers of the link.
pub const ALL_ROUTERS: Addr6 =
    Addr6 { mac: [0x33, 0x33, 0, 0, 0, 2], ip: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2) };

/// An extension header of eight bytes, nothing but padding.
#[must_use]
pub fn padding(next: IpNumber) -> [u8; 8] {
    [next.0, 0, 1, 4, 0, 0, 0, 0]
}

/// A fragment header with this offset in units of eight bytes.
#[must_use]
pub fn fragment(next: IpNumber, offset: u16, more: bool) -> [u8; 8] {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    [next.0, 0, high, low, 0, 0, 0, 7]
}

/// Builders.
impl Frame {
    /// An IPv6 packet with any payload.
    #[must_use]
    pub fn ipv6(from: Addr6, to: Addr6, next: IpNumber, hop_limit: u8, payload: &[u8]) -> Self {
        let header = Ipv6Header {
            payload_length: payload.len().try_into().expect("a payload that fits"),
            next_header: next,
            hop_limit,
            source: from.ip.octets(),
            destination: to.ip.octets(),
            ..Ipv6Header::default()
        };
        Self::ethernet(from.mac, to.mac, ether_type::IPV6.0, &[&header.to_bytes(), payload].concat())
    }

    /// A UDP packet over IPv6.
    #[must_use]
    pub fn udp6(from: Addr6, to: Addr6, (src, dst): (u16, u16), payload: &[u8]) -> Self {
        Self::ipv6(from, to, ip_number::UDP, 64, &Self::udp6_payload(from, to, (src, dst), payload))
    }

    /// The UDP part of such a packet.
    #[must_use]
    pub fn udp6_payload(from: Addr6, to: Addr6, (src, dst): (u16, u16), payload: &[u8]) -> Vec<u8> {
        let ip =
            Ipv6Header { source: from.ip.octets(), destination: to.ip.octets(), ..Ipv6Header::default() };
        let udp = UdpHeader::with_ipv6_checksum(src, dst, &ip, payload).expect("payload fits UDP");
        [&udp.to_bytes()[..], payload].concat()
    }

    /// A TCP segment that opens a connection over IPv6.
    #[must_use]
    pub fn tcp6_syn(from: Addr6, to: Addr6, (src, dst): (u16, u16)) -> Self {
        let mut tcp = TcpHeader::new(src, dst, 1, 64_000);
        tcp.syn = true;
        Self::tcp6(from, to, tcp)
    }

    /// Any TCP segment without data; its checksum is made right.
    #[must_use]
    pub fn tcp6(from: Addr6, to: Addr6, mut tcp: TcpHeader) -> Self {
        let ip =
            Ipv6Header { source: from.ip.octets(), destination: to.ip.octets(), ..Ipv6Header::default() };
        tcp.checksum = tcp.calc_checksum_ipv6(&ip, &[]).expect("a segment that fits");
        Self::ipv6(from, to, ip_number::TCP, 64, &tcp.to_bytes())
    }

    /// An ICMPv6 message with the hop limit of neighbour discovery.
    #[must_use]
    pub fn icmp6(from: Addr6, to: Addr6, kind: Icmpv6Type, payload: &[u8]) -> Self {
        let icmp = Icmpv6Header::with_checksum(kind, from.ip.octets(), to.ip.octets(), payload);
        let message = [&icmp.expect("a message that fits").to_bytes()[..], payload].concat();
        Self::ipv6(from, to, ip_number::IPV6_ICMP, 255, &message)
    }

    /// A ping over IPv6.
    #[must_use]
    pub fn echo6_request(from: Addr6, to: Addr6, payload: &[u8]) -> Self {
        let header = etherparse::IcmpEchoHeader { id: 7, seq: 1 };
        Self::icmp6(from, to, Icmpv6Type::EchoRequest(header), payload)
    }

    /// A question for a neighbour, with the asker's hardware address unless it has no address yet.
    #[must_use]
    pub fn neighbour_solicitation(from: Addr6, to: Addr6, target: Ipv6Addr) -> Self {
        let own = [&[1, 1][..], &from.mac].concat();
        let option: &[u8] = if from.ip.is_unspecified() { &[] } else { &own };
        let payload = [&target.octets(), option].concat();
        Self::icmp6(from, to, Icmpv6Type::NeighborSolicitation, &payload)
    }

    /// A claim that an address is at the sender's hardware address.
    #[must_use]
    pub fn neighbour_advertisement(from: Addr6, to: Addr6, target: Ipv6Addr) -> Self {
        let flags = NeighborAdvertisementHeader { router: false, solicited: false, r#override: true };
        let payload = [&target.octets()[..], &[2, 1], &from.mac].concat();
        Self::icmp6(from, to, Icmpv6Type::NeighborAdvertisement(flags), &payload)
    }

    /// What a router says of itself: that it is one, for half an hour.
    #[must_use]
    pub fn router_advertisement(from: Addr6, to: Addr6) -> Self {
        let header = RouterAdvertisementHeader {
            cur_hop_limit: 64,
            managed_address_config: false,
            other_config: false,
            router_lifetime: 1800,
        };
        Self::icmp6(from, to, Icmpv6Type::RouterAdvertisement(header), &[0; 8])
    }
}

/// Readers.
impl Frame {
    /// The IPv6 header and what is behind it.
    #[must_use]
    pub fn ipv6_packet(&self) -> Option<(Ipv6Header, &[u8])> {
        let is_ipv6 = self.eth().ether_type == ether_type::IPV6;
        is_ipv6.then(|| Ipv6Header::from_slice(&self.0[14..]).ok()).flatten()
    }

    /// The ICMPv6 message, the checksum of which has to be right.
    #[must_use]
    pub fn icmp6_packet(&self) -> Option<(Ipv6Header, Icmpv6Slice<'_>)> {
        let (ip, rest) = self.ipv6_packet()?;
        let message = rest.get(..usize::from(ip.payload_length))?;
        let icmp = Icmpv6Slice::from_slice(message).ok()?;
        icmp.is_checksum_valid(ip.source, ip.destination).then_some((ip, icmp))
    }
}
