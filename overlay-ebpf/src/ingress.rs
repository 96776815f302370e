//! Admission of a packet from the underlay: what tc and XDP check alike, in the order of the headers.
//!
//! Our checks are complete before anything is delivered: outer form, then who sent it, then the inner
//! frame, then whether its destination lives here. One look-up in the FDB gives delivery and isolation.

use aya_ebpf::{bindings::TC_ACT_SHOT, programs::TcContext};
use overlay_common::{
    config::Config,
    fdb::{FdbEntry, FdbKey},
    mac::Mac,
    network::{FLAG_MULTICAST, FLAG_RULES, Network},
    verdict::DropReason,
    vtep::{ANY_NETWORK, EXTERNAL, HOST, VtepMemberKey},
    wire::{
        Ethernet, Ipv4, Ipv6, Udp, Vxlan,
        headers::{ethertype, ip_proto},
        icmpv6,
        outer::OVERHEAD,
    },
};

use crate::{
    count::{self, Place},
    external::{self, Question},
    inner6::{InnerIp6, Reasons, linear_extensions},
    maps::lookup,
    packet::{Bytes, InnerIp, linear},
};

/// Outer headers, inner Ethernet, the inner IPv4 header and the inner ports: what is read of a packet.
const HEADERS: usize = OVERHEAD + Ethernet::LEN + Ipv4::LEN + 14;
/// The same with an inner IPv6 header. Not asked of every packet: IPv4 over TCP is often linear that far and no further.
const HEADERS_IPV6: usize = HEADERS - Ipv4::LEN + Ipv6::LEN;

/// Why an inner IPv6 packet is not as it should be.
pub const REASONS: Reasons = Reasons {
    truncated: DropReason::InnerTruncated,
    malformed: DropReason::InnerMalformed,
    extensions: DropReason::InnerExtensionHeaders,
};

/// Makes sure that what is read of a packet is linear, whose frame is at `offset`.
#[inline(always)]
pub fn linear_headers(ctx: &TcContext, offset: usize) -> Bytes {
    let bytes = linear(ctx, HEADERS as u32);
    let is_ipv6 = bytes.read::<u16>(offset + 12) == Some(ethertype::IPV6.to_be());
    if is_ipv6 { linear_extensions(ctx, linear(ctx, HEADERS_IPV6 as u32), offset) } else { bytes }
}

const OUTER_IP: usize = Ethernet::LEN;
const OUTER_UDP: usize = OUTER_IP + Ipv4::LEN;
const VXLAN: usize = OUTER_UDP + Udp::LEN;

/// What may pass.
#[derive(Clone, Copy)]
pub enum Admission {
    /// A frame for a container on this host.
    Frame(Admitted),
    /// An external member asks who has an address.
    Question(Question),
}

/// A frame for a container on this host.
#[derive(Clone, Copy)]
pub struct Admitted {
    /// Its network.
    pub vni: u32,
    /// Host veth of the container; 0 for a packet that all of the network's get.
    pub ifindex: u32,
    /// The inner Ethernet header.
    pub eth: Ethernet,
    /// Protocol of the inner IP packet.
    pub protocol: u8,
    /// Congestion was met on the underlay (outer ECN is CE).
    pub congested: bool,
    /// What else is to be looked at: the flags of its entry in map `fdb`, see [`crate::deliver`].
    pub flags: u32,
    /// It was routed here from another network, and rules decide what may be: see [`crate::rules`].
    pub ruled: bool,
}

impl Admitted {
    /// Whose packet it is.
    #[inline(always)]
    pub fn place(&self) -> Place {
        Place { vni: self.vni, ifindex: self.ifindex }
    }
}

/// A packet of ours that may not pass.
#[derive(Clone, Copy)]
pub struct Rejected {
    /// Its network, 0 if it names none that exists.
    pub vni: u32,
    /// Why.
    pub reason: DropReason,
}

impl Rejected {
    /// Drops the packet and counts it.
    #[inline(always)]
    pub fn shoot(self, ctx: &TcContext) -> i32 {
        count::dropped(ctx, Place { vni: self.vni, ifindex: 0 }, self.reason, u64::from(ctx.len()));
        TC_ACT_SHOT
    }
}

