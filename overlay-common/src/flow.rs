//! Flows that rules let through: what makes a packet the answer to another.
//!
//! An entry says that a packet from its source was let through lately, and nothing more: whether the flow may go on is
//! asked of the rules anew, packet by packet, so whatever ends a rule ends its flows. Both hosts keep their own entries,
//! made from packets that they judged themselves. Since each packet of the side that opened the flow makes the entry
//! anew, one that the map had to forget comes back.

use crate::{addr::Addr, assert_layout};

/// Key of map `flows`: a flow, in the direction in which it was opened.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    /// Network of who opened it.
    pub src_vni: u32,
    /// Network of who was asked.
    pub dst_vni: u32,
    /// Address of who opened it.
    pub src: Addr,
    /// Address of who was asked.
    pub dst: Addr,
    /// Source port; identifier of an ICMP query; identification of a datagram in fragments.
    pub src_port_be: u16,
    /// Destination port; type of an ICMP query.
    pub dst_port_be: u16,
    /// IP protocol.
    pub protocol: u8,
    /// [`FlowKey::FLOW`] or [`FlowKey::FRAGMENTS`].
    pub kind: u8,
    #[doc(hidden)]
    pub pad: [u8; 2],
}
assert_layout!(
    FlowKey, size 48,
    src_vni @ 0, dst_vni @ 4, src @ 8, dst @ 24, src_port_be @ 40, dst_port_be @ 42, protocol @ 44, kind @ 45, pad @ 46,
);

impl FlowKey {
    /// A flow.
    pub const FLOW: u8 = 0;
    /// One datagram whose first fragment was let through.
    pub const FRAGMENTS: u8 = 1;

    /// The same between the same ends, the other way round.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            src_vni: self.dst_vni,
            dst_vni: self.src_vni,
            src: self.dst,
            dst: self.src,
            src_port_be: self.dst_port_be,
            dst_port_be: self.src_port_be,
            protocol: self.protocol,
            kind: self.kind,
            pad: self.pad,
        }
    }
}

/// Value of map `flows`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// When a packet of it last passed, in nanoseconds since the host started.
    pub seen_ns: u64,
    /// Whether an end said that it is over: 0 or 1.
    pub closing: u32,
    #[doc(hidden)]
    pub pad: u32,
}
assert_layout!(Flow, size 16, seen_ns @ 0, closing @ 8, pad @ 12);

const SECOND_NS: u64 = 1_000_000_000;

/// How long an open TCP connection may be idle. Keepalives come every two hours where nobody chose otherwise.
pub const TCP_IDLE_NS: u64 = 24 * 3600 * SECOND_NS;
/// How long a TCP connection is remembered after one of its ends closed or reset it.
pub const CLOSING_IDLE_NS: u64 = 120 * SECOND_NS;
/// How long anything else may be idle.
pub const OTHER_IDLE_NS: u64 = 180 * SECOND_NS;
/// How long fragments may follow the first one: what Linux waits for them.
pub const FRAGMENTS_NS: u64 = 30 * SECOND_NS;
/// An entry is not written more often than this: the time of most packets would cost more than it tells.
pub const TOUCH_NS: u64 = SECOND_NS;

impl Flow {
    /// Whether packets may still belong to it.
    #[inline(always)]
    #[must_use]
    pub const fn is_live(&self, key: &FlowKey, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.seen_ns) <= self.idle_ns(key)
    }

    /// Whether it should be written that a packet of it passed now.
    #[inline(always)]
    #[must_use]
    pub const fn is_stale(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.seen_ns) >= TOUCH_NS
    }

    #[inline(always)]
    const fn idle_ns(&self, key: &FlowKey) -> u64 {
        if key.kind == FlowKey::FRAGMENTS {
            FRAGMENTS_NS
        } else if key.protocol != crate::wire::headers::ip_proto::TCP {
            OTHER_IDLE_NS
        } else if self.closing != 0 {
            CLOSING_IDLE_NS
        } else {
            TCP_IDLE_NS
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::wire::headers::ip_proto::{TCP, UDP};

    #[rstest]
    #[case::tcp(TCP, FlowKey::FLOW, 0, TCP_IDLE_NS)]
    #[case::tcp_that_was_closed(TCP, FlowKey::FLOW, 1, CLOSING_IDLE_NS)]
    #[case::udp(UDP, FlowKey::FLOW, 0, OTHER_IDLE_NS)]
    #[case::fragments(TCP, FlowKey::FRAGMENTS, 0, FRAGMENTS_NS)]
    fn a_flow_lives_until_it_was_idle_for_its_kinds_time(
        #[case] protocol: u8,
        #[case] kind: u8,
        #[case] closing: u32,
        #[case] idle_ns: u64,
    ) {
        let key = FlowKey { protocol, kind, ..FlowKey::default() };
        let flow = Flow { seen_ns: 5, closing, pad: 0 };
        assert!(flow.is_live(&key, 5 + idle_ns) && !flow.is_live(&key, 6 + idle_ns));
        assert!(flow.is_live(&key, 4), "clocks of two CPUs may differ a little");
    }

    #[test]
    fn reversing_twice_changes_nothing() {
        let key = FlowKey {
            src_vni: 1,
            dst_vni: 2,
            src: Addr::v4([3; 4]),
            dst: Addr::v6([4; 16]),
            src_port_be: 5,
            dst_port_be: 6,
            protocol: UDP,
            kind: FlowKey::FLOW,
            pad: [0; 2],
        };
        let back = key.reversed();
        assert_eq!(
            (back.src_vni, back.src, back.src_port_be, back.dst_port_be),
            (2, Addr::v6([4; 16]), 6, 5)
        );
        assert_eq!(back.reversed(), key);
    }
}
