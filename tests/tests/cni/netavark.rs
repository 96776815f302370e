//! The same program under its other name: netavark's plugin protocol, spoken as netavark speaks it.

use std::{os::unix::fs::symlink, path::PathBuf};

use overlay_tests::{
    dns::dig,
    exec::{self, Finished},
    host::{Host, binary},
    topology::{CONVERGENCE, two_hosts},
    traffic::ping::expect_ping,
    underlay::Wire,
    wait,
    workdir::WorkDir,
};
use serde_json::{Value, json};

use crate::{
    attach::expect_nothing_left,
    runtime::{PLUGIN, Sandbox},
};

/// The plugin under netavark's name.
struct Netavark {
    program: PathBuf,
    _dir: WorkDir,
}

impl Netavark {
    fn new() -> Self {
        let dir = WorkDir::new("netavark");
        let program = dir.path().join("overlay-netavark");
        symlink(binary(PLUGIN), &program).expect("link the plugin");
        Self { program, _dir: dir }
    }

    #[track_caller]
    fn call(&self, host: &Host, words: &[&str], input: &Value) -> Finished {
        let program = self.program.display().to_string();
        let words = [&[program.as_str()], words].concat();
        let mut call = host.netns().command(&words);
        call.env("OVERLAY_SOCKET", host.socket());
        exec::finish_with(&mut call, input.to_string().as_bytes())
    }

    #[track_caller]
    fn answer(&self, host: &Host, words: &[&str], input: &Value) -> Value {
        let printed = self.call(host, words, input).expect_success();
        serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{printed:?} is no JSON: {e}"))
    }

    #[track_caller]
    fn expect_error(&self, host: &Host, words: &[&str], input: &Value, sentence: &str) {
        let refused = self.call(host, words, input);
        assert!(!refused.is_success(), "{refused}");
        let error: Value = serde_json::from_str(&refused.stdout).unwrap_or_else(|e| panic!("{e}: {refused}"));
        let text = error["error"].as_str().unwrap_or_default();
        assert!(text.contains(sentence), "{error} does not say {sentence:?}");
    }
}

/// A network as Podman keeps it.
fn network(more: &Value) -> Value {
    let mut all = json!({
        "name": "blue", "id": "53ce4390f2adb1681eb1a90ec8b48c49c015e0a8d336c197637e7f65e365fa9e",
        "driver": "overlay-netavark", "created": "2026-01-01T00:00:00Z", "ipv6_enabled": false, "internal": false,
        "dns_enabled": true, "ipam_options": {"driver": "host-local"}
    });
    let all_of_it = all.as_object_mut().expect("an object");
    all_of_it.extend(more.as_object().expect("an object").clone());
    all
}

fn exec_of(sandbox: &Sandbox, network: &Value, more: &Value) -> Value {
    let mut options = json!({"interface_name": "eth0", "aliases": ["www"]});
    options.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    json!({
        "container_name": sandbox.id, "container_id": format!("{:0<64}", sandbox.id),
        "port_mappings": [{"container_port": 80, "host_ip": "", "host_port": 8080, "protocol": "tcp", "range": 1}],
        "network": network, "network_options": options
    })
}

#[test]
fn netavark_creates_sets_up_and_tears_down_and_containers_of_two_hosts_talk() {
    let cluster = two_hosts(Wire::Offload);
    let [one, two] = &cluster.hosts[..] else { panic!("two hosts") };
    let plugin = Netavark::new();
    let info = plugin.answer(one, &["info"], &Value::Null);
    assert_eq!(info["api_version"], "1.0.0");

    let asked = network(&json!({"subnets": [{"subnet": "10.7.0.0/24"}], "options": {"vni": "900"}}));
    let created = plugin.answer(one, &["create"], &asked);
    assert_eq!(created["subnets"], json!([{"subnet": "10.7.0.0/24", "gateway": "10.7.0.1"}]));
    assert_eq!((&created["id"], &created["ipam_options"]["driver"]), (&asked["id"], &json!("none")));
    assert_eq!(plugin.answer(two, &["create"], &network(&json!({})))["subnets"], created["subnets"]);

    let (a, b) = (Sandbox::new("c0ffee"), Sandbox::new("decafbad"));
    let (exec_a, exec_b) =
        (exec_of(&a, &created, &json!({"static_ips": ["10.7.0.77"]})), exec_of(&b, &created, &json!({})));
    let status = plugin.answer(one, &["setup", &a.path()], &exec_a);
    assert_eq!(
        status,
        json!({
            "dns_search_domains": [], "dns_server_ips": ["10.7.0.1"],
            "interfaces": {"eth0": {
                "mac_address": "02:42:0a:07:00:4d", "subnets": [{"ipnet": "10.7.0.77/24", "gateway": "10.7.0.1"}]
            }}
        })
    );
    plugin.answer(two, &["setup", &b.path()], &exec_b);
    let shown: Value = one.json(&["endpoint", "inspect", "c0ffee"]);
    let owner = json!({"front_end": "netavark", "network": "blue", "id": format!("{:0<64}", "c0ffee")});
    assert_eq!((&shown[0]["owner"], &shown[0]["published"][0]["host_port"]), (&owner, &json!(8080)));
    let [ip_a, gateway] = [[10, 7, 0, 77], [10, 7, 0, 1]].map(std::net::Ipv4Addr::from);
    wait::until("its name is known", CONVERGENCE, || {
        dig(&b.netns, gateway, "c0ffee", &[]).records == ["10.7.0.77"]
    });
    expect_ping(&b.netns, ip_a, &[]);

    // A second network of the same container names its ports anew.
    let red = network(&json!({"name": "red"}));
    let second = exec_of(&a, &red, &json!({"interface_name": "eth1"}));
    plugin.answer(one, &["setup", &a.path()], &second);
    assert!(a.netns.has_link("eth1"));

    // Twice, and without the namespace.
    plugin.expect_error(one, &["setup", &a.path()], &exec_a, "attached");
    let teardown = |host: &Host, sandbox: &Sandbox, exec: &Value| {
        assert_eq!(plugin.call(host, &["teardown", &sandbox.path()], exec).expect_success(), "");
    };
    teardown(one, &a, &second);
    teardown(one, &a, &exec_a);
    teardown(one, &a, &exec_a);
    assert_eq!(a.netns.links(), ["lo"]);
    b.netns.delete();
    teardown(two, &b, &exec_b);
    expect_nothing_left(&cluster);
}

