//! Wrong input of every kind: the specification's number, and a sentence that helps.

use overlay_tests::{
    exec,
    host::binary,
    netns::Netns,
    topology::{Cluster, two_hosts},
    underlay::Wire,
};
use serde_json::{Value, json};

use crate::{
    attach::expect_nothing_left,
    runtime::{IFNAME, Network, PLUGIN, Sandbox},
};

/// A network on one of two hosts, and a container that it is asked for.
struct Scene {
    sandbox: Sandbox,
    cluster: Cluster,
}

impl Scene {
    fn new() -> Self {
        Self { sandbox: Sandbox::new("c0ffee0123456789"), cluster: two_hosts(Wire::Offload) }
    }

    fn network(&self) -> Network<'_> {
        Network::new(&self.cluster.hosts[0], "blue")
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        self.sandbox.variables(IFNAME)
    }

    /// The variables but one.
    fn without(&self, name: &str) -> Vec<(&'static str, String)> {
        self.variables().into_iter().filter(|(key, _)| *key != name).collect()
    }

    /// The variables with another value of one.
    fn instead(&self, name: &'static str, value: &str) -> Vec<(&'static str, String)> {
        [self.without(name), vec![(name, value.to_owned())]].concat()
    }

    #[track_caller]
    fn expect_nothing_made(&self) {
        assert_eq!(self.sandbox.netns.links(), ["lo"]);
        let networks: Vec<Value> = self.cluster.hosts[0].json(&["network", "ls"]);
        assert_eq!(networks, Vec::<Value>::new());
        expect_nothing_left(&self.cluster);
    }
}

#[test]
fn an_environment_that_cannot_be_is_refused_by_the_name_of_the_variable() {
    let scene = Scene::new();
    let network = scene.network();
    let good = scene.variables();
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        network.call("ADD", &scene.without(name)).expect_error(4, name);
        network.call("ADD", &scene.instead(name, "")).expect_error(4, name);
    }
    network.call("add", &good).expect_error(4, "CNI_COMMAND");
    network.call("", &good).expect_error(4, "CNI_COMMAND");
    network.call("ADD", &scene.instead("CNI_CONTAINERID", "../x")).expect_error(4, "CNI_CONTAINERID");
    network.call("ADD", &scene.instead("CNI_IFNAME", "a/b")).expect_error(4, "CNI_IFNAME");
    network.call("ADD", &scene.instead("CNI_IFNAME", "sixteen-bytes-xx")).expect_error(4, "CNI_IFNAME");
    network
        .call("ADD", &scene.instead("CNI_NETNS", "/run/netns/nosuch"))
        .expect_error(3, "/run/netns/nosuch");
    network.call("ADD", &scene.instead("CNI_NETNS", "/proc/self/status")).expect_error(4, "CNI_NETNS");
    network.call("ADD", &scene.instead("CNI_NETNS", "/proc/self/ns/mnt")).expect_error(4, "CNI_NETNS");
    network
        .call("ADD", &scene.instead("CNI_NETNS", "/proc/self/ns/net"))
        .expect_error(4, "own network namespace");
    network.call("ADD", &scene.instead("CNI_ARGS", "FOO=bar")).expect_error(4, "IgnoreUnknown=1");
    network.call("ADD", &scene.instead("CNI_ARGS", "IP=ten")).expect_error(4, "IP \"ten\"");
    network.call("CHECK", &scene.without("CNI_NETNS")).expect_error(4, "CNI_NETNS");
    network.call("DEL", &scene.without("CNI_CONTAINERID")).expect_error(4, "CNI_CONTAINERID");
    network
        .with(&json!({"cni.dev/valid-attachments": []}))
        .call("GC", &[("CNI_PATH", String::new())])
        .expect_error(4, "CNI_PATH");
    scene.expect_nothing_made();
}

