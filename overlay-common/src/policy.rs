//! Which networks may talk, and what of it: absence means no.
//!
//! A direction (sender's network, receiver's network) is open as a whole ([`ALLOW`]) or by rules ([`RULES`]): then its
//! [`RuleSet`] says which flows may be opened. Labels reach the kernel as bits: each rule has a *slot* in its set, and
//! for each endpoint that fulfils the labels of some rule, [`RuleBits`] says of which.

use crate::{addr::Addr, assert_layout, flow::FlowKey};

/// Key of maps `policy` and `rules`: one direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyKey {
    /// Network of the sender.
    pub src_vni: u32,
    /// Network of the receiver.
    pub dst_vni: u32,
}
assert_layout!(PolicyKey, size 8, src_vni @ 0, dst_vni @ 4);

impl PolicyKey {
    /// The other direction.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self { src_vni: self.dst_vni, dst_vni: self.src_vni }
    }
}

/// Value of map `policy`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// [`ALLOW`] or [`RULES`]; any other value drops.
    pub action: u32,
}
assert_layout!(Policy, size 4, action @ 0);

/// Packets from the source network to the destination network are routed.
pub const ALLOW: u32 = 1;
/// The direction's [`RuleSet`] decides.
pub const RULES: u32 = 2;

/// Most rules of one direction: a bit of a word each.
pub const MAX_RULES: usize = 32;

/// Value of map `rules`: the rules of one direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Sum of [`RuleSet::AUDIT`] and [`RuleSet::ANSWERS`].
    pub flags: u32,
    /// How many rules there are.
    pub count: u32,
    /// Slots whose rule asks for labels of the sender: bit *n* for slot *n*.
    pub src_labelled: u32,
    /// Slots whose rule asks for labels of the receiver.
    pub dst_labelled: u32,
    /// The rules, the first `count` of them.
    pub rules: [Rule; MAX_RULES],
}
assert_layout!(RuleSet, size 400, flags @ 0, count @ 4, src_labelled @ 8, dst_labelled @ 12, rules @ 16);

impl RuleSet {
    /// What no rule allows is counted and passes.
    pub const AUDIT: u32 = 1 << 0;
    /// The other direction has rules too: a packet may be the answer to a flow that one of them allows.
    pub const ANSWERS: u32 = 1 << 1;

    /// Whether what no rule allows is counted and passes.
    #[inline(always)]
    #[must_use]
    pub const fn audits(&self) -> bool {
        self.flags & Self::AUDIT != 0
    }

    /// Whether packets may be answers.
    #[inline(always)]
    #[must_use]
    pub const fn has_answers(&self) -> bool {
        self.flags & Self::ANSWERS != 0
    }

    /// The slots whose labels a sender and a receiver fulfil, given those that they have bits for.
    #[inline(always)]
    #[must_use]
    pub const fn fulfilled(&self, src: u32, dst: u32) -> u32 {
        (src | !self.src_labelled) & (dst | !self.dst_labelled)
    }

    /// The id of a rule in one of these slots that allows a flow.
    #[inline(always)]
    #[must_use]
    pub fn allowing(&self, slots: u32, flow: &FlowKey) -> Option<u32> {
        for (rule, _) in self.rules.iter().zip(0..self.count) {
            if rule.allows(slots, flow) {
                return Some(rule.id);
            }
        }
        None
    }
}

/// What one rule allows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Its number, never 0.
    pub id: u32,
    /// Lowest destination port.
    pub first_port: u16,
    /// Highest destination port.
    pub last_port: u16,
    /// IP protocol; 0 for any.
    pub protocol: u8,
    /// The bits of a packet's protocol that count: all, or none for any.
    pub protocol_mask: u8,
    /// Its place among the bits of labels.
    pub slot: u8,
    #[doc(hidden)]
    pub pad: u8,
}
assert_layout!(
    Rule, size 12,
    id @ 0, first_port @ 4, last_port @ 6, protocol @ 8, protocol_mask @ 9, slot @ 10, pad @ 11,
);

