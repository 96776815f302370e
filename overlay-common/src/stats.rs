//! Counters. All are per CPU: the programs write no memory that another CPU writes.

use core::ops::Add;

use crate::assert_layout;

/// Value of map `endpoint_stats`, keyed by the host veth's ifindex as `u32`.
///
/// Bytes are those of the container's frames, without the outer headers. The agent makes the entry when
/// it attaches the container.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointStats {
    /// Packets the container sent that were forwarded (a GSO packet counts once).
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets delivered to the container.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
}
assert_layout!(EndpointStats, size 32, tx_packets @ 0, tx_bytes @ 8, rx_packets @ 16, rx_bytes @ 24);

impl Add for EndpointStats {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            tx_packets: self.tx_packets + other.tx_packets,
            tx_bytes: self.tx_bytes + other.tx_bytes,
            rx_packets: self.rx_packets + other.rx_packets,
            rx_bytes: self.rx_bytes + other.rx_bytes,
        }
    }
}

/// Key of map `drops`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DropKey {
    /// The network, 0 where it is not known.
    pub vni: u32,
    /// Host veth of the local endpoint concerned, 0 where none is.
    pub ifindex: u32,
    /// Number of the [`DropReason`](crate::verdict::DropReason).
    pub reason: u32,
}
assert_layout!(DropKey, size 12, vni @ 0, ifindex @ 4, reason @ 8);

/// Value of map `drops`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCount {
    /// Packets dropped.
    pub packets: u64,
    /// Their bytes, as the dropping program saw them.
    pub bytes: u64,
}
assert_layout!(DropCount, size 16, packets @ 0, bytes @ 8);

impl Add for DropCount {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { packets: self.packets + other.packets, bytes: self.bytes + other.bytes }
    }
}

/// Key of map `rule_stats`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleKey {
    /// Network of the rule's senders.
    pub src_vni: u32,
    /// Network of its receivers.
    pub dst_vni: u32,
    /// The rule; 0 for what no rule of an audited direction allows.
    pub rule: u32,
}
assert_layout!(RuleKey, size 12, src_vni @ 0, dst_vni @ 4, rule @ 8);

/// Value of map `rule_stats`. The agent makes the entry when it puts the rule in force.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCount {
    /// Packets that passed by the rule, answers included.
    pub packets: u64,
    /// Flows that it opened.
    pub flows: u64,
}
assert_layout!(RuleCount, size 16, packets @ 0, flows @ 8);

impl Add for RuleCount {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { packets: self.packets + other.packets, flows: self.flows + other.flows }
    }
}
