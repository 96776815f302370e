//! ADD and DEL as they go well.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    thread,
    time::Duration,
};

use overlay_tests::{
    dns::dig,
    host::Host,
    oracle::expect_agreement,
    topology::{CONVERGENCE, Cluster, two_hosts},
    traffic::{
        ping::expect_ping,
        responder::{PORT, Responder, ask_tcp},
    },
    underlay::Wire,
    wait,
};
use serde_json::{Value, json};

use crate::runtime::{IFNAME, Network, Sandbox, address};

const DEADLINE: Duration = Duration::from_secs(2);

/// Endpoints and host veths of a host; after a DEL there is neither.
#[track_caller]
pub fn expect_nothing_left(cluster: &Cluster) {
    for host in &cluster.hosts {
        wait::until("no endpoint is left", CONVERGENCE, || host.endpoints().is_empty());
        let is_ours = |name: &String| name.strip_prefix("ovl").is_some_and(|rest| rest.len() == 12);
        let left: Vec<String> = host.netns().links().into_iter().filter(is_ours).collect();
        assert_eq!(left, Vec::<String>::new(), "on {}", host.label());
    }
    expect_agreement(cluster);
}

/// What is expected of a result, whose host veth, address and MAC are the agent's choice.
fn shape(version: &str, sandbox: &Sandbox, host: &Host) -> Value {
    let endpoints: Vec<Value> = host.json(&["endpoint", "ls"]);
    let endpoint = endpoints.iter().find(|e| e["owner"]["id"] == *sandbox.id).expect("its endpoint");
    let veth = endpoint["local"]["host_ifname"].as_str().expect("a host veth");
    let link: Value =
        serde_json::from_str(&host.netns().must(&["ip", "-j", "link", "show", veth])).expect("JSON of ip");
    let mut interfaces = [
        json!({"name": veth, "mac": link[0]["address"], "sandbox": ""}),
        json!({"name": IFNAME, "mac": endpoint["mac"], "sandbox": sandbox.path()}),
    ];
    if version == "1.1.0" {
        interfaces[0]["mtu"] = link[0]["mtu"].clone();
        interfaces[1]["mtu"] = 1450.into();
    }
    let mut ip = json!({"interface": 1, "address": endpoint["ip"], "gateway": "10.7.0.1"});
    if version < "1.0.0" {
        ip["version"] = "4".into();
    }
    json!({
        "cniVersion": version, "interfaces": interfaces, "ips": [ip],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.7.0.1"}],
        "dns": {"nameservers": ["10.7.0.1"], "options": ["ndots:0"]}
    })
}

#[test]
fn in_every_version_containers_of_two_hosts_talk_and_are_gone_after_del() {
    let cluster = two_hosts(Wire::Offload);
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let said = json!({"cniVersion": version, "subnet": "10.7.0.0/24"});
        let networks: Vec<_> =
            cluster.hosts.iter().map(|host| Network::new(host, "blue").with(&said)).collect();
        let boxes = [Sandbox::new("c0ffee0123456789"), Sandbox::new("decafbad01234567")];
        let results: Vec<Value> =
            networks.iter().zip(&boxes).map(|(network, sandbox)| network.add(sandbox).ok()).collect();
        for ((network, sandbox), result) in networks.iter().zip(&boxes).zip(&results) {
            assert_eq!(*result, shape(version, sandbox, network.host));
        }
        wait::until("each host knows both", CONVERGENCE, || {
            cluster.hosts.iter().all(|host| host.endpoints().len() == 2)
        });
        expect_ping(&boxes[0].netns, address(&results[1]), &[]);
        expect_ping(&boxes[1].netns, address(&results[0]), &[]);
        let asked = dig(&boxes[0].netns, Ipv4Addr::new(10, 7, 0, 1), "decafbad0123", &[]);
        assert_eq!(asked.addresses(), [address(&results[1])], "by the start of its id");
        expect_agreement(&cluster);
        for (network, sandbox) in networks.iter().zip(&boxes) {
            assert_eq!(network.del(sandbox).ok(), Value::Null);
            assert!(!sandbox.netns.has_link(IFNAME));
        }
        expect_nothing_left(&cluster);
    }
}

