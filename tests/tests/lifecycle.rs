//! Agents that are killed, stopped, doubled and cleaned up, and things that vanish under them: traffic flows
//! on, changes arrive in time, and nothing stays that nobody owns.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use etherparse::Icmpv4Type;
use overlay_common::abi;
use overlay_tests::{
    container::Container,
    drops::Drops,
    exec,
    host::Host,
    oracle::expect_agreement,
    packet::{Addr, DISCARD_PORT, Frame},
    tap::Tap,
    topology::{CONVERGENCE, Cluster, Plan, settle, time_to_pass, two_hosts},
    traffic::{
        flow::{Flow, Report},
        ping::{expect_no_ping, expect_ping},
        responder::{Responder, Session},
    },
    underlay::{MTU, Wire},
    views::Network,
    wait,
};

const DEADLINE: Duration = Duration::from_secs(2);
/// Longest time until what somebody removed is there again.
const REPAIR: Duration = Duration::from_secs(5);
/// Longest time until what vanished is collected.
const COLLECTION: Duration = Duration::from_secs(5);

/// Two hosts with a container each in `net`.
fn pair() -> (Container, Container, Cluster) {
    let cluster = two_hosts(Wire::Offload);
    let (a, b) = cluster.pair();
    (a, b, cluster)
}

#[track_caller]
fn expect_whole(report: Report) {
    println!("{report:?}");
    assert!(report.sent > 0);
    assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}");
}

fn host_veths(host: &Host) -> Vec<String> {
    let is_ours = |name: &String| name.strip_prefix("ovl").is_some_and(|rest| rest.len() == 12);
    host.netns().links().into_iter().filter(is_ours).collect()
}

#[test]
fn killing_the_agents_loses_no_packet_and_resets_no_connection() {
    let (a, b, cluster) = pair();
    let _responder = Responder::start(b.netns(), "b");
    let mut session = Session::connect(a.netns(), b.addr().ip, DEADLINE).unwrap();
    let flow = Flow::start(a.netns(), b.netns(), b.addr().ip);
    for round in 0..3 {
        for host in &cluster.hosts {
            flow.wait_for_more(200);
            host.kill9();
            flow.wait_for_more(400);
            assert_eq!(
                session.ask("alive?").unwrap(),
                "b",
                "while the agent of {} is dead, round {round}",
                host.label()
            );
            host.start();
        }
    }
    flow.wait_for_more(200);
    assert_eq!(session.ask("alive?").unwrap(), "b");
    expect_whole(flow.stop());
    expect_agreement(&cluster);
}

#[test]
fn an_agent_that_is_killed_while_it_starts_is_repaired_by_the_next_one() {
    let (a, b, cluster) = pair();
    let flow = Flow::start(a.netns(), b.netns(), b.addr().ip);
    let host = &cluster.hosts[0];
    host.kill9();
    for millis in [5, 20, 50, 100, 200] {
        host.spawn();
        // Not a wait for anything: the point is to hit the start at another moment each time.
        thread::sleep(Duration::from_millis(millis));
        host.kill9();
    }
    host.start();
    flow.wait_for_more(100);
    expect_whole(flow.stop());
    let c = Container::attached(host, "net", "c");
    settle(&[&c, &b]);
    expect_agreement(&cluster);
}

#[test]
fn a_restart_repairs_what_changed_while_the_agent_was_dead() {
    let (a, b, cluster) = pair();
    let gone = Container::attached(&cluster.hosts[0], "net", "gone");
    settle(&[&gone, &b]);
    cluster.hosts[0].kill9();
    drop(gone);
    let late = Container::attached(&cluster.hosts[1], "net", "late");
    cluster.hosts[0].start();
    settle(&[&a, &b, &late]);
    for host in &cluster.hosts {
        let names = || host.endpoints().into_iter().map(|endpoint| endpoint.name).collect::<Vec<_>>();
        wait::until("the endpoint that vanished is collected", COLLECTION, || {
            !names().contains(&"gone".to_owned())
        });
    }
    assert_eq!(host_veths(&cluster.hosts[0]).len(), 1);
    expect_agreement(&cluster);
}

