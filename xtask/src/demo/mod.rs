//! `cargo xtask demo`: the main job on real packets, step by step.
//!
//! Replays the walk that people know from Docker's overlay network: two hosts, two networks, three
//! containers. Hosts and containers are network namespaces, and so is the wire between the hosts.
//!
//! * [`lab`]: namespaces, wire and agents, and their removal
//! * [`script`]: running a command, showing it, and judging what came back

mod lab;
mod script;

use std::process::{Command, ExitCode};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use nix::unistd::geteuid;

use crate::{build, phases::Phases, servers::Kind, setup};
use lab::Lab;
use script::Script;

/// Options of `cargo xtask demo`.
#[derive(Args, Debug)]
pub struct Options {
    /// Leave hosts, containers and agents up for playing; `cargo xtask clean` removes them
    #[arg(long)]
    keep: bool,

    /// Where the cluster's state lives; a server is downloaded and started by itself
    #[arg(long, value_enum, value_name = "KIND", default_value_t)]
    store: Store,
}

/// A kind of store.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Store {
    /// Embedded: a file that both hosts share
    #[default]
    Sqlite,
    Consul,
    Etcd,
    Zookeeper,
}

impl Store {
    fn server(self) -> Option<Kind> {
        match self {
            Self::Sqlite => None,
            Self::Consul => Some(Kind::Consul),
            Self::Etcd => Some(Kind::Etcd),
            Self::Zookeeper => Some(Kind::Zookeeper),
        }
    }
}

/// Runs all steps, also those after one that failed; success only if all held.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(
        geteuid().is_root(),
        "the demo makes namespaces and loads BPF programs: run `cargo xtask demo` as root"
    );
    let phases = Phases::start();
    phases.next("set-up");
    setup::run()?;
    phases.next("build");
    build::run(&build::Options::default())?;
    phases.next("demo");
    let lab = Lab::new(options.store.server())?;
    let mut script = Script::new();
    play(&lab, &mut script);
    if options.keep {
        lab.keep();
    } else {
        script.check("everything is taken away again", lab.remove());
    }
    Ok(script.conclude())
}

/// The walk.
fn play(lab: &Lab, script: &mut Script) {
    agents(lab, script);
    networks(lab, script);
    containers(lab, script);
    crossing(lab, script);
    isolation(lab, script);
    allowing(lab, script);
    joining(lab, script);
    world(lab, script);
    maps(lab, script);
    if let Some(browse) = lab.browse() {
        store(browse, script);
    }
}

fn agents(lab: &Lab, script: &mut Script) {
    script.heading(&format!("Two hosts, each with an agent; the store between them is {}", lab.store_url()));
    for host in lab::HOSTS {
        let status = script.run(lab.overlay(host, &["status", "--wait"]));
        script.expect(&format!("the agent on {host} is ready"), status.succeeded());
    }
    let nodes = script.run(lab.overlay("host1", &["node", "ls"]));
    script.expect("host1 knows both hosts", nodes.has(&["host1", "host2"]));
}

fn networks(lab: &Lab, script: &mut Script) {
    script.heading("Two networks, created on host1 and seen on host2");
    for name in ["ov_net1", "ov_net2"] {
        let created = script.run(lab.overlay("host1", &["network", "create", name]));
        script.expect(&format!("{name} is created"), created.succeeded());
    }
    for host in lab::HOSTS {
        let networks = script.run(lab.overlay(host, &["network", "ls"]));
        let both = networks.has(&["ov_net1", "256", "10.0.0.0/24", "ov_net2", "257", "10.0.1.0/24"]);
        script.expect(&format!("{host} sees both networks"), both);
    }
}

fn containers(lab: &Lab, script: &mut Script) {
    script.heading("Three containers: bbox1 on host1; bbox2 and bbox3 on host2");
    for (host, network, name) in
        [("host1", "ov_net1", "bbox1"), ("host2", "ov_net1", "bbox2"), ("host2", "ov_net2", "bbox3")]
    {
        let attached = script.run(lab.attach(host, network, name));
        script.expect(&format!("{name} is attached to {network}"), attached.succeeded());
    }
    let endpoints = script.run(lab.overlay("host1", &["endpoint", "ls"]));
    script.expect("host1 lists the containers of both hosts", endpoints.has(&["bbox1", "bbox2", "bbox3"]));
    for (name, address) in [("bbox1", "10.0.0.2/24"), ("bbox2", "10.0.0.3/24"), ("bbox3", "10.0.1.2/24")] {
        let addresses =
            script.run(lab.in_container(name, &["ip", "-4", "-brief", "address", "show", "dev", "eth0"]));
        script.expect(&format!("{name} has {address}"), addresses.has(&[address]));
    }
}