#[test]
fn what_a_runtime_asks_for_a_container_it_gets() {
    let cluster = two_hosts(Wire::Offload);
    let [one, two] = &cluster.hosts[..] else { panic!("two hosts") };
    let world = cluster.stranger();
    let asked = json!({
        "subnet": "10.7.0.0/24",
        "runtimeConfig": {
            "ips": ["10.7.0.77/24"], "mac": "02:00:5e:00:00:77", "aliases": {"blue": ["www"]},
            "portMappings": [{"hostPort": PORT, "containerPort": PORT, "protocol": "tcp"}],
            "dns": {"searches": ["example.org"]},
            "bandwidth": {"ingressRate": 1_000_000_000, "ingressBurst": 1_000_000, "egressRate": 500_000_000, "egressBurst": 1}
        },
        "args": {"cni": {"labels": [{"key": "app", "value": "web"}]}}
    });
    let network = Network::new(one, "blue").with(&asked);
    let web = Sandbox::new("c0ffee0123456789");
    let mut variables = web.variables(IFNAME);
    variables.push(("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=x;K8S_POD_NAME=web;FOO=bar".to_owned()));
    let result = network.call("ADD", &variables).ok();
    assert_eq!(address(&result), Ipv4Addr::new(10, 7, 0, 77));
    assert_eq!(result["interfaces"][1]["mac"], "02:00:5e:00:00:77");
    let dns = json!({"nameservers": ["10.7.0.1"], "search": ["example.org"], "options": ["ndots:0"]});
    assert_eq!(result["dns"], dns);

    let shown: Value = one.json(&["endpoint", "inspect", "web"]);
    assert_eq!(shown[0]["owner"], json!({"front_end": "cni", "network": "blue", "id": "c0ffee0123456789"}));
    assert_eq!(shown[0]["labels"], json!({"app": "web"}));
    let limits = json!({"egress_bits_per_s": 500_000_000, "ingress_bits_per_s": 1_000_000_000});
    assert_eq!(shown[0]["limits"], limits);
    let text = one.overlay(&["endpoint", "inspect", "web"]);
    assert!(text.contains("cni, network blue, id c0ffee0123456789"), "{text}");

    let other = Sandbox::new("decafbad01234567");
    Network::new(two, "blue").add(&other).ok();
    let gateway = Ipv4Addr::new(10, 7, 0, 1);
    for name in ["web", "www", "c0ffee012345", "web.blue"] {
        let ask = || dig(&other.netns, gateway, name, &[]).addresses();
        wait::until("its name is known", CONVERGENCE, || ask() == [Ipv4Addr::new(10, 7, 0, 77)]);
    }
    let _responder = Responder::start(&web.netns, "web");
    let answer = || ask_tcp(&world.netns, one.addr().ip, "published?", DEADLINE);
    assert_eq!(answer().as_deref(), Some("web"), "{}", one.log_tail());
    network.del(&web).ok();
    assert_eq!(answer(), None);
}

#[test]
fn a_network_of_both_families_gives_containers_both_addresses_and_a_check_asks_for_both() {
    let cluster = two_hosts(Wire::Offload);
    let said = json!({
        "subnet": ["10.7.0.0/24", "fd00:7::/64"], "runtimeConfig": {"ips": ["fd00:7::77/64", "10.7.0.77"]}
    });
    let networks = [
        Network::new(&cluster.hosts[0], "blue").with(&said),
        Network::new(&cluster.hosts[1], "blue").with(&json!({"ipv6": true})),
    ];
    let boxes = [Sandbox::new("c0ffee0123456789"), Sandbox::new("decafbad01234567")];
    let results: Vec<Value> =
        networks.iter().zip(&boxes).map(|(network, sandbox)| network.add(sandbox).ok()).collect();
    let ip = |address: &str, gateway: &str| json!({"interface": 1, "address": address, "gateway": gateway});
    let expected = json!([ip("10.7.0.77/24", "10.7.0.1"), ip("fd00:7::77/64", "fd00:7::1")]);
    assert_eq!(results[0]["ips"], expected);
    assert_eq!(results[1]["ips"][1], ip("fd00:7::2/64", "fd00:7::1"));
    assert_eq!(results[0]["routes"][1], json!({"dst": "::/0", "gw": "fd00:7::1"}));
    wait::until("each host knows both", CONVERGENCE, || {
        cluster.hosts.iter().all(|host| host.endpoints().len() == 2)
    });
    expect_ping(&boxes[1].netns, Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 0x77), &[]);
    expect_ping(&boxes[1].netns, Ipv4Addr::new(10, 7, 0, 77), &[]);
    for ((network, sandbox), result) in networks.iter().zip(&boxes).zip(&results) {
        network.check(sandbox, result).ok();
    }
    boxes[0].netns.ip(&["-6", "address", "del", "fd00:7::77/64", "dev", IFNAME]);
    networks[0].check(&boxes[0], &results[0]).expect_error(102, "has lost its address fd00:7::77/64");
    for (network, sandbox) in networks.iter().zip(&boxes) {
        network.del(sandbox).ok();
    }
    expect_nothing_left(&cluster);

    let other = json!({"subnet": ["10.7.0.0/24", "fd00:8::/64"]});
    let refused = Network::new(&cluster.hosts[0], "blue").with(&other).add(&boxes[0]);
    refused.expect_error(7, "IPv6 subnet fd00:7::/64, not fd00:8::/64");
}

