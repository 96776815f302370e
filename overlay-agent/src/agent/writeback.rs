//! Giving the store back what it lost: each node its own records, and everybody what belongs to all.
//!
//! Every step is one transaction that creates what is absent, so all agents can do this at once: who comes second finds
//! it done. What somebody else has claimed meanwhile is his, and the endpoint that had it is reported as lost. Values
//! are written as they were, also those of other versions.

use std::collections::BTreeSet;

use super::{
    known::{Known, below, claims_of, claims_of_network, parse},
    snapshot::Entries,
};
use crate::{
    model::{Address, Endpoint, EndpointId, Name, Network, keys::Key},
    paths,
    store::{Condition, Entry, Operation, Transaction},
};

/// Released addresses that are written in one transaction: some stores bound it.
const CHUNK: usize = 32;

/// How much of what is shown and not stored is written back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// What belongs to this node.
    Own,
    /// What belongs to all as well: this agent knows what the store held when it was wiped.
    Everything,
}

/// What is to be done about what the store lacks.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be carried out in order; each may find that another agent was faster.
    pub transactions: Vec<Transaction>,
    /// Keys of what cannot be written back, with a sentence for each object that says why.
    pub lost: Vec<(Vec<String>, String)>,
    /// Keys of endpoints whose container is gone: nothing of them is written back.
    pub gone: Vec<String>,
}

/// Plans the writing back of what is held. `veths` are the host veths that there are.
#[must_use]
pub fn plan(known: &Known, scope: Scope, veths: &BTreeSet<String>) -> Plan {
    let held: Entries = known.held().map(|entry| (entry.key.clone(), entry.clone())).collect();
    let mut planner = Planner { known, scope, held, plan: Plan::default() };
    if !planner.held.is_empty() {
        let living = planner.living_endpoints(veths);
        planner.node();
        planner.networks(&living);
        living.iter().for_each(|endpoint| planner.endpoint(endpoint));
        planner.shared();
    }
    planner.plan
}

struct Planner<'a> {
    known: &'a Known,
    scope: Scope,
    /// What is shown and not stored, and not given up either.
    held: Entries,
    plan: Plan,
}

impl Planner<'_> {
    /// This node's endpoints that have their device, the others are given up; and machines without an agent, which are
    /// everybody's.
    fn living_endpoints(&mut self, veths: &BTreeSet<String>) -> Vec<Endpoint> {
        let endpoints = below(&self.held, "endpoints").filter_map(parse::<Endpoint>);
        let shared = |endpoint: &Endpoint| endpoint.is_external() && self.scope == Scope::Everything;
        let own = endpoints.filter(|endpoint| endpoint.node == *self.known.node() || shared(endpoint));
        let (living, gone): (Vec<_>, Vec<_>) =
            own.partition(|e| e.is_external() || veths.contains(&paths::host_veth(&e.id)));
        self.plan.gone = gone.iter().flat_map(claims_of).map(|key| key.to_string()).collect();
        living
    }

    fn node(&mut self) {
        let node = self.held.get(&Key::Node(self.known.node().clone()).to_string());
        self.plan.transactions.extend(node.map(|record| create([record])));
    }

    /// Everybody's networks, or those that these endpoints are in.
    fn networks(&mut self, endpoints: &[Endpoint]) {
        let needed: BTreeSet<&Name> = endpoints.iter().map(|endpoint| &endpoint.network).collect();
        let networks: Vec<Network> = below(&self.held, "networks").filter_map(parse).collect();
        let all = self.scope == Scope::Everything;
        for network in networks.iter().filter(|network| all || needed.contains(&network.name)) {
            self.network(network);
        }
    }

    /// A network's record with its claims, as far as it had them.
    fn network(&mut self, network: &Network) {
        let keys = claims_of_network(network).map(|key| key.to_string());
        let vni = self.known.stored(&Key::Vni(network.vni));
        if vni.is_some_and(|claim| parse(claim).as_ref() != Some(&network.name)) {
            let reason = format!("network {}: VNI {} is another's now", network.name, network.vni);
            keys.iter().for_each(|key| drop(self.held.remove(key)));
            self.plan.lost.push((keys.into(), reason));
            return;
        }
        let held = keys.iter().filter_map(|key| self.held.get(key));
        self.plan.transactions.push(create(held));
    }

    fn endpoint(&mut self, endpoint: &Endpoint) {
        match return_of(endpoint, self.known, &self.held) {
            Ok(transaction) => self.plan.transactions.push(transaction),
            Err(reason) => {
                let Endpoint { name, network, ipv4, .. } = endpoint;
                let sentence =
                    format!("endpoint {name} of {network} ({ipv4}): {reason}; attach its container anew");
                self.plan.lost.push((claims_of(endpoint).iter().map(Key::to_string).collect(), sentence));
            }
        }
    }

    /// Policies and rules, and the addresses that rest.
    fn shared(&mut self) {
        if self.scope == Scope::Everything {
            let kinds = ["policies", "rules"];
            let policies = kinds.into_iter().flat_map(|kind| below(&self.held, kind));
            self.plan.transactions.extend(policies.map(|entry| create([entry])));
            let is_released = |entry: &&Entry| matches!(parse(entry), Some(Address::Released { .. }));
            let released: Vec<&Entry> = below(&self.held, "addresses").filter(is_released).collect();
            self.plan.transactions.extend(released.chunks(CHUNK).map(|chunk| create(chunk.iter().copied())));
        }
    }
}