#[test]
fn a_network_of_both_families_gives_containers_both_addresses() {
    let cluster = two_hosts(Wire::Offload);
    let [one, two] = &cluster.hosts[..] else { panic!("two hosts") };
    let plugin = Netavark::new();
    let subnets = json!([{"subnet": "10.7.0.0/24"}, {"subnet": "fd00:7::/64"}]);
    let asked = network(&json!({"ipv6_enabled": true, "subnets": subnets}));
    let created = plugin.answer(one, &["create"], &asked);
    assert_eq!(created["subnets"][1], json!({"subnet": "fd00:7::/64", "gateway": "fd00:7::1"}));
    assert_eq!(created["ipv6_enabled"], true);
    let (a, b) = (Sandbox::new("c0ffee"), Sandbox::new("decafbad"));
    let static_ips = json!({"static_ips": ["fd00:7::77", "10.7.0.77"]});
    let status = plugin.answer(one, &["setup", &a.path()], &exec_of(&a, &created, &static_ips));
    let [ipv4, ipv6] = [("10.7.0.77/24", "10.7.0.1"), ("fd00:7::77/64", "fd00:7::1")]
        .map(|(ipnet, gateway)| json!({"ipnet": ipnet, "gateway": gateway}));
    assert_eq!(status["interfaces"]["eth0"]["subnets"], json!([ipv4, ipv6]));
    plugin.answer(two, &["setup", &b.path()], &exec_of(&b, &created, &json!({})));
    for ip in ["fd00:7::77", "10.7.0.77"] {
        let ip: std::net::IpAddr = ip.parse().expect("an address");
        wait::until("the other host knows it", CONVERGENCE, || {
            b.netns.run(&["ping", "-c", "1", "-W", "1", &ip.to_string()]).is_success()
        });
    }
}

#[test]
fn what_netavark_cannot_have_is_an_error_with_a_sentence() {
    let cluster = two_hosts(Wire::Offload);
    let one = &cluster.hosts[0];
    let plugin = Netavark::new();
    let sandbox = Sandbox::new("c0ffee");
    let plain = network(&json!({}));
    for (words, input, sentence) in [
        (vec![], json!({}), "netavark calls this program"),
        (vec!["setup"], json!({}), "netavark calls this program"),
        (vec!["create"], json!([]), "cannot be read"),
        (vec!["create"], network(&json!({"name": "a b"})), "\"a b\""),
        (vec!["create"], network(&json!({"options": {"isolate": "true"}})), "--opt isolate=true"),
        (vec!["create"], network(&json!({"subnets": [{"subnet": "fe80::/64"}]})), "fe80::/64"),
        (vec!["create"], network(&json!({"options": {"socket": "/run/nosuch"}})), "/run/nosuch"),
        (vec!["setup", "/run/netns/nosuch"], exec_of(&sandbox, &plain, &json!({})), "/run/netns/nosuch"),
        (
            vec!["setup", "x"],
            exec_of(&sandbox, &plain, &json!({"static_ips": ["fd00::1", "fd00::2"]})),
            "one of each",
        ),
    ] {
        plugin.expect_error(one, &words, &input, sentence);
    }
    expect_nothing_left(&cluster);
}
