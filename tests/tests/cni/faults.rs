//! Processes that die half-way, and agents and stores that are away.

use std::{fs::File, process::Stdio, thread, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use overlay_tests::{
    host::Host,
    stores::{FaultyStore, SqliteFile},
    topology::{Cluster, Plan, two_hosts},
    traffic::ping::expect_ping,
    underlay::Wire,
    wait,
};
use serde_json::{Value, json};

use crate::{
    attach::expect_nothing_left,
    runtime::{IFNAME, Network, Sandbox, address},
};

const DEADLINE: Duration = Duration::from_secs(5);

fn signal(process: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(process).expect("a process id")), signal).expect("signal it");
}

#[test]
fn a_second_add_is_refused_and_the_container_keeps_its_network() {
    let cluster = two_hosts(Wire::Offload);
    let [one, two] = &cluster.hosts[..] else { panic!("two hosts") };
    let (here, there) = (Sandbox::new("c0ffee0123456789"), Sandbox::new("decafbad01234567"));
    let network = Network::new(one, "blue");
    network.add(&here).ok();
    let other = Network::new(two, "blue").add(&there).ok();
    network.add(&here).expect_error(101, "attached");
    // The same id and interface in another namespace, as if DEL had been forgotten; and the same namespace once more.
    let forgotten = Sandbox { id: here.id.clone(), ..Sandbox::new("forgotten") };
    network.add(&forgotten).expect_error(101, "detach it first");
    assert_eq!(forgotten.netns.links(), ["lo"]);
    Network::new(one, "red").add(&here).expect_error(101, "has an interface eth0 already");
    expect_ping(&here.netns, address(&other), &[]);
    network.del(&here).ok();
    Network::new(two, "blue").del(&there).ok();
    expect_nothing_left(&cluster);
}

#[test]
fn an_add_that_fails_leaves_nothing() {
    let cluster = two_hosts(Wire::Offload);
    let [one, _] = &cluster.hosts[..] else { panic!("two hosts") };
    let network = Network::new(one, "blue").with(&json!({"subnet": "10.7.0.0/24"}));
    let holder = Sandbox::new("c0ffee0123456789");
    let port = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80}], "ips": ["10.7.0.9"]});
    network.with(&json!({"runtimeConfig": port})).add(&holder).ok();

    let late = Sandbox::new("decafbad01234567");
    let refused = |runtime: Value, sentence: &str| {
        network.with(&json!({"runtimeConfig": runtime})).add(&late).expect_error(101, sentence);
    };
    refused(json!({"portMappings": [{"hostPort": 8080, "containerPort": 81}]}), "port 8080");
    refused(json!({"ips": ["10.7.0.9"]}), "10.7.0.9");
    refused(json!({"mac": "02:42:0a:07:00:09"}), "02:42:0a:07:00:09");
    // Nobody reads the result: a runtime without one has no container.
    let full = File::options().write(true).open("/dev/full").expect("open /dev/full");
    let mut call = network.command("ADD", &late.variables(IFNAME));
    call.stdin(Stdio::piped()).stdout(full).stderr(Stdio::piped());
    let mut child = call.spawn().expect("start the plugin");
    let mut stdin = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut stdin, network.config.to_string().as_bytes()).expect("write to it");
    drop(stdin);
    let output = child.wait_with_output().expect("wait for the plugin");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to standard output"));

    assert_eq!(late.netns.links(), ["lo"]);
    network.del(&holder).ok();
    expect_nothing_left(&cluster);
}

#[test]
fn del_works_without_a_namespace_without_a_result_twice_and_for_what_never_was() {
    let cluster = two_hosts(Wire::Offload);
    let network = Network::new(&cluster.hosts[0], "blue");
    let without_netns = |sandbox: &Sandbox| {
        let mut variables = sandbox.variables(IFNAME);
        variables.retain(|(name, _)| *name != "CNI_NETNS");
        variables
    };
    let never = Sandbox::new("f00d");
    network.del(&never).ok();
    network.add(&never).ok();
    network.call("DEL", &without_netns(&never)).ok();
    network.call("DEL", &without_netns(&never)).ok();
    assert_eq!(never.netns.links(), ["lo"]);

    let gone = Sandbox::new("c0ffee0123456789");
    let result = network.add(&gone).ok();
    gone.netns.delete();
    network.with(&json!({"prevResult": result})).del(&gone).ok();

    // By a configuration that could not add it, in which even the network is another.
    let changed = Sandbox::new("decafbad01234567");
    network.add(&changed).ok();
    network.with(&json!({"network": "elsewhere", "mistake": 1})).del(&changed).ok();
    // By another CNI network's configuration nothing is found, although the overlay's network is the same.
    network.add(&changed).ok();
    Network::new(&cluster.hosts[0], "red").with(&json!({"network": "blue"})).del(&changed).ok();
    assert!(changed.netns.has_link(IFNAME));
    network.del(&changed).ok();
    expect_nothing_left(&cluster);
}

