//! Drift made by hand, of every kind: `overlay verify` names it, `--repair` mends it, the agent mends it by itself
//! in time, and the oracle, which looks for itself, agrees each time.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use overlay_common::abi::{self, map};
use overlay_tests::{
    container::Container,
    exec::{self, Finished},
    host::Host,
    oracle::{self, expect_agreement},
    topology::{Cluster, Plan, settle},
    traffic::ping::expect_ping,
    underlay::UNDERLAY_IFNAME,
    views::{Difference, Verification},
    wait,
};
use serde_json::Value;

/// Within this the agent repairs programs, pins, devices and neighbours by itself.
const SOON: Duration = Duration::from_secs(5);
/// Within this it repairs maps and the containers' offloads. The test's own look comes on top.
const A_MINUTE: Duration = Duration::from_secs(60 + 2);
/// How often the agent may be quicker than the test before that is a failure.
const TRIES: usize = 5;

/// Two hosts with XDP, two networks joined by policy and a third by a rule, a container of the first on each host.
struct World {
    a: Container,
    b: Container,
    cluster: Cluster,
}

impl World {
    fn new() -> Self {
        let cluster = Cluster::new(Plan { xdp: "filter", ..Plan::default() });
        cluster.network("other", &[]);
        let (a, b) = cluster.pair();
        cluster.hosts[0].overlay(&["policy", "allow", "net", "other"]);
        cluster.network("third", &[]);
        let rule = ["policy", "allow", "net", "third", "--proto", "tcp", "--from-label", "app=web"];
        cluster.hosts[0].overlay(&rule);
        cluster.hosts[0].overlay(&["endpoint", "label", "net", "a", "app=web"]);
        cluster.hosts[0].overlay(&["endpoint", "limit", "net", "a", "--egress-rate", "1gbit"]);
        let world = Self { a, b, cluster };
        expect_agreement(&world.cluster);
        assert_eq!(world.verify(&[]).0.code, Some(0));
        world
    }

    fn host(&self) -> &Host {
        &self.cluster.hosts[0]
    }

    /// The host's end of container `a`.
    fn veth(&self) -> String {
        format!("ovl{}", &self.a.endpoint().id[..12])
    }

    fn ip(&self, argv: &[&str]) {
        self.host().netns().ip(argv);
    }

    /// `overlay verify` on the first host.
    #[track_caller]
    fn verify(&self, extra: &[&str]) -> (Finished, Verification) {
        let finished = self.host().cli(&[&["verify", "-o", "json"], extra].concat());
        let seen = serde_json::from_str(&finished.stdout);
        let seen = seen.unwrap_or_else(|e| panic!("{e}: {finished}\n{}", self.host().log_tail()));
        (finished, seen)
    }

    /// Makes drift until `overlay verify` sees it before the agent itself has repaired it.
    #[track_caller]
    fn expect_named(&self, drift: &Drift) -> Difference {
        for _ in 0..TRIES {
            let repaired = self.host().status().repaired;
            (drift.make)(self);
            let (finished, seen) = self.verify(&[]);
            if let Some(named) = seen.differences.into_iter().find(|difference| drift.is_named_by(difference))
            {
                assert_eq!(finished.code, Some(1), "{finished}");
                return named;
            }
            assert!(self.host().status().repaired > repaired, "{}: {finished}", drift.what);
        }
        panic!("{}: the agent was quicker {TRIES} times", drift.what)
    }

    /// The oracle sees drift that is there, unless the agent has just repaired it.
    #[track_caller]
    fn expect_seen_by_oracle(&self, drift: &Drift) {
        let repaired = self.host().status().repaired;
        let differences = oracle::differences(&self.cluster);
        let seen = differences.iter().any(|line| line.contains(&format!(": {}:", drift.subject)));
        let repaired = self.host().status().repaired > repaired;
        assert!(seen || repaired, "{}: {differences:#?}", drift.what);
    }

    /// Has everything mended, and looks at all of it.
    #[track_caller]
    fn expect_mended(&self, what: &str) {
        let (finished, seen) = self.verify(&["--repair"]);
        assert_eq!(finished.code, Some(0), "{what}: {finished}\n{}", self.host().log_tail());
        assert_eq!(seen.differences, [], "{what}");
        let differences = oracle::differences(&self.cluster);
        assert!(differences.is_empty(), "{what}: {differences:#?}");
    }

    #[track_caller]
    fn expect_traffic(&self) {
        settle(&[&self.a, &self.b]);
        expect_ping(self.a.netns(), self.b.addr().ip, &[]);
    }

    fn map_pin(&self, map: &str) -> String {
        self.host().map_pin(map).display().to_string()
    }

