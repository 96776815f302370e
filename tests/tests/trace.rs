//! `overlay trace`: it says of a packet what becomes of packets, names what stops them, and sends and counts nothing.

use std::time::Duration;

use overlay_common::abi::map;
use overlay_tests::{
    container::Container,
    exec,
    host::Host,
    netns::Netns,
    topology::{Cluster, Plan},
    traffic::ping::{expect_no_ping, expect_ping},
    underlay::UNDERLAY_IFNAME,
    wait,
};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(20);

/// Two hosts; `a` and `near` of network `net` on the first, `b` on the second; `c` of network `other` on the second.
struct World {
    a: Container,
    b: Container,
    c: Container,
    near: Container,
    cluster: Cluster,
}

impl World {
    fn new() -> Self {
        let cluster = Cluster::new(Plan { flags: &[("--lease", "3s")], ..Plan::default() });
        cluster.network("other", &[]);
        let (a, b) = cluster.pair();
        let near = Container::attached(&cluster.hosts[0], "net", "near");
        let c = Container::attached(&cluster.hosts[1], "other", "c");
        let world = Self { a, b, c, near, cluster };
        wait::until("the first host knows all", DEADLINE, || world.first().endpoints().len() == 4);
        world
    }

    fn first(&self) -> &Host {
        &self.cluster.hosts[0]
    }

    fn second(&self) -> &Host {
        &self.cluster.hosts[1]
    }
}

/// What the trace of a line says, and its exit code.
#[track_caller]
fn trace(host: &Host, line: &str) -> (Option<i32>, Value) {
    let words: Vec<&str> = ["trace"].into_iter().chain(line.split(' ')).chain(["-o", "json"]).collect();
    let finished = host.cli(&words);
    let seen = serde_json::from_str(&finished.stdout);
    (finished.code, seen.unwrap_or_else(|e| panic!("{e}: {finished}\n{}", host.log_tail())))
}

#[track_caller]
fn expect_end(host: &Host, line: &str, end: &str) -> Value {
    let (code, seen) = trace(host, line);
    assert_eq!((code, seen["end"].as_str()), (Some(0), Some(end)), "{line}: {seen:#}");
    seen
}

#[track_caller]
fn expect_stopped(host: &Host, line: &str, cause: &str) -> Value {
    let (code, seen) = trace(host, line);
    assert_eq!((code, seen["end"].as_str()), (Some(1), Some("stopped")), "{line}: {seen:#}");
    assert_eq!(seen["cause"]["name"], cause, "{line}: {seen:#}");
    assert_ne!(seen["cause"]["fix"], "", "{line}: {seen:#}");
    // For people, the same.
    let said = host.cli(&[&["trace"], &line.split(' ').collect::<Vec<_>>()[..]].concat());
    let line_of =
        |text: &str| said.stdout.lines().any(|line| line.starts_with("STOPPED") && line.contains(text));
    assert!(said.code == Some(1) && line_of(&format!(" {cause}: ")), "{said}");
    assert!(said.stdout.contains("-> "), "{said}");
    seen
}

#[test]
fn a_trace_ends_where_packets_end_and_counts_nothing() {
    let world = World::new();
    let (first, second) = (world.first(), world.second());
    expect_ping(world.a.netns(), world.b.addr().ip, &[]);
    let counted = |host: &Host| {
        [map::ENDPOINT_STATS, map::DROPS, map::FLOWS]
            .map(|map| host.overlay(&["map", "dump", map, "-o", "json"]))
    };
    let before = [first, second].map(counted);
    for traffic in ["", " --proto tcp --port 80", " --proto udp --port 53 --size 1450"] {
        let sent = expect_end(first, &format!("net a b{traffic}"), "sent");
        assert_eq!(sent["next"], "host2", "{sent:#}");
        expect_end(second, &format!("net a b{traffic}"), "delivered");
        expect_end(first, &format!("net a near{traffic}"), "delivered");
        expect_end(first, &format!("net a 192.0.2.1{traffic}"), "to_host");
    }
    expect_end(first, "net a 10.0.1.1", "answered");
    expect_stopped(first, "net a b --size 1451", "too_big");
    assert_eq!([first, second].map(counted), before, "a trace was counted");
}

