//! What the maps of one host should hold, for small clusters.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use overlay_common::{
    addr::Addr,
    config::{FLAG_GENERIC_CHECKSUM, FLAG_XDP_DECAP},
    fdb::{FdbEntry, FdbKey},
    mac::Mac,
    neigh::NeighKey,
    network::FLAG_RULES,
    policy::{ALLOW, PolicyKey, RULES, RuleBits, RuleBitsKey, RuleSet},
    route::{ANY_NETWORK, RouteKey},
    vni::Vni,
    vtep::VtepMemberKey,
};
use proptest::prelude::*;
use rstest::rstest;

use super::{
    Kept, Ledger, Local, Plan, RouteTarget, Tables, desired,
    desired::{GatewayDevice, Underlay},
};
use crate::{
    model::{
        Allowance, Cluster, Endpoint, EndpointId, Labels, Life, Name, Network, NetworkState, Node, Policy,
        Rule, RuleId, Slot, Traffic, cluster::Versioned,
    },
    store::Revision,
};

const HERE: u8 = 1;
/// A machine without an agent.
const EXTERNAL: u8 = 5;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn vtep(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 0, host)
}

fn versioned<T>(record: T) -> Versioned<T> {
    Versioned { record, revision: Revision(1) }
}

/// A cluster in the making.
#[derive(Default)]
struct Draft(Cluster);

impl Draft {
    fn node(mut self, host: u8) -> Self {
        let record = Node {
            name: name(&format!("host{host}")),
            id: host.to_string(),
            vtep: vtep(host),
            vxlan_port: 4789,
            version: String::new(),
            epoch: 1,
            registered: None,
            life: Life::Running,
            since: None,
            draining: None,
        };
        self.0.alive.insert(record.name.clone());
        self.0.nodes.insert(record.name.clone(), versioned(record));
        self
    }

    /// A node's agent ends: in order, or not.
    fn ended(mut self, host: u8, life: Life) -> Self {
        let name = name(&format!("host{host}"));
        self.0.alive.remove(&name);
        self.0.nodes.get_mut(&name).unwrap().record.life = life;
        self
    }

    fn network(mut self, vni: u32, subnet: &str) -> Self {
        let subnet: ipnet::Ipv4Net = subnet.parse().unwrap();
        let record = Network {
            name: name(&format!("net{vni}")),
            vni: Vni::new(vni).unwrap(),
            subnet,
            gateway: subnet.hosts().next().unwrap(),
            ip_range: None,
            ipv6: None,
            mtu: None,
            internal: false,
            multicast: false,
            labels: BTreeMap::new(),
            state: NetworkState::Active,
            engines: BTreeMap::new(),
            made_by_engine: false,
        };
        self.0.networks.insert(record.name.clone(), versioned(record));
        self
    }

    fn endpoint(mut self, host: u8, vni: u32, ip: &str) -> Self {
        let ipv4: Ipv4Addr = ip.parse().unwrap();
        let (network, node) = (name(&format!("net{vni}")), name(&format!("host{host}")));
        let mut record =
            Endpoint::sample(id(host, vni, ip), network, name(&format!("ep{host}-{ip}")), node, ipv4);
        record.vtep = (host == EXTERNAL).then(|| vtep(host));
        self.0.endpoints.insert(record.id.clone(), versioned(record));
        self
    }

    fn allow(mut self, a: u32, b: u32) -> Self {
        for (from, to) in [(a, b), (b, a)] {
            self.0.policies.insert((name(&format!("net{from}")), name(&format!("net{to}"))), Policy::Allow);
        }
        self
    }

    /// A rule with the number `id` in the slot `id`.
    fn rule(mut self, (from, to): (u32, u32), id: u32, allows: Allowance, audit: bool) -> Self {
        let direction = (name(&format!("net{from}")), name(&format!("net{to}")));
        let slot: Slot = (id as usize).try_into().unwrap();
        let rule = versioned(Rule { allows, slot, audit });
        self.0.rules.entry(direction).or_default().insert(rule_id(id), rule);
        self
    }