#[test]
fn a_name_that_another_host_gave_away_is_no_obstacle_and_answers_for_both() {
    let cluster = two_hosts(Wire::Offload);
    let boxes = [Sandbox::new("c0ffee0123456789"), Sandbox::new("decafbad01234567")];
    let mut addresses = Vec::new();
    for (host, sandbox) in cluster.hosts.iter().zip(&boxes) {
        let mut variables = sandbox.variables(IFNAME);
        variables.push(("CNI_ARGS", "K8S_POD_NAME=web".to_owned()));
        let result = Network::new(host, "blue").call("ADD", &variables).ok();
        addresses.push(address(&result));
    }
    let gateway = cluster.hosts[0].json::<Value>(&["network", "inspect", "blue"])["gateway"].clone();
    let gateway = gateway.as_str().unwrap().parse().unwrap();
    let ask = || dig(&boxes[0].netns, gateway, "web", &[]).addresses();
    wait::until("both have the name", CONVERGENCE, || ask() == addresses);
    expect_agreement(&cluster);
}

#[test]
fn two_hosts_that_create_a_network_at_once_agree_on_it() {
    let cluster = two_hosts(Wire::Offload);
    let mut all = Vec::new();
    for round in 0..5 {
        let name = format!("net{round}");
        let said = [json!({}), json!({"vni": 700 + round})][round % 2].clone();
        let boxes = [Sandbox::new("c0ffee0123456789"), Sandbox::new("decafbad01234567")];
        let results: Vec<Value> = thread::scope(|scope| {
            let add = |(host, sandbox)| {
                let network = Network::new(host, &name).with(&said);
                scope.spawn(move || network.add(sandbox).ok())
            };
            let adding: Vec<_> = cluster.hosts.iter().zip(&boxes).map(add).collect();
            adding.into_iter().map(|adding| adding.join().expect("an ADD")).collect()
        });
        assert_eq!(results[0]["ips"][0]["gateway"], results[1]["ips"][0]["gateway"]);
        wait::until("each host knows both", CONVERGENCE, || {
            cluster.hosts.iter().all(|host| host.endpoints().len() == 2 * (round + 1))
        });
        expect_ping(&boxes[0].netns, address(&results[1]), &[]);
        all.extend(boxes);
    }
    expect_agreement(&cluster);
}

#[test]
fn what_came_before_in_the_chain_is_in_the_result() {
    let cluster = two_hosts(Wire::Offload);
    let before = json!({
        "cniVersion": "1.0.0", "interfaces": [{"name": "lo", "sandbox": "/x"}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}], "dns": {"search": ["example.org"]}
    });
    let said = json!({"cniVersion": "1.0.0", "prevResult": before});
    let sandbox = Sandbox::new("c0ffee0123456789");
    let result = Network::new(&cluster.hosts[0], "blue").with(&said).add(&sandbox).ok();
    assert_eq!(result["interfaces"].as_array().map(Vec::len), Some(3));
    assert_eq!((&result["interfaces"][0], &result["ips"][0]), (&before["interfaces"][0], &before["ips"][0]));
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!(result["dns"]["search"], json!(["example.org"]));
}
