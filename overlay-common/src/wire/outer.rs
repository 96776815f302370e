//! The headers that encapsulation puts before a container's packet.

use super::{
    Ethernet, Ipv4, Udp, Vxlan, checksum,
    headers::{ethertype, ip_proto},
};

/// Everything before the inner IP packet: outer Ethernet, IPv4, UDP, VXLAN and the inner Ethernet header.
///
/// A VTEP's template ([`OuterHeader::template`]) becomes a packet's header by [`OuterHeader::finish`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OuterHeader {
    /// Outer Ethernet header.
    pub eth: Ethernet,
    /// Outer IPv4 header.
    pub ip: Ipv4,
    /// Outer UDP header.
    pub udp: Udp,
    /// VXLAN header.
    pub vxlan: Vxlan,
    /// The container's Ethernet header.
    pub inner_eth: Ethernet,
}

/// Bytes that encapsulation adds over IPv4: outer Ethernet, IPv4, UDP and VXLAN.
pub const OVERHEAD: usize = Ethernet::LEN + Ipv4::LEN + Udp::LEN + Vxlan::LEN;
/// Bytes by which a container's MTU is smaller than the underlay's: IPv4, UDP, VXLAN, inner Ethernet.
pub const MTU_OVERHEAD: u16 = (Ipv4::LEN + Udp::LEN + Vxlan::LEN + Ethernet::LEN) as u16;
/// Largest inner IP packet whose outer length still fits the 16 bits of the outer header.
pub const MAX_INNER_LEN: usize = u16::MAX as usize - MTU_OVERHEAD as usize;
/// TTL of outer packets.
pub const OUTER_TTL: u8 = 64;
/// First UDP source port of outer packets; the flow hash fills the low 14 bits (RFC 7348 section 5).
pub const SOURCE_PORT_BASE: u16 = 49_152;

const _: () = {
    assert!(size_of::<OuterHeader>() == 64);
    assert!(core::mem::offset_of!(OuterHeader, ip) == 14);
    assert!(core::mem::offset_of!(OuterHeader, udp) == 34);
    assert!(core::mem::offset_of!(OuterHeader, vxlan) == 42);
    assert!(core::mem::offset_of!(OuterHeader, inner_eth) == OVERHEAD);
};

/// Where one end of a tunnel is, as the outer header needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelEnd {
    /// Hardware address on the underlay; for the remote end that of the next hop, zero if not known.
    pub mac: [u8; 6],
    /// VTEP address.
    pub addr: [u8; 4],
}

/// What one packet adds to its VTEP's template.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Network identifier.
    pub vni: u32,
    /// Length of the inner IP packet in bytes, at most [`MAX_INNER_LEN`].
    pub inner_len: u16,
    /// Traffic class of the inner packet; its ECN bits are copied (RFC 6040 section 4.1).
    pub inner_tos: u8,
    /// Hash of the inner flow.
    pub flow_hash: u32,
    /// The inner Ethernet header.
    pub inner_eth: Ethernet,
}

impl OuterHeader {
    /// The constant part for all packets from one VTEP to another. DF is set and the UDP checksum is 0.
    #[must_use]
    pub fn template(local: TunnelEnd, remote: TunnelEnd, remote_port: u16) -> Self {
        let ip = Ipv4 {
            version_ihl: Ipv4::VERSION_IHL,
            fragment_be: Ipv4::DONT_FRAGMENT.to_be(),
            ttl: OUTER_TTL,
            protocol: ip_proto::UDP,
            src: local.addr,
            dst: remote.addr,
            ..Ipv4::default()
        };
        Self {
            eth: Ethernet { dst: remote.mac, src: local.mac, ethertype_be: ethertype::IPV4.to_be() },
            ip: Ipv4 { checksum_be: checksum::fold(ip.sum()), ..ip },
            udp: Udp { dst_port_be: remote_port.to_be(), ..Udp::default() },
            vxlan: Vxlan { flags: Vxlan::FLAG_VNI, ..Vxlan::default() },
            inner_eth: Ethernet::default(),
        }
    }

    /// Makes a copy of the template this packet's header.
    #[inline(always)]
    pub fn finish(&mut self, packet: &Packet) {
        let udp_len = packet.inner_len + (Udp::LEN + Vxlan::LEN + Ethernet::LEN) as u16;
        self.ip.tos = packet.inner_tos & Ipv4::ECN_MASK;
        self.ip.total_len_be = (udp_len + Ipv4::LEN as u16).to_be();
        self.ip.checksum_be = checksum::complement(
            u32::from(self.ip.checksum_be)
                + u32::from(u16::from_ne_bytes([0, self.ip.tos]))
                + u32::from(self.ip.total_len_be),
        );
        self.udp.src_port_be = source_port(packet.flow_hash).to_be();
        self.udp.len_be = udp_len.to_be();
        self.vxlan.vni = Vxlan::vni_bytes(packet.vni);
        self.inner_eth = packet.inner_eth;
    }
}

/// The UDP source port that carries the flow's entropy to the receiver's queues, in 49152–65535.
#[inline(always)]
#[must_use]
pub const fn source_port(flow_hash: u32) -> u16 {
    SOURCE_PORT_BASE | (((flow_hash >> 16) ^ flow_hash) as u16 & !SOURCE_PORT_BASE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Ipv4HeaderSlice, UdpHeaderSlice};
    use proptest::prelude::*;

    fn bytes(header: &OuterHeader) -> [u8; 64] {
        // SAFETY: `OuterHeader` is `repr(C)`, 64 bytes, without padding (asserted above).
        unsafe { core::mem::transmute(*header) }
    }

    proptest! {
        #[test]
        fn an_independent_parser_reads_what_was_meant(
            vni in 1u32..=0xff_ffff, inner_len in 20u16..=65_485, tos: u8, hash: u32, local: [u8; 4], remote: [u8; 4], port: u16,
        ) {
            let end = |addr| TunnelEnd { mac: [2, 0, 0, 0, 0, 1], addr };
            let mut header = OuterHeader::template(end(local), end(remote), port);
            header.finish(&Packet { vni, inner_len, inner_tos: tos, flow_hash: hash, inner_eth: Ethernet::default() });
            let raw = bytes(&header);

            let ip = Ipv4HeaderSlice::from_slice(&raw[14..34]).unwrap();
            prop_assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
            prop_assert_eq!(ip.total_len(), inner_len + 50);
            prop_assert_eq!((ip.source(), ip.destination()), (local, remote));
            prop_assert!(ip.dont_fragment());
            prop_assert_eq!(ip.ecn().value(), tos & 3);
            prop_assert_eq!(ip.dcp().value(), 0);

            let udp = UdpHeaderSlice::from_slice(&raw[34..42]).unwrap();
            prop_assert_eq!(udp.destination_port(), port);
            prop_assert!(udp.source_port() >= SOURCE_PORT_BASE);
            prop_assert_eq!(udp.length(), inner_len + 30);
            prop_assert_eq!(udp.checksum(), 0);

            prop_assert_eq!(&raw[42..46], &[8, 0, 0, 0]);
            prop_assert_eq!(u32::from_be_bytes([0, raw[46], raw[47], raw[48]]), vni);
            prop_assert_eq!(raw[49], 0);
        }
    }

    #[test]
    fn source_ports_spread_over_the_whole_dynamic_range() {
        let ports: std::collections::BTreeSet<u16> =
            (0..=u16::MAX).map(|h| source_port(u32::from(h))).collect();
        assert_eq!((ports.len(), ports.first(), ports.last()), (16_384, Some(&49_152), Some(&65_535)));
    }
}