    fn labelled(mut self, id: &EndpointId, text: &[&str]) -> Self {
        self.0.endpoints.get_mut(id).unwrap().record.labels = labels(text);
        self
    }

    /// The tables of host 1, whose endpoints have the devices 100, 101 ….
    fn tables(&self) -> Tables {
        desired(&self.0, &self.local())
    }

    fn local(&self) -> Local {
        let mine = self.0.endpoints.values().filter(|e| e.record.node == name("host1"));
        Local {
            node: name("host1"),
            down: BTreeSet::new(),
            underlay: Underlay {
                ifindex: 2,
                mac: Mac([2, 0, 0, 0, 0, HERE]),
                addr: vtep(HERE),
                mtu: 1500,
                generic_checksum: true,
            },
            tunnel_ifindex: 3,
            vxlan_port: 4789,
            xdp_decap: false,
            host_veths: mine.map(|e| e.record.id.clone()).zip(100..).collect(),
            next_hops: BTreeMap::from([(vtep(2), Mac([2, 0, 0, 0, 0, 2]))]),
            path_mtus: BTreeMap::new(),
            gateway: None,
            kept: Kept::default(),
        }
    }
}

fn rule_id(number: u32) -> RuleId {
    format!("{number:08x}").parse().unwrap()
}

/// From `app=web`.
fn labels(texts: &[&str]) -> Labels {
    let pair = |text: &&str| text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).unwrap();
    texts.iter().map(pair).collect()
}

fn tcp(ports: &str) -> Allowance {
    Allowance { traffic: Traffic::Tcp(Some(ports.parse().unwrap())), ..Allowance::default() }
}

/// Traffic of any kind from `app=web` to `app=db`.
fn from_web_to_db() -> Allowance {
    Allowance { from_labels: labels(&["app=web"]), to_labels: labels(&["app=db"]), ..Allowance::default() }
}

fn id(host: u8, vni: u32, ip: &str) -> EndpointId {
    let ip: u32 = ip.parse::<Ipv4Addr>().unwrap().into();
    format!("{:016x}", u64::from(ip) << 32 | u64::from(vni) << 8 | u64::from(host)).parse().unwrap()
}

fn fdb_key(vni: u32, ip: &str) -> FdbKey {
    FdbKey::new(vni, Mac::from_ipv4(ip.parse::<Ipv4Addr>().unwrap().octets()).0)
}

fn two_hosts() -> Draft {
    Draft::default().node(1).node(2).network(256, "10.0.0.0/24").network(257, "10.0.1.0/24")
}

#[test]
fn local_endpoints_lead_to_their_device_and_remote_ones_to_their_vtep() {
    let tables = two_hosts().endpoint(1, 256, "10.0.0.2").endpoint(2, 256, "10.0.0.3").tables();
    assert_eq!(tables.fdb[&fdb_key(256, "10.0.0.2")], FdbEntry::local(100));
    assert_eq!(tables.fdb[&fdb_key(256, "10.0.0.3")], FdbEntry::remote(1, [192, 168, 0, 2]));
    assert_eq!(tables.endpoints[&100].vni, 256);
    assert_eq!(tables.vteps[&1].header.ip.dst, [192, 168, 0, 2]);
    assert_eq!(tables.vteps[&1].header.eth.dst, [2, 0, 0, 0, 0, 2]);
}

#[test]
fn an_endpoint_without_its_device_is_in_no_table() {
    let draft = two_hosts().endpoint(1, 256, "10.0.0.2");
    let tables = desired(&draft.0, &Local { host_veths: BTreeMap::new(), ..draft.local() });
    assert!(tables.endpoints.is_empty() && tables.fdb.is_empty());
    assert!(!tables.neigh.contains_key(&NeighKey { vni: 256, addr: Addr::v4([10, 0, 0, 2]) }));
}

