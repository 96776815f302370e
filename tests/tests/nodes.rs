//! Nodes that come and go: what is dead is withdrawn, what is stopped is not, what comes back is whole at
//! once, and no address ever has two holders.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use overlay_common::{abi::map, verdict::DropReason};
use overlay_tests::{
    container::Container,
    drops,
    host::Host,
    oracle::expect_agreement,
    packet::{DISCARD_PORT, Frame},
    tap::Tap,
    topology::{CONVERGENCE, Cluster, Plan, settle, time_to_pass},
    traffic::{
        flow::{Flow, Report},
        ping::expect_ping,
    },
    underlay::UNDERLAY_IFNAME,
    views::{MapDump, Node},
    wait,
};
use rusqlite::{Connection, TransactionBehavior};

/// A lease as users have it, and a short one for what does not depend on its length.
const DEFAULT_LEASE: Duration = Duration::from_secs(15);
const SHORT_LEASE: Duration = Duration::from_secs(3);
/// Longest time from the end of a lease until the node is withdrawn.
const WITHDRAWAL: Duration = Duration::from_secs(5);
/// Longest time from the start of an agent until its node is whole again everywhere.
const RETURN: Duration = Duration::from_secs(2);
/// Longest time until something that is due has been done.
const PATIENCE: Duration = Duration::from_secs(10);

const LEASED: &[(&str, &str)] = &[("--lease", "3s")];
const COLLECTING: &[(&str, &str)] = &[("--lease", "3s"), ("--collect-after", "3s")];

/// Two hosts with a container each in `net`: `a` on the first, `b` on the second.
fn pair(flags: &'static [(&'static str, &'static str)]) -> (Container, Container, Cluster) {
    let cluster = Cluster::new(Plan { flags, ..Plan::default() });
    let (a, b) = cluster.pair();
    (a, b, cluster)
}

/// Names of those of a host's maps that mention any of these texts.
fn maps_with(host: &Host, texts: &[String]) -> Vec<&'static str> {
    let mentions = |name: &&str| {
        let dump: MapDump = host.json(&["map", "dump", name]);
        let dump = serde_json::to_string(&dump.entries).expect("JSON");
        texts.iter().any(|text| dump.contains(&format!("\"{text}\"")))
    };
    [map::FDB, map::NEIGH, map::VTEP_MEMBERS, map::VTEPS].into_iter().filter(mentions).collect()
}

/// What tables say of a container on another host: its addresses and that host's.
fn traces(container: &Container, host: &Host) -> Vec<String> {
    let addr = container.addr();
    vec![addr.mac_text(), addr.ip.to_string(), host.addr().ip.to_string()]
}

#[track_caller]
fn wait_for_state(host: &Host, node: &str, state: &str, deadline: Duration) -> Duration {
    wait::until(&format!("{node} is {state}"), deadline, || host.node(node).state == state)
}

#[track_caller]
fn expect_whole(report: Report) {
    println!("{report:?}");
    assert!(report.sent > 0);
    assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}");
}

#[test]
fn a_node_that_dies_is_withdrawn_and_keeps_its_addresses() {
    let (a, b, cluster) = pair(&[]);
    let [one, two] = [&cluster.hosts[0], &cluster.hosts[1]];
    let traces = traces(&a, one);
    assert_eq!(maps_with(two, &traces).len(), 4);
    one.kill9();
    let took = wait::until("the dead node is withdrawn", DEFAULT_LEASE + WITHDRAWAL, || {
        maps_with(two, &traces).is_empty()
    });
    println!("withdrawn {took:?} after its death, with a lease of {DEFAULT_LEASE:?}");
    assert!(took > WITHDRAWAL, "it was withdrawn before its lease can have ended");

    let node = two.node("host1");
    assert_eq!((node.state.as_str(), node.endpoints), ("down", 1));
    let mut thief = Container::new("thief");
    let refused =
        two.cli(&["attach", "net", "--netns", thief.netns().name(), "--ip", &a.addr().ip.to_string()]);
    assert!(!refused.is_success() && refused.stderr.contains("belongs to a"), "{refused}");

    // What is still sent to it is dropped at the sender, once each, and does not reach the wire.
    let wire = Tap::open(one.netns(), UNDERLAY_IFNAME);
    let probe = Frame::udp(b.addr(), a.addr(), (1, DISCARD_PORT), b"nobody is there");
    drops::expect(two, DropReason::UnknownMac, 1, || b.tap().send(&probe));
    assert!(wire.arrived().iter().all(|frame| !frame.contains(b"nobody is there")));

    one.start();
    settle(&[&a, &b]);
    thief.attach(two, "net", &[]);
    assert_ne!(thief.addr().ip, a.addr().ip);
    expect_agreement(&cluster);
}

