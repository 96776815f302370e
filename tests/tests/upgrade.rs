//! Other builds of the agent, forwards and backwards, under load and under attack: nothing is lost, nothing gets
//! through, and counters go on.

use std::{collections::BTreeSet, fs, path::PathBuf, thread, time::Duration};

use overlay_tests::{
    builds::Build, container::Container, exec, host::Host, siege::Siege, topology::CONVERGENCE,
    traffic::ping::expect_ping, wait,
};

/// How a predecessor ends, one on each host.
const ENDINGS: [Ending; 2] = [
    ("SIGTERM", |host| assert!(host.terminate().success(), "{}", host.log_tail())),
    ("kill -9", Host::kill9),
];

type Ending = (&'static str, fn(&Host));

/// The pinned links with their own ids and those of the programs on them.
fn links(host: &Host) -> BTreeSet<(PathBuf, Link)> {
    let pins = fs::read_dir(host.pins().join("links")).expect("list the pinned links");
    pins.map(|pin| pin.expect("a pin").path()).map(|pin| (pin.clone(), Link::at(&pin))).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
struct Link {
    id: u32,
    prog_id: u32,
}

impl Link {
    fn at(pin: &std::path::Path) -> Self {
        let text =
            exec::must(["bpftool", "-j", "link", "show", "pinned", pin.to_str().expect("a path of text")]);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("bpftool printed {text}: {e}"))
    }
}

/// Names of the directories of maps.
fn layouts(host: &Host) -> BTreeSet<String> {
    let entries = fs::read_dir(host.pins()).expect("list the pins");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("maps-") || name.starts_with("counters-")).collect()
}

/// Ends the agents one after the other and starts another build. Every link has to be the one that was there, with
/// another program on it.
#[track_caller]
fn upgrade(siege: &Siege, build: &Build) {
    for (host, (how, end)) in siege.cluster.hosts.iter().zip(ENDINGS) {
        let before = links(host);
        end(host);
        siege.wait_for_progress();
        host.install(build);
        host.start();
        siege.wait_for_progress();
        let after = links(host);
        let ids = |links: &BTreeSet<(PathBuf, Link)>| -> BTreeSet<_> {
            links.iter().map(|(pin, link)| (pin.clone(), link.id)).collect()
        };
        assert_eq!(ids(&before), ids(&after), "other links on {} after {how}", host.label());
        let programs: BTreeSet<u32> = before.iter().map(|(_, link)| link.prog_id).collect();
        let stayed: Vec<_> = after.iter().filter(|(_, link)| programs.contains(&link.prog_id)).collect();
        assert!(stayed.is_empty(), "old programs on {} after {how}: {stayed:?}", host.label());
    }
}

#[track_caller]
fn expect_layouts(siege: &Siege, maps: &str) {
    for host in &siege.cluster.hosts {
        let expected = BTreeSet::from([maps.to_owned(), "counters-v2".to_owned()]);
        assert_eq!(layouts(host), expected, "on {}\n{}", host.label(), host.log_tail());
    }
}

/// The agents not only forward what is there, they take on what is new.
#[track_caller]
fn expect_changes_arrive(siege: &Siege, name: &str) {
    let [here, there] = [&siege.cluster.hosts[0], &siege.cluster.hosts[1]];
    let new = Container::attached(here, "net", name);
    // Before the first packet to it: one that comes too early is a drop that nobody expects.
    let known = || there.overlay(&["map", "dump", "neigh", "-o", "json"]).contains(&new.addr().mac_text());
    wait::until("the other host knows the new container", CONVERGENCE, known);
    expect_ping(new.netns(), siege.containers[1].addr().ip, &[]);
    here.overlay(&["detach", "net", "--name", name]);
}

#[test]
fn another_build_takes_the_links_over_without_a_gap() {
    let siege = Siege::lay();
    let new = Build::current().copied_to(&siege.cluster.dir.make("new"));
    for build in [&new, &Build::current()] {
        upgrade(&siege, build);
    }
    siege.lift();
}

#[test]
fn another_layout_of_the_maps_is_migrated_to_and_back_without_a_gap() {
    let siege = Siege::lay();
    expect_layouts(&siege, "maps-v2");
    upgrade(&siege, &Build::next_layout());
    expect_layouts(&siege, "maps-v3");
    expect_changes_arrive(&siege, "forwards");
    upgrade(&siege, &Build::current());
    expect_layouts(&siege, "maps-v2");
    expect_changes_arrive(&siege, "back");
    siege.lift();
}

#[test]
fn a_migration_that_is_broken_off_is_ended_by_either_version() {
    let siege = Siege::lay();
    let host = &siege.cluster.hosts[0];
    for (build, maps) in [(Build::next_layout(), "maps-v3"), (Build::current(), "maps-v2")] {
        host.kill9();
        for millis in [10, 30, 50, 70, 90, 120, 150, 200] {
            host.install(&Build::next_layout());
            host.spawn();
            // Not a wait for anything: the point is to break the migration off at another moment each time.
            thread::sleep(Duration::from_millis(millis));
            host.kill9();
        }
        host.install(&build);
        host.start();
        assert!(layouts(host).contains(maps) && layouts(host).len() == 2, "{:?}", layouts(host));
        siege.wait_for_progress();
    }
    siege.lift();
}
