//! Raw frames: honest ones from builders, hostile ones by changing what the builders made.
//!
//! Built and read with `etherparse`, which shares nothing with the wire formats of the product, so both
//! have to agree on what a packet is.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, ArpPacket, EtherType, Ethernet2Header, IcmpEchoHeader, Icmpv4Header,
    Icmpv4Type, IpNumber, Ipv4Header, TcpHeader, UdpHeader, ether_type, ip_number,
};

/// Hardware address of everybody.
pub const BROADCAST: [u8; 6] = [0xff; 6];
/// Port of VXLAN.
pub const VXLAN_PORT: u16 = 4789;

/// Port of every container that takes datagrams and says nothing (RFC 863). To any other port without a socket, the
/// kernel answers with an ICMP error, which a test that counts packets does not expect.
pub const DISCARD_PORT: u16 = 9;

/// Where headers begin in a frame.
pub mod offset {
    /// IPv4 header of a frame, the outer one of a VXLAN packet.
    pub const IP: usize = 14;
    /// UDP header of a frame, the outer one of a VXLAN packet.
    pub const UDP: usize = 34;
    /// VXLAN header.
    pub const VXLAN: usize = 42;
    /// Inner Ethernet header of a VXLAN packet.
    pub const INNER: usize = 50;
    /// Inner IPv4 header of a VXLAN packet.
    pub const INNER_IP: usize = 64;
}

/// One end at layers 2 and 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addr {
    /// Hardware address.
    pub mac: [u8; 6],
    /// IPv4 address.
    pub ip: Ipv4Addr,
}

impl Addr {
    /// The hardware address as text.
    #[must_use]
    pub fn mac_text(&self) -> String {
        mac_text(self.mac)
    }

    /// Another IP address behind the same hardware address.
    #[must_use]
    pub fn at(self, ip: Ipv4Addr) -> Self {
        Self { ip, ..self }
    }

    /// The IPv6 address that belongs to the IPv4 address: fd00:C::D for A.B.C.D.
    #[must_use]
    pub fn ipv6(self) -> Ipv6Addr {
        let [_, _, net, host] = self.ip.octets();
        Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, host.into())
    }

    /// The link-local IPv6 address that the hardware address makes (RFC 4291 appendix A).
    #[must_use]
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac.map(u16::from);
        Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
    }

    /// The same IP address behind another hardware address.
    #[must_use]
    pub fn behind(self, mac: [u8; 6]) -> Self {
        Self { mac, ..self }
    }
}

/// A hardware address as text.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The hardware address that a text stands for.
///
/// # Panics
/// If it stands for none.
#[must_use]
#[track_caller]
pub fn mac_from_text(text: &str) -> [u8; 6] {
    let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes.and_then(|b| b.try_into().ok()).unwrap_or_else(|| panic!("{text:?} is no MAC address"))
}

/// An Ethernet frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(pub Vec<u8>);

/// A VXLAN packet, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encapsulated {
    /// Outer IPv4 header.
    pub ip: Ipv4Header,
    /// Outer UDP header.
    pub udp: UdpHeader,
    /// First byte of the VXLAN header.
    pub flags: u8,
    /// VXLAN network identifier.
    pub vni: u32,
    /// The container's frame.
    pub inner: Frame,
}

/// Builders.
impl Frame {
    /// Any payload behind an Ethernet header.
    #[must_use]
    pub fn ethernet(src: [u8; 6], dst: [u8; 6], ethertype: u16, payload: &[u8]) -> Self {
        let header = Ethernet2Header { source: src, destination: dst, ether_type: EtherType(ethertype) };
        Self([&header.to_bytes()[..], payload].concat())
    }

    /// An IPv4 packet with any payload.
    #[must_use]
    pub fn ipv4(from: Addr, to: Addr, protocol: IpNumber, payload: &[u8]) -> Self {
        let packet = [&ip_header(from, to, protocol, payload.len()).to_bytes(), payload].concat();
        Self::ethernet(from.mac, to.mac, ether_type::IPV4.0, &packet)
    }