#[test]
fn input_that_cannot_be_read_is_refused() {
    let scene = Scene::new();
    let network = scene.network();
    let good = scene.variables();
    for (input, code, sentence) in [
        ("", 6, "no JSON"),
        ("{\"cniVersion\": ", 6, "no JSON"),
        ("[1]", 6, "no JSON object"),
        ("null", 6, "no JSON object"),
        ("{}", 1, "no cniVersion"),
        (r#"{"cniVersion": "0.2.0", "name": "x"}"#, 1, "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"),
        (r#"{"cniVersion": "2.0.0", "name": "x"}"#, 1, "2.0.0"),
        (r#"{"cniVersion": "1.0.0"}"#, 7, "no name"),
        (r#"{"cniVersion": "1.0.0", "name": "a b"}"#, 7, "\"a b\""),
        (r#"{"cniVersion": "1.0.0", "name": 7}"#, 7, "name 7"),
    ] {
        for command in ["ADD", "DEL"] {
            network.call_with_input(command, &good, input.as_bytes()).expect_error(code, sentence);
        }
    }
    scene.expect_nothing_made();
}

#[test]
fn fields_that_cannot_be_are_refused_by_key_and_value() {
    let scene = Scene::new();
    let network = scene.network();
    for (said, code, sentence) in [
        (json!({"subnets": "10.7.0.0/24"}), 2, "subnets \"10.7.0.0/24\""),
        (json!({"ipam": {"type": "host-local"}}), 2, "ipam"),
        (json!({"runtimeConfig": {"ips": ["10.7.0.2", "10.7.0.3"]}}), 2, "ips"),
        (
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1, "hostIP": "127.0.0.1"}]}}),
            2,
            "127.0.0.1",
        ),
        (
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "sctp"}]}}),
            2,
            "sctp",
        ),
        (json!({"runtimeConfig": {"mac": "01:00:5e:00:00:01"}}), 2, "unicast"),
        (json!({"subnet": "10.7.0.0/31"}), 7, "/31"),
        (json!({"subnet": "10.7.0.9/24"}), 7, "10.7.0.0/24"),
        (json!({"subnet": "10.7.0.0/24", "gateway": "10.8.0.1"}), 7, "10.8.0.1"),
        (json!({"subnet": "10.7.0.0/24", "ipRange": "10.8.0.0/25"}), 7, "10.8.0.0/25"),
        (json!({"vni": 0}), 7, "vni 0"),
        (json!({"mtu": 9000}), 7, "9000"),
        (json!({"mtu": 100}), 7, "100"),
        (json!({"network": "../x"}), 7, "../x"),
        (json!({"prevResult": {"interfaces": 7}}), 7, "prevResult"),
    ] {
        network.with(&said).add(&scene.sandbox).expect_error(code, sentence);
    }
    let nobody = json!({"socket": "/run/nosuch/overlay.sock"});
    network.with(&nobody).add(&scene.sandbox).expect_error(11, "/run/nosuch/overlay.sock");
    scene.expect_nothing_made();
}

#[test]
fn a_conflist_that_contradicts_the_network_says_in_what() {
    let cluster = two_hosts(Wire::Offload);
    let [one, two] = &cluster.hosts[..] else { panic!("two hosts") };
    let made =
        ["--subnet", "10.7.0.0/24", "--vni", "900", "--mtu", "1400", "--internal", "--label", "team=db"];
    cluster.network("blue", &made);
    let sandbox = Sandbox::new("c0ffee0123456789");
    let network = Network::new(two, "blue");
    for (said, sentence) in [
        (json!({"subnet": "10.8.0.0/24"}), "subnet 10.7.0.0/24, not 10.8.0.0/24"),
        (json!({"gateway": "10.7.0.254"}), "gateway 10.7.0.1, not 10.7.0.254"),
        (json!({"ipRange": "10.7.0.0/25"}), "IP range none, not 10.7.0.0/25"),
        (json!({"vni": 901, "mtu": 1300}), "VNI 900, not 901 and MTU 1400, not 1300"),
        (json!({"internal": false}), "is internal"),
        (json!({"labels": {"team": "web"}}), "label team db, not web"),
    ] {
        network.with(&said).add(&sandbox).expect_error(7, sentence);
    }
    // What it says nothing of it takes as it is.
    let agreeing =
        json!({"subnet": "10.7.0.0/24", "vni": 900, "mtu": 1400, "internal": true, "labels": {"team": "db"}});
    for said in [json!({}), agreeing] {
        let result = network.with(&said).add(&sandbox).ok();
        assert_eq!(result["interfaces"][1]["mtu"], 1400);
        network.del(&sandbox).ok();
    }
    let other = Network::new(one, "red").with(&json!({"vni": 900}));
    other.add(&sandbox).expect_error(7, "VNI 900 belongs to another network");
    Network::new(one, "plain").add(&sandbox).ok();
    Network::new(one, "plain").del(&sandbox).ok();
    Network::new(two, "plain").with(&json!({"internal": true})).add(&sandbox).expect_error(7, "not internal");
}

#[test]
fn by_hand_the_plugin_says_what_it_is() {
    let netns = Netns::new("hand");
    let program = binary(PLUGIN).display().to_string();
    let shown = exec::finish(netns.command(&[&program, "--help"]).env_remove("CNI_COMMAND"));
    assert_eq!((shown.code, shown.stdout.as_str()), (Some(2), ""));
    assert!(shown.stderr.contains("/etc/cni/net.d/"), "{shown}");
}
