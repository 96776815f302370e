//! Header layouts and the constants in them.

/// EtherTypes, host byte order.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8;
    /// Whether this announces a VLAN tag.
    #[must_use]
    pub const fn is_vlan(ethertype: u16) -> bool {
        matches!(ethertype, VLAN | QINQ)
    }
}

/// IP protocol numbers.
pub mod ip_proto {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// Ethernet II header.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination address.
    pub dst: [u8; 6],
    /// Source address.
    pub src: [u8; 6],
    /// EtherType.
    pub ethertype_be: u16,
}

impl Ethernet {
    /// Length in bytes.
    pub const LEN: usize = size_of::<Self>();
}

/// IPv4 header without options (RFC 791).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv4 {
    /// Version (high four bits) and header length in 32-bit words.
    pub version_ihl: u8,
    /// Traffic class: DSCP and, in the low two bits, ECN.
    pub tos: u8,
    /// Length of header and payload in bytes.
    pub total_len_be: u16,
    /// Identification.
    pub id_be: u16,
    /// Flags and fragment offset.
    pub fragment_be: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum.
    pub checksum_be: u16,
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
}

impl Ipv4 {
    /// Length in bytes without options.
    pub const LEN: usize = size_of::<Self>();
    /// `version_ihl` of a header without options.
    pub const VERSION_IHL: u8 = 0x45;
    /// Flag "do not fragment" in `fragment_be`, host byte order.
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// "More fragments" and the offset in `fragment_be`, host byte order: any bit set makes a fragment.
    pub const FRAGMENT_MASK: u16 = 0x3fff;
    /// Where the header's checksum is.
    pub const CHECKSUM_OFFSET: usize = core::mem::offset_of!(Self, checksum_be);
    /// Where the source address is.
    pub const SRC_OFFSET: usize = core::mem::offset_of!(Self, src);
    /// Where the destination address is, right behind the source's.
    pub const DST_OFFSET: usize = core::mem::offset_of!(Self, dst);
    /// The ECN bits of `tos`.
    pub const ECN_MASK: u8 = 0x03;

    /// Header length in bytes as the header gives it; below 20 it lies.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        ((self.version_ihl & 0x0f) as usize) * 4
    }

    /// Whether version and header length can be true.
    #[must_use]
    pub const fn is_plausible(&self) -> bool {
        self.version_ihl >> 4 == 4 && self.header_len() >= Self::LEN
    }

    /// Whether the packet is a fragment, the first included.
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.fragment_be & Self::FRAGMENT_MASK.to_be() != 0
    }

    /// Whether the packet is a fragment without the payload's beginning.
    #[must_use]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment_be & (Self::FRAGMENT_MASK >> 1).to_be() != 0
    }

    /// One's complement sum over the header's words, the checksum field included, not folded.
    #[inline(always)]
    #[must_use]
    pub const fn sum(&self) -> u32 {
        const fn word(a: u8, b: u8) -> u32 {
            u16::from_ne_bytes([a, b]) as u32
        }
        word(self.version_ihl, self.tos)
            + self.total_len_be as u32
            + self.id_be as u32
            + self.fragment_be as u32
            + word(self.ttl, self.protocol)
            + self.checksum_be as u32
            + word(self.src[0], self.src[1])
            + word(self.src[2], self.src[3])
            + word(self.dst[0], self.dst[1])
            + word(self.dst[2], self.dst[3])
    }

    /// Total length in bytes as the header gives it.
    #[must_use]
    pub const fn total_len(&self) -> usize {
        u16::from_be(self.total_len_be) as usize
    }
}

/// UDP header (RFC 768).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub src_port_be: u16,
    /// Destination port.
    pub dst_port_be: u16,
    /// Length of header and payload in bytes.
    pub len_be: u16,
    /// Checksum; 0 means none (allowed over IPv4, RFC 7348 section 5).
    pub checksum_be: u16,
}

impl Udp {
    /// Length in bytes.
    pub const LEN: usize = size_of::<Self>();
}

/// VXLAN header (RFC 7348 section 5).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vxlan {
    /// Flags; [`Vxlan::FLAG_VNI`] must be set.
    pub flags: u8,
    /// Reserved: zero when sent, ignored when received.
    pub reserved: [u8; 3],
    /// Network identifier.
    pub vni: [u8; 3],
    /// Reserved.
    pub reserved2: u8,
}

impl Vxlan {
    /// Length in bytes.
    pub const LEN: usize = size_of::<Self>();
    /// The identifier is valid.
    pub const FLAG_VNI: u8 = 0x08;
    /// Port assigned by IANA.
    pub const PORT: u16 = 4789;

    /// The identifier as a number; 0 is none.
    #[must_use]
    pub const fn vni(&self) -> u32 {
        let [a, b, c] = self.vni;
        u32::from_be_bytes([0, a, b, c])
    }

    /// The three bytes of an identifier.
    #[must_use]
    pub const fn vni_bytes(vni: u32) -> [u8; 3] {
        let [_, a, b, c] = vni.to_be_bytes();
        [a, b, c]
    }
}

/// ARP packet for IPv4 over Ethernet (RFC 826).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arp {
    /// 1: Ethernet.
    pub hardware_be: u16,
    /// EtherType of the protocol: IPv4.
    pub protocol_be: u16,
    /// 6.
    pub hardware_len: u8,
    /// 4.
    pub protocol_len: u8,
    /// [`Arp::REQUEST`] or [`Arp::REPLY`].
    pub operation_be: u16,
    /// Sender's hardware address.
    pub sender_mac: [u8; 6],
    /// Sender's address.
    pub sender_ip: [u8; 4],
    /// Target's hardware address.
    pub target_mac: [u8; 6],
    /// Target's address.
    pub target_ip: [u8; 4],
}

impl Arp {
    /// Length in bytes.
    pub const LEN: usize = size_of::<Self>();
    /// Operation: who has `target_ip`?
    pub const REQUEST: u16 = 1;
    /// Operation: `sender_ip` is at `sender_mac`.
    pub const REPLY: u16 = 2;

    /// Whether this speaks of IPv4 over Ethernet.
    #[must_use]
    pub const fn is_ipv4_over_ethernet(&self) -> bool {
        self.hardware_be == 1u16.to_be()
            && self.protocol_be == ethertype::IPV4.to_be()
            && self.hardware_len == 6
            && self.protocol_len == 4
    }

    /// The answer to this request: `mac` owns the address asked for.
    #[must_use]
    pub const fn reply(&self, mac: [u8; 6]) -> Self {
        Self {
            hardware_be: self.hardware_be,
            protocol_be: self.protocol_be,
            hardware_len: self.hardware_len,
            protocol_len: self.protocol_len,
            operation_be: Self::REPLY.to_be(),
            sender_mac: mac,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
        }
    }
}

const _: () = {
    assert!(Ethernet::LEN == 14);
    assert!(Ipv4::LEN == 20);
    assert!(Udp::LEN == 8);
    assert!(Vxlan::LEN == 8);
    assert!(Arp::LEN == 28);
};