    /// A UDP packet.
    #[must_use]
    pub fn udp(from: Addr, to: Addr, (src_port, dst_port): (u16, u16), payload: &[u8]) -> Self {
        let ip = ip_header(from, to, ip_number::UDP, UdpHeader::LEN + payload.len());
        let udp = UdpHeader::with_ipv4_checksum(src_port, dst_port, &ip, payload).expect("payload fits UDP");
        Self::ipv4(from, to, ip_number::UDP, &[&udp.to_bytes()[..], payload].concat())
    }

    /// A TCP segment that opens a connection.
    #[must_use]
    pub fn tcp_syn(from: Addr, to: Addr, ports: (u16, u16)) -> Self {
        Self::tcp_syn_saying(from, to, ports, &[])
    }

    /// One that brings data along (RFC 9293 section 3.4 allows it).
    #[must_use]
    pub fn tcp_syn_saying(from: Addr, to: Addr, (src_port, dst_port): (u16, u16), payload: &[u8]) -> Self {
        let mut tcp = TcpHeader::new(src_port, dst_port, 1, 64_000);
        tcp.syn = true;
        Self::tcp(from, to, tcp, payload)
    }

    /// Any TCP segment; its checksum is made right.
    #[must_use]
    pub fn tcp(from: Addr, to: Addr, mut tcp: TcpHeader, payload: &[u8]) -> Self {
        let ip = ip_header(from, to, ip_number::TCP, tcp.header_len() + payload.len());
        tcp.checksum = tcp.calc_checksum_ipv4(&ip, payload).expect("a segment that fits");
        Self::ipv4(from, to, ip_number::TCP, &[&tcp.to_bytes()[..], payload].concat())
    }

    /// An ICMP echo request.
    #[must_use]
    pub fn echo_request(from: Addr, to: Addr, id: u16, payload: &[u8]) -> Self {
        let kind = Icmpv4Type::EchoRequest(IcmpEchoHeader { id, seq: 1 });
        let header = Icmpv4Header::with_checksum(kind, payload);
        Self::ipv4(from, to, ip_number::ICMP, &[&header.to_bytes(), payload].concat())
    }

    /// An ARP request that tells the truth about its sender, sent to everybody.
    #[must_use]
    pub fn arp_request(from: Addr, wanted: Ipv4Addr) -> Self {
        let claim = ArpEthIpv4Packet {
            operation: ArpOperation::REQUEST,
            sender_mac: from.mac,
            sender_ipv4: from.ip.octets(),
            target_mac: [0; 6],
            target_ipv4: wanted.octets(),
        };
        Self::arp(from.mac, BROADCAST, claim)
    }

    /// Any ARP packet.
    #[must_use]
    pub fn arp(src: [u8; 6], dst: [u8; 6], claim: ArpEthIpv4Packet) -> Self {
        Self::ethernet(src, dst, ether_type::ARP.0, &ArpPacket::from(claim).to_bytes())
    }

    /// A VXLAN packet as RFC 7348 wants it: DF set, UDP checksum 0.
    #[must_use]
    pub fn vxlan(from: Addr, to: Addr, vni: u32, inner: &Self) -> Self {
        let [_, a, b, c] = vni.to_be_bytes();
        let payload = [&[0x08, 0, 0, 0, a, b, c, 0], &inner.0[..]].concat();
        let udp =
            UdpHeader::without_ipv4_checksum(0xd123, VXLAN_PORT, payload.len()).expect("payload fits UDP");
        Self::ipv4(from, to, ip_number::UDP, &[&udp.to_bytes()[..], &payload].concat())
    }
}

/// Changes: each takes a frame and gives back the changed one.
impl Frame {
    /// Overwrites bytes.
    #[must_use]
    pub fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Changes fields of the IPv4 header that begins at `at`, and makes its checksum right again.
    ///
    /// # Panics
    /// If there is none, or the change gives it another length.
    #[must_use]
    #[track_caller]
    pub fn edit_ip(self, at: usize, edit: impl FnOnce(&mut Ipv4Header)) -> Self {
        let (mut ip, _) = Ipv4Header::from_slice(&self.0[at..]).expect("an IPv4 header");
        let len = ip.header_len();
        edit(&mut ip);
        ip.header_checksum = ip.calc_header_checksum();
        assert_eq!(ip.header_len(), len, "use `with_ip_options` to change the length of an IPv4 header");
        self.put(at, &ip.to_bytes())
    }