#[test]
fn a_host_may_send_under_a_vni_if_it_has_an_endpoint_there_or_one_that_policy_lets_send_there() {
    let member = |vni| VtepMemberKey { vni, vtep_addr: [192, 168, 0, 2] };
    let apart = two_hosts().endpoint(2, 256, "10.0.0.3").tables();
    assert!(apart.vtep_members.contains_key(&member(256)));
    assert!(!apart.vtep_members.contains_key(&member(257)));
    let allowed = two_hosts().endpoint(2, 256, "10.0.0.3").allow(256, 257).tables();
    assert!(allowed.vtep_members.contains_key(&member(257)));
    let idle = two_hosts().tables();
    assert_eq!(idle.vtep_members.keys().copied().collect::<Vec<_>>(), [member(0)]);
}

#[test]
fn a_machine_without_an_agent_sends_in_its_network_alone_and_is_marked_as_what_it_is() {
    let draft = two_hosts().endpoint(EXTERNAL, 256, "10.0.0.9").allow(256, 257);
    let tables = draft.tables();
    let members: Vec<_> =
        tables.vtep_members.iter().filter(|(key, _)| key.vtep_addr == [192, 168, 0, 5]).collect();
    let member = |vni| VtepMemberKey { vni, vtep_addr: [192, 168, 0, 5] };
    assert_eq!(members, [(&member(0), &2), (&member(256), &2)]);
    let entry = tables.fdb[&fdb_key(256, "10.0.0.9")];
    assert_eq!((entry.ifindex, entry.vtep_addr), (0, [192, 168, 0, 5]));
    assert_eq!(tables.vteps[&entry.vtep].header.ip.dst, [192, 168, 0, 5]);
    assert!(tables.neigh.contains_key(&NeighKey { vni: 256, addr: Addr::v4([10, 0, 0, 9]) }));
}

#[test]
fn a_machine_without_an_agent_at_a_nodes_address_is_in_no_table() {
    let mut draft = two_hosts().endpoint(EXTERNAL, 256, "10.0.0.9");
    draft.0.endpoints.values_mut().for_each(|endpoint| endpoint.record.vtep = Some(vtep(2)));
    assert_eq!(draft.tables(), two_hosts().tables());
}

/// Whether tables hold anything of host 2 or of its endpoint 10.0.0.3.
fn mention_host2(tables: &Tables) -> bool {
    let vtep = vtep(2).octets();
    let parts = [
        tables.fdb.contains_key(&fdb_key(256, "10.0.0.3")),
        tables.neigh.contains_key(&NeighKey { vni: 256, addr: Addr::v4([10, 0, 0, 3]) }),
        tables.vteps.values().any(|v| v.header.ip.dst == vtep),
        tables.vtep_members.keys().any(|key| key.vtep_addr == vtep),
    ];
    assert!(parts.iter().all(|part| *part == parts[0]), "half of it: {parts:?}");
    parts[0]
}

#[rstest]
#[case::up(None, false, true)]
#[case::up_whatever_was_thought_of_it(None, true, true)]
#[case::stopped(Some(Life::Stopped), true, true)]
#[case::silent(Some(Life::Running), false, true)]
#[case::down(Some(Life::Running), true, false)]
#[case::collected(Some(Life::Collected), false, false)]
#[case::removed(Some(Life::Removed), false, false)]
fn endpoints_of_a_node_that_is_down_or_gone_are_withdrawn(
    #[case] ended: Option<Life>,
    #[case] counts_as_down: bool,
    #[case] expected: bool,
) {
    let draft = two_hosts().endpoint(1, 256, "10.0.0.2").endpoint(2, 256, "10.0.0.3");
    let draft = match ended {
        None => draft,
        Some(life) => draft.ended(2, life),
    };
    let down = counts_as_down.then(|| name("host2")).into_iter().collect();
    let tables = desired(&draft.0, &Local { down, ..draft.local() });
    assert_eq!(mention_host2(&tables), expected);
    assert!(tables.fdb.contains_key(&fdb_key(256, "10.0.0.2")), "what is here stays");
}