#[test]
fn a_node_that_is_stopped_in_order_stays_in_place() {
    let (a, b, cluster) = pair(LEASED);
    let [one, two] = [&cluster.hosts[0], &cluster.hosts[1]];
    let flow = Flow::start(b.netns(), a.netns(), a.addr().ip);
    assert!(one.terminate().success());
    let stopped = Instant::now();
    let took = wait_for_state(two, "host1", "stopped", CONVERGENCE);
    println!("known as stopped {took:?} after it ended");
    // The point is that nothing happens for as long as it would to a dead one, and longer.
    wait::until("a dead node would be withdrawn by now", PATIENCE, || {
        stopped.elapsed() > SHORT_LEASE + WITHDRAWAL
    });
    assert_eq!(two.node("host1").state, "stopped");
    assert_eq!(maps_with(two, &traces(&a, one)).len(), 4);
    one.start();
    assert_eq!(two.node("host1").state, "up");
    flow.wait_for_more(100);
    expect_whole(flow.stop());
}

#[test]
fn a_node_that_is_killed_and_started_again_within_its_lease_loses_nothing() {
    let (a, b, cluster) = pair(LEASED);
    let [one, two] = [&cluster.hosts[0], &cluster.hosts[1]];
    let before = two.node("host1");
    let flow = Flow::start(b.netns(), a.netns(), a.addr().ip);
    one.kill9();
    one.start();
    flow.wait_for_more(100);
    expect_whole(flow.stop());
    let after = two.node("host1");
    assert_eq!((after.state.as_str(), after.epoch), ("up", before.epoch + 1));
    assert_eq!(after.registered, before.registered);
    assert!(after.since >= before.since, "{before:?} {after:?}");
}

#[test]
fn a_node_that_returns_with_another_address_is_whole_at_once() {
    let (a, b, cluster) = pair(LEASED);
    let [one, two] = [&cluster.hosts[0], &cluster.hosts[1]];
    let (old, new) = (one.addr().ip.to_string(), "192.168.77.211");
    for is_dead in [false, true] {
        one.kill9();
        if is_dead {
            wait_for_state(two, "host1", "down", SHORT_LEASE + WITHDRAWAL);
        }
        let [from, to] = if is_dead { [new, &old] } else { [&old, new] };
        one.netns().ip(&["addr", "del", &format!("{from}/24"), "dev", UNDERLAY_IFNAME]);
        one.netns().ip(&["addr", "add", &format!("{to}/24"), "dev", UNDERLAY_IFNAME]);
        let (tap_a, tap_b) = (a.tap(), b.tap());
        let start = Instant::now();
        one.spawn();
        for (from_tap, to_tap, sender, receiver) in [(&tap_b, &tap_a, &b, &a), (&tap_a, &tap_b, &a, &b)] {
            let passed = time_to_pass(from_tap, to_tap, sender.addr(), receiver.addr(), PATIENCE);
            assert!(passed.is_some(), "{} does not reach {} any more", sender.name(), receiver.name());
        }
        // What is pinned forwards under the old address until the new agent is there, so its start counts too.
        wait::until("nothing of the old address is left", RETURN, || {
            maps_with(two, &[from.to_owned()]).is_empty()
        });
        settle(&[&a, &b]);
        let took = start.elapsed();
        println!("whole {took:?} after the start of its agent, dead before: {is_dead}");
        assert!(took <= RETURN, "{took:?}");
        one.wait_ready();
        assert_eq!(maps_with(two, &[to.to_owned()]), [map::FDB, map::VTEP_MEMBERS, map::VTEPS]);
    }
    expect_agreement(&cluster);
    expect_ping(a.netns(), b.addr().ip, &[]);
}