    /// Changes fields of the UDP header that begins at `at`.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn edit_udp(self, at: usize, edit: impl FnOnce(&mut UdpHeader)) -> Self {
        let (mut udp, _) = UdpHeader::from_slice(&self.0[at..]).expect("a UDP header");
        edit(&mut udp);
        self.put(at, &udp.to_bytes())
    }

    /// Inserts four bytes of options (no-operation) into the IPv4 header at `at`; all else stays true.
    ///
    /// # Panics
    /// If there is no IPv4 header.
    #[must_use]
    #[track_caller]
    pub fn with_ip_options(self, at: usize) -> Self {
        let (mut ip, payload) = Ipv4Header::from_slice(&self.0[at..]).expect("an IPv4 header");
        ip.options = [1, 1, 1, 1].into();
        ip.total_len += 4;
        ip.header_checksum = ip.calc_header_checksum();
        Self([&self.0[..at], &ip.to_bytes(), payload].concat())
    }

    /// Inserts a VLAN tag (802.1Q or 802.1ad by its EtherType) behind the addresses that begin at `at`.
    #[must_use]
    pub fn with_vlan_tag(self, at: usize, ethertype: u16) -> Self {
        let [a, b] = ethertype.to_be_bytes();
        Self([&self.0[..at + 12], &[a, b, 0, 5], &self.0[at + 12..]].concat())
    }

    /// Only the first `len` bytes, whatever the headers say.
    #[must_use]
    pub fn cut(mut self, len: usize) -> Self {
        self.0.truncate(len);
        self
    }

    /// Only the first `len` bytes of a VXLAN packet, with outer lengths that say so as far as they are left.
    #[must_use]
    #[track_caller]
    pub fn cut_outer(self, len: usize) -> Self {
        let bytes = |at: usize| u16::try_from(len - at).expect("a length of 16 bits");
        let frame = self.edit_ip(offset::IP, |ip| ip.total_len = bytes(offset::IP));
        frame.edit_udp(offset::UDP, |udp| udp.length = bytes(offset::UDP)).cut(len)
    }

    /// Zeros at the end, up to `len` bytes in all: what a network card adds to a short frame.
    #[must_use]
    pub fn padded(mut self, len: usize) -> Self {
        self.0.resize(self.0.len().max(len), 0);
        self
    }
}

/// Readers: what an independent parser sees.
impl Frame {
    /// The Ethernet header.
    ///
    /// # Panics
    /// If the frame is shorter than one.
    #[must_use]
    #[track_caller]
    pub fn eth(&self) -> Ethernet2Header {
        Ethernet2Header::from_slice(&self.0).expect("a frame has an Ethernet header").0
    }

    /// The ARP packet, if it is one.
    #[must_use]
    pub fn arp_packet(&self) -> Option<ArpEthIpv4Packet> {
        (self.eth().ether_type == ether_type::ARP)
            .then(|| ArpPacket::from_slice(&self.0[14..]).ok()?.try_eth_ipv4().ok())?
    }

    /// The IPv4 header and its payload (without padding), if it is IPv4.
    #[must_use]
    pub fn ip_packet(&self) -> Option<(Ipv4Header, &[u8])> {
        let is_ipv4 = self.eth().ether_type == ether_type::IPV4;
        let (ip, rest) = is_ipv4.then(|| Ipv4Header::from_slice(&self.0[offset::IP..]).ok())??;
        let len = ip.payload_len().ok()?;
        let payload = rest.get(..usize::from(len))?;
        Some((ip, payload))
    }

    /// IPv4 header, UDP header and payload, if it is UDP and no fragment.
    #[must_use]
    pub fn udp_packet(&self) -> Option<(Ipv4Header, UdpHeader, &[u8])> {
        let (ip, payload) = self.ip_packet()?;
        let is_udp = ip.protocol == ip_number::UDP && !ip.is_fragmenting_payload();
        let (udp, payload) = is_udp.then(|| UdpHeader::from_slice(payload).ok())??;
        Some((ip, udp, payload))
    }

