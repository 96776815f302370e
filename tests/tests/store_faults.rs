//! A store that goes away, comes back, is wiped, replaced, locked or full: containers go on, what is known is shown and
//! marked, detaching works, and afterwards everything is as it should be.
//!
//! The first tests are for any store that a [`FaultyStore`] stands for; what only a file can go through follows.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use overlay_tests::{
    container::Container,
    exec::{self, Finished},
    fault_proxy::Fault,
    host::Host,
    stores::{FaultyStore, ProxiedStore, ServerStore, SqliteFile},
    topology::{CONVERGENCE, Cluster, Plan, settle},
    traffic::{
        flow::{Flow, Report},
        ping::expect_ping,
    },
    views::Status,
    wait,
};
use rstest::rstest;
use xtask::servers::Kind;

/// Longest time until an agent notices that its store is gone, or is in step with it again.
const NOTICE: Duration = Duration::from_secs(5);
/// The same for a store that reads well, but takes no change: the next sign of life finds that out.
const NOTICE_OF_LOCK: Duration = Duration::from_secs(15);
/// Longest time until an agent that knows of it is in step with its store again.
const RETURN: Duration = Duration::from_secs(2);
/// Longest time that a change may take which the store cannot be told of, refused or not.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The hosts that run from the start on. One more knows nothing of the cluster but what the store tells it.
const MEMBERS: usize = 2;

/// Agents on a store under fault, with containers and traffic.
struct Scene {
    flow: Flow,
    a: Container,
    b: Container,
    cluster: Cluster,
}

impl Scene {
    /// Two hosts with a container each in `net`, a flow between them, and a host whose agent does not run yet.
    fn new(store: &impl FaultyStore) -> Self {
        let plan = Plan { hosts: MEMBERS + 1, ..Plan::default() };
        let cluster = Cluster::without_agents(plan).with_store(&store.url());
        store.plug_into(&cluster.underlay);
        cluster.hosts[..MEMBERS].iter().for_each(Host::spawn);
        cluster.hosts[..MEMBERS].iter().for_each(Host::wait_ready);
        cluster.hosts[0].create_network("net", &[]);
        let [one, two, _] = &cluster.hosts[..] else { panic!("three hosts") };
        wait::until("the network is known", CONVERGENCE, || {
            two.cli(&["network", "inspect", "net"]).is_success()
        });
        let (a, b) = (Container::attached(one, "net", "a"), Container::attached(two, "net", "b"));
        settle(&[&a, &b]);
        let flow = Flow::start(a.netns(), b.netns(), b.addr().ip);
        Self { flow, a, b, cluster }
    }

    fn members(&self) -> &[Host] {
        &self.cluster.hosts[..MEMBERS]
    }

    fn one(&self) -> &Host {
        &self.cluster.hosts[0]
    }

    fn two(&self) -> &Host {
        &self.cluster.hosts[1]
    }

    fn newcomer(&self) -> &Host {
        &self.cluster.hosts[MEMBERS]
    }

    /// A datagram is lost when a map is wrong for a moment: none may be, from first to last.
    #[track_caller]
    fn expect_whole_flow(self) {
        self.flow.wait_for_more(200);
        let report = self.flow.stop();
        println!("{report:?}");
        let Report { lost, duplicated, .. } = report;
        assert_eq!((lost, duplicated), (0, 0), "{report:?}");
    }