#[test]
fn del_works_while_the_store_is_away_and_an_add_is_to_be_tried_again() {
    let plan = Plan::default();
    let cluster = Cluster::without_agents(plan);
    let store = SqliteFile::new(cluster.dir.path().join("store"));
    let cluster = cluster.with_store(&store.url());
    cluster.hosts.iter().for_each(Host::start);
    let network = Network::new(&cluster.hosts[0], "blue");
    let sandbox = Sandbox::new("c0ffee0123456789");
    network.add(&sandbox).ok();
    store.stop();
    wait::until("the agent knows", store.notice(), || cluster.hosts[0].status().stale.is_some());
    network.status().expect_error(50, "store");
    network.del(&sandbox).ok();
    assert_eq!(sandbox.netns.links(), ["lo"]);
    network.add(&sandbox).expect_error(11, "nothing can be changed just now");
    store.start();
    wait::until("the agent is in step again", DEADLINE, || cluster.hosts[0].status().stale.is_none());
    network.status().ok();
    expect_nothing_left(&cluster);
}

#[test]
fn without_an_agent_everything_but_version_is_to_be_tried_again() {
    let cluster = two_hosts(Wire::Offload);
    let host = &cluster.hosts[0];
    let network = Network::new(host, "blue");
    let sandbox = Sandbox::new("c0ffee0123456789");
    let result = network.add(&sandbox).ok();
    network.status().ok();
    host.terminate();
    let other = Sandbox::new("decafbad01234567");
    network.add(&other).expect_error(11, "start overlay-agent");
    network.del(&sandbox).expect_error(11, "start overlay-agent");
    network.check(&sandbox, &result).expect_error(11, "start overlay-agent");
    network.gc(&[]).expect_error(11, "start overlay-agent");
    network.status().expect_error(51, "names are not answered");
    assert_eq!(network.call("VERSION", &[]).ok()["cniVersion"], "1.1.0");
    assert_eq!(other.netns.links(), ["lo"]);
    host.start();
    network.check(&sandbox, &result).ok();
    network.del(&sandbox).ok();
    expect_nothing_left(&cluster);
}

/// Whether somebody in a host's namespace has sent what the other end has not taken yet.
fn has_request(host: &Host) -> bool {
    let shown = host.netns().must(&["ss", "-xH"]);
    let is_waiting = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(fields[..], [_, "ESTAB", _, sent, ..] if sent != "0")
    };
    shown.lines().any(is_waiting)
}

#[test]
fn an_add_whose_plugin_is_killed_is_undone_by_del() {
    let cluster = two_hosts(Wire::Offload);
    let host = &cluster.hosts[0];
    let network = Network::new(host, "blue");
    network.add(&Sandbox::new("first")).ok();
    wait::until("the first one is gone", DEADLINE, || host.endpoints().is_empty());
    let sandbox = Sandbox::new("c0ffee0123456789");
    let variables = sandbox.variables(IFNAME);
    let add_and_kill = |after: Duration| {
        let mut plugin = network.start("ADD", &variables);
        thread::sleep(after);
        plugin.kill().and_then(|()| plugin.wait()).expect("kill the plugin");
    };
    // The agent holds the request and hears of the plugin's end before it begins.
    for _ in 0..3 {
        signal(host.pid(), Signal::SIGSTOP);
        let mut plugin = network.start("ADD", &variables);
        wait::until("the request waits", DEADLINE, || has_request(host));
        plugin.kill().and_then(|()| plugin.wait()).expect("kill the plugin");
        signal(host.pid(), Signal::SIGCONT);
        network.del(&sandbox).ok();
        expect_nothing_left(&cluster);
        assert_eq!(sandbox.netns.links(), ["lo"]);
    }
    // At any other moment.
    for milliseconds in (0..60).step_by(5) {
        add_and_kill(Duration::from_millis(milliseconds));
        network.del(&sandbox).ok();
        assert_eq!(sandbox.netns.links(), ["lo"], "killed after {milliseconds} ms");
    }
    expect_nothing_left(&cluster);
    network.add(&sandbox).ok();
    network.del(&sandbox).ok();
}

#[test]
fn an_agent_that_dies_during_an_add_leaves_nothing_for_long() {
    let cluster = two_hosts(Wire::Offload);
    let host = &cluster.hosts[0];
    let network = Network::new(host, "blue");
    network.add(&Sandbox::new("first")).ok();
    let sandbox = Sandbox::new("c0ffee0123456789");
    for milliseconds in [10, 20, 30, 40, 60] {
        let mut plugin = network.start("ADD", &sandbox.variables(IFNAME));
        thread::sleep(Duration::from_millis(milliseconds));
        host.kill9();
        plugin.wait().expect("wait for the plugin");
        host.start();
        network.del(&sandbox).ok();
        wait::until("nothing is left", DEADLINE, || {
            host.endpoints().is_empty() && sandbox.netns.links() == ["lo"]
        });
    }
    expect_nothing_left(&cluster);
}