    /// Key and value of an entry that is not all zeros, as hexadecimal words for bpftool.
    #[track_caller]
    fn entry(&self, map: &str) -> (Vec<String>, Vec<String>) {
        let dump = exec::must(["bpftool", "-j", "map", "dump", "pinned", &self.map_pin(map)]);
        let entries: Vec<Value> = serde_json::from_str(&dump).expect("bpftool writes JSON");
        let words = |bytes: &Value| -> Vec<String> {
            let bytes = bytes.as_array().into_iter().flatten();
            bytes.map(|byte| byte.as_str().expect("a byte").trim_start_matches("0x").to_owned()).collect()
        };
        let entries = entries.iter().map(|entry| (words(&entry["key"]), words(&entry["value"])));
        let mut used = entries.filter(|(_, value)| value.is_empty() || value.iter().any(|byte| byte != "00"));
        used.next().unwrap_or_else(|| panic!("{map} has no entry: {dump}"))
    }

    #[track_caller]
    fn bpftool(&self, command: &str, map: &str, key: &[String], value: &[String]) {
        let pin = self.map_pin(map);
        let mut words = vec!["bpftool", "map", command, "pinned", &pin, "key", "hex"];
        words.extend(key.iter().map(String::as_str));
        if command == "update" {
            words.extend(["value", "hex"]);
            words.extend(value.iter().map(String::as_str));
        }
        exec::must(words);
    }

    #[track_caller]
    fn delete_entry(&self, map: &str) {
        let (key, value) = self.entry(map);
        self.bpftool("delete", map, &key, &value);
    }

    /// Gives an entry another first byte.
    #[track_caller]
    fn change_entry(&self, map: &str) {
        let (key, mut value) = self.entry(map);
        value[0] = if value[0] == "05" { "07" } else { "05" }.to_owned();
        self.bpftool("update", map, &key, &value);
    }

    /// Makes an entry under a key that nothing asks for.
    #[track_caller]
    fn add_entry(&self, map: &str) {
        let (mut key, value) = self.entry(map);
        // A VNI, an ifindex or part of them in all maps but one: its keys begin with a prefix length.
        let byte = if map == map::ROUTES { 4 } else { 1 };
        key[byte] = "7f".to_owned();
        self.bpftool("update", map, &key, &value);
    }

    fn links(&self) -> Vec<PathBuf> {
        let links = fs::read_dir(self.host().pins().join("links")).expect("the pinned links");
        links.map(|entry| entry.expect("a pin").path()).collect()
    }
}

/// Something that somebody does to a host, and how it has to be named.
struct Drift {
    what: String,
    layer: &'static str,
    subject: String,
    make: Box<dyn Fn(&World)>,
}

impl Drift {
    fn new(
        what: &str,
        layer: &'static str,
        subject: impl Into<String>,
        make: impl Fn(&World) + 'static,
    ) -> Self {
        Self { what: what.to_owned(), layer, subject: subject.into(), make: Box::new(make) }
    }

    fn is_named_by(&self, difference: &Difference) -> bool {
        difference.layer == self.layer && difference.subject.contains(&self.subject)
    }
}

const HASHES: [&str; 12] = [
    map::NETWORKS,
    map::VTEP_MEMBERS,
    map::ENDPOINTS,
    map::FDB,
    map::NEIGH,
    map::POLICY,
    map::RULES,
    map::RULE_BITS,
    map::LIMITS,
    map::ROUTES,
    map::ENDPOINT_STATS,
    map::RULE_STATS,
];
const ARRAYS: [&str; 2] = [map::CONFIG, map::VTEPS];

fn map_drifts() -> Vec<Drift> {
    let counted = |map: &&&str| ![map::ENDPOINT_STATS, map::RULE_STATS].contains(*map);
    let drift = |verb: &str, map: &'static str, make: fn(&World, &str)| {
        Drift::new(&format!("{verb} an entry of {map}"), "map", map, move |world| make(world, map))
    };
    let deleted = HASHES.iter().map(|map| drift("delete", map, World::delete_entry));
    let added = HASHES.iter().filter(counted).map(|map| drift("add", map, World::add_entry));
    let changed = HASHES.iter().filter(counted).chain(&ARRAYS);
    // The key of a member is all there is to it.
    let changed = changed.filter(|map| **map != map::VTEP_MEMBERS);
    deleted.chain(added).chain(changed.map(|map| drift("change", map, World::change_entry))).collect()
}