#[rstest]
fn a_node_whose_address_another_has_by_now_is_withdrawn(#[values(Life::Stopped, Life::Running)] life: Life) {
    let draft = two_hosts().node(3).endpoint(2, 256, "10.0.0.3").endpoint(3, 256, "10.0.0.4").ended(2, life);
    assert!(mention_host2(&draft.tables()));
    let mut draft = draft;
    draft.0.nodes.get_mut(&name("host3")).unwrap().record.vtep = vtep(2);
    let tables = draft.tables();
    assert!(!tables.fdb.contains_key(&fdb_key(256, "10.0.0.3")));
    assert!(tables.fdb.contains_key(&fdb_key(256, "10.0.0.4")));
}

#[test]
fn a_node_that_returns_with_another_address_replaces_its_old_one() {
    let mut draft = two_hosts().endpoint(2, 256, "10.0.0.3");
    let before = draft.tables();
    let kept = Kept::of(&before);
    draft.0.nodes.get_mut(&name("host2")).unwrap().record.vtep = vtep(9);
    let after = desired(&draft.0, &Local { kept, ..draft.local() });
    let old = vtep(2).octets();
    assert!(after.vteps.values().all(|v| v.header.ip.dst != old));
    assert!(after.vtep_members.keys().all(|key| key.vtep_addr != old));
    let (was, is) = (before.fdb[&fdb_key(256, "10.0.0.3")], after.fdb[&fdb_key(256, "10.0.0.3")]);
    assert_ne!(was.vtep, is.vtep, "an index never changes its meaning while it is in use");
    assert_eq!(is, FdbEntry::remote(is.vtep, vtep(9).octets()));
}

#[test]
fn policy_opens_exactly_the_two_directions_and_the_routes_for_them() {
    let tables = two_hosts().network(258, "10.0.2.0/24").allow(256, 257).tables();
    let pairs: Vec<_> = tables.policy.keys().map(|k| (k.src_vni, k.dst_vni)).collect();
    assert_eq!(pairs, [(256, 257), (257, 256)]);
    let route = |scope: u32, net: u8| RouteTarget {
        prefix_len: 96 + 24,
        key: RouteKey { scope_vni_be: scope.to_be(), addr: Addr::v4([10, 0, net, 0]) },
    };
    assert_eq!(tables.routes.get(&route(256, 1)), Some(&257));
    assert_eq!(tables.routes.get(&route(256, 2)), None);
    assert_eq!(tables.routes.get(&route(ANY_NETWORK, 2)), Some(&258));
}

fn direction(src_vni: u32, dst_vni: u32) -> PolicyKey {
    PolicyKey { src_vni, dst_vni }
}

#[test]
fn a_rule_opens_its_direction_for_what_it_names_and_the_other_one_for_answers() {
    let draft = two_hosts().endpoint(2, 257, "10.0.1.3");
    let tables = draft.rule((256, 257), 3, tcp("80-90"), false).tables();
    let (there, back) = (tables.rules[&direction(256, 257)], tables.rules[&direction(257, 256)]);
    assert_eq!(tables.policy.values().map(|p| p.action).collect::<Vec<_>>(), [RULES, RULES]);
    let rule = there.rules[0];
    assert_eq!((there.count, there.flags, rule.id, rule.slot), (1, 0, 3, 3));
    assert_eq!((rule.protocol, rule.protocol_mask, rule.first_port, rule.last_port), (6, 255, 80, 90));
    assert_eq!((back.count, back.flags), (0, RuleSet::ANSWERS));
    assert_eq!(tables.rule_stats.keys().map(|key| key.rule).collect::<Vec<_>>(), [3]);
    let flags = [256, 257].map(|vni| tables.networks[&vni].flags);
    assert_eq!(flags, [FLAG_RULES, FLAG_RULES]);
    let routes = tables.routes.keys().filter(|target| target.key.scope_vni_be != ANY_NETWORK);
    assert_eq!(routes.count(), 4, "each finds its own network and the other");
    let member = |vni| VtepMemberKey { vni, vtep_addr: [192, 168, 0, 2] };
    assert!(tables.vtep_members.contains_key(&member(256)), "answers are sent to it");
}

