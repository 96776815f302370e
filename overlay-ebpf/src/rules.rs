//! Rules between two networks: who may open which flow, and that what answers it comes back.
//!
//! A packet is judged where it is sent and, if it comes from another host, again where it is received, so each host has
//! seen the flows that it lets be answered, and need not believe what another host let through. The answer to a flow is
//! held against the rules that let the flow be opened: a rule that goes, or a label that changes, ends it at once.

use core::num::NonZeroU32;

use aya_ebpf::{helpers::generated as helper, programs::TcContext};
use overlay_common::{
    addr::Addr,
    flow::{Flow, FlowKey},
    policy::{ALLOW, PolicyKey, RULES, RuleBits, RuleBitsKey, RuleSet},
    stats::RuleKey,
    verdict::DropReason,
    wire::{Ethernet, Ipv6, headers::ethertype},
};

use crate::{
    maps::{self, lookup},
    packet::{Bytes, InnerIp},
    route, route6,
    transport::{self, Part},
};

/// Whether a packet may go from one network to the other.
#[inline(always)]
pub fn admit(ctx: &TcContext, pair: &PolicyKey, ip: &InnerIp) -> Result<(), DropReason> {
    match lookup!(policy, pair).map(|policy| policy.action) {
        Some(ALLOW) => Ok(()),
        Some(RULES) => judge(ctx, pair, ip),
        _ => Err(DropReason::PolicyDenied),
    }
}

/// Whether a frame that another host routed into a network may be delivered there.
#[inline(never)]
pub fn admit_routed(ctx: &TcContext, offset: usize, vni: u32) -> Result<(), DropReason> {
    let (bytes, len) = (Bytes::of_skb(ctx), ctx.len() as usize);
    if bytes.read::<u16>(offset + 12) == Some(ethertype::IPV6.to_be()) {
        return admit_routed_ipv6(bytes, offset, vni);
    }
    let ip = InnerIp::parse(bytes, offset, len, DropReason::InnerTruncated, DropReason::InnerMalformed)?;
    let src_vni = route::reachable(vni, Addr::v4(ip.header.src)).ok_or(DropReason::PolicyDenied)?;
    if src_vni == vni { Ok(()) } else { admit(ctx, &PolicyKey { src_vni, dst_vni: vni }, &ip) }
}

/// The same of an IPv6 packet, of which rules know nothing: policy has to allow it as a whole.
#[inline(always)]
fn admit_routed_ipv6(bytes: Bytes, offset: usize, vni: u32) -> Result<(), DropReason> {
    let src = bytes.read(offset + Ethernet::LEN + Ipv6::SRC_OFFSET).ok_or(DropReason::InnerTruncated)?;
    let src_vni = route::reachable(vni, Addr::v6(src)).ok_or(DropReason::PolicyDenied)?;
    if src_vni == vni { Ok(()) } else { route6::admit(&PolicyKey { src_vni, dst_vni: vni }) }
}

/// What a packet is held against. It lies in a map: together with its callers a program has 512 bytes of stack.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Question {
    /// The packet's flow, if its sender opened it.
    sent: FlowKey,
    /// The packet's flow, if its receiver opened it.
    answered: FlowKey,
    /// What its fragments are known by.
    fragments: FlowKey,
    /// The packet's part in its flow. The verifier forgets here which values it can have, and so does not follow each of
    /// them to the end.
    part: u32,
}

/// Judges a packet by the rules of its direction. Where these are audited, it passes whatever they say.
#[inline(never)]
fn judge(ctx: &TcContext, pair: &PolicyKey, ip: &InnerIp) -> Result<(), DropReason> {
    let rules = lookup!(rules, pair).ok_or(DropReason::PolicyDenied)?;
    let question = maps::question.get_ptr_mut(0).ok_or(DropReason::PolicyDenied)?;
    // SAFETY: the value is this CPU's own, and programs on one CPU do not interrupt each other here.
    let question = unsafe { &mut *question };
    transport::begin(&mut question.sent, pair, &ip.header);
    let outcome = decide(ctx, ip, rules, question);
    if outcome.is_err() && rules.audits() {
        count(pair, 0, false);
        return Ok(());
    }
    outcome
}

#[inline(always)]
fn decide(ctx: &TcContext, ip: &InnerIp, rules: &RuleSet, question: &mut Question) -> Result<(), DropReason> {
    let now_ns = now_ns();
    let is_fragment = ip.header.is_fragment();
    if is_fragment {
        question.fragments =
            FlowKey { src_port_be: ip.header.id_be, kind: FlowKey::FRAGMENTS, ..question.sent };
    }
    if ip.header.is_later_fragment() {
        return live(&question.fragments, now_ns).map(drop).ok_or(DropReason::RuleFragment);
    }
    question.part = transport::read(ctx, ip, &mut question.sent);
    // SAFETY: it was written just now.
    let part =
        Part::new(unsafe { (&raw const question.part).read_volatile() }).ok_or(DropReason::RuleMalformed)?;
    question.answered = question.sent.reversed();
    if !(rules.has_answers() && part.answers() && answers(&question.answered, part, now_ns)) {
        open(rules, &question.sent, part, now_ns)?;
    }
    if is_fragment {
        remember(&question.fragments, now_ns);
    }
    Ok(())
}

