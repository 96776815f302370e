//! What of one network's traffic another takes.

use overlay_common::stats::{RuleCount, RuleKey};

use super::{
    Context, Result, ServiceError,
    policies::{commit, joined, neighbours},
};
use crate::{
    agent::lock,
    api::types::{NewRule, PolicyAction, PolicyView, RuleCounts},
    model::{Cluster, Name, Rule, RuleId, Slot, cluster::Versioned, keys::Key},
    reconcile::rules::directions,
    store::{MAX_OPERATIONS, Transaction},
};

type Direction = (Name, Name);

/// Adds a rule from one network to another. That there is the same already is no error.
pub async fn add(context: &Context, from: &Name, to: &Name, new: NewRule) -> Result<PolicyView> {
    let (source, target) = neighbours(context, from, to)?;
    let cluster = context.cluster();
    let direction = (from.clone(), to.clone());
    if let Some((id, rule)) =
        rules_of(&cluster, &direction).find(|(_, rule)| rule.record.allows == new.allows)
    {
        check_mode(&direction, rule.record.audit, new.audit)?;
        return view(context, &cluster, &direction, *id);
    }
    for (_, rule) in rules_of(&cluster, &direction) {
        check_mode(&direction, rule.record.audit, new.audit)?;
    }
    let id = free_id(&cluster);
    let slot = free_slot(&cluster, &direction)?;
    let rule = Rule { allows: new.allows, slot, audit: new.audit };
    let transaction = joined(&source, &target).create(key(&direction, id), &rule);
    commit(context, transaction).await?;
    tracing::info!(%from, %to, %id, traffic = %rule.allows.traffic, audit = rule.audit, "rule added");
    view(context, &context.cluster(), &direction, id)
}

/// Removes a rule; the flows that it allowed end.
pub async fn remove(context: &Context, id: RuleId) -> Result<()> {
    let cluster = context.cluster();
    let Some((way, _)) = cluster.rules.iter().find(|(_, rules)| rules.contains_key(&id)) else {
        return Err(ServiceError::NotFound(format!("there is no rule {id}: see `overlay policy ls`")));
    };
    commit(context, Transaction::new().delete(key(way, id))).await?;
    tracing::info!(from = %way.0, to = %way.1, %id, "rule removed");
    Ok(())
}

/// From now on only rules decide between two networks: none is audited any more, and as a whole they are closed.
pub async fn enforce(context: &Context, a: &Name, b: &Name) -> Result<Vec<PolicyView>> {
    let (net_a, net_b) = (context.network(a)?, context.network(b)?);
    let cluster = context.cluster();
    let ways = both(a, b);
    if ways.iter().all(|way| rules_of(&cluster, way).next().is_none()) {
        return Err(ServiceError::Invalid(format!(
            "there are no rules between {a} and {b}: to keep them apart, `overlay policy deny {a} {b}`"
        )));
    }
    for way in &ways {
        put_in_force(context, &cluster, way).await?;
    }
    let closed = ways.iter().fold(joined(&net_a, &net_b), |transaction, (from, to)| {
        transaction.delete(Key::Policy(from.clone(), to.clone()))
    });
    commit(context, closed).await?;
    tracing::info!(%a, %b, "rules enforced");
    let mut views = views(context, &context.cluster())?;
    views.retain(|view| ways.contains(&(view.from.clone(), view.to.clone())));
    Ok(views)
}

/// Ends the audit of a direction's rules. With the first of them all are in force.
async fn put_in_force(context: &Context, cluster: &Cluster, way: &Direction) -> Result<()> {
    let audited: Vec<_> = rules_of(cluster, way).filter(|(_, rule)| rule.record.audit).collect();
    for some in audited.chunks(MAX_OPERATIONS) {
        let transaction = some.iter().fold(Transaction::new(), |transaction, (id, rule)| {
            let record = Rule { audit: false, ..rule.record.clone() };
            transaction.replace(key(way, **id), rule.revision, &record)
        });
        commit(context, transaction).await?;
    }
    Ok(())
}