#[test]
fn an_agent_that_is_told_to_end_leaves_the_data_path_in_place() {
    let (a, b, cluster) = pair();
    let flow = Flow::start(a.netns(), b.netns(), b.addr().ip);
    for host in &cluster.hosts {
        flow.wait_for_more(100);
        let status = host.terminate();
        assert!(status.success(), "{} ended with {status}\n{}", host.label(), host.log_tail());
        assert!(host.pins().exists() && !host.cli(&["status"]).is_success());
    }
    flow.wait_for_more(400);
    cluster.hosts.iter().for_each(Host::start);
    flow.wait_for_more(100);
    expect_whole(flow.stop());
}

#[test]
fn cleaning_up_removes_everything_of_ours_and_nothing_else() {
    let (a, _b, cluster) = pair();
    let host = &cluster.hosts[0];
    let foreign = Foreign::make(&cluster, host);
    host.terminate();
    assert_eq!(host.cleanup().code, Some(0));

    assert_eq!(host_veths(host), Vec::<String>::new());
    assert!(!host.netns().has_link("ovl-tunnel") && !a.netns().has_link("eth0"));
    assert!(!host.pins().exists() && !host.socket().exists());
    assert!(foreign.is_there(&cluster, host), "something foreign is gone");
    assert_kernel_gets_vxlan(&cluster, host);
    let again = host.cleanup();
    assert!(again.is_success(), "cleaning up twice: {again}");
}

/// Things that are not ours, as close to ours as they can be.
struct Foreign {
    filter: String,
    pin: PathBuf,
}

impl Foreign {
    fn make(cluster: &Cluster, host: &Host) -> Self {
        let netns = host.netns();
        netns.ip(&["link", "add", "ovl0", "type", "veth", "peer", "name", "ovlforeignpeer"]);
        netns.must(&["tc", "qdisc", "add", "dev", "eth0", "clsact"]);
        netns.must(&[
            "tc",
            "filter",
            "add",
            "dev",
            "eth0",
            "ingress",
            "bpf",
            "bytecode",
            "1,6 0 0 4294967295,",
        ]);
        let pin = cluster.dir.path().join("bpf/foreign");
        let map = "type array key 4 value 4 entries 1 name fdb";
        exec::must(["sh", "-c", &format!("bpftool map create {} {map}", pin.display())]);
        Self { filter: Self::filters(host), pin }
    }

    fn filters(host: &Host) -> String {
        host.netns().must(&["tc", "filter", "show", "dev", "eth0", "ingress"])
    }

    fn is_there(&self, cluster: &Cluster, host: &Host) -> bool {
        let links = ["eth0", "ovl0", "ovlforeignpeer"].iter().all(|link| host.netns().has_link(link));
        let others = cluster.hosts[1].pins().exists() && cluster.hosts[1].netns().has_link("ovl-tunnel");
        links && others && self.pin.exists() && Self::filters(host) == self.filter && !self.filter.is_empty()
    }
}

/// A VXLAN packet of a stranger's is answered by the kernel as to a closed port: no program of ours dropped
/// it, and no socket of ours took it.
#[track_caller]
fn assert_kernel_gets_vxlan(cluster: &Cluster, host: &Host) {
    let stranger = cluster.stranger();
    let tap = Tap::open(&stranger.netns, "eth0");
    let inner = Frame::udp(stranger.addr, host.addr(), (1, 2), b"inner");
    tap.send(&Frame::vxlan(stranger.addr, host.addr(), 256, &inner));
    let refused = |frame: &Frame| {
        matches!(frame.icmp_packet()?.1.icmp_type, Icmpv4Type::DestinationUnreachable(_)).then_some(())
    };
    assert!(tap.find(DEADLINE, refused).is_some(), "something still takes VXLAN packets");
}

#[test]
fn an_agent_mounts_a_bpffs_where_there_is_none_and_takes_it_away_again() {
    let cluster = Cluster::without_agents(Plan { hosts: 0, ..Plan::default() });
    let (dir, store) = (cluster.dir.make("host"), cluster.dir.path().join("overlay.db"));
    let pins = dir.join("bpf");
    let host = Host::new(cluster.underlay.add_host("host", MTU), "host", dir, pins.clone(), &store);
    host.start();
    assert!(pins.join(format!("maps-v{}", abi::VERSION)).join(abi::map::FDB).exists());
    assert!(cluster.dir.mounts().contains(&pins));
    host.terminate();
    assert!(cluster.dir.mounts().contains(&pins), "the pins are gone with the agent");
    let cleaned = host.cleanup();
    assert!(cleaned.is_success(), "{cleaned}");
    assert!(!cluster.dir.mounts().contains(&pins), "its mount stays behind");
}