/// Looks at a packet of `len` bytes, of which `bytes` are at hand. `Ok(None)`: it is not for us.
#[inline(always)]
pub fn admit(bytes: Bytes, len: usize, config: &Config) -> Result<Option<Admission>, Rejected> {
    let unknown = |reason| Rejected { vni: 0, reason };
    let Some(outer) = outer_ip(bytes, config) else { return Ok(None) };
    match check_outer(bytes, &outer, len, config) {
        Ok(true) => {}
        Ok(false) => return Ok(None),
        Err(reason) => return Err(unknown(reason)),
    }
    let vxlan: Vxlan = bytes.read(VXLAN).ok_or(unknown(DropReason::OuterTruncated))?;
    if vxlan.flags & Vxlan::FLAG_VNI == 0 {
        return Err(unknown(DropReason::VxlanFlags));
    }
    let vni = vxlan.vni();
    let network = lookup!(networks, vni).ok_or(unknown(DropReason::UnknownVni))?;
    let known = |reason| Rejected { vni, reason };
    if external::is_arp(bytes, OVERHEAD) {
        let peer = asked(vni, outer.src).map_err(known)?;
        let question = external::question(bytes, OVERHEAD, vni, peer).map_err(known)?;
        return Ok(Some(Admission::Question(question)));
    }
    let peer = peer(vni, outer.src).map_err(known)?;
    let congested = outer.tos & Ipv4::ECN_MASK == Ipv4::ECN_MASK;
    let frame = admit_frame(bytes, OVERHEAD, len, Delivery { vni, network }, config).map_err(known)?;
    peer.check_sender(bytes, OVERHEAD, vni).map_err(known)?;
    Ok(Some(Admission::Frame(Admitted { congested, ..frame })))
}

/// The outer header, if the packet is IPv4/UDP to our VTEP address and to our device.
#[inline(always)]
fn outer_ip(bytes: Bytes, config: &Config) -> Option<Ipv4> {
    let eth: Ethernet = bytes.read(0)?;
    if eth.ethertype_be != ethertype::IPV4.to_be() || eth.dst != config.underlay_mac {
        return None;
    }
    let ip: Ipv4 = bytes.read(OUTER_IP)?;
    (ip.protocol == ip_proto::UDP && ip.dst == config.vtep_addr).then_some(ip)
}

/// Whether the packet goes to our port (`Ok(false)`: leave it), and whether its lengths are true.
#[inline(always)]
fn check_outer(bytes: Bytes, ip: &Ipv4, len: usize, config: &Config) -> Result<bool, DropReason> {
    // With options the port is elsewhere. Nobody sends such VXLAN; the kernel's socket must not see it either.
    let udp_at = OUTER_IP + if ip.is_plausible() { ip.header_len() } else { Ipv4::LEN };
    let Some(port_be) = bytes.read::<u16>(udp_at + 2) else { return Ok(false) };
    if port_be != config.vxlan_port_be || ip.is_later_fragment() {
        // A later fragment has no ports; without the first, dropped below, it never becomes a packet.
        return Ok(false);
    }
    if ip.is_fragment() {
        return Err(DropReason::OuterFragment);
    }
    if ip.version_ihl != Ipv4::VERSION_IHL {
        return Err(DropReason::OuterMalformed);
    }
    let udp: Udp = bytes.read(OUTER_UDP).ok_or(DropReason::OuterTruncated)?;
    let udp_len = u16::from_be(udp.len_be) as usize;
    if udp_len + Ipv4::LEN != ip.total_len() || OUTER_IP + ip.total_len() > len {
        return Err(DropReason::OuterMalformed);
    }
    if udp_len < Udp::LEN + Vxlan::LEN {
        return Err(DropReason::OuterTruncated);
    }
    Ok(true)
}

/// The machine that a packet came from.
#[derive(Clone, Copy)]
pub struct Peer {
    /// Its VTEP address.
    pub vtep_addr: [u8; 4],
    /// It has no agent: nobody has checked what it sends.
    pub is_external: bool,
}

impl Peer {
    /// Whether the frame at `offset` is from who it says. Other hosts have asked that of their containers; an external
    /// machine is asked here.
    #[inline(always)]
    pub fn check_sender(self, bytes: Bytes, offset: usize, vni: u32) -> Result<(), DropReason> {
        if self.is_external { external::check_sender(bytes, offset, vni, self.vtep_addr) } else { Ok(()) }
    }
}