#[test]
fn leases_that_all_run_out_at_once_withdraw_nobody() {
    let (a, b, cluster) = pair(LEASED);
    let [one, two] = [&cluster.hosts[0], &cluster.hosts[1]];
    let epochs = || [one, two].map(|host| host.node(host.label()).epoch);
    let before = epochs();
    let flow = Flow::start(b.netns(), a.netns(), a.addr().ip);

    // Nobody can write, so nobody can renew; whoever comes first then finds all leases ended.
    let mut store = Connection::open(cluster.dir.path().join("overlay.db")).unwrap();
    let lock = store.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let locked = Instant::now();
    wait::until("all leases have run out", PATIENCE, || locked.elapsed() > SHORT_LEASE + CONVERGENCE);
    drop(lock);
    wait::until("both have registered again", PATIENCE, || {
        epochs().iter().zip(&before).all(|(now, then)| now > then)
    });
    // And when all agents were away for longer than that: the first does not take the other for dead.
    one.kill9();
    two.kill9();
    let killed = Instant::now();
    wait::until("all leases have run out", PATIENCE, || killed.elapsed() > SHORT_LEASE);
    two.start();
    assert_eq!(two.node("host1").state, "silent");
    one.start();
    assert_eq!(two.node("host1").state, "up");
    flow.wait_for_more(200);
    expect_whole(flow.stop());
}

#[test]
fn a_node_that_stays_away_is_collected_and_claims_again_what_is_still_free() {
    let (a, b, cluster) = pair(COLLECTING);
    let [one, two] = [&cluster.hosts[0], &cluster.hosts[1]];
    let mut c = Container::new("c");
    c.attach(one, "net", &[]);
    let died = Instant::now();
    one.kill9();
    let names = |host: &Host| host.endpoints().into_iter().map(|e| e.name).collect::<Vec<_>>();
    wait::until("its endpoints are collected", 2 * PATIENCE, || names(two) == ["b"]);
    println!("collected {:?} after its death, lease 3 s, grace 3 s", died.elapsed());
    let node = two.node("host1");
    assert_eq!((node.state.as_str(), node.endpoints), ("gone", 0));

    // One address finds a new holder, the other stays free.
    let mut heir = Container::new("heir");
    heir.attach(two, "net", &["--ip", &a.addr().ip.to_string()]);
    settle(&[&heir, &b]);
    one.start();
    wait::until("what is free is claimed again", CONVERGENCE, || names(two) == ["b", "c", "heir"]);
    settle(&[&c, &b, &heir]);
    let again = two.endpoints().into_iter().find(|endpoint| endpoint.name == "c").unwrap();
    assert_eq!((&again.id, &again.ip), (&c.endpoint().id, &c.endpoint().ip));

    // The other container lost its interface, and its agent says so.
    wait::until("the container without an address is taken off", CONVERGENCE, || !a.netns().has_link("eth0"));
    let warnings = one.status().warnings;
    let expected = "a was taken off net when this node came back: address 10.0.0.2 of net belongs to heir; attach it again";
    assert_eq!(warnings, [expected]);
    assert_eq!(two.node("host1").state, "up");
    one.overlay(&["attach", "net", "--netns", a.netns().name(), "--name", "a"]);
    expect_ping(a.netns(), b.addr().ip, &[]);
    expect_agreement(&cluster);
}

#[test]
fn a_node_without_endpoints_that_stays_away_leaves_nothing() {
    let cluster = Cluster::new(Plan { flags: COLLECTING, ..Plan::default() });
    let [one, two] = [&cluster.hosts[0], &cluster.hosts[1]];
    assert!(one.terminate().success());
    wait::until("its record is collected", 2 * PATIENCE, || {
        let nodes: Vec<Node> = two.json(&["node", "ls"]);
        nodes.len() == 1
    });
    one.start();
    wait_for_state(two, "host1", "up", CONVERGENCE);
}

#[test]
fn a_node_that_is_drained_takes_no_new_containers() {
    let (a, b, cluster) = pair(&[]);
    let [one, two] = [&cluster.hosts[0], &cluster.hosts[1]];
    two.overlay(&["node", "drain", "host1"]);
    let mut c = Container::new("c");
    wait::until("host1 knows", CONVERGENCE, || one.node("host1").drain.as_deref() == Some("draining"));
    let refused = one.cli(&["attach", "net", "--netns", c.netns().name()]);
    assert!(!refused.is_success() && refused.stderr.contains("node drain host1 --undo"), "{refused}");
    expect_ping(a.netns(), b.addr().ip, &[]);

    // It stays so when its agent is started again, and whatever its containers do.
    assert!(one.terminate().success());
    one.start();
    one.overlay(&["detach", "net", "--name", "a"]);
    let node = two.node("host1");
    assert_eq!((node.state.as_str(), node.drain.as_deref()), ("up", Some("drained")));
    assert!(two.overlay(&["node", "ls"]).contains("up, drained"));
    one.overlay(&["node", "drain", "host1", "--undo"]);
    c.attach(one, "net", &[]);
    settle(&[&c, &b]);
    assert_eq!(one.node("host1").drain, None);
}