    /// IPv4 header, ICMP header and payload, if it is ICMP.
    #[must_use]
    pub fn icmp_packet(&self) -> Option<(Ipv4Header, Icmpv4Header, &[u8])> {
        let (ip, payload) = self.ip_packet()?;
        let (icmp, payload) =
            (ip.protocol == ip_number::ICMP).then(|| Icmpv4Header::from_slice(payload).ok())??;
        Some((ip, icmp, payload))
    }

    /// The VXLAN packet, if it is sent to VXLAN's port.
    #[must_use]
    pub fn vxlan_packet(&self) -> Option<Encapsulated> {
        let (ip, udp, payload) = self.udp_packet()?;
        let (header, inner) = (udp.destination_port == VXLAN_PORT).then(|| payload.split_at_checked(8))??;
        let vni = u32::from_be_bytes([0, header[4], header[5], header[6]]);
        Some(Encapsulated { ip, udp, flags: header[0], vni, inner: Self(inner.to_vec()) })
    }

    /// Whether these bytes are anywhere in it.
    #[must_use]
    pub fn contains(&self, bytes: &[u8]) -> bool {
        self.0.windows(bytes.len()).any(|window| window == bytes)
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex: Vec<String> = self.0.iter().take(96).map(|byte| format!("{byte:02x}")).collect();
        write!(
            f,
            "Frame({} bytes: {}{})",
            self.0.len(),
            hex.join(""),
            if self.0.len() > 96 { "…" } else { "" }
        )
    }
}

fn ip_header(from: Addr, to: Addr, protocol: IpNumber, payload_len: usize) -> Ipv4Header {
    let len = u16::try_from(payload_len).expect("payload fits IPv4");
    let mut ip =
        Ipv4Header::new(len, 64, protocol, from.ip.octets(), to.ip.octets()).expect("payload fits IPv4");
    ip.header_checksum = ip.calc_header_checksum();
    ip
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Addr = Addr { mac: [2, 0, 0, 0, 0, 1], ip: Ipv4Addr::new(192, 0, 2, 1) };
    const B: Addr = Addr { mac: [2, 0, 0, 0, 0, 2], ip: Ipv4Addr::new(192, 0, 2, 2) };

    #[test]
    fn a_vxlan_packet_reads_back_as_it_was_built() {
        let inner = Frame::udp(A, B, (1000, 2000), b"hello");
        let outer = Frame::vxlan(A, B, 0x01_02_03, &inner);
        let read = outer.vxlan_packet().unwrap();
        assert_eq!((read.flags, read.vni, &read.inner), (8, 0x01_02_03, &inner));
        assert_eq!((read.ip.dont_fragment, read.udp.checksum), (true, 0));
        assert_eq!(inner.udp_packet().unwrap().2, b"hello");
        assert_eq!(&outer.0[offset::INNER..], &inner.0);
    }

    #[test]
    fn changes_hit_the_field_that_they_name() {
        let frame = Frame::vxlan(A, B, 1, &Frame::udp(A, B, (1, 2), &[7; 10]));
        let (ip, _) = frame
            .clone()
            .edit_ip(offset::INNER_IP, |ip| ip.time_to_live = 3)
            .ip_packet()
            .map(|(ip, p)| (ip, p.len()))
            .unwrap();
        assert_eq!(ip.time_to_live, 64, "the outer header stays");
        assert_eq!(frame.clone().with_ip_options(offset::IP).ip_packet().unwrap().0.header_len(), 24);
        assert_eq!(frame.clone().with_vlan_tag(0, 0x8100).eth().ether_type, EtherType(0x8100));
        let cut = frame.clone().cut_outer(60);
        assert_eq!((cut.0.len(), cut.ip_packet().unwrap().0.total_len), (60, 46));
        assert_eq!(Frame::arp_request(A, B.ip).padded(60).arp_packet().unwrap().target_ipv4, B.ip.octets());
    }
}