#[test]
fn networks_that_are_joined_as_a_whole_stay_so_beside_rules_and_without_rules_nothing_is_judged() {
    let tables = two_hosts().allow(256, 257).rule((256, 257), 3, tcp("80"), false).tables();
    assert_eq!(tables.policy.values().map(|p| p.action).collect::<Vec<_>>(), [ALLOW, ALLOW]);
    assert_eq!((tables.rules.len(), tables.networks[&256].flags), (0, 0));
}

#[rstest]
#[case::alone(false, RuleSet::AUDIT, RuleSet::ANSWERS)]
#[case::beside_what_is_open_as_a_whole(
    true,
    RuleSet::AUDIT | RuleSet::ANSWERS,
    RuleSet::AUDIT | RuleSet::ANSWERS
)]
fn rules_that_are_tried_let_pass_what_they_do_not_allow(
    #[case] is_open: bool,
    #[case] there: u32,
    #[case] back: u32,
) {
    let draft = two_hosts().rule((256, 257), 3, tcp("80"), true);
    let tables = if is_open { draft.allow(256, 257) } else { draft }.tables();
    assert_eq!(tables.rules[&direction(256, 257)].flags, there);
    assert_eq!(tables.rules[&direction(257, 256)].flags, back);
    assert!(tables.rule_stats.keys().any(|key| key.rule == 0 && key.src_vni == 256));
}

#[test]
fn one_rule_in_force_puts_its_direction_in_force() {
    let draft = two_hosts().rule((256, 257), 3, tcp("80"), true).rule((256, 257), 4, tcp("81"), false);
    assert_eq!(draft.tables().rules[&direction(256, 257)].flags, 0);
}

#[test]
fn endpoints_have_the_bits_of_the_rules_whose_labels_they_have_and_a_change_costs_one_entry() {
    let (web, db) = (id(1, 256, "10.0.0.2"), id(2, 257, "10.0.1.3"));
    let draft = || {
        let ends = two_hosts().endpoint(1, 256, "10.0.0.2").endpoint(2, 257, "10.0.1.3");
        let rules = ends.rule((256, 257), 3, from_web_to_db(), false).rule((256, 257), 5, tcp("80"), false);
        rules.labelled(&web, &["app=web", "x=y"])
    };
    let key = |vni, peer_vni, ipv4| RuleBitsKey { vni, peer_vni, addr: Addr::v4(ipv4) };
    let sender = (key(256, 257, [10, 0, 0, 2]), RuleBits { src: 1 << 3, dst: 0 });
    let receiver = (key(257, 256, [10, 0, 1, 3]), RuleBits { src: 0, dst: 1 << 3 });
    let tables = draft().tables();
    assert_eq!(tables.rule_bits, BTreeMap::from([sender]));
    let set = tables.rules[&direction(256, 257)];
    assert_eq!((set.count, set.src_labelled, set.dst_labelled), (2, 1 << 3, 1 << 3));

    let (before, after) = (draft(), draft().labelled(&db, &["app=db"]));
    let ledger = Ledger::new(&before.0, before.local());
    let (ledger, plan) = ledger.follow(&after.0, None, &BTreeSet::from([&db])).expect("a shortcut");
    assert_eq!((plan.len(), plan.rule_bits.put.clone()), (1, vec![receiver]));
    let (_, plan) = ledger.follow(&before.0, None, &BTreeSet::from([&db])).expect("a shortcut");
    assert_eq!((plan.len(), plan.rule_bits.delete.clone()), (1, vec![receiver.0]));
}