/// The keys of all rules between two networks.
pub(super) fn keys_between(cluster: &Cluster, a: &Name, b: &Name) -> Vec<Key> {
    both(a, b).iter().flat_map(|way| rules_of(cluster, way).map(|(id, _)| key(way, *id))).collect()
}

fn both(a: &Name, b: &Name) -> [Direction; 2] {
    [(a.clone(), b.clone()), (b.clone(), a.clone())]
}

fn key((from, to): &Direction, id: RuleId) -> Key {
    Key::Rule(from.clone(), to.clone(), id)
}

/// All rules, and a line for each direction that is audited, with what this host counted.
pub(super) fn views(context: &Context, cluster: &Cluster) -> Result<Vec<PolicyView>> {
    let counts = lock(&context.datapath).maps().rule_stats()?;
    let vni = |name: &Name| cluster.networks.get(name).map_or(0, |network| network.record.vni.get());
    let key = |from, to, rule| RuleKey { src_vni: vni(from), dst_vni: vni(to), rule };
    let counted = |from, to, rule| counts.get(&key(from, to, rule)).copied().map(counts_view);
    let rules = cluster.rules.iter().flat_map(|((from, to), rules)| {
        let counted = &counted;
        rules.iter().map(move |(id, rule)| PolicyView {
            from: from.clone(),
            to: to.clone(),
            action: PolicyAction::Allow,
            id: Some(*id),
            allows: Some(rule.record.allows.clone()),
            audit: rule.record.audit,
            counted: counted(from, to, id.get()),
        })
    });
    let ways = directions(cluster);
    let audited = ways.iter().filter_map(|(from, to)| {
        counted(from, to, 0).map(|counted| PolicyView {
            from: from.clone(),
            to: to.clone(),
            action: PolicyAction::Audit,
            id: None,
            allows: None,
            audit: true,
            counted: Some(counted),
        })
    });
    Ok(rules.chain(audited).collect())
}

fn view(context: &Context, cluster: &Cluster, (from, to): &Direction, id: RuleId) -> Result<PolicyView> {
    let found = views(context, cluster)?.into_iter().find(|view| view.id == Some(id));
    found.ok_or_else(|| {
        ServiceError::Conflict(format!("the rule from {from} to {to} was removed by another host meanwhile"))
    })
}

fn counts_view(RuleCount { packets, flows }: RuleCount) -> RuleCounts {
    RuleCounts { packets, flows }
}

fn rules_of<'a>(
    cluster: &'a Cluster,
    direction: &Direction,
) -> impl Iterator<Item = (&'a RuleId, &'a Versioned<Rule>)> {
    cluster.rules.get(direction).into_iter().flatten()
}

/// All rules of a direction are audited, or none is: one that is merely tried must not open what the others keep shut.
fn check_mode((from, to): &Direction, audits: bool, wanted: bool) -> Result<()> {
    match (audits, wanted) {
        (true, false) => Err(ServiceError::Conflict(format!(
            "the rules from {from} to {to} are audited: add this one with --audit, or first `overlay policy enforce {from} {to}`"
        ))),
        (false, true) => Err(ServiceError::Conflict(format!(
            "the rules from {from} to {to} are in force, and to audit another would let everything pass: leave --audit out"
        ))),
        _ => Ok(()),
    }
}

fn free_id(cluster: &Cluster) -> RuleId {
    loop {
        let id = RuleId::random();
        if !cluster.rules.values().any(|rules| rules.contains_key(&id)) {
            return id;
        }
    }
}

/// One of the free places, not the one freed last: until each host knows of the new rule, what endpoints have of the old
/// one's labels may still be in its maps.
fn free_slot(cluster: &Cluster, direction: &Direction) -> Result<Slot> {
    let is_free = |slot: &Slot| rules_of(cluster, direction).all(|(_, rule)| rule.record.slot != *slot);
    let free: Vec<Slot> = Slot::all().filter(is_free).collect();
    let chosen = free.get(rand::random_range(0..free.len().max(1)));
    chosen.copied().ok_or_else(|| {
        let (from, to) = direction;
        ServiceError::Conflict(format!(
            "there are {} rules from {from} to {to}, and no more can be: remove one (`overlay policy rm`), or let one name a range of ports",
            Slot::all().count()
        ))
    })
}