#[test]
fn an_entry_of_any_map_that_somebody_deletes_adds_or_changes_is_named_and_mended() {
    let world = World::new();
    for drift in map_drifts() {
        let named = world.expect_named(&drift);
        println!("{}: {named:?}", drift.what);
        assert_ne!(named.found, named.wanted, "{}", drift.what);
        world.expect_seen_by_oracle(&drift);
        world.expect_mended(&drift.what);
    }
    world.expect_traffic();
}

#[test]
fn programs_and_pins_that_somebody_takes_away_are_named_and_mended() {
    let world = World::new();
    let mut drifts = Vec::new();
    for link in world.links() {
        let path = link.display().to_string();
        let (program, device) = link.file_name().unwrap().to_str().unwrap().split_once('-').unwrap();
        let program = program.replace("xdp_native", "xdp_underlay");
        let detached = format!("{program} on {device}");
        let pin = path.clone();
        drifts.push(Drift::new(&format!("detach {path}"), "link", detached, move |_| {
            exec::must(["bpftool", "link", "detach", "pinned", &pin]);
        }));
        drifts.push(Drift::new(&format!("unpin {path}"), "pin", path, move |_| {
            fs::remove_file(&link).unwrap();
        }));
    }
    for pin in ["programs/from_endpoint".to_owned(), format!("maps-v{}/fdb", abi::VERSION)] {
        let path = world.host().pins().join(&pin);
        drifts
            .push(Drift::new(&format!("unpin {pin}"), "pin", pin, move |_| fs::remove_file(&path).unwrap()));
    }
    assert_eq!(drifts.len(), 5 * 2 + 2, "all links are there");
    for drift in drifts {
        let named = world.expect_named(&drift);
        println!("{}: {}", drift.what, named.reason);
        world.expect_mended(&drift.what);
    }
    world.expect_traffic();
}

/// What the agent hears of and repairs at once: too quick for a command to see.
fn device_drifts(world: &World) -> Vec<Drift> {
    let (veth, peer) = (world.veth(), world.cluster.hosts[1].addr().ip.to_string());
    let link = |what: &str, subject: &str, argv: &[&str]| {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        Drift::new(what, "device", subject, move |world| {
            world.ip(&argv.iter().map(String::as_str).collect::<Vec<_>>());
        })
    };
    let neighbour = peer.clone();
    vec![
        link("set a host veth down", &veth, &["link", "set", &veth, "down"]),
        link("take a host veth off the bridge", &veth, &["link", "set", &veth, "nomaster"]),
        link("give a host veth another MTU", &veth, &["link", "set", &veth, "mtu", "1500"]),
        link("set the tunnel device down", "ovl-tunnel", &["link", "set", "ovl-tunnel", "down"]),
        link(
            "give the tunnel device another MTU",
            "ovl-tunnel",
            &["link", "set", "ovl-tunnel", "mtu", "1400"],
        ),
        link("delete the tunnel device", "ovl-tunnel", &["link", "delete", "ovl-tunnel"]),
        link("set the headroom bridge up", "ovl-headroom", &["link", "set", "ovl-headroom", "up"]),
        link("delete the headroom bridge", "ovl-headroom", &["link", "delete", "ovl-headroom"]),
        Drift::new("delete the neighbour", "neighbour", peer, move |world| {
            world.ip(&["neigh", "delete", &neighbour, "dev", UNDERLAY_IFNAME]);
        }),
    ]
}

#[test]
fn devices_and_neighbours_are_repaired_at_once_counted_and_written_down() {
    let world = World::new();
    for drift in device_drifts(&world) {
        let repaired = world.host().status().repaired;
        let start = Instant::now();
        (drift.make)(&world);
        wait::until("the repair is counted", SOON, || world.host().status().repaired > repaired);
        let counted = start.elapsed();
        let (_, seen) = world.verify(&[]);
        let named = seen.repaired_by_itself.iter().map(|repair| &repair.difference);
        assert!(
            named.clone().any(|d| drift.is_named_by(d)),
            "{}: {:#?}",
            drift.what,
            named.collect::<Vec<_>>()
        );
        expect_agreement(&world.cluster);
        println!(
            "{}: repaired after {counted:?}, seen by the oracle after {:?}",
            drift.what,
            start.elapsed()
        );
        assert!(start.elapsed() <= SOON, "{}", drift.what);
        assert_eq!(world.verify(&[]).0.code, Some(0), "{}", drift.what);
    }
    world.expect_traffic();
}

#[test]
fn programs_are_put_back_by_the_agent_itself_within_five_seconds_xdp_too() {
    let world = World::new();
    for link in world.links() {
        let repaired = world.host().status().repaired;
        let start = Instant::now();
        exec::must(["bpftool", "link", "detach", "pinned", link.to_str().unwrap()]);
        wait::until("the repair is counted", SOON, || world.host().status().repaired > repaired);
        println!("{} is back after {:?}", link.file_name().unwrap().display(), start.elapsed());
        expect_agreement(&world.cluster);
    }
    world.expect_traffic();
}