/// Whether the packet is the answer to a flow that the rules of the other direction allow. Counts it if so.
#[inline(always)]
fn answers(flow: &FlowKey, part: Part, now_ns: u64) -> bool {
    let Some(entry) = live(flow, now_ns) else { return false };
    let pair = pair(flow);
    let Some(rules) = lookup!(rules, &pair) else { return false };
    let rule = allowing(rules, flow);
    if rule.is_none() && !rules.audits() {
        return false;
    }
    count(&pair, rule.map_or(0, NonZeroU32::get), false);
    touch(entry, part, now_ns);
    true
}

/// Lets the packet pass by a rule of its own direction, as the first or a later one of its flow.
#[inline(always)]
fn open(rules: &RuleSet, flow: &FlowKey, part: Part, now_ns: u64) -> Result<(), DropReason> {
    let entry = live(flow, now_ns);
    if entry.is_none() && !part.opens() {
        return Err(DropReason::NoFlow);
    }
    let rule = allowing(rules, flow);
    if rule.is_none() && !rules.audits() {
        return Err(if rules.count == 0 { DropReason::NoFlow } else { DropReason::NoRule });
    }
    match entry {
        Some(entry) if part.answers() => touch(entry, part, now_ns),
        // Who asks anew begins anew, also where an earlier flow of the same ports was closed.
        _ => remember(flow, now_ns),
    }
    count(&pair(flow), rule.ok_or(DropReason::NoRule)?.get(), entry.is_none());
    Ok(())
}

#[inline(always)]
fn pair(flow: &FlowKey) -> PolicyKey {
    PolicyKey { src_vni: flow.src_vni, dst_vni: flow.dst_vni }
}

/// The rule that allows to open a flow.
#[inline(never)]
fn allowing(rules: &RuleSet, flow: &FlowKey) -> Option<NonZeroU32> {
    let src = if rules.src_labelled == 0 { 0 } else { bits(flow.src_vni, flow.dst_vni, flow.src).src };
    let dst = if rules.dst_labelled == 0 { 0 } else { bits(flow.dst_vni, flow.src_vni, flow.dst).dst };
    NonZeroU32::new(rules.allowing(rules.fulfilled(src, dst), flow).unwrap_or(0))
}

#[inline(always)]
fn bits(vni: u32, peer_vni: u32, addr: Addr) -> RuleBits {
    lookup!(rule_bits, &RuleBitsKey { vni, peer_vni, addr }).copied().unwrap_or_default()
}

/// A flow that is not over.
#[inline(always)]
fn live(key: &FlowKey, now_ns: u64) -> Option<*mut Flow> {
    let flow = maps::flows.get_ptr_mut(key)?;
    // SAFETY: the kernel keeps the memory while the program runs. Another CPU may write the entry meanwhile: each field
    // is one word, and any mixture of two states is as good as either.
    unsafe { (*flow).is_live(key, now_ns) }.then_some(flow)
}

/// Notes that a packet of a flow passed. Rarely more than once a second: other CPUs read the entry too.
#[inline(always)]
fn touch(flow: *mut Flow, part: Part, now_ns: u64) {
    // SAFETY: as in `live`.
    let flow = unsafe { &mut *flow };
    if flow.is_stale(now_ns) {
        flow.seen_ns = now_ns;
    }
    if part.closes() && flow.closing == 0 {
        flow.closing = 1;
    }
}

/// Notes a flow, or fragments, that pass now.
#[inline(always)]
fn remember(key: &FlowKey, now_ns: u64) {
    // It can fail only for want of memory; then the answers do not pass until the next packet tries again.
    let _ = maps::flows.insert(key, Flow { seen_ns: now_ns, closing: 0, pad: 0 }, 0);
}

/// Counts a packet that passed by a rule, or, for rule 0, only because its direction is audited.
#[inline(always)]
fn count(pair: &PolicyKey, rule: u32, opened: bool) {
    let key = RuleKey { src_vni: pair.src_vni, dst_vni: pair.dst_vni, rule };
    if let Some(count) = maps::rule_stats.get_ptr_mut(key) {
        // SAFETY: the value is this CPU's own, and programs on one CPU do not interrupt each other here.
        let count = unsafe { &mut *count };
        count.packets += 1;
        count.flows += u64::from(opened);
    }
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper takes nothing and always answers.
    unsafe { helper::bpf_ktime_get_coarse_ns() }
}
