//! What the store's records say of traffic between networks, in the lines of [`Kernel`](super::kernel::Kernel).

use std::collections::BTreeSet;

use serde_json::Value;

use super::store::{Records, number};

/// Networks that containers of this one may send to: by policy, by rules, and to answer.
pub(super) fn reachable<'a>(records: &'a Records, network: &str) -> BTreeSet<&'a str> {
    let whole = records.of("policies").filter_map(|(pair, _)| pair.split_once('/'));
    let ruled = all(records).flat_map(|(from, to, ..)| [(from, to), (to, from)]);
    whole.chain(ruled).filter(|(from, _)| *from == network).map(|(_, to)| to).collect()
}

/// Whether rules decide in some direction of this network's.
pub(super) fn decide_for(records: &Records, network: &str) -> bool {
    let others = reachable(records, network);
    others.iter().any(|other| decide(records, network, other) || decide(records, other, network))
}

/// Whether rules decide in this direction, or only whole networks count.
pub(super) fn decide(records: &Records, from: &str, to: &str) -> bool {
    !is_whole(records, from, to) || audits(records, from, to)
}

/// What maps `rules` and `rule_stats` hold of a direction in which rules decide.
pub(super) fn lines(records: &Records, from: &str, to: &str) -> Vec<String> {
    let (src, dst) = (records.vni(from), records.vni(to));
    let audits = audits(records, from, to);
    let is_answered = of(records, to, from).next().is_some() || is_whole(records, from, to);
    let compiled = of(records, from, to).map(|(id, rule)| format!("{} {}", decimal(id), compiled(rule)));
    let set: BTreeSet<String> = compiled.collect();
    let set: Vec<String> = set.into_iter().collect();
    let labelled = |field: &str| {
        let with = of(records, from, to).filter(|(_, rule)| !rule[field].is_null());
        with.map(|(_, rule)| 1u64 << number(rule, "slot")).sum::<u64>()
    };
    let flags = u8::from(audits) + 2 * u8::from(is_answered);
    let whole = format!(
        "rules: {src} {dst} flags {flags} labelled {} {}: {}",
        labelled("from_labels"),
        labelled("to_labels"),
        set.join(", ")
    );
    let ids = of(records, from, to).map(|(id, _)| decimal(id)).chain(audits.then_some(0));
    ids.map(|id| format!("rule_stats: {src} {dst} {id}")).chain([whole]).collect()
}

/// What map `rule_bits` holds of an endpoint.
pub(super) fn bits(records: &Records, network: &str, endpoint: &Value) -> Vec<String> {
    let has = |labels: &Value| {
        let mut asked = labels.as_object().into_iter().flatten().peekable();
        asked.peek().is_some() && asked.all(|(key, value)| endpoint["labels"][key] == *value)
    };
    let bits = |from: &str, to: &str, field: &str| -> u64 {
        let fit = of(records, from, to).filter(|(_, rule)| has(&rule[field]));
        fit.map(|(_, rule)| 1u64 << number(rule, "slot")).sum()
    };
    let line = |other: &str| {
        let (src, dst) = (bits(network, other, "from_labels"), bits(other, network, "to_labels"));
        let (vni, peer) = (records.vni(network), records.vni(other));
        let ips = ["ipv4", "ipv6"].into_iter().filter_map(|family| endpoint[family].as_str());
        let line = move |ip| format!("rule_bits: {vni} {peer} {ip} {src} {dst}");
        ips.map(line).filter(|_| src + dst > 0).collect::<Vec<_>>()
    };
    reachable(records, network).into_iter().flat_map(line).collect()
}

/// `slot protocol mask first last`.
fn compiled(rule: &Value) -> String {
    let protocol = match rule["proto"].as_str() {
        Some("icmp") => 1,
        Some("tcp") => 6,
        Some("udp") => 17,
        _ => 0,
    };
    let ports = rule["ports"].as_str().unwrap_or("0-65535");
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let mask = if protocol == 0 { 0 } else { 255 };
    format!("{} {protocol} {mask} {first} {last}", number(rule, "slot"))
}

fn is_whole(records: &Records, from: &str, to: &str) -> bool {
    records.get(&format!("policies/{from}/{to}")).is_some()
}

fn audits(records: &Records, from: &str, to: &str) -> bool {
    let all = |from: &str, to: &str| {
        let mut rules = of(records, from, to).peekable();
        rules.peek().is_some() && rules.all(|(_, rule)| rule["audit"] == true)
    };
    all(from, to) || (is_whole(records, from, to) && all(to, from))
}

fn of<'a>(records: &'a Records, from: &str, to: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let (from, to) = (from.to_owned(), to.to_owned());
    all(records).filter(move |(a, b, ..)| (*a, *b) == (&from, &to)).map(|(_, _, id, rule)| (id, rule))
}

/// From, to, id and record of each rule.
fn all(records: &Records) -> impl Iterator<Item = (&str, &str, &str, &Value)> {
    records.of("rules").filter_map(|(path, rule)| {
        let mut parts = path.split('/');
        Some((parts.next()?, parts.next()?, parts.next()?, rule))
    })
}

fn decimal(id: &str) -> u32 {
    u32::from_str_radix(id, 16).unwrap_or_default()
}
