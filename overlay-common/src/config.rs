//! The host's own settings: one record, read by every program.

use crate::assert_layout;

/// Settings of this host's data path (map `config`, index 0).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The device that carries VXLAN packets to other hosts.
    pub underlay_ifindex: u32,
    /// The collect-metadata vxlan device of the slow path.
    pub tunnel_ifindex: u32,
    /// This host's VTEP address.
    pub vtep_addr: [u8; 4],
    /// UDP port on which this host receives VXLAN packets.
    pub vxlan_port_be: u16,
    /// MTU of the underlay device in bytes.
    pub underlay_mtu: u16,
    /// Sum of `FLAG_*`.
    pub flags: u32,
    /// Hardware address of the underlay device: only packets addressed to it are ours.
    pub underlay_mac: [u8; 6],
    #[doc(hidden)]
    pub pad: [u8; 2],
}
assert_layout!(Config, size 28, underlay_ifindex @ 0, tunnel_ifindex @ 4, vtep_addr @ 8, vxlan_port_be @ 12,
    underlay_mtu @ 14, flags @ 16, underlay_mac @ 20, pad @ 26);

/// The underlay device checksums at any offset (`tx-checksum-ip-generic`), so a packet that is no GSO
/// packet can be encapsulated without telling the kernel about its inner headers, which is cheaper.
pub const FLAG_GENERIC_CHECKSUM: u32 = 1 << 0;
/// The XDP program also delivers (mode `decap`); otherwise it only drops what is hostile (mode `filter`).
pub const FLAG_XDP_DECAP: u32 = 1 << 1;

/// Mark of a packet that the underlay's program has checked and leaves to the tunnel device. What comes out
/// of that device without it came in some other way than through the underlay. The kernel clears marks
/// where a packet crosses namespaces, so no container can set it.
pub const MARK_ADMITTED: u32 = 0x6f76_6c00;