#[test]
fn where_subnets_overlap_each_network_sees_its_own() {
    let tables = two_hosts().network(300, "10.0.0.0/24").tables();
    let own = |vni: u32| RouteTarget {
        prefix_len: 96 + 24,
        key: RouteKey { scope_vni_be: vni.to_be(), addr: Addr::v4([10, 0, 0, 0]) },
    };
    assert_eq!((tables.routes[&own(256)], tables.routes[&own(300)]), (256, 300));
    assert_eq!(tables.routes[&own(ANY_NETWORK)], 256);
}

#[test]
fn a_vtep_keeps_its_index_and_a_new_one_never_gets_an_index_in_use() {
    let draft = two_hosts().node(3).node(4);
    // Host 9 is gone, but entries of this moment may still name its index.
    let vtep_indices = BTreeMap::from([(vtep(3), 1), (vtep(9), 2)]);
    let tables =
        desired(&draft.0, &Local { kept: Kept { vtep_indices, ..Kept::default() }, ..draft.local() });
    let at = |index: u32| tables.vteps.get(&index).map(|v| Ipv4Addr::from(v.header.ip.dst));
    assert_eq!((at(1), at(2), at(3), at(4)), (Some(vtep(3)), None, Some(vtep(2)), Some(vtep(4))));
}

#[test]
fn the_mtu_of_a_network_never_exceeds_what_the_underlay_leaves() {
    let mut draft = two_hosts();
    assert_eq!(draft.tables().networks[&256].mtu, 1450);
    let set = |draft: &mut Draft, mtu| {
        draft.0.networks.get_mut(&name("net256")).unwrap().record.mtu = Some(mtu);
        draft.tables().networks[&256].mtu
    };
    assert_eq!(set(&mut draft, 1400), 1400);
    assert_eq!(set(&mut draft, 9000), 1450);
}

#[test]
fn a_container_of_another_host_that_comes_or_goes_costs_its_own_entries_only() {
    let before = two_hosts().endpoint(2, 256, "10.0.0.3");
    let after = two_hosts().endpoint(2, 256, "10.0.0.3").endpoint(2, 256, "10.0.0.4");
    let new = id(2, 256, "10.0.0.4");
    let changed = BTreeSet::from([&new]);
    let (ledger, plan) =
        Ledger::new(&before.0, before.local()).follow(&after.0, None, &changed).expect("a shortcut");
    assert_eq!((plan.len(), plan.fdb.put.len(), plan.neigh.put.len()), (2, 1, 1));
    let (_, plan) = ledger.follow(&before.0, None, &changed).expect("a shortcut");
    assert_eq!((plan.len(), plan.fdb.delete.len(), plan.neigh.delete.len()), (2, 1, 1));
}

#[test]
fn a_container_that_moves_from_here_to_another_host_has_no_shortcut() {
    let (before, mut after) =
        (two_hosts().endpoint(1, 256, "10.0.0.2"), two_hosts().endpoint(2, 256, "10.0.0.3"));
    let moved = id(1, 256, "10.0.0.2");
    let (_, mut endpoint) = after.0.endpoints.pop_first().unwrap();
    endpoint.record.id = moved.clone();
    after.0.endpoints.insert(moved.clone(), endpoint);
    let ledger = Ledger::new(&before.0, before.local());
    assert!(ledger.follow(&after.0, None, &BTreeSet::from([&moved])).is_err());
}

fn gateway_device(ifindex: u32) -> GatewayDevice {
    let range = "172.18.0.0/16".parse().unwrap();
    GatewayDevice { ifindex, inner_ifindex: ifindex + 1, mac: Mac([2, 0, 0, 0, 0, 7]), range }
}

/// An endpoint of many that may claim the same: host, network, address, whether it has the labels of a rule.
type Claim = (u8, u32, u8, bool);

/// Such endpoints by identity.
fn claims() -> impl Strategy<Value = BTreeMap<u64, Claim>> {
    proptest::collection::btree_map(0u64..12, (1u8..6, 256u32..259, 2u8..8, any::<bool>()), 0..12)
}

