//! What may pass between networks: policies and rules, as the maps hold them.
//!
//! A direction that is open as a whole is one entry of `policy`. One that rules decide, or that answers to such a one take,
//! has a set of rules besides, and endpoints with labels that some rule asks for have the bits of those rules.

use std::collections::{BTreeMap, BTreeSet};

use overlay_common::{
    network::FLAG_RULES,
    policy::{self, ALLOW, Policy, PolicyKey, RULES, RuleBits, RuleBitsKey, RuleSet},
    stats::RuleKey,
};

use super::{desired::route_to, tables::Tables};
use crate::model::{
    Cluster, Endpoint, Labels, Name, Network, Ports, Rule, RuleId, cluster::Versioned, rule::has_labels,
};

type Rules = BTreeMap<RuleId, Versioned<Rule>>;

/// The directions in which packets may go at all: by policy, by rules, and as answers to what rules let go.
#[must_use]
pub fn directions(cluster: &Cluster) -> BTreeSet<(Name, Name)> {
    let ruled = cluster.rules.keys().flat_map(|(a, b)| [(a.clone(), b.clone()), (b.clone(), a.clone())]);
    cluster.policies.keys().cloned().chain(ruled).collect()
}

/// Adds what decides in each of these directions, and the routes for it.
pub(super) fn add(
    tables: &mut Tables,
    cluster: &Cluster,
    directions: &BTreeSet<(Name, Name)>,
    networks: &BTreeMap<&Name, &Network>,
) {
    for (from, to) in directions {
        let (Some(source), Some(target)) = (networks.get(from), networks.get(to)) else { continue };
        let key = PolicyKey { src_vni: source.vni.get(), dst_vni: target.vni.get() };
        // The own subnet wins over one that policy leads to.
        for subnet in target.subnets() {
            tables.routes.entry(route_to(key.src_vni, subnet)).or_insert(key.dst_vni);
        }
        let rules = Direction::of(cluster, from, to).rules();
        tables.policy.insert(key, Policy { action: if rules.is_some() { RULES } else { ALLOW } });
        if let Some(rules) = rules {
            add_rules(tables, key, rules);
        }
    }
}

fn add_rules(tables: &mut Tables, key: PolicyKey, rules: RuleSet) {
    let used = rules.rules.iter().take(rules.count as usize);
    let ids = used.map(|rule| rule.id).chain(rules.audits().then_some(0));
    let counted = |rule| (RuleKey { src_vni: key.src_vni, dst_vni: key.dst_vni, rule }, ());
    tables.rule_stats.extend(ids.map(counted));
    tables.rules.insert(key, rules);
    for vni in [key.src_vni, key.dst_vni] {
        if let Some(network) = tables.networks.get_mut(&vni) {
            network.flags |= FLAG_RULES;
        }
    }
}

/// What is said of one direction.
struct Direction<'a> {
    is_open: bool,
    rules: Option<&'a Rules>,
    reverse: Option<&'a Rules>,
}

impl<'a> Direction<'a> {
    fn of(cluster: &'a Cluster, from: &Name, to: &Name) -> Self {
        let (there, back) = ((from.clone(), to.clone()), (to.clone(), from.clone()));
        Self {
            is_open: cluster.policies.contains_key(&there),
            rules: cluster.rules.get(&there),
            reverse: cluster.rules.get(&back),
        }
    }

    /// The rules that decide; none if the direction is open as a whole. Where rules are tried while it still is, they are
    /// held against its traffic, which passes: so they are for answers, which will need them once it is not.
    fn rules(&self) -> Option<RuleSet> {
        let audits = is_audited(self.rules) || (self.is_open && is_audited(self.reverse));
        if self.is_open && !audits {
            return None;
        }
        // Where all of it is tried, so is the other direction.
        let answers = if self.reverse.is_some() || self.is_open { RuleSet::ANSWERS } else { 0 };
        let flags = if audits { RuleSet::AUDIT } else { 0 } | answers;
        let mut set = RuleSet { flags, ..RuleSet::default() };
        self.rules.into_iter().flatten().for_each(|(id, rule)| put(&mut set, *id, &rule.record));
        Some(set)
    }
}

