//! Plugins of Debian's `containernetworking-plugins` behind this one.

use std::{path::PathBuf, time::Duration};

use overlay_tests::{
    topology::two_hosts,
    traffic::{
        ping::expect_ping,
        responder::{PORT, Responder, ask_tcp},
    },
    underlay::Wire,
};
use serde_json::{Value, json};
use xtask::unpacked::CNI_PLUGINS;

use crate::{
    attach::expect_nothing_left,
    runtime::{IFNAME, Network, Sandbox, address},
};

const DEADLINE: Duration = Duration::from_secs(2);

/// A chain as a runtime runs it: each ADD is given the result before it, CHECK and DEL the last one.
struct Chain<'a>(Vec<Network<'a>>);

impl Chain<'_> {
    #[track_caller]
    fn add(&self, sandbox: &Sandbox) -> Value {
        self.0.iter().fold(Value::Null, |previous, plugin| {
            plugin.with(&json!({"prevResult": previous})).call("ADD", &self.variables(sandbox)).ok()
        })
    }

    #[track_caller]
    fn check(&self, sandbox: &Sandbox, result: &Value) {
        // `portmap` 1.1 looks for rules of IPv6 that it never made for a container without.
        for plugin in self.0.iter().filter(|plugin| plugin.config["type"] != "portmap") {
            plugin.with(&json!({"prevResult": result})).call("CHECK", &self.variables(sandbox)).ok();
        }
    }

    #[track_caller]
    fn del(&self, sandbox: &Sandbox, result: &Value) {
        for plugin in self.0.iter().rev() {
            plugin.with(&json!({"prevResult": result})).call("DEL", &self.variables(sandbox)).ok();
        }
    }

    /// Debian's plugins find `iptables` in the tree that they came with.
    fn variables(&self, sandbox: &Sandbox) -> Vec<(&'static str, String)> {
        let mut variables = sandbox.variables(IFNAME);
        let root = CNI_PLUGINS.ensure().unwrap_or_else(|e| panic!("{e:#}"));
        let programs =
            ["legacy-iptables", "usr/sbin", "sbin"].map(|dir| root.join(dir).display().to_string());
        let libraries = root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
        let system = std::env::var("PATH").unwrap_or_default();
        variables.extend([
            ("PATH", format!("{}:{system}", programs.join(":"))),
            ("XTABLES_LIBDIR", libraries.join("xtables").display().to_string()),
            ("LD_LIBRARY_PATH", libraries.display().to_string()),
        ]);
        variables
    }
}

#[track_caller]
fn debian(name: &str) -> PathBuf {
    CNI_PLUGINS.ensure().unwrap_or_else(|e| panic!("{e:#}")).join("usr/lib/cni").join(name)
}

#[test]
fn portmap_and_bandwidth_do_their_part_and_take_it_back() {
    let cluster = two_hosts(Wire::Offload);
    let [one, two] = &cluster.hosts[..] else { panic!("two hosts") };
    let world = cluster.stranger();
    let (here, there) = (Sandbox::new("c0ffee0123456789"), Sandbox::new("decafbad01234567"));
    let ports = json!({"portMappings": [{"hostPort": PORT, "containerPort": PORT, "protocol": "tcp"}]});
    let first = Network::new(one, "blue").with(&json!({"cniVersion": "1.0.0", "runtimeConfig": ports}));
    let shaped = json!({"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000});
    let chain = Chain(vec![
        first.with(&json!({})),
        first.plugin(&debian("portmap"), &json!({"type": "portmap", "snat": true, "runtimeConfig": ports})),
        first.plugin(&debian("bandwidth"), &shaped),
    ]);
    let other = Network::new(two, "blue").add(&there).ok();
    let result = chain.add(&here);
    let veth = result["interfaces"][0]["name"].as_str().expect("a host veth").to_owned();
    let shown = one.netns().must(&["tc", "qdisc", "show", "dev", &veth]);
    assert!(shown.contains("tbf"), "{shown}");
    assert_eq!(result["interfaces"].as_array().map(Vec::len), Some(3), "bandwidth adds its device: {result}");
    chain.check(&here, &result);

    expect_ping(&here.netns, address(&other), &[]);
    expect_ping(&there.netns, address(&result), &[]);
    let _responder = Responder::start(&here.netns, "here");
    let answer = || ask_tcp(&world.netns, one.addr().ip, "published?", DEADLINE);
    assert_eq!(answer().as_deref(), Some("here"));

    chain.del(&here, &result);
    chain.del(&here, &result);
    assert_eq!(answer(), None);
    Network::new(two, "blue").del(&there).ok();
    assert!(!one.netns().links().iter().any(|link| link.starts_with("bwp")), "{:?}", one.netns().links());
    expect_nothing_left(&cluster);
}