#[test]
fn changes_on_one_host_are_in_force_on_the_others_within_a_second() {
    let (_a, b, cluster) = pair();
    cluster.network("other", &[]);
    let gateway = cluster.hosts[0].json::<Network>(&["network", "inspect", "net"]).gateway();
    let target = Container::attached(&cluster.hosts[0], "other", "target");
    let (mut attach, mut detach, mut allow, mut deny) = (vec![], vec![], vec![], vec![]);
    for round in 0..5 {
        let name = format!("new{round}");
        let new = Container::attached(&cluster.hosts[0], "net", &name);
        let new_addr = new.addr();
        attach.push(passes(&b, &new, new_addr));
        let detached = Instant::now();
        cluster.hosts[0].overlay(&["detach", "net", "--name", &name]);
        detach.push(stops(&cluster.hosts[1], &b, new_addr, detached));

        cluster.hosts[0].overlay(&["policy", "allow", "net", "other"]);
        let routed = target.addr().behind(gateway.mac);
        allow.push(passes(&b, &target, routed));
        cluster.hosts[0].overlay(&["policy", "deny", "net", "other"]);
        deny.push(stops(&cluster.hosts[1], &b, routed, Instant::now()));
    }
    for (what, times) in [("attach", attach), ("detach", detach), ("allow", allow), ("deny", deny)] {
        let mut times = times;
        times.sort_unstable();
        println!("{what}: median {:?}, worst {:?}", times[times.len() / 2], times[times.len() - 1]);
        assert!(times.iter().all(|time| *time <= CONVERGENCE), "{what} took {times:?}");
    }
}

/// How long until a frame of `from` arrives at `to`.
#[track_caller]
fn passes(from: &Container, to: &Container, target: Addr) -> Duration {
    let time = time_to_pass(&from.tap(), &to.tap(), from.addr(), target, 2 * CONVERGENCE);
    time.unwrap_or_else(|| panic!("{} does not reach {}", from.name(), to.name()))
}

/// How long after `start` the host of `from` itself drops what `from` sends to `target`.
#[track_caller]
fn stops(host: &Host, from: &Container, target: Addr, start: Instant) -> Duration {
    let (tap, before) = (from.tap(), Drops::of(host));
    let probe = Frame::udp(from.addr(), target, (1, DISCARD_PORT), b"still there?");
    wait::until("the sender's own host drops", 2 * CONVERGENCE, || {
        tap.send(&probe);
        Drops::of(host).since(&before) != Drops::default()
    });
    start.elapsed()
}

#[test]
fn an_endpoint_whose_namespace_is_deleted_is_collected_and_its_address_is_free_again() {
    let (_a, b, cluster) = pair();
    let gone = Container::attached(&cluster.hosts[0], "net", "gone");
    settle(&[&gone, &b]);
    let (veths, ip) = (host_veths(&cluster.hosts[0]).len(), gone.addr().ip.to_string());
    drop(gone);
    for host in &cluster.hosts {
        let there = || host.endpoints().iter().any(|endpoint| endpoint.name == "gone");
        wait::until("the endpoint is collected", COLLECTION, || !there());
    }
    assert_eq!(host_veths(&cluster.hosts[0]).len(), veths - 1);
    let mut heir = Container::new("heir");
    heir.attach(&cluster.hosts[1], "net", &["--ip", &ip]);
    settle(&[&heir, &b]);
    expect_agreement(&cluster);
}

#[test]
fn detaching_works_twice_and_without_the_namespace() {
    let (a, _b, cluster) = pair();
    let host = &cluster.hosts[0];
    host.overlay(&["detach", "net", "--netns", a.netns().name()]);
    assert!(!a.netns().has_link("eth0"));
    assert_eq!(host_veths(host), Vec::<String>::new());
    host.overlay(&["detach", "net", "--netns", a.netns().name()]);
    host.overlay(&["detach", "net", "--name", "a"]);
    let c = Container::attached(host, "net", "c");
    drop(c);
    host.overlay(&["detach", "net", "--name", "c"]);
    assert!(!host.endpoints().iter().any(|endpoint| endpoint.name == "c"));
    host.overlay(&["network", "ls"]);
}