/// A set that is half audited, which no operation makes, is in force.
fn is_audited(rules: Option<&Rules>) -> bool {
    rules.is_some_and(|rules| rules.values().all(|rule| rule.record.audit))
}

/// Adds a rule. One whose slot another has, which no operation makes, is left out.
fn put(set: &mut RuleSet, id: RuleId, rule: &Rule) {
    let (count, bit) = (set.count as usize, rule.slot.bit());
    let is_taken = set.rules[..count].iter().any(|other| usize::from(other.slot) == rule.slot.index());
    if let (Some(place), false) = (set.rules.get_mut(count), is_taken) {
        *place = compiled(id, rule);
        set.count += 1;
        set.src_labelled |= if rule.allows.from_labels.is_empty() { 0 } else { bit };
        set.dst_labelled |= if rule.allows.to_labels.is_empty() { 0 } else { bit };
    }
}

fn compiled(id: RuleId, rule: &Rule) -> policy::Rule {
    let traffic = rule.allows.traffic;
    let protocol = traffic.protocol_number();
    policy::Rule {
        id: id.get(),
        first_port: traffic.ports().map_or(0, Ports::first),
        last_port: traffic.ports().map_or(u16::MAX, Ports::last),
        protocol,
        protocol_mask: if protocol == 0 { 0 } else { u8::MAX },
        slot: rule.slot.number(),
        pad: 0,
    }
}

/// The labels that rules ask for, by the network whose endpoints are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selectors(BTreeMap<Name, Vec<Selector>>);

/// The labels that one rule asks of one end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Selector {
    /// The network at the other end.
    peer_vni: u32,
    /// The bit that an endpoint with these labels gets.
    bits: RuleBits,
    labels: Labels,
}

impl Selectors {
    pub(super) fn of(cluster: &Cluster) -> Self {
        let mut selectors = Self::default();
        let all =
            cluster.rules.iter().flat_map(|(way, rules)| rules.values().map(move |rule| (way, &rule.record)));
        for ((from, to), rule) in all {
            let bit = rule.slot.bit();
            selectors.add(cluster, from, to, &rule.allows.from_labels, RuleBits { src: bit, dst: 0 });
            selectors.add(cluster, to, from, &rule.allows.to_labels, RuleBits { src: 0, dst: bit });
        }
        selectors
    }

    fn add(&mut self, cluster: &Cluster, of: &Name, peer: &Name, labels: &Labels, bits: RuleBits) {
        let peer = cluster.networks.get(peer).map(|network| network.record.vni.get());
        if let (Some(peer_vni), false) = (peer, labels.is_empty()) {
            let selector = Selector { peer_vni, bits, labels: labels.clone() };
            self.0.entry(of.clone()).or_default().push(selector);
        }
    }

    /// The entries of map `rule_bits` that an endpoint's labels make.
    pub(super) fn entries(&self, vni: u32, endpoint: &Endpoint) -> BTreeMap<RuleBitsKey, RuleBits> {
        let selectors = self.0.get(&endpoint.network).into_iter().flatten();
        let mut entries: BTreeMap<RuleBitsKey, RuleBits> = BTreeMap::new();
        for selector in selectors.filter(|selector| has_labels(&endpoint.labels, &selector.labels)) {
            for ip in endpoint.addresses() {
                let key = RuleBitsKey { vni, peer_vni: selector.peer_vni, addr: ip.into() };
                let bits = entries.entry(key).or_default();
                *bits = RuleBits { src: bits.src | selector.bits.src, dst: bits.dst | selector.bits.dst };
            }
        }
        entries
    }
}