fn crossing(lab: &Lab, script: &mut Script) {
    script.heading("Across hosts");
    let ping = script.run(lab.ping("bbox2", "bbox1"));
    script.expect("bbox2 on host2 reaches bbox1 on host1 by its name", ping.has(&["10.0.0.2"]));
    let capture = script.run_during(lab.capture("host2"), "listening on", || lab.ping("bbox2", "10.0.0.2"));
    script.expect(
        "the packet on the underlay is VXLAN with VNI 256",
        capture.has(&["VXLAN", "vni 256", "10.0.0.3 > 10.0.0.2"]),
    );
}

fn isolation(lab: &Lab, script: &mut Script) {
    script.heading("Networks are isolated, and one can see why");
    let name = script.run(lab.ping("bbox3", "bbox1.ov_net1"));
    script.expect("bbox3 in ov_net2 does not know the names of ov_net1", name.failed());
    let ping = script.run(lab.ping("bbox3", "10.0.0.2"));
    script.expect("nor does it reach bbox1 there", ping.failed());
    let drops = script.run(lab.overlay("host2", &["drops"]));
    script.expect("host2 counted why: policy_denied, from bbox3", drops.has(&["policy_denied", "bbox3"]));
}

fn allowing(lab: &Lab, script: &mut Script) {
    script.heading("Policy opens one port from ov_net2 to ov_net1, and no more");
    let rule = ["policy", "allow", "ov_net2", "ov_net1", "--proto", "tcp", "--port", "5432", "--one-way"];
    let allowed = script.run(lab.overlay("host1", &rule));
    script.expect("the rule is in force", allowed.succeeded());
    let seen = script
        .run_during(lab.listen("bbox1", "5432"), "Listening", || lab.connect("bbox3", "10.0.0.2", "5432"));
    script.expect("bbox3 connects to bbox1 there, under its own address", seen.has(&["10.0.1.2"]));
    let ping = script.run(lab.ping("bbox3", "10.0.0.2"));
    script.expect("but it still cannot ping it", ping.failed());
    let denied = script.run(lab.overlay("host1", &["policy", "deny", "ov_net2", "ov_net1"]));
    let connection = script.run(lab.connect("bbox3", "10.0.0.2", "5432"));
    script.expect("denied, the port is closed again", denied.succeeded() && connection.failed());
}

fn joining(lab: &Lab, script: &mut Script) {
    script.heading("A container joins a second network");
    let attached = script.run(lab.attach("host2", "ov_net1", "bbox3"));
    script.expect("bbox3 is attached to ov_net1 too", attached.succeeded());
    let addresses = script.run(lab.in_container("bbox3", &["ip", "-4", "-brief", "address"]));
    script.expect(
        "it has an interface in each network",
        addresses.has(&["eth0", "10.0.1.2/24", "eth1", "10.0.0.4/24"]),
    );
    let ping = script.run(lab.ping("bbox3", "bbox1"));
    script.expect("now bbox3 reaches bbox1 by its name", ping.has(&["10.0.0.2"]));
}

fn world(lab: &Lab, script: &mut Script) {
    script.heading("Out into the world, and in from it");
    let ping = script.run(lab.ping("bbox1", lab::FAR));
    script.expect("bbox1 reaches a machine outside the overlay", ping.succeeded());
    let published = script.run(lab.overlay("host1", &["publish", "ov_net1", "bbox1", "8080:80"]));
    script.expect("port 8080 of host1 leads to bbox1", published.succeeded());
    let seen = script.run_during(lab.listen("bbox1", "80"), "Listening", || {
        lab.connect(lab::WORLD, "192.168.77.1", "8080")
    });
    script.expect("the world connects to it, and bbox1 sees who it is", seen.has(&["192.168.77.200"]));
}

fn maps(lab: &Lab, script: &mut Script) {
    script.heading("What the kernel forwards by");
    let dump = script.run(lab.overlay("host2", &["map", "dump", "fdb"]));
    script.expect("host2 finds bbox1 behind host1's VTEP", dump.has(&["02:42:0a:00:00:02", "192.168.77.1"]));
    let raw = script.run(lab.bpftool_fdb("host2"));
    script.expect("bpftool prints the FDB by field name", raw.has(&["\"vni\"", "\"mac\"", "\"vtep_addr\""]));
}

fn store(browse: Command, script: &mut Script) {
    script.heading("The store's own browser shows the cluster's state by readable keys");
    let keys = script.run(browse);
    script.expect("networks and containers are there", keys.has(&["networks/ov_net1", "endpoints/ov_net1/"]));
}
