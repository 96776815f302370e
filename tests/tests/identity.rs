//! Who a node is and what it knows: its containers stay its own and stay connected when address, store, state
//! directory or pins are taken from under the agent, and no other agent takes them over.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use overlay_common::abi;
use overlay_tests::{
    container::Container,
    exec,
    host::Host,
    topology::{CONVERGENCE, Cluster, Plan, time_to_pass, two_hosts},
    traffic::{
        flow::Flow,
        ping::{expect_no_ping, expect_ping, ping},
    },
    underlay::{UNDERLAY_IFNAME, Wire},
    views::Node,
    wait,
};

/// Longest time until what somebody removed or changed is put right.
const REPAIR: Duration = Duration::from_secs(5);

/// Two hosts with a container each in `net`.
fn pair() -> (Container, Container, Cluster) {
    let cluster = two_hosts(Wire::Offload);
    let (a, b) = cluster.pair();
    (a, b, cluster)
}

#[test]
fn a_denial_is_in_force_although_the_underlay_has_no_address() {
    let cluster = Cluster::new(Plan { hosts: 1, ..Plan::default() });
    let host = &cluster.hosts[0];
    cluster.network("one", &[]);
    cluster.network("two", &[]);
    let a = Container::attached(host, "one", "a");
    let b = Container::attached(host, "two", "b");
    host.overlay(&["policy", "allow", "one", "two"]);
    expect_ping(a.netns(), b.addr().ip, &[]);

    host.netns().ip(&["addr", "flush", "dev", UNDERLAY_IFNAME]);
    expect_ping(a.netns(), b.addr().ip, &[]);
    // It may say that something is wrong with the underlay, but it has to take effect.
    let denied = host.cli(&["policy", "deny", "one", "two"]);
    println!("{denied}");
    wait::until("the denial is in force", REPAIR, || {
        ping(a.netns(), b.addr().ip, &["-c", "1"]).stdout.contains(" 0 received")
    });
    expect_no_ping(a.netns(), b.addr().ip);
}

#[test]
fn a_new_address_of_the_underlay_is_announced_to_the_others() {
    let (a, b, cluster) = pair();
    let [host, other] = [&cluster.hosts[0], &cluster.hosts[1]];
    let (old, new) = (host.addr().ip.to_string(), "192.168.77.210");
    host.netns().ip(&["addr", "del", &format!("{old}/24"), "dev", UNDERLAY_IFNAME]);
    host.netns().ip(&["addr", "add", &format!("{new}/24"), "dev", UNDERLAY_IFNAME]);

    let knows = |host: &Host| {
        let nodes: Vec<Node> = host.json(&["node", "ls"]);
        nodes.iter().any(|node| node.name == "host1" && node.vtep.to_string() == new)
    };
    let took = wait::until("the other host knows the new address", REPAIR, || knows(other));
    println!("announced after {took:?}");
    let (tap_a, tap_b) = (a.tap(), b.tap());
    for (from, to, sender, receiver) in [(&tap_a, &tap_b, &a, &b), (&tap_b, &tap_a, &b, &a)] {
        let passed = time_to_pass(from, to, sender.addr(), receiver.addr(), CONVERGENCE);
        assert!(passed.is_some(), "{} does not reach {} any more", sender.name(), receiver.name());
    }
    expect_ping(a.netns(), b.addr().ip, &[]);
}

#[test]
fn a_second_agent_with_the_same_state_directory_is_refused() {
    let (a, b, cluster) = pair();
    let [one, two] = [&cluster.hosts[0], &cluster.hosts[1]];
    two.terminate();
    // Everything else, also the network namespace, is its own.
    let state = cluster.dir.path().join(one.label()).join("state");
    assert!(state.exists(), "{} is no state directory", state.display());
    let refused = two.run_agent(&two.flags().clone().with("--state-dir", &state), &[]);
    assert_eq!(refused.code, Some(1), "{refused}");
    let sentence = refused.stderr.lines().last().unwrap_or_default();
    assert!(sentence.contains("--state-dir") && sentence.contains(state.to_str().unwrap()), "{refused}");
    two.start();
    expect_ping(a.netns(), b.addr().ip, &[]);
}

#[test]
fn an_agent_whose_containers_nobody_knows_is_refused_and_takes_none_away() {
    let (a, b, cluster) = pair();
    let host = &cluster.hosts[0];
    let flow = Flow::start(a.netns(), b.netns(), b.addr().ip);
    cluster.hosts.iter().for_each(|host| assert!(host.terminate().success()));
    // Neither what it knew nor what the others would tell it.
    fs::remove_dir_all(cluster.dir.path().join(host.label()).join("state")).unwrap();
    fs::remove_file(cluster.dir.path().join("overlay.db")).unwrap();
    let refused = host.run_agent(host.flags(), &[]);
    assert_eq!(refused.code, Some(1), "{refused}");
    let sentence = refused.stderr.lines().last().unwrap_or_default();
    assert!(sentence.contains("this host has 1 containers attached, but neither"), "{refused}");
    flow.wait_for_more(400);
    let report = flow.stop();
    assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}");
    expect_ping(b.netns(), a.addr().ip, &[]);
}

#[test]
fn containers_that_come_and_go_at_once_do_not_disturb_each_other() {
    const ROUNDS: usize = 10;
    let cluster = Cluster::new(Plan { hosts: 1, ..Plan::default() });
    let host = &cluster.hosts[0];
    cluster.network("net", &[]);
    let detach = |container: Container| {
        host.overlay(&["detach", "net", "--name", container.name()]);
    };
    // Three that are detached, and three that die: their devices go at a moment of the kernel's choice.
    thread::scope(|scope| {
        for number in 0..3 {
            let come_and_go = move |name: String, end: &dyn Fn(Container)| {
                for round in 0..ROUNDS {
                    end(Container::attached(host, "net", &format!("{name}-{round}")));
                }
            };
            scope.spawn(move || come_and_go(format!("detached{number}"), &detach));
            scope.spawn(move || come_and_go(format!("dead{number}"), &drop));
        }
    });
    wait::until("the dead are collected", REPAIR, || host.endpoints().is_empty());
}

#[test]
fn pins_of_maps_that_somebody_removes_are_there_again_and_stand_for_the_same_maps() {
    let (a, b, cluster) = pair();
    let host = &cluster.hosts[0];
    let dir = host.pins().join(format!("maps-v{}", abi::VERSION));
    let mut pins: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    pins.sort();
    assert!(pins.contains(&dir.join(abi::map::FDB)), "{pins:?}");
    let ids = || pins.iter().map(|pin| map_id(pin)).collect::<Vec<_>>();
    let before = ids();
    for pin in &pins {
        fs::remove_file(pin).unwrap();
    }
    wait::until("the pins are there again", REPAIR, || pins.iter().all(|pin| pin.exists()));
    assert_eq!(ids(), before, "other maps lie where the old ones did");

    let flow = Flow::start(a.netns(), b.netns(), b.addr().ip);
    host.kill9();
    flow.wait_for_more(200);
    host.start();
    flow.wait_for_more(100);
    let report = flow.stop();
    assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}");
}

/// The kernel's number of a pinned map.
fn map_id(pin: &Path) -> u64 {
    let text = exec::must(["bpftool", "-j", "map", "show", "pinned", pin.to_str().expect("a path in UTF-8")]);
    let map: serde_json::Value = serde_json::from_str(&text).expect("JSON of bpftool");
    map["id"].as_u64().unwrap_or_else(|| panic!("no number of {}: {text}", pin.display()))
}
