//! CHECK, GC, STATUS and VERSION.

use std::time::Duration;

use overlay_tests::{container::Container, topology::two_hosts, underlay::Wire, wait};
use serde_json::{Value, json};

use crate::{
    attach::expect_nothing_left,
    runtime::{IFNAME, Network, Sandbox},
};

const DEADLINE: Duration = Duration::from_secs(5);

#[test]
fn check_finds_what_changed_and_not_what_others_added() {
    let cluster = two_hosts(Wire::Offload);
    let network = Network::new(&cluster.hosts[0], "blue").with(&json!({"subnet": "10.7.0.0/24"}));
    let sandbox = Sandbox::new("c0ffee0123456789");
    let result = network.add(&sandbox).ok();
    let ip = |words: &str| sandbox.netns.ip(&words.split_whitespace().collect::<Vec<_>>());
    network.check(&sandbox, &result).ok();
    for older in ["0.4.0", "1.0.0"] {
        network.with(&json!({"cniVersion": older})).check(&sandbox, &result).ok();
    }
    // What plugins behind this one may do.
    ip("address add 192.0.2.9/24 dev eth0");
    ip("route add 198.51.100.0/24 via 10.7.0.9");
    ip("link set eth0 mtu 1300");
    let mut more = result.clone();
    more["interfaces"].as_array_mut().unwrap().push(json!({"name": "bwp0", "mac": "02:00:00:00:00:01"}));
    more["ips"].as_array_mut().unwrap().push(json!({"address": "192.0.2.9/24", "interface": 1}));
    network.check(&sandbox, &more).ok();

    let broken = |breaks: &str, repair: &str, sentence: &str| {
        ip(breaks);
        network.check(&sandbox, &result).expect_error(102, sentence);
        repair.split(';').for_each(|words| drop(ip(words)));
        network.check(&sandbox, &result).ok();
    };
    broken("route del default", "route replace default via 10.7.0.1", "the route to 0.0.0.0/0");
    broken(
        "link set eth0 address 02:00:00:00:00:07",
        "link set eth0 address 02:42:0a:07:00:02",
        "02:00:00:00:00:07",
    );
    broken(
        "address del 10.7.0.2/24 dev eth0",
        "address add 10.7.0.2/24 dev eth0;route replace default via 10.7.0.1",
        "lost its address 10.7.0.2/24",
    );
    broken("link set eth0 down", "link set eth0 up;route replace default via 10.7.0.1", "eth0 is down");
    ip("link set eth0 down");
    ip("link set eth0 name eth7");
    network.check(&sandbox, &result).expect_error(102, "no interface eth0 any more");

    network.check(&Sandbox::new("stranger"), &result).expect_error(3, "not attached");
    let variables = sandbox.variables(IFNAME);
    network.call("CHECK", &variables).expect_error(7, "prevResult");
    network.with(&json!({"prevResult": {}})).call("CHECK", &variables).expect_error(102, "prevResult has no");
    network.with(&json!({"cniVersion": "0.3.1"})).check(&sandbox, &result).expect_error(1, "0.4.0");
    network.del(&sandbox).ok();
    network.check(&sandbox, &result).expect_error(3, "not attached");
}

#[test]
fn gc_takes_what_this_cni_network_attached_here_and_nobody_knows_and_no_more() {
    let cluster = two_hosts(Wire::Offload);
    let [one, two] = &cluster.hosts[..] else { panic!("two hosts") };
    let (blue, blue_there) = (Network::new(one, "blue"), Network::new(two, "blue"));
    let red = Network::new(one, "red").with(&json!({"network": "blue"}));
    let names = ["kept", "stale1", "stale2", "of-red", "there"];
    let [kept, stale1, stale2, of_red, there] = names.map(Sandbox::new);
    for (network, sandbox) in
        [(&blue, &kept), (&blue, &stale1), (&blue, &stale2), (&red, &of_red), (&blue_there, &there)]
    {
        network.add(sandbox).ok();
    }
    let by_hand = Container::attached(one, "blue", "by-hand");
    wait::until("all are known", DEADLINE, || one.endpoints().len() == 6);
    // One of them has lost its namespace; the other has not.
    stale2.netns.delete();
    blue.gc(&[&kept]).ok();
    let left = || {
        let mut left: Vec<String> = one.endpoints().into_iter().map(|endpoint| endpoint.name).collect();
        left.sort();
        left
    };
    assert_eq!(left(), ["by-hand", "kept", "of-red", "there"]);
    assert_eq!(stale1.netns.links(), ["lo"]);
    assert!(kept.netns.has_link(IFNAME) && by_hand.netns().has_link("eth0"));
    blue.gc(&[&kept]).ok();
    // The same container by another interface is another attachment.
    let other = json!({"cni.dev/valid-attachments": [{"containerID": "kept", "ifname": "eth1"}]});
    blue.with(&other).call("GC", &[]).ok();
    assert_eq!(left(), ["by-hand", "of-red", "there"]);

    blue.call("GC", &[]).expect_error(7, "cni.dev/valid-attachments");
    blue.with(&json!({"cniVersion": "1.0.0"})).gc(&[]).expect_error(1, "1.1.0");
    red.gc(&[]).ok();
    blue_there.gc(&[]).ok();
    drop(by_hand);
    wait::until("what was attached by hand is collected", DEADLINE, || one.endpoints().is_empty());
    expect_nothing_left(&cluster);
}

#[test]
fn status_says_whether_an_add_would_succeed() {
    let cluster = two_hosts(Wire::Offload);
    let host = &cluster.hosts[0];
    let network = Network::new(host, "tiny").with(&json!({"subnet": "10.7.0.0/30"}));
    network.status().ok();
    assert_eq!(host.json::<Vec<Value>>(&["network", "ls"]), Vec::<Value>::new(), "STATUS makes nothing");
    let sandbox = Sandbox::new("c0ffee0123456789");
    network.add(&sandbox).ok();
    network.status().expect_error(50, "all addresses of network tiny are in use");
    network.add(&Sandbox::new("late")).expect_error(101, "in use");
    network.del(&sandbox).ok();
    network.status().ok();
    network
        .with(&json!({"subnet": "10.8.0.0/30"}))
        .status()
        .expect_error(7, "subnet 10.7.0.0/30, not 10.8.0.0/30");
    network.with(&json!({"subnets": "x"})).status().expect_error(2, "subnets");
    host.overlay(&["node", "drain", "host1"]);
    network.status().expect_error(50, "overlay node drain host1 --undo");
    network.with(&json!({"cniVersion": "1.0.0"})).status().expect_error(1, "1.1.0");
}

#[test]
fn version_is_answered_whatever_is_asked() {
    let cluster = two_hosts(Wire::Offload);
    let network = Network::new(&cluster.hosts[0], "blue");
    let supported = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    for (input, version) in [
        (r#"{"cniVersion": "1.0.0"}"#, "1.0.0"),
        (r#"{"cniVersion": "0.1.0"}"#, "0.1.0"),
        ("", "1.1.0"),
        ("{", "1.1.0"),
    ] {
        let answer = network.call_with_input("VERSION", &[], input.as_bytes()).ok();
        assert_eq!(answer, json!({"cniVersion": version, "supportedVersions": supported}));
    }
}