/// What makes an endpoint's record and claims whole again; why that cannot be, if another has one of them.
fn return_of(endpoint: &Endpoint, known: &Known, held: &Entries) -> Result<Transaction, String> {
    let transaction = Transaction::new();
    let transaction = in_its_network(transaction, endpoint, known, held)?;
    claims_of(endpoint).into_iter().try_fold(transaction, |transaction, key| {
        let Some(entry) = known.stored(&key) else {
            // A claim that was never seen is made from the record: the store may have lost parts only.
            return Ok(match held.get(&key.to_string()) {
                Some(entry) => add(transaction, entry),
                None => claim(transaction, &key, endpoint),
            });
        };
        match holder(&key, entry) {
            Holder::Nobody => Ok(transaction.replace(key.clone(), entry.revision, &held_by(&endpoint.id))),
            Holder::Endpoint(id) if id == endpoint.id => Ok(transaction),
            Holder::Endpoint(_) | Holder::Unknown => {
                Err(format!("{key} was taken by another while the store was lost"))
            }
        }
    })
}

/// Requires the endpoint's network, as it was.
fn in_its_network(
    transaction: Transaction,
    endpoint: &Endpoint,
    known: &Known,
    held: &Entries,
) -> Result<Transaction, String> {
    let key = Key::Network(endpoint.network.clone());
    let Some(stored) = known.stored(&key) else {
        // Written back just before; if somebody makes another meanwhile, the next listing tells.
        let is_held = held.contains_key(&key.to_string());
        return if is_held { Ok(transaction) } else { Err(format!("network {} is gone", endpoint.network)) };
    };
    match parse::<Network>(stored) {
        Some(network) if network.subnet.contains(&endpoint.ipv4) && has_ipv6_of(&network, endpoint) => {
            Ok(transaction.unchanged(key, stored.revision))
        }
        _ => Err(format!("network {} is another one now", endpoint.network)),
    }
}

/// Whether an endpoint's IPv6 address, if it has one, is of the network.
fn has_ipv6_of(network: &Network, endpoint: &Endpoint) -> bool {
    match (network.ipv6, endpoint.ipv6) {
        (Some(ipv6), Some(ip)) => ipv6.subnet.contains(&ip),
        (_, None) => true,
        (None, Some(_)) => false,
    }
}

/// Who has a claim.
enum Holder {
    Nobody,
    Endpoint(EndpointId),
    Unknown,
}

fn holder(key: &Key, claim: &Entry) -> Holder {
    let id = match key {
        Key::Endpoint(_, id) => Some(id.clone()),
        Key::Address(..) => match parse(claim) {
            Some(Address::Held { endpoint }) => Some(endpoint),
            Some(Address::Released { .. }) => return Holder::Nobody,
            Some(Address::Reserved { .. }) | None => None,
        },
        _ => parse(claim),
    };
    id.map_or(Holder::Unknown, Holder::Endpoint)
}

fn held_by(id: &EndpointId) -> Address {
    Address::Held { endpoint: id.clone() }
}

fn claim(transaction: Transaction, key: &Key, endpoint: &Endpoint) -> Transaction {
    match key {
        Key::Endpoint(..) => transaction.create(key, endpoint),
        Key::Address(..) => transaction.create(key, &held_by(&endpoint.id)),
        _ => transaction.create(key, &endpoint.id),
    }
}

fn create<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Transaction {
    entries.into_iter().fold(Transaction::new(), add)
}