    /// The store holds exactly these endpoints, with all that belongs to them: an agent that knows nothing else finds
    /// them, reaches them, and gives nobody an address that one of them has.
    #[track_caller]
    fn expect_in_store(&self, names: &[&str]) {
        let host = self.newcomer();
        host.start();
        assert_eq!(endpoints(host), set(names), "{}", host.log_tail());
        let late = Container::attached(host, "net", "late");
        settle(&[&late, &self.a, &self.b]);
        let addresses: BTreeSet<String> = host.endpoints().into_iter().map(|endpoint| endpoint.ip).collect();
        assert_eq!(addresses.len(), names.len() + 1, "{addresses:?}");
        host.overlay(&["detach", "net", "--name", "late"]);
        host.terminate();
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn endpoints(host: &Host) -> BTreeSet<String> {
    host.endpoints().into_iter().map(|endpoint| endpoint.name).collect()
}

/// Waits until a host's status is as wanted.
#[track_caller]
fn wait_for(host: &Host, what: &str, deadline: Duration, wanted: impl Fn(&Status) -> bool) {
    let took = wait::poll(deadline, || wanted(&host.status()).then_some(()));
    assert!(took.is_some(), "{what}: not within {deadline:?}: {:?}\n{}", host.status(), host.log_tail());
}

#[track_caller]
fn wait_stale(host: &Host, store: &impl FaultyStore) {
    let start = Instant::now();
    wait_for(host, "stale", store.notice(), |status| status.stale.is_some());
    println!("{} knows after {:?}", host.label(), start.elapsed());
}

#[track_caller]
fn wait_current(host: &Host) {
    let start = Instant::now();
    wait_for(host, "in step again", NOTICE, |status| status.stale.is_none());
    println!("{} is in step again after {:?}", host.label(), start.elapsed());
    assert!(start.elapsed() < RETURN);
}

/// Runs a command that must end soon.
#[track_caller]
fn at_once(host: &Host, argv: &[&str]) -> Finished {
    let start = Instant::now();
    let finished = host.cli(argv);
    assert!(start.elapsed() <= AT_ONCE, "{argv:?} took {:?}: {finished}", start.elapsed());
    finished
}

/// Nothing can be made now, and that is said at once and with its reason.
#[track_caller]
fn expect_refusals(host: &Host) {
    let idle = Container::new("idle");
    let attach = ["attach", "net", "--netns", idle.netns().name()];
    for argv in [&attach[..], &["network", "create", "other"], &["network", "rm", "net"]] {
        let refused = at_once(host, argv);
        assert_eq!(refused.code, Some(1), "{argv:?}: {refused}");
        assert!(
            refused.stderr.contains("nothing can be changed just now but to detach: store "),
            "{refused}"
        );
    }
    assert!(!idle.netns().has_link("eth0"));
}

/// What is known is shown, marked on the standard error alone.
#[track_caller]
fn expect_stale_views(host: &Host, names: &[&str]) {
    assert_eq!(endpoints(host), set(names));
    for argv in [
        &["endpoint", "ls"][..],
        &["network", "inspect", "net"],
        &["node", "ls"],
        &["endpoint", "inspect", "a"],
    ] {
        let shown = host.cli(argv);
        assert!(shown.is_success(), "{argv:?}: {shown}");
        assert!(shown.stderr.contains("this is what was last known, stale for "), "{argv:?}: {shown}");
        assert!(!shown.stdout.contains("stale"), "{argv:?}: {shown}");
        host.json::<serde_json::Value>(argv);
    }
    assert!(host.cli(&["status"]).stdout.contains("stale: "));
}

/// Down while agents run, while one starts, and back: what was detached meanwhile is written back.
fn survives_an_outage(store: &impl FaultyStore) {
    let scene = Scene::new(store);
    let c = Container::attached(scene.one(), "net", "c");
    settle(&[&c, &scene.a, &scene.b]);
    wait_for_snapshot(scene.one(), &scene.cluster, "\"c\"");
    store.stop();
    scene.members().iter().for_each(|host| wait_stale(host, store));
    for host in scene.members() {
        expect_stale_views(host, &["a", "b", "c"]);
        expect_refusals(host);
    }
    let detached = at_once(scene.one(), &["detach", "net", "--name", "c"]);
    assert!(detached.is_success(), "{detached}");
    assert!(!c.netns().has_link("eth0"));
    assert_eq!(endpoints(scene.one()), set(&["a", "b"]));
    expect_ping(scene.a.netns(), scene.b.addr().ip, &[]);

    scene.one().kill9();
    scene.one().start();
    expect_stale_views(scene.one(), &["a", "b"]);
    expect_refusals(scene.one());
    assert!(at_once(scene.one(), &["detach", "net", "--name", "c"]).is_success());

    store.start();
    scene.members().iter().for_each(wait_current);
    for host in scene.members() {
        wait::until("the detached endpoint is gone everywhere", NOTICE, || {
            endpoints(host) == set(&["a", "b"])
        });
        let quiet = host.cli(&["endpoint", "ls"]);
        assert_eq!(quiet.stderr, "", "{quiet}");
    }
    scene.expect_in_store(&["a", "b"]);
    scene.expect_whole_flow();
}

/// Waits until an agent has written a snapshot that holds a text.
#[track_caller]
fn wait_for_snapshot(host: &Host, cluster: &Cluster, text: &str) {
    let state = cluster.dir.path().join(host.label()).join("state");
    let holds =
        |file: &str| String::from_utf8_lossy(&fs::read(state.join(file)).unwrap_or_default()).contains(text);
    wait::until("it is written down", NOTICE, || holds("snapshot") || holds("snapshot.journal"));
}

/// Emptied under running agents: they write everything back.
fn survives_being_wiped(store: &impl FaultyStore) {
    let scene = Scene::new(store);
    let gone = Container::attached(scene.one(), "net", "gone");
    scene.one().overlay(&["network", "create", "empty", "--subnet", "10.99.0.0/24"]);
    scene.one().overlay(&["policy", "allow", "net", "empty"]);
    scene.one().overlay(&["detach", "net", "--name", "gone"]);
    store.wipe();
    expect_written_back(&scene);
    scene.newcomer().start();
    let policies: Vec<serde_json::Value> = scene.newcomer().json(&["policy", "ls"]);
    assert_eq!(policies.len(), 2, "{policies:?}");
    let heir = Container::attached(scene.newcomer(), "net", "heir");
    assert_ne!(heir.addr().ip, gone.addr().ip, "a released address does not rest any more");
    scene.newcomer().overlay(&["detach", "net", "--name", "heir"]);
    scene.newcomer().terminate();
    scene.expect_in_store(&["a", "b"]);
    scene.expect_whole_flow();
}

#[track_caller]
fn expect_written_back(scene: &Scene) {
    scene.members().iter().for_each(|host| expect_host_wrote_back(&scene.cluster, host));
}

/// Waits until nothing is shown that the store does not hold: it was lost, and what was known is written back.
#[track_caller]
fn expect_host_wrote_back(cluster: &Cluster, host: &Host) {
    let log = cluster.dir.path().join(host.label()).join("agent.log");
    let told =
        || fs::read_to_string(&log).unwrap_or_default().contains("what the store lost is written back");
    wait::until("the loss is noticed and made good", 2 * NOTICE, told);
    wait_for(host, "whole", 2 * NOTICE, |status| status.warnings.is_empty() && status.store_error.is_none());
}

/// Emptied while no agent runs: those that start write back what they knew.
fn survives_being_wiped_unseen(store: &impl FaultyStore) {
    let scene = Scene::new(store);
    for host in scene.members() {
        host.terminate();
    }
    store.wipe();
    for host in scene.members() {
        host.start();
        assert_eq!(endpoints(host), set(&["a", "b"]), "{}", host.log_tail());
    }
    expect_written_back(&scene);
    scene.expect_in_store(&["a", "b"]);
    scene.expect_whole_flow();
}

/// Emptied while one agent does not run, whose container's address another takes meanwhile.
fn gives_no_address_twice(store: &impl FaultyStore) {
    let Scene { flow, a, b, cluster } = Scene::new(store);
    // Its sender is to lose its interface.
    let _ = flow.stop();
    let [one, two, newcomer] = &cluster.hosts[..] else { panic!("three hosts") };
    one.terminate();
    store.wipe();
    expect_host_wrote_back(&cluster, two);
    newcomer.start();
    let mut heir = Container::new("heir");
    heir.attach(newcomer, "net", &["--ip", &a.addr().ip.to_string()]);
    settle(&[&heir, &b]);
    one.start();
    let says_so =
        |status: &Status| status.warnings.iter().any(|w| w.contains("endpoint a of net (10.0.0.2)"));
    wait_for(one, "the loss is reported", NOTICE, says_so);
    wait::until("the loser has no interface", NOTICE, || !a.netns().has_link("eth0"));
    for host in &cluster.hosts {
        wait::until("all agree", NOTICE, || endpoints(host) == set(&["b", "heir"]));
    }
    settle(&[&heir, &b]);
}

#[rstest]
fn a_server_goes_away_and_comes_back(#[values(Kind::Consul, Kind::Etcd, Kind::Zookeeper)] kind: Kind) {
    survives_an_outage(&ServerStore::new(kind));
}

#[rstest]
fn a_server_is_wiped_under_running_agents(#[values(Kind::Consul, Kind::Etcd, Kind::Zookeeper)] kind: Kind) {
    survives_being_wiped(&ServerStore::new(kind));
}

#[rstest]
fn a_server_is_wiped_while_no_agent_runs(#[values(Kind::Consul, Kind::Etcd, Kind::Zookeeper)] kind: Kind) {
    survives_being_wiped_unseen(&ServerStore::new(kind));
}

#[rstest]
fn a_server_gives_no_address_twice_after_it_was_wiped(
    #[values(Kind::Consul, Kind::Etcd, Kind::Zookeeper)] kind: Kind,
) {
    gives_no_address_twice(&ServerStore::new(kind));
}

/// What a network in trouble does to those who ask: resets, silence, half an answer.
#[rstest]
fn a_server_behind_a_faulty_network_goes_away_and_comes_back(
    #[values(Kind::Consul, Kind::Etcd, Kind::Zookeeper)] kind: Kind,
    #[values(Fault::Refuse, Fault::Hang, Fault::Truncate(20))] fault: Fault,
) {
    survives_an_outage(&ProxiedStore::new(kind, fault));
}

/// ZooKeeper does not speak HTTP.
#[rstest]
fn a_server_that_answers_with_errors_alone_is_one_that_is_away(
    #[values(Kind::Consul, Kind::Etcd)] kind: Kind,
) {
    survives_an_outage(&ProxiedStore::new(kind, Fault::Status(503)));
}

/// A slow store is no outage: everything goes on, later.
#[rstest]
fn a_slow_server_is_waited_for(#[values(Kind::Consul, Kind::Etcd, Kind::Zookeeper)] kind: Kind) {
    let store = ProxiedStore::new(kind, Fault::Delay(Duration::from_millis(300)));
    let scene = Scene::new(&store);
    store.stop();
    let late = Container::attached(scene.two(), "net", "late");
    settle(&[&late, &scene.a, &scene.b]);
    scene.two().overlay(&["detach", "net", "--name", "late"]);
    for host in scene.members() {
        wait::until("the change is known", store.notice(), || endpoints(host) == set(&["a", "b"]));
        assert!(host.status().stale.is_none(), "{:?}", host.status());
    }
    store.start();
    scene.expect_in_store(&["a", "b"]);
    scene.expect_whole_flow();
}

fn sqlite(label: &str) -> (overlay_tests::workdir::WorkDir, SqliteFile) {
    let dir = overlay_tests::workdir::WorkDir::new(label);
    let store = SqliteFile::new(dir.path().join("store"));
    (dir, store)
}

#[test]
fn sqlite_goes_away_and_comes_back() {
    let (_dir, store) = sqlite("away");
    survives_an_outage(&store);
}

#[test]
fn sqlite_is_wiped_under_running_agents() {
    let (_dir, store) = sqlite("wiped");
    survives_being_wiped(&store);
}

#[test]
fn sqlite_is_wiped_while_no_agent_runs() {
    let (_dir, store) = sqlite("unseen");
    survives_being_wiped_unseen(&store);
}

#[test]
fn sqlite_gives_no_address_twice_after_it_was_wiped() {
    let (_dir, store) = sqlite("twice");
    gives_no_address_twice(&store);
}

#[test]
fn a_file_that_is_deleted_is_made_anew_by_the_next_agent_that_starts() {
    let (_dir, store) = sqlite("deleted");
    let scene = Scene::new(&store);
    store.delete();
    scene.members().iter().for_each(|host| wait_stale(host, &store));
    scene.one().terminate();
    scene.one().start();
    expect_written_back(&scene);
    scene.expect_in_store(&["a", "b"]);
    scene.expect_whole_flow();
}

#[test]
fn another_clusters_file_is_left_alone_until_the_own_one_is_back() {
    let (dir, store) = sqlite("own");
    let foreign = SqliteFile::new(dir.path().join("foreign"));
    let scene = Scene::new(&store);
    let strange = Host::new(
        scene.cluster.stranger(),
        "strange",
        dir.make("strange"),
        scene.cluster.dir.path().join("bpf/strange"),
        &foreign.path(),
    );
    strange.start();
    strange.create_network("theirs", &[]);
    strange.terminate();

    let aside = dir.path().join("aside");
    fs::rename(store.dir(), &aside).unwrap();
    fs::rename(foreign.dir(), store.dir()).unwrap();
    for host in scene.members() {
        let says_so = |status: &Status| {
            status.stale.as_ref().is_some_and(|s| s.reason.contains("belongs to another cluster"))
        };
        wait_for(host, "another cluster's store", NOTICE, says_so);
        assert_eq!(endpoints(host), set(&["a", "b"]));
        expect_refusals(host);
    }
    scene.one().terminate();
    scene.one().start();
    wait_for(scene.one(), "another cluster's store", NOTICE, |status| status.stale.is_some());
    expect_ping(scene.a.netns(), scene.b.addr().ip, &[]);

    fs::rename(store.dir(), foreign.dir()).unwrap();
    fs::rename(&aside, store.dir()).unwrap();
    scene
        .members()
        .iter()
        .for_each(|host| wait_for(host, "in step", NOTICE, |status| status.stale.is_none()));
    let connection = rusqlite::Connection::open(foreign.path()).unwrap();
    let mut statement = connection.prepare("SELECT key FROM entries").unwrap();
    let keys: Vec<String> =
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    assert!(keys.iter().all(|key| !key.contains("host1") && !key.contains("net/")), "{keys:?}");
    scene.expect_in_store(&["a", "b"]);
    scene.expect_whole_flow();
}

#[test]
fn a_file_that_somebody_keeps_locked_stops_changes_only() {
    let (_dir, store) = sqlite("locked");
    let scene = Scene::new(&store);
    let c = Container::attached(scene.one(), "net", "c");
    let locker = rusqlite::Connection::open(store.path()).unwrap();
    locker.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Nobody knows of it yet: even now a detach waits for the store no longer than this.
    let start = Instant::now();
    scene.one().overlay(&["detach", "net", "--name", "c"]);
    assert!(start.elapsed() < 2 * AT_ONCE, "{:?}", start.elapsed());
    assert!(!c.netns().has_link("eth0"));

    for host in scene.members() {
        wait_for(host, "locked", NOTICE_OF_LOCK, |status| {
            status.store_error.as_ref().is_some_and(|e| e.contains("locked"))
        });
        expect_refusals(host);
        assert!(host.status().stale.is_none(), "it can be read");
    }
    assert_eq!((endpoints(scene.one()), endpoints(scene.two())), (set(&["a", "b"]), set(&["a", "b", "c"])));
    locker.execute_batch("COMMIT").unwrap();
    for host in scene.members() {
        wait_for(host, "unlocked", NOTICE, |status| status.store_error.is_none());
        wait::until("the detached endpoint is gone everywhere", NOTICE, || {
            endpoints(host) == set(&["a", "b"])
        });
    }
    scene.expect_in_store(&["a", "b"]);
    scene.expect_whole_flow();
}

#[test]
fn an_agent_starts_beside_a_file_that_nobody_else_can_even_read() {
    let (_dir, store) = sqlite("exclusive");
    let scene = Scene::new(&store);
    for host in scene.members() {
        host.terminate();
    }
    let locker = rusqlite::Connection::open(store.path()).unwrap();
    locker.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; CREATE TABLE lock (x)").unwrap();
    scene.one().start();
    expect_stale_views(scene.one(), &["a", "b"]);
    expect_refusals(scene.one());
    drop(locker);
    wait_for(scene.one(), "in step", NOTICE, |status| status.stale.is_none());
    scene.two().start();
    scene.expect_in_store(&["a", "b"]);
    scene.expect_whole_flow();
}

#[test]
fn a_full_disk_stops_changes_only() {
    let (dir, _) = sqlite("full");
    let small = dir.make("small");
    let place = small.display().to_string();
    exec::must(["mount", "-t", "tmpfs", "-o", "size=2m", "none", &place]);
    let store = SqliteFile::new(small.join("store"));
    let scene = Scene::new(&store);
    let c = Container::attached(scene.one(), "net", "c");
    let filler = small.join("filler");
    let filled = exec::run(["dd", "if=/dev/zero", "bs=4k", &format!("of={}", filler.display())]);
    assert!(filled.stderr.contains("No space left"), "{filled}");
    for host in scene.members() {
        wait_for(host, "full", NOTICE_OF_LOCK, |status| {
            status.store_error.as_ref().is_some_and(|e| e.contains("no space"))
        });
        expect_refusals(host);
    }
    assert!(at_once(scene.one(), &["detach", "net", "--name", "c"]).is_success());
    assert!(!c.netns().has_link("eth0"));
    assert_eq!(endpoints(scene.one()), set(&["a", "b"]));
    fs::remove_file(&filler).unwrap();
    for host in scene.members() {
        wait_for(host, "not full", NOTICE_OF_LOCK, |status| status.store_error.is_none());
        wait::until("the detached endpoint is gone everywhere", NOTICE, || {
            endpoints(host) == set(&["a", "b"])
        });
    }
    scene.expect_in_store(&["a", "b"]);
    scene.expect_whole_flow();
}

#[test]
fn an_older_copy_of_the_file_takes_nothing_from_those_who_live_and_waits_for_the_others() {
    const MANY: usize = 7;
    let (dir, store) = sqlite("older");
    let scene = Scene::new(&store);
    store.stop();
    let copy = dir.path().join("copy");
    exec::must([
        "cp",
        "-r",
        &dir.path().join("store.away").display().to_string(),
        &copy.display().to_string(),
    ]);
    store.start();
    scene
        .members()
        .iter()
        .for_each(|host| wait_for(host, "in step", NOTICE, |status| status.stale.is_none()));
    let own = Container::attached(scene.one(), "net", "own");
    let others: Vec<Container> =
        (0..MANY).map(|n| Container::attached(scene.two(), "net", &format!("other{n}"))).collect();
    let all: BTreeSet<String> = endpoints(scene.two());
    wait::until("all are known", CONVERGENCE, || endpoints(scene.one()) == all);
    scene.two().terminate();

    store.stop();
    wait_stale(scene.one(), &store);
    exec::must(["rm", "-r", &dir.path().join("store.away").display().to_string()]);
    fs::rename(&copy, dir.path().join("store.away")).unwrap();
    store.start();
    let waits = |status: &Status| {
        status.warnings.iter().any(|w| w.contains(&format!("lacks {MANY} of the {}", MANY + 1)))
    };
    wait_for(scene.one(), "what is missing is held", NOTICE, waits);
    assert_eq!(endpoints(scene.one()), all);
    settle(&[&own, &others[0], &scene.b]);

    scene.two().start();
    wait_for(scene.one(), "whole", NOTICE, |status| status.warnings.is_empty());
    for host in scene.members() {
        assert_eq!(endpoints(host), all, "{}", host.log_tail());
    }
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    scene.expect_in_store(&names);
    scene.expect_whole_flow();
}

#[test]
fn a_damaged_snapshot_is_reported_and_ignored() {
    let (_dir, store) = sqlite("damaged");
    let scene = Scene::new(&store);
    scene.one().terminate();
    let snapshot = scene.cluster.dir.path().join(scene.one().label()).join("state/snapshot");
    fs::write(&snapshot, "overlay-snapshot-1 half of it").unwrap();
    scene.one().start();
    assert!(scene.one().log_tail().contains("its checksum is wrong: it is ignored"));
    assert_eq!(endpoints(scene.one()), set(&["a", "b"]));

    scene.one().terminate();
    fs::write(&snapshot, "").unwrap();
    store.stop();
    let refused = scene.one().run_agent(scene.one().flags(), &[]);
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.lines().last().is_some_and(|line| line.contains("store sqlite://")), "{refused}");
    store.start();
    scene.one().start();
    scene.expect_whole_flow();
}
