//! Packets that nobody sends: what a container or another host would, and what the programs make of them.

use std::net::Ipv4Addr;

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, ArpPacket, Ethernet2Header, Ipv4Header, PacketBuilder, UdpHeader,
    ether_type, ip_number,
};
use overlay_common::{mac::Mac, wire::Vxlan};

use crate::model::RuleProtocol;

/// Source port of what is asked about, and its ICMP identifier.
const SOURCE_PORT: u16 = 40_000;
/// Hardware address of everybody.
const BROADCAST: [u8; 6] = [0xff; 6];
/// Time to live of a container's packet, as Linux has it.
const TTL: u8 = 64;
const ICMP_HEADER: usize = 8;
const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;
const IP_HEADER: usize = 20;

/// One end, at layers 2 and 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Hardware address.
    pub mac: Mac,
    /// IPv4 address.
    pub ip: Ipv4Addr,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// TCP: the first segment of a connection. ICMP: an echo request.
    pub protocol: RuleProtocol,
    /// Destination port.
    pub port: u16,
    /// Length of the IP packet in bytes; the least there can be if absent.
    pub size: Option<u16>,
}

impl Traffic {
    fn payload(self) -> Vec<u8> {
        let header = match self.protocol {
            RuleProtocol::Tcp => TCP_HEADER,
            RuleProtocol::Udp => UDP_HEADER,
            RuleProtocol::Icmp => ICMP_HEADER,
        };
        vec![0; usize::from(self.size.unwrap_or_default()).saturating_sub(IP_HEADER + header)]
    }
}

/// The question of a container who has an address.
pub fn arp_request(from: End, wanted: Ipv4Addr) -> Vec<u8> {
    let question = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: from.mac.0,
        sender_ipv4: from.ip.octets(),
        target_mac: [0; 6],
        target_ipv4: wanted.octets(),
    };
    let builder = PacketBuilder::ethernet2(from.mac.0, BROADCAST).arp(ArpPacket::from(question));
    let mut frame = Vec::with_capacity(builder.size());
    builder.write(&mut frame).expect("a vector takes any frame");
    frame
}

/// A packet with IPv4.
pub fn ipv4(from: End, to: End, traffic: Traffic) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.mac.0, to.mac.0).ipv4(from.ip.octets(), to.ip.octets(), TTL);
    let (mut frame, payload) = (Vec::new(), traffic.payload());
    let written = match traffic.protocol {
        RuleProtocol::Tcp => {
            builder.tcp(SOURCE_PORT, traffic.port, 0, u16::MAX).syn().write(&mut frame, &payload)
        }
        RuleProtocol::Udp => builder.udp(SOURCE_PORT, traffic.port).write(&mut frame, &payload),
        RuleProtocol::Icmp => builder.icmpv4_echo_request(SOURCE_PORT, 1).write(&mut frame, &payload),
    };
    written.expect("a packet whose length was given in 16 bits");
    frame
}

/// What another host sends, with a container's frame inside.
pub fn vxlan(from: End, to: End, port: u16, vni: u32, inner: &[u8]) -> Vec<u8> {
    let mut payload = vec![Vxlan::FLAG_VNI, 0, 0, 0];
    payload.extend(Vxlan::vni_bytes(vni));
    payload.push(0);
    payload.extend(inner);
    let builder = PacketBuilder::ethernet2(from.mac.0, to.mac.0)
        .ipv4(from.ip.octets(), to.ip.octets(), TTL)
        .udp(SOURCE_PORT, port);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, &payload).expect("a packet whose length was given in 16 bits");
    frame
}

/// What a program made of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// The answer to a question: who has the address.
    Answer(Mac),
    /// A packet for another host.
    Tunnelled {
        /// Network that it is delivered in.
        vni: u32,
        /// The other host.
        vtep: Ipv4Addr,
        /// The header says to which machine on the wire it goes.
        has_next_hop: bool,
    },
    /// A packet as the receiver sees it.
    Plain(End),
}

/// Reads it. `None` if it is nothing that the programs make.
pub fn read(frame: &[u8]) -> Option<Made> {
    let (eth, rest) = Ethernet2Header::from_slice(frame).ok()?;
    if eth.ether_type == ether_type::ARP {
        let answer = ArpPacket::from_slice(rest).ok()?.try_eth_ipv4().ok()?;
        return Some(Made::Answer(Mac(answer.sender_mac)));
    }
    let (ip, rest) = Ipv4Header::from_slice(rest).ok()?;
    let plain = Made::Plain(End { mac: Mac(eth.source), ip: ip.source.into() });
    Some(if ip.protocol == ip_number::UDP { tunnelled(&eth, &ip, rest).unwrap_or(plain) } else { plain })
}

/// A container cannot send such packets, so this is one of ours.
fn tunnelled(eth: &Ethernet2Header, ip: &Ipv4Header, rest: &[u8]) -> Option<Made> {
    let (_, payload) = UdpHeader::from_slice(rest).ok()?;
    let &[Vxlan::FLAG_VNI, 0, 0, 0, a, b, c, 0, ..] = payload else { return None };
    let vni = u32::from_be_bytes([0, a, b, c]);
    Some(Made::Tunnelled { vni, vtep: ip.destination.into(), has_next_hop: !Mac(eth.destination).is_zero() })
}

#[cfg(test)]
mod tests {
    use overlay_common::wire::outer::OVERHEAD;

    use super::*;

    const A: End = End { mac: Mac([2, 0, 0, 0, 0, 1]), ip: Ipv4Addr::new(10, 0, 0, 2) };
    const B: End = End { mac: Mac([2, 0, 0, 0, 0, 2]), ip: Ipv4Addr::new(10, 0, 0, 3) };

    #[test]
    fn what_was_built_is_read_back() {
        for protocol in [RuleProtocol::Tcp, RuleProtocol::Udp, RuleProtocol::Icmp] {
            let traffic = Traffic { protocol, port: 53, size: Some(100) };
            let frame = ipv4(A, B, traffic);
            assert_eq!((frame.len(), read(&frame)), (114, Some(Made::Plain(A))));
            let outer = vxlan(B, A, 4789, 256, &frame);
            assert_eq!(outer.len(), 114 + OVERHEAD);
            assert_eq!(read(&outer), Some(Made::Tunnelled { vni: 256, vtep: A.ip, has_next_hop: true }));
        }
    }

    #[test]
    fn the_least_packet_has_no_payload() {
        let traffic = Traffic { protocol: RuleProtocol::Tcp, port: 80, size: None };
        assert_eq!(ipv4(A, B, traffic).len(), 14 + IP_HEADER + TCP_HEADER);
    }
}