#[test]
fn a_second_agent_for_the_same_directories_pins_or_namespace_is_refused() {
    let (a, b, cluster) = pair();
    let host = &cluster.hosts[0];
    let own = host.flags().clone().with("--node", "second");
    let (run, state, pins) = (
        cluster.dir.make("second/run"),
        cluster.dir.make("second/state"),
        cluster.dir.path().join("bpf/second"),
    );
    let second = [
        ("run directory", own.clone().with("--state-dir", &state).with("--bpffs-dir", &pins)),
        ("pins", own.clone().with("--state-dir", &state).with("--run-dir", &run)),
        ("namespace", own.with("--state-dir", &state).with("--run-dir", &run).with("--bpffs-dir", &pins)),
    ];
    for (what, flags) in second {
        let refused = host.run_agent(&flags, &[]);
        assert_eq!(refused.code, Some(1), "same {what}: {refused}");
        assert!(
            refused.stderr.lines().last().is_some_and(|line| line.contains("agent")),
            "same {what}: {refused}"
        );
    }
    expect_ping(a.netns(), b.addr().ip, &[]);
    assert!(host.status().ready);
}

#[test]
fn a_second_node_of_the_same_name_is_refused() {
    let (_a, _b, cluster) = pair();
    let [one, two] = [&cluster.hosts[0], &cluster.hosts[1]];
    two.terminate();
    let refused = two.run_agent(&two.flags().clone().with("--node", one.label()), &[]);
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains(one.label()), "{refused}");
    two.start();
}

#[test]
fn an_attachment_that_fails_half_way_leaves_nothing() {
    let (a, b, cluster) = pair();
    let host = &cluster.hosts[0];
    let links = host.netns().links();
    let mut late = Container::new("late");
    late.netns().ip(&["link", "add", "eth7", "type", "veth", "peer", "name", "eth8"]);
    let attach = ["attach", "net", "--netns", late.netns().name(), "--name", "late", "--ip", "10.0.0.99"];
    let failed = host.cli(&[&attach[..], &["--ifname", "eth7"]].concat());
    assert_eq!(failed.code, Some(1), "{failed}");
    assert_eq!(host.netns().links(), links);
    assert_eq!(host.endpoints().len(), 2);
    // The name, the address and the namespace are as free as before.
    late.attach(host, "net", &["--ip", "10.0.0.99"]);
    settle(&[&late, &a, &b]);
    expect_agreement(&cluster);
}

#[test]
fn filters_that_somebody_removes_are_attached_again() {
    let (a, b, cluster) = pair();
    let host = &cluster.hosts[0];
    let repaired = host.status().repaired;
    let links: Vec<_> =
        fs::read_dir(host.pins().join("links")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(links.len() >= 2, "{links:?}");
    for link in &links {
        exec::must(["bpftool", "link", "detach", "pinned", link.to_str().unwrap()]);
    }
    expect_no_ping(a.netns(), b.addr().ip);
    let (out, back) = (a.tap(), b.tap());
    for (from, to, sender, receiver) in [(&out, &back, &a, &b), (&back, &out, &b, &a)] {
        let time = time_to_pass(from, to, sender.addr(), receiver.addr(), REPAIR);
        println!("{} reaches {} again after {time:?}", sender.name(), receiver.name());
        assert!(time.is_some(), "{} does not reach {} again", sender.name(), receiver.name());
    }
    assert!(host.status().repaired > repaired, "the repair is not reported");
    expect_agreement(&cluster);
}

#[test]
fn pins_that_somebody_removes_are_there_again() {
    let (a, b, cluster) = pair();
    let host = &cluster.hosts[0];
    let links: Vec<_> =
        fs::read_dir(host.pins().join("links")).unwrap().map(|entry| entry.unwrap().path()).collect();
    for link in &links {
        fs::remove_file(link).unwrap();
    }
    wait::until("the pins are there again", REPAIR, || links.iter().all(|link| link.exists()));
    expect_ping(a.netns(), b.addr().ip, &[]);
    let flow = Flow::start(a.netns(), b.netns(), b.addr().ip);
    host.kill9();
    flow.wait_for_more(200);
    host.start();
    expect_whole(flow.stop());
    expect_agreement(&cluster);
}