/// Who sent a packet of a network, if such packets may come from there.
#[inline(always)]
pub fn peer(vni: u32, vtep_addr: [u8; 4]) -> Result<Peer, DropReason> {
    if let Some(kind) = lookup!(vtep_members, &VtepMemberKey { vni, vtep_addr }) {
        return Ok(Peer { vtep_addr, is_external: *kind == EXTERNAL });
    }
    let is_known = lookup!(vtep_members, &VtepMemberKey { vni: ANY_NETWORK, vtep_addr }).is_some();
    Err(if is_known { DropReason::VtepNotMember } else { DropReason::UnknownVtep })
}

/// Who sent a question: any host may be asked for any network, and hand the question on.
#[inline(always)]
fn asked(vni: u32, vtep_addr: [u8; 4]) -> Result<Peer, DropReason> {
    let is_host = |kind: &u32| *kind == HOST;
    if lookup!(vtep_members, &VtepMemberKey { vni: ANY_NETWORK, vtep_addr }).is_some_and(is_host) {
        return Ok(Peer { vtep_addr, is_external: false });
    }
    peer(vni, vtep_addr)
}

/// The network that a frame is delivered in.
#[derive(Clone, Copy)]
pub struct Delivery<'a> {
    /// Its identifier.
    pub vni: u32,
    /// Its record.
    pub network: &'a Network,
}

/// Checks the frame at `offset` of a packet of `len` bytes, and finds the container that it is for.
#[inline(always)]
pub fn admit_frame(
    bytes: Bytes,
    offset: usize,
    len: usize,
    Delivery { vni, network }: Delivery<'_>,
    config: &Config,
) -> Result<Admitted, DropReason> {
    let eth: Ethernet = bytes.read(offset).ok_or(DropReason::InnerTruncated)?;
    let kind = u16::from_be(eth.ethertype_be);
    if ethertype::is_vlan(kind) {
        return Err(DropReason::InnerVlanTagged);
    }
    let is_group = Mac(eth.dst).is_group();
    if is_group && network.flags & FLAG_MULTICAST == 0 {
        return Err(DropReason::InnerMulticast);
    }
    let protocol = match kind {
        ethertype::IPV4 => admit_ipv4(bytes, offset, len, config)?,
        // Copies are made of IPv4 alone: what IPv6 has to ask a group, each host answers by itself.
        ethertype::IPV6 if network.has_ipv6() && is_group => return Err(DropReason::InnerMulticast),
        ethertype::IPV6 if network.has_ipv6() => admit_ipv6(bytes, offset, len, config)?,
        _ => return Err(DropReason::InnerUnsupported),
    };
    if is_group {
        return Ok(Admitted { vni, ifindex: 0, eth, protocol, congested: false, flags: 0, ruled: false });
    }
    let entry = lookup!(fdb, &FdbKey::new(vni, eth.dst)).ok_or(DropReason::InnerUnknownMac)?;
    if entry.ifindex == 0 {
        return Err(DropReason::InnerNotLocal);
    }
    let ruled = network.flags & FLAG_RULES != 0 && eth.src == network.gateway_mac;
    let FdbEntry { ifindex, flags, .. } = *entry;
    Ok(Admitted { vni, ifindex, eth, protocol, congested: false, flags, ruled })
}

/// Protocol of the IPv4 packet in the frame at `offset`.
#[inline(always)]
fn admit_ipv4(bytes: Bytes, offset: usize, len: usize, config: &Config) -> Result<u8, DropReason> {
    let ip = InnerIp::parse(bytes, offset, len, DropReason::InnerTruncated, DropReason::InnerMalformed)?;
    if ip.is_udp_to(bytes, config.vxlan_port_be) {
        return Err(DropReason::InnerNestedVxlan);
    }
    Ok(ip.header.protocol)
}

/// Protocol of the IPv6 packet in the frame at `offset`.
#[inline(always)]
fn admit_ipv6(bytes: Bytes, offset: usize, len: usize, config: &Config) -> Result<u8, DropReason> {
    let ip = InnerIp6::parse(bytes, offset, len, &REASONS)?;
    if ip.is_udp_to(bytes, config.vxlan_port_be) {
        return Err(DropReason::InnerNestedVxlan);
    }
    let first = offset + Ethernet::LEN + Ipv6::DST_OFFSET;
    if bytes.read::<u8>(first) == Some(0xff) {
        return Err(DropReason::InnerMulticast);
    }
    if ip.icmp_type(bytes).is_some_and(icmpv6::is_neighbour_discovery) {
        return Err(DropReason::InnerNd);
    }
    Ok(ip.protocol)
}