impl Rule {
    /// Whether it allows to open a flow, given the slots whose labels its ends fulfil.
    ///
    /// Without a branch: each would double what the verifier has to follow, 32 times over.
    #[inline(always)]
    #[must_use]
    pub const fn allows(&self, slots: u32, flow: &FlowKey) -> bool {
        let port = u16::from_be(flow.dst_port_be) as i64;
        let below = port - self.first_port as i64;
        let above = self.last_port as i64 - port;
        let other_protocol = -((flow.protocol & self.protocol_mask ^ self.protocol) as i64);
        let other_labels = (slots >> (self.slot & 31) & 1) as i64 - 1;
        // Each is negative if it does not fit.
        below | above | other_protocol | other_labels >= 0
    }
}

/// Key of map `rule_bits`: an endpoint, as one network's rules with another see it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleBitsKey {
    /// The endpoint's network.
    pub vni: u32,
    /// The other network.
    pub peer_vni: u32,
    /// The endpoint's address.
    pub addr: Addr,
}
assert_layout!(RuleBitsKey, size 24, vni @ 0, peer_vni @ 4, addr @ 8);

/// Value of map `rule_bits`: the slots whose labels an endpoint fulfils. Without an entry it fulfils none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleBits {
    /// As a sender, in the set from its network to the other.
    pub src: u32,
    /// As a receiver, in the set from the other network to its own.
    pub dst: u32,
}
assert_layout!(RuleBits, size 8, src @ 0, dst @ 4);

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::wire::headers::ip_proto::{ICMP, TCP, UDP};

    fn rule(slot: u8, protocol: u8, first_port: u16, last_port: u16) -> Rule {
        let protocol_mask = if protocol == 0 { 0 } else { u8::MAX };
        Rule { id: u32::from(slot) + 1, first_port, last_port, protocol, protocol_mask, slot, pad: 0 }
    }

    fn flow(protocol: u8, port: u16) -> FlowKey {
        FlowKey { protocol, dst_port_be: port.to_be(), ..FlowKey::default() }
    }

    /// A port of TCP in slot 0, ICMP in slot 2, labels at both ends for any protocol in slot 31, and a rule too many.
    fn rules() -> RuleSet {
        let mut set =
            RuleSet { count: 3, src_labelled: 1 << 31, dst_labelled: 1 << 31, ..RuleSet::default() };
        set.rules[0] = rule(0, TCP, 5432, 5433);
        set.rules[1] = rule(2, ICMP, 0, u16::MAX);
        set.rules[2] = rule(31, 0, 0, u16::MAX);
        set.rules[3] = rule(5, 0, 0, u16::MAX);
        set
    }

    #[rstest]
    #[case::first_port(flow(TCP, 5432), 0, 0, Some(1))]
    #[case::last_port(flow(TCP, 5433), 0, 0, Some(1))]
    #[case::below(flow(TCP, 5431), 0, 0, None)]
    #[case::above(flow(TCP, 5434), 0, 0, None)]
    #[case::other_protocol(flow(UDP, 5432), 0, 0, None)]
    #[case::no_ports(flow(ICMP, 8), 0, 0, Some(3))]
    #[case::labels_of_both(flow(UDP, 65535), 1 << 31, 1 << 31, Some(32))]
    #[case::labels_of_the_sender_alone(flow(UDP, 1), 1 << 31, 0, None)]
    #[case::labels_of_the_receiver_alone(flow(UDP, 1), 0, 1 << 31, None)]
    #[case::labels_of_another_rule(flow(UDP, 1), 1 << 5, 1 << 5, None)]
    fn a_rule_allows_by_protocol_port_and_labels(
        #[case] flow: FlowKey,
        #[case] src: u32,
        #[case] dst: u32,
        #[case] id: Option<u32>,
    ) {
        let set = rules();
        assert_eq!(set.allowing(set.fulfilled(src, dst), &flow), id);
    }
}