#[test]
fn a_node_is_removed_if_nothing_is_lost_by_it_or_by_force() {
    let (a, b, cluster) = pair(&[]);
    let [one, two] = [&cluster.hosts[0], &cluster.hosts[1]];
    let refused = |argv: &[&str], sentence: &str| {
        let finished = two.cli(argv);
        assert!(!finished.is_success() && finished.stderr.contains(sentence), "{finished}");
    };
    refused(&["node", "rm", "host1"], "host1 is up: stop its agent first");
    refused(&["node", "rm", "host2"], "host2 is this node");
    refused(&["node", "rm", "host9"], "there is no node host9");
    assert!(one.terminate().success());
    wait_for_state(two, "host1", "stopped", CONVERGENCE);
    refused(&["node", "rm", "host1"], "has 1 endpoints (a)");

    two.overlay(&["node", "rm", "host1", "--force"]);
    wait::until("all of it is withdrawn", CONVERGENCE, || maps_with(two, &traces(&a, one)).is_empty());
    assert_eq!(two.node("host1").state, "gone");
    let mut heir = Container::new("heir");
    heir.attach(two, "net", &["--ip", &a.addr().ip.to_string()]);

    // It may come back, but not with what was taken from it.
    one.start();
    wait::until("its container is taken off", CONVERGENCE, || !a.netns().has_link("eth0"));
    settle(&[&heir, &b]);
    expect_agreement(&cluster);
    assert!(one.terminate().success());
    wait_for_state(two, "host1", "stopped", CONVERGENCE);
    two.overlay(&["node", "rm", "host1"]);
    let nodes: Vec<Node> = two.json(&["node", "ls"]);
    assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["host2"]);
}

#[test]
fn a_node_that_runs_is_removed_by_force_and_joins_again_when_restarted() {
    let (a, b, cluster) = pair(LEASED);
    let [one, two] = [&cluster.hosts[0], &cluster.hosts[1]];
    let removed: serde_json::Value = two.json(&["node", "rm", "host1", "--force"]);
    assert_eq!(removed, serde_json::json!({"name": "host1", "collected": ["a"], "is_listed": true}));
    wait::until("its container is taken off", CONVERGENCE, || !a.netns().has_link("eth0"));
    let mut c = Container::new("c");
    let refused = one.cli(&["attach", "net", "--netns", c.netns().name()]);
    assert!(!refused.is_success() && refused.stderr.contains("restart its agent"), "{refused}");
    // Nor does its goodbye bring it back.
    assert!(one.terminate().success());
    assert_eq!(two.node("host1").state, "gone");
    one.start();
    c.attach(one, "net", &[]);
    settle(&[&c, &b]);
}

#[test]
fn a_small_network_gives_a_resting_address_rather_than_none() {
    let cluster = Cluster::new(Plan { hosts: 1, flags: &[("--address-rest", "1h")], ..Plan::default() });
    let host = &cluster.hosts[0];
    cluster.network("tiny", &["--subnet", "10.9.0.0/30"]);
    cluster.network("wide", &["--subnet", "10.8.0.0/29"]);
    let addresses = |network: &str, count: usize| -> Vec<Ipv4Addr> {
        (0..count)
            .map(|number| {
                let name = format!("{network}{number}");
                let container = Container::attached(host, network, &name);
                host.overlay(&["detach", network, "--name", &name]);
                container.addr().ip
            })
            .collect()
    };
    assert_eq!(addresses("tiny", 2), [Ipv4Addr::new(10, 9, 0, 2); 2]);
    // One after the other, and only then again from the one that has rested longest.
    let last: Vec<u8> = addresses("wide", 7).iter().map(|ip| ip.octets()[3]).collect();
    assert_eq!(last, [2, 3, 4, 5, 6, 2, 3]);
}