#[test]
fn maps_and_offloads_are_repaired_by_the_agent_itself_within_a_minute() {
    let world = World::new();
    let repaired = world.host().status().repaired;
    let start = Instant::now();
    HASHES.iter().for_each(|map| world.delete_entry(map));
    ARRAYS.iter().for_each(|map| world.change_entry(map));
    world.a.netns().must(&["ethtool", "-K", "eth0", "gro", "off"]);
    let time = wait::until("the oracle agrees", A_MINUTE, || oracle::differences(&world.cluster).is_empty());
    println!(
        "ten maps and an offload are in order again after {time:?} ({:?} by the clock)",
        start.elapsed()
    );
    let counted = world.host().status().repaired - repaired;
    assert_eq!(counted, HASHES.len() as u64 + ARRAYS.len() as u64 + 1);
    world.expect_traffic();
}

#[test]
fn a_containers_offload_that_was_turned_off_is_named_and_mended() {
    let world = World::new();
    let drift = Drift::new("turn receive offload off", "device", "eth0 in", |world| {
        world.a.netns().must(&["ethtool", "-K", "eth0", "gro", "off"]);
    });
    let named = world.expect_named(&drift);
    assert_eq!(named.endpoint.as_deref(), Some("a"));
    world.expect_mended(&drift.what);
}

/// Writes into the store behind everybody's back: no agent hears of it.
fn write_unheard(host: &Host, key: &str, value: &str) {
    let url = host.flags().get("--store").expect("the agent has a store");
    let path = url.strip_prefix("sqlite://").expect("the store is a file");
    let store = rusqlite::Connection::open(path).expect("open the store");
    let sql = "INSERT INTO entries VALUES (?1, ?2, (SELECT revision FROM meta), NULL)";
    store.execute(sql, (format!("overlay/v1/{key}"), value.as_bytes())).expect("write into the store");
}

#[test]
fn a_change_of_the_store_that_no_watch_told_of_is_named_and_taken_over() {
    let world = World::new();
    let drift = Drift::new("write unheard", "mirror", "policies/other/other", |world| {
        write_unheard(world.host(), "policies/other/other", r#"{"action":"allow"}"#);
    });
    let named = world.expect_named(&drift);
    assert_eq!((named.found, named.wanted.as_deref()), (None, Some(r#"{"action":"allow"}"#)));
    let (finished, _) = world.verify(&["--repair"]);
    assert_eq!(finished.code, Some(0), "{finished}");
}

#[test]
fn records_that_contradict_each_other_are_named_and_left_to_people() {
    let world = World::new();
    let held = r#"{"state":"held","endpoint":"ffffffffffffffff"}"#;
    write_unheard(world.host(), "addresses/net/10.0.0.77", held);
    write_unheard(world.host(), "nonsense", "1");
    let (finished, seen) = world.verify(&["--repair"]);
    assert_eq!(finished.code, Some(1), "{finished}");
    let subjects: Vec<(&str, &str)> =
        seen.differences.iter().map(|d| (d.layer.as_str(), d.subject.as_str())).collect();
    assert_eq!(
        subjects,
        [("store", "overlay/v1/addresses/net/10.0.0.77"), ("store", "overlay/v1/nonsense")],
        "{finished}"
    );
    assert_eq!(oracle::differences(&world.cluster).len(), 1, "the leaked address");
    // For people the same, in words.
    let shown = world.host().cli(&["verify"]);
    assert!(shown.code == Some(1) && shown.stdout.contains("the address has leaked"), "{shown}");
}

#[test]
fn a_cluster_in_change_shows_no_differences() {
    let world = World::new();
    for round in 0..10 {
        let name = format!("new{round}");
        let new = Container::attached(&world.cluster.hosts[1], "net", &name);
        let (finished, _) = world.verify(&[]);
        assert_eq!(finished.code, Some(0), "after an attach: {finished}");
        world.cluster.hosts[1].overlay(&["detach", "net", "--name", &name]);
        let (finished, _) = world.verify(&[]);
        assert_eq!(finished.code, Some(0), "after a detach: {finished}");
        drop(new);
    }
    expect_agreement(&world.cluster);
}

#[test]
fn without_an_agent_verify_ends_with_2() {
    let cluster = Cluster::without_agents(Plan::default());
    let finished = cluster.hosts[0].cli(&["verify"]);
    assert_eq!(finished.code, Some(2), "{finished}");
    assert!(finished.stderr.contains("no agent answers"), "{finished}");
}