fn claimed(claims: &BTreeMap<u64, Claim>) -> Draft {
    // Host 4 and network 258 are not there.
    let mut draft = two_hosts().node(3).allow(256, 257).rule((256, 257), 3, from_web_to_db(), true);
    draft = draft.rule((257, 256), 4, from_web_to_db(), true);
    for (number, (host, vni, last, has_labels)) in claims {
        let Draft(mut one) = Draft::default().endpoint(*host, *vni, &format!("10.0.0.{last}"));
        let (_, mut endpoint) = one.endpoints.pop_first().unwrap();
        endpoint.record.id = format!("{number:016x}").parse().unwrap();
        if *has_labels {
            endpoint.record.labels = labels(&[if last % 2 == 0 { "app=web" } else { "app=db" }]);
        }
        draft.0.endpoints.insert(endpoint.record.id.clone(), endpoint);
    }
    draft
}

proptest! {
    #[test]
    fn a_shortcut_leads_where_the_long_way_leads(before in claims(), after in claims(), same in any::<bool>()) {
        // Mostly few changes, as in life: most endpoints stay.
        let after = if same { before.clone().into_iter().chain(after.into_iter().take(2)).collect() } else { after };
        let (old, new) = (claimed(&before), claimed(&after));
        let ids: BTreeSet<EndpointId> = old.0.endpoints.keys().chain(new.0.endpoints.keys()).cloned().collect();
        let changed = ids.iter().filter(|id| old.0.endpoints.get(*id) != new.0.endpoints.get(*id)).collect();
        let ledger = Ledger::new(&old.0, old.local());
        match ledger.clone().follow(&new.0, None, &changed) {
            Ok((followed, plan)) => {
                let wanted = desired(&new.0, ledger.local());
                prop_assert_eq!(followed.tables(), &wanted);
                prop_assert_eq!(plan, Plan::between(ledger.tables(), &wanted));
            }
            Err(tables) => prop_assert_eq!(&*tables, ledger.tables()),
        }
    }
}

proptest! {
    #[test]
    fn a_shortcut_over_new_ground_leads_where_the_long_way_leads(
        before in claims(), after in claims(), host in 4u8..8, known in any::<bool>(), policy in any::<bool>(),
        leaves in any::<bool>(), mtu in 1400u16..1600, gateway in proptest::option::of(7u32..9),
        rule in proptest::option::of(any::<bool>()),
    ) {
        let (mut old, mut new) = (claimed(&before), claimed(&after).node(host));
        if leaves {
            old = old.node(9);
        }
        if policy {
            new = new.network(258, "10.0.2.0/24").allow(256, 258);
        }
        if let Some(has_labels) = rule {
            new = new.rule((256, 257), 7, if has_labels { from_web_to_db() } else { tcp("80") }, false);
        }
        let mut local = Local { host_veths: old.local().host_veths, ..new.local() };
        local.underlay.mtu = mtu;
        local.gateway = gateway.map(gateway_device);
        if known {
            local.next_hops.insert(vtep(host), Mac([2, 0, 0, 0, 0, host]));
        }
        let ids: BTreeSet<EndpointId> = old.0.endpoints.keys().chain(new.0.endpoints.keys()).cloned().collect();
        let changed = ids.iter().filter(|id| old.0.endpoints.get(*id) != new.0.endpoints.get(*id)).collect();
        let ledger = Ledger::new(&old.0, old.local());
        let now = Local { kept: ledger.local().kept.clone(), ..local };
        match ledger.clone().follow(&new.0, Some(now.clone()), &changed) {
            Ok((followed, plan)) => {
                let wanted = desired(&new.0, &now);
                prop_assert_eq!(followed.tables(), &wanted);
                let mut tables = ledger.tables().clone();
                plan.carry_out(&mut tables);
                prop_assert_eq!(&tables, &wanted);
                prop_assert_eq!(plan.len(), Plan::between(ledger.tables(), &wanted).len());
            }
            Err(tables) => prop_assert_eq!(&*tables, ledger.tables()),
        }
    }
}