#[test]
fn a_trace_names_what_the_networks_forbid() {
    let world = World::new();
    let (first, second) = (world.first(), world.second());
    world.cluster.network("inner", &["--internal"]);
    let _shut = Container::attached(first, "inner", "shut");
    expect_no_ping(world.a.netns(), world.c.addr().ip);
    let seen = expect_stopped(first, "net a c", "policy_denied");
    // What it says is dropped is what was: the pings that were sent.
    assert!(
        seen["dropped"].as_array().expect("drops").iter().any(|drop| drop["reason"] == "policy_denied"),
        "{seen:#}"
    );
    expect_stopped(first, "inner shut 192.0.2.1", "internal_network");
    expect_stopped(first, "net a 10.0.1.77", "arp_unanswered");
    expect_stopped(first, "net a 127.0.0.1", "martian");
    expect_stopped(first, "net a 172.18.0.1", "host_local");

    first.overlay(&["policy", "allow", "net", "other", "--proto", "tcp", "--port", "80"]);
    wait::until("both hosts know the rule", DEADLINE, || {
        [first, second].iter().all(|host| host.json::<Vec<Value>>(&["policy", "ls"]).len() == 1)
    });
    expect_end(first, "net a c --proto tcp --port 80", "sent");
    expect_end(second, "net a c --proto tcp --port 80", "delivered");
    for host in [first, second] {
        expect_stopped(host, "net a c --proto tcp --port 81", "no_rule");
    }
    first.overlay(&["policy", "allow", "net", "other"]);
    expect_stopped(first, "net a 10.0.0.77", "unknown_destination");
}

#[test]
fn a_trace_names_devices_wires_and_hosts_that_are_down() {
    let world = World::new();
    let (first, second) = (world.first(), world.second());
    let set = |netns: &Netns, ifname: &str, state: &str| {
        netns.ip(&["link", "set", ifname, state]);
    };
    set(world.near.netns(), "eth0", "down");
    expect_stopped(first, "net near b", "device_down");
    expect_stopped(first, "net a near", "device_down");
    set(world.near.netns(), "eth0", "up");
    expect_end(first, "net a near", "delivered");
    set(world.b.netns(), "eth0", "down");
    expect_end(first, "net a b", "sent");
    expect_stopped(second, "net a b", "device_down");

    set(first.netns(), UNDERLAY_IFNAME, "down");
    expect_stopped(first, "net a b", "underlay_down");
    set(first.netns(), UNDERLAY_IFNAME, "up");
    wait::until("the next hop is known again", DEADLINE, || trace(first, "net a b").1["end"] == "sent");
    set(second.netns(), UNDERLAY_IFNAME, "down");
    let second_ip = second.addr().ip.to_string();
    first.netns().ip(&["neighbour", "replace", &second_ip, "dev", UNDERLAY_IFNAME, "nud", "failed"]);
    wait::until("the next hop is lost", DEADLINE, || trace(first, "net a b").1["end"] == "stopped");
    expect_stopped(first, "net a b", "next_hop_unknown");
    set(second.netns(), UNDERLAY_IFNAME, "up");

    second.kill9();
    wait::until("the second host counts as down", DEADLINE, || first.node("host2").state == "down");
    expect_stopped(first, "net a b", "node_down");
}

/// Takes every entry out of a map.
#[track_caller]
fn empty(host: &Host, map: &str) {
    let pin = host.map_pin(map).display().to_string();
    let dump: Vec<Value> =
        serde_json::from_str(&exec::must(["bpftool", "-j", "map", "dump", "pinned", &pin]))
            .expect("JSON of bpftool");
    for entry in dump {
        let key = entry["key"].as_array().expect("a key").iter().map(|byte| byte.as_str().expect("a byte"));
        let words = ["bpftool", "map", "delete", "pinned", pin.as_str(), "key", "hex"];
        let key: Vec<&str> = key.map(|byte| byte.trim_start_matches("0x")).collect();
        exec::must(words.into_iter().chain(key));
    }
}

#[test]
fn a_trace_names_what_is_missing_in_the_maps() {
    let world = World::new();
    let (first, second) = (world.first(), world.second());
    for (host, map, cause) in [
        (first, map::ENDPOINTS, "unknown_endpoint"),
        (first, map::FDB, "unknown_mac"),
        (second, map::NETWORKS, "unknown_vni"),
        (second, map::VTEP_MEMBERS, "unknown_vtep"),
        (second, map::FDB, "inner_unknown_mac"),
    ] {
        empty(host, map);
        let seen = expect_stopped(host, "net a b", cause);
        assert!(seen["cause"]["fix"].as_str().is_some_and(|fix| fix.contains("overlay verify")), "{seen:#}");
        host.overlay(&["verify", "--repair"]);
    }
    // Without a container in the network the sender's host has no part in it.
    world.first().overlay(&["detach", "net", "--name", "near"]);
    expect_end(first, "net a b", "sent");
    expect_end(second, "net a b", "delivered");
}

#[test]
fn a_trace_of_nobody_says_where_to_look() {
    let world = World::new();
    let (first, second) = (world.first(), world.second());
    let refused = |host: &Host, line: &str, text: &str| {
        let words: Vec<&str> = ["trace"].into_iter().chain(line.split(' ')).collect();
        let finished = host.cli(&words);
        assert!(finished.code == Some(1) && finished.stderr.contains(text), "{finished}");
    };
    refused(first, "net nosuch b", "there is no endpoint nosuch in net: see `overlay endpoint ls`");
    refused(first, "net a nosuch", "there is no endpoint nosuch");
    refused(first, "other c b", "neither end is on this host: ask on host2, where c is");
    refused(second, "net a near", "ask on host1, where a is");
}