/// Writes an entry as it was, if there is none.
fn add(mut transaction: Transaction, entry: &Entry) -> Transaction {
    transaction.conditions.push(Condition::Absent(entry.key.clone()));
    transaction.operations.push(Operation::Put(entry.key.clone(), entry.value.clone(), None));
    transaction
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Arc, time::Instant};

    use serde_json::json;

    use super::*;
    use crate::{
        agent::known::Arrival,
        store::{Listing, Revision},
    };

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn entry(key: impl std::fmt::Display, value: &impl serde::Serialize, revision: u64) -> Entry {
        let value = serde_json::to_vec(value).unwrap();
        Entry { key: key.to_string(), value, revision: Revision(revision), lease: None }
    }

    fn endpoint(number: u8, node: &str) -> Endpoint {
        let ipv4 = Ipv4Addr::new(10, 0, 0, number);
        let id = format!("{number:02x}00000000000000").parse().unwrap();
        Endpoint::sample(id, name("net"), name(&format!("c{number}")), name(node), ipv4)
    }

    fn entries_of(endpoint: &Endpoint) -> Vec<Entry> {
        claims_of(endpoint)
            .into_iter()
            .map(|key| {
                let Transaction { operations, .. } = claim(Transaction::new(), &key, endpoint);
                let Some(Operation::Put(_, value, _)) = operations.into_iter().next() else {
                    panic!("no claim")
                };
                Entry { key: key.to_string(), value, revision: Revision(1), lease: None }
            })
            .collect()
    }

    fn network(subnet: &str) -> Entry {
        let value =
            json!({"name": "net", "vni": 256, "subnet": subnet, "gateway": "10.0.0.1", "future": [1]});
        entry(Key::Network(name("net")), &value, 1)
    }

    /// Two networks, one own endpoint with a device, one without, one of another node, a policy and an address at rest.
    fn full() -> Vec<Entry> {
        let mut entries = vec![
            entry(Key::Cluster, &json!({"id": "x", "created_unix_s": 0, "abi": 1, "restored": 0}), 1),
            network("10.0.0.0/24"),
            entry(Key::Vni(256.try_into().unwrap()), &"net", 1),
            entry("overlay/v1/subnets/10.0.0.0_24", &"net", 1),
            entry(
                "overlay/v1/networks/other",
                &json!({"name": "other", "vni": 300, "subnet": "10.9.0.0/24", "gateway": "10.9.0.1"}),
                1,
            ),
            entry(Key::Policy(name("net"), name("other")), &json!({"action": "allow"}), 1),
            entry("overlay/v1/rules/net/other/0a1b2c3d", &json!({"proto": "icmp", "slot": 0}), 1),
            entry(
                Key::Address(name("net"), Ipv4Addr::new(10, 0, 0, 9).into()),
                &Address::Released { at: None },
                1,
            ),
            entry(Key::Node(name("here")), &"this node", 1),
            entry(Key::Node(name("there")), &"another node", 1),
            Entry { lease: Some(crate::store::LeaseId(1)), ..entry(Key::Alive(name("here")), &"alive", 1) },
        ];
        entries.extend(
            [endpoint(2, "here"), endpoint(3, "here"), endpoint(4, "there")].iter().flat_map(entries_of),
        );
        entries
    }

    /// What is known after a listing of these entries, to somebody who knew all.
    fn after(left: Vec<Entry>, arrival: &Arrival) -> Known {
        let entries: Entries = full().into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        let mut known = Known::new(name("here"), Arc::new(entries), Revision(1));
        known.absorb(Listing { entries: left, revision: Revision(9) }, arrival, Instant::now());
        known
    }

    fn veths() -> BTreeSet<String> {
        [paths::host_veth(&endpoint(2, "here").id)].into()
    }

    fn written(plan: &Plan) -> Vec<&str> {
        plan.transactions.iter().flat_map(|t| &t.operations).map(Operation::key).collect()
    }

    #[test]
    fn a_wiped_store_gets_back_what_is_everybodys_and_what_is_this_nodes() {
        let plan = plan(&after(vec![], &Arrival::Wiped), Scope::Everything, &veths());
        let expected = [
            "overlay/v1/nodes/here",
            "overlay/v1/networks/net",
            "overlay/v1/vnis/256",
            "overlay/v1/subnets/10.0.0.0_24",
            "overlay/v1/networks/other",
            "overlay/v1/endpoints/net/0200000000000000",
            "overlay/v1/names/net/c2",
            "overlay/v1/macs/net/02:42:0a:00:00:02",
            "overlay/v1/addresses/net/10.0.0.2",
            "overlay/v1/policies/net/other",
            "overlay/v1/rules/net/other/0a1b2c3d",
            "overlay/v1/addresses/net/10.0.0.9",
        ];
        assert_eq!(written(&plan), expected);
        assert_eq!(plan.gone, claims_of(&endpoint(3, "here")).iter().map(Key::to_string).collect::<Vec<_>>());
        assert_eq!(plan.lost, []);
        let conditions = plan.transactions.iter().flat_map(|t| &t.conditions);
        assert!(conditions.clone().all(|c| matches!(c, Condition::Absent(_))));
        assert_eq!(conditions.count(), expected.len());
        let Operation::Put(_, value, None) = &plan.transactions[1].operations[0] else {
            panic!("no network")
        };
        assert_eq!(*value, network("10.0.0.0/24").value, "as it was, to the byte");
    }

    #[test]
    fn who_was_away_when_it_was_wiped_writes_back_only_what_is_its_own() {
        let plan = plan(&after(vec![], &Arrival::Wiped), Scope::Own, &veths());
        let shared = ["other", "policies", "rules", "10.0.0.9"];
        assert!(written(&plan).iter().all(|key| shared.iter().all(|part| !key.contains(part))), "{plan:?}");
        assert_eq!(written(&plan).len(), 8);
    }

    #[test]
    fn a_machine_without_an_agent_is_written_back_by_whoever_knows_what_the_store_held() {
        let member = Endpoint { vtep: Some([192, 0, 2, 9].into()), ..endpoint(9, "external") };
        let entries = full().into_iter().chain(entries_of(&member));
        let entries: Entries = entries.map(|entry| (entry.key.clone(), entry)).collect();
        let mut known = Known::new(name("here"), Arc::new(entries), Revision(1));
        let empty = Listing { entries: vec![], revision: Revision(9) };
        known.absorb(empty, &Arrival::Wiped, Instant::now());
        let key = Key::Endpoint(name("net"), member.id.clone()).to_string();
        for (scope, is_written) in [(Scope::Everything, true), (Scope::Own, false)] {
            let plan = plan(&known, scope, &veths());
            assert_eq!(written(&plan).contains(&key.as_str()), is_written, "{scope:?}");
            assert!(!plan.gone.contains(&key));
        }
    }

    #[test]
    fn nothing_is_written_back_to_a_store_that_has_it() {
        assert_eq!(plan(&after(full(), &Arrival::Same), Scope::Everything, &veths()), Plan::default());
    }

    #[test]
    fn an_endpoint_that_is_missing_alone_is_tied_to_its_network_and_takes_its_address_out_of_rest() {
        let own = entries_of(&endpoint(2, "here"));
        let mut left: Vec<Entry> = full().into_iter().filter(|entry| !own.contains(entry)).collect();
        let address = Key::Address(name("net"), Ipv4Addr::new(10, 0, 0, 2).into());
        left.push(entry(&address, &Address::Released { at: None }, 7));
        let plan = plan(&after(left, &Arrival::Same), Scope::Own, &veths());
        let [transaction] = &plan.transactions[..] else { panic!("{plan:?}") };
        let unchanged = |key: Key, revision| Condition::Unchanged(key.to_string(), Revision(revision));
        assert!(transaction.conditions.contains(&unchanged(Key::Network(name("net")), 1)));
        assert!(transaction.conditions.contains(&unchanged(address, 7)));
        assert_eq!(transaction.operations.len(), 4);
    }

    #[test]
    fn an_endpoint_whose_claim_is_anothers_now_is_lost() {
        let own = entries_of(&endpoint(2, "here"));
        let rest: Vec<Entry> = full().into_iter().filter(|entry| !own.contains(entry)).collect();
        let thief: EndpointId = "ffffffffffffffff".parse().unwrap();
        let taken = [
            entry(Key::EndpointName(name("net"), name("c2")), &thief, 7),
            entry(Key::Mac(name("net"), endpoint(2, "here").mac), &thief, 7),
            entry(Key::Address(name("net"), Ipv4Addr::new(10, 0, 0, 2).into()), &held_by(&thief), 7),
        ];
        for claim in taken {
            let left = rest.iter().cloned().chain([claim.clone()]).collect();
            let plan = plan(&after(left, &Arrival::Same), Scope::Everything, &veths());
            assert_eq!(plan.transactions, []);
            assert_eq!(
                plan.lost[0].0,
                claims_of(&endpoint(2, "here")).iter().map(Key::to_string).collect::<Vec<_>>()
            );
            assert!(plan.lost[0].1.contains(&claim.key), "{plan:?}");
        }
    }

    #[test]
    fn an_endpoint_whose_network_is_another_one_now_is_lost() {
        let plan = plan(&after(vec![network("10.77.0.0/24")], &Arrival::Wiped), Scope::Everything, &veths());
        let [(_, sentence)] = &plan.lost[..] else { panic!("{plan:?}") };
        assert!(sentence.contains("network net is another one now"), "{sentence}");
    }

    #[test]
    fn a_network_whose_vni_is_anothers_now_is_lost_with_its_endpoints() {
        let taken = entry(Key::Vni(256.try_into().unwrap()), &"thief", 7);
        let plan = plan(&after(vec![taken], &Arrival::Wiped), Scope::Everything, &veths());
        let [(_, network), (_, endpoint)] = &plan.lost[..] else { panic!("{plan:?}") };
        assert!(
            network.contains("VNI 256 is another's now") && endpoint.contains("network net is gone"),
            "{plan:?}"
        );
        assert!(
            written(&plan).iter().all(|key| !key.contains("endpoints") && !key.ends_with("networks/net"))
        );
    }
}