#[test]
fn a_host_that_joins_and_a_next_hop_that_is_found_touch_no_containers_entry() {
    let before = two_hosts().endpoint(2, 256, "10.0.0.3").endpoint(1, 256, "10.0.0.2");
    let after = two_hosts().node(3).endpoint(2, 256, "10.0.0.3").endpoint(1, 256, "10.0.0.2");
    let ledger = Ledger::new(&before.0, before.local());
    let mut local = ledger.local().clone();
    let (ledger, plan) = ledger.follow(&after.0, Some(local.clone()), &BTreeSet::new()).expect("a shortcut");
    assert_eq!((plan.len(), plan.vteps.put.len(), plan.vtep_members.put.len()), (2, 1, 1));
    local.kept = ledger.local().kept.clone();
    local.next_hops.insert(vtep(3), Mac([2, 0, 0, 0, 0, 3]));
    let (_, plan) = ledger.follow(&after.0, Some(local), &BTreeSet::new()).expect("a shortcut");
    assert_eq!((plan.len(), plan.vteps.put.len()), (1, 1));
}

#[test]
fn a_host_that_leaves_without_containers_touches_no_containers_entry_and_one_with_some_has_no_shortcut() {
    let before = two_hosts().node(3).endpoint(2, 256, "10.0.0.3");
    let ledger = Ledger::new(&before.0, before.local());
    let after = |gone: u8| {
        let mut draft = two_hosts().node(3).endpoint(2, 256, "10.0.0.3");
        draft.0.nodes.remove(&name(&format!("host{gone}")));
        draft
    };
    let local = ledger.local().clone();
    let (_, plan) =
        ledger.clone().follow(&after(3).0, Some(local.clone()), &BTreeSet::new()).expect("a shortcut");
    assert_eq!((plan.len(), plan.vteps.delete.len(), plan.vtep_members.delete.len()), (2, 1, 1));
    assert!(ledger.follow(&after(2).0, Some(local), &BTreeSet::new()).is_err());
}

#[test]
fn the_hosts_flags_follow_its_device_and_mode() {
    let draft = two_hosts();
    assert_eq!(draft.tables().config.flags, FLAG_GENERIC_CHECKSUM);
    let local = Local { xdp_decap: true, ..draft.local() };
    assert_eq!(desired(&draft.0, &local).config.flags, FLAG_GENERIC_CHECKSUM | FLAG_XDP_DECAP);
}

proptest! {
    /// The one property that matters most: whatever the endpoints, an entry of one network's tables speaks
    /// of an endpoint of that network alone, and no policy stands that nobody set.
    #[test]
    fn tables_never_mix_networks(places in proptest::collection::btree_set((1u8..4, 256u32..260, 2u8..20), 0..30)) {
        let mut draft = Draft::default().node(1).node(2).node(3);
        for vni in 256..260 {
            draft = draft.network(vni, "10.0.0.0/24");
        }
        for (host, vni, last) in &places {
            draft = draft.endpoint(*host, *vni, &format!("10.0.0.{last}"));
        }
        let tables = draft.tables();
        for (key, entry) in &tables.fdb {
            let last = key.mac[5];
            let owners: Vec<u8> = places.iter().filter(|(_, v, l)| (*v, *l) == (key.vni, last)).map(|(h, ..)| *h).collect();
            prop_assert!(!owners.is_empty());
            let owned = if entry.ifindex != 0 { owners.contains(&HERE) } else { owners.contains(&entry.vtep_addr[3]) };
            prop_assert!(owned, "{key:?} → {entry:?}");
        }
        for key in tables.vtep_members.keys().filter(|key| key.vni != 0) {
            prop_assert!(places.iter().any(|(host, vni, _)| *vni == key.vni && *host == key.vtep_addr[3]));
        }
        prop_assert_eq!(tables.policy.keys().copied().collect::<Vec<PolicyKey>>(), vec![]);
        prop_assert!(Plan::between(&tables, &draft.tables()).is_empty());
    }
}
