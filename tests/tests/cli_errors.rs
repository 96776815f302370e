//! Wrong input: one clear sentence, the right exit code, and nothing changed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use overlay_tests::{
    container::Container,
    exec::{self, Finished},
    host::{AGENT, CLI, Host, binary},
    netns::Netns,
    topology::{Cluster, Plan},
};
use serde_json::Value;

const FAILURE: i32 = 1;
const USAGE: i32 = 2;

/// What was typed, the exit code, and what the sentence has to name.
struct Case {
    words: String,
    code: i32,
    names: String,
}

fn fails(words: impl Into<String>, names: impl Into<String>) -> Case {
    Case { words: words.into(), code: FAILURE, names: names.into() }
}

fn misused(words: impl Into<String>, names: impl Into<String>) -> Case {
    Case { words: words.into(), code: USAGE, names: names.into() }
}

/// Everything that a wrong command could have changed.
#[derive(Debug, PartialEq)]
struct State {
    networks: Value,
    endpoints: Value,
    policies: Value,
    host_links: Vec<String>,
    free_links: Vec<String>,
}

impl State {
    fn of(host: &Host, free: &Netns) -> Self {
        let mut endpoints: Value = host.json(&["endpoint", "ls"]);
        for endpoint in endpoints.as_array_mut().into_iter().flatten() {
            endpoint["local"].take(); // counters move by themselves
        }
        Self {
            networks: host.json(&["network", "ls"]),
            endpoints,
            policies: host.json(&["policy", "ls"]),
            host_links: host.netns().links(),
            free_links: free.links(),
        }
    }
}

/// What is wrong with the answer to a wrong command, if anything.
fn complaint(finished: &Finished, case: &Case) -> Option<String> {
    let mut lines = finished.stderr.lines().filter(|line| !line.trim().is_empty());
    let sentence = lines.next().unwrap_or_default();
    let is_one = case.code == USAGE || lines.next().is_none();
    let wrong = if finished.code != Some(case.code) {
        format!("exit code is not {}", case.code)
    } else if !finished.stdout.is_empty() {
        "something on standard output".to_owned()
    } else if !is_one || !sentence.contains(' ') {
        "not one sentence on standard error".to_owned()
    } else if !finished.stderr.contains(&case.names) {
        format!("does not name {:?}", case.names)
    } else {
        return None;
    };
    Some(format!("{wrong}: {finished}"))
}

/// Runs all the wrong commands; each has to fail as it should and change nothing.
#[track_caller]
fn expect_refused(host: &Host, free: &Netns, cases: &[Case]) {
    let before = State::of(host, free);
    let complaints = cases.iter().filter_map(|case| {
        let finished = host.cli(&case.words.split(' ').collect::<Vec<_>>());
        let after = State::of(host, free);
        let changed = (after != before).then(|| format!("`{}` changed something: {after:?}", case.words));
        complaint(&finished, case).or(changed)
    });
    let complaints: Vec<String> = complaints.collect();
    assert!(complaints.is_empty(), "{} of {}:\n{}", complaints.len(), cases.len(), complaints.join("\n"));
}

/// One host, network `net`, container `box` in it, and a namespace that is in no network.
struct Bench {
    taken: Container,
    free: Netns,
    cluster: Cluster,
}

impl Bench {
    #[track_caller]
    fn new() -> Self {
        let cluster = Cluster::new(Plan { hosts: 1, ..Plan::default() });
        cluster.network("net", &["--subnet", "10.0.0.0/24", "--vni", "300"]);
        let taken = Container::attached(&cluster.hosts[0], "net", "box");
        let free = Netns::new("free");
        free.ip(&["link", "add", "here0", "type", "veth", "peer", "name", "here1"]);
        Self { taken, free, cluster }
    }

    #[track_caller]
    fn expect_refused(&self, cases: &[Case]) {
        expect_refused(&self.cluster.hosts[0], &self.free, cases);
    }
}

#[test]
fn an_attachment_that_cannot_be_is_refused() {
    let bench = Bench::new();
    let attach = |rest: &str| format!("attach net --netns {} {rest}", bench.free.name());
    let (ip, mac) = (bench.taken.addr().ip, bench.taken.addr().mac_text());
    bench.expect_refused(&[
        fails(format!("attach nosuch --netns {}", bench.free.name()), "nosuch"),
        fails("attach net --netns nosuch", "nosuch"),
        fails("attach net --netns /run/nosuch", "/run/nosuch"),
        fails("attach net --netns /etc/hostname", "/etc/hostname"),
        fails("attach net --pid 4194304", "4194304"),
        fails(attach(&format!("--ip {ip}")), ip.to_string()),
        fails(attach("--ip 192.0.2.9"), "192.0.2.9"),
        fails(attach("--ip 10.0.0.1"), "10.0.0.1"),
        fails(attach("--ip 10.0.0.0"), "10.0.0.0"),
        fails(attach("--ip 10.0.0.255"), "10.0.0.255"),
        fails(attach(&format!("--mac {mac}")), mac),
        fails(attach("--mac 01:00:5e:00:00:01"), "01:00:5e:00:00:01"),
        fails(attach("--name box"), "box"),
        fails(attach("--ifname here0"), "here0"),
        fails(attach("--ifname lo"), "lo"),
        fails(attach("--ifname a_name_of_16_char"), "a_name_of_16_char"),
        fails(attach("--ifname a/b"), "a/b"),
    ]);
}

#[test]
fn a_network_that_cannot_be_is_refused() {
    let bench = Bench::new();
    bench.expect_refused(&[
        fails("network create net", "net"),
        fails("network create other --vni 300", "300"),
        fails("network create other --subnet 10.8.0.0/24 --gateway 10.9.0.1", "10.9.0.1"),
        fails("network create other --subnet 10.8.0.0/24 --gateway 10.8.0.255", "10.8.0.255"),
        fails("network create other --subnet 10.8.0.0/24 --ip-range 10.9.0.0/25", "10.9.0.0/25"),
        fails("network create other --subnet 10.8.0.0/32", "10.8.0.0/32"),
        fails("network create other --subnet 224.0.0.0/24", "224.0.0.0/24"),
        fails("network create other --mtu 10", "10"),
        fails("network rm nosuch", "nosuch"),
        fails("network rm net", "box"),
        fails("network inspect nosuch", "nosuch"),
    ]);
}

#[test]
fn a_question_about_what_is_not_there_is_refused() {
    let bench = Bench::new();
    bench.expect_refused(&[
        fails("endpoint inspect nosuch", "nosuch"),
        fails("policy allow net nosuch", "nosuch"),
        fails("policy allow net net", "net"),
        fails("policy allow nosuch net --proto tcp --port 80", "nosuch"),
        fails("policy allow net net --one-way", "net"),
        misused("policy allow net net --port 80", "--proto"),
        misused("policy allow net net --proto icmp --port 80", "port"),
        misused("policy allow net net --proto tcp --port 90-80", "90-80"),
        misused("policy allow net net --from-label app", "KEY=VALUE"),
        misused("policy allow net net --audit", "--proto"),
        fails("policy rm 0a1b2c3d", "0a1b2c3d"),
        misused("policy rm nosuch", "nosuch"),
        fails("policy enforce net nosuch", "nosuch"),
        fails("policy deny nosuch net", "nosuch"),
        fails("endpoint label net nosuch a=b", "nosuch"),
        misused("endpoint label net box", "K=V"),
        fails("detach nosuch --name box", "nosuch"),
        fails("map dump nosuch", "nosuch"),
        fails("node inspect nosuch", "nosuch"),
        fails("node drain nosuch", "nosuch"),
        fails("node rm nosuch --force", "nosuch"),
        fails("node rm host1 --force", "host1 is this node"),
    ]);
}

#[test]
fn words_that_make_no_sense_are_a_usage_error() {
    let bench = Bench::new();
    let long = "x".repeat(64);
    bench.expect_refused(&[
        misused("network create other --vni 0", "0"),
        misused("network create other --vni 16777216", "16777216"),
        misused("network create other --vni many", "many"),
        misused("network create other --subnet 10.0.0.0/33", "10.0.0.0/33"),
        misused("network create other --mtu 65536", "65536"),
        misused("network create ../other", "../other"),
        misused(format!("network create {long}"), &long),
        misused("network create", "NAME"),
        misused("attach net", "--netns"),
        misused("attach net --netns a --pid 1", "--pid"),
        misused("attach net --netns a --ip 10.0.0", "10.0.0"),
        misused("attach net --netns a --mac 02:42", "02:42"),
        misused("attach net --netns a --name a/b", "a/b"),
        misused("detach net", "--name"),
        misused("node rm", "NAME"),
        misused("node drain a/b", "a/b"),
        misused("nonsense", "nonsense"),
        misused("status -o yaml", "yaml"),
    ]);
}

/// The last thing that a daemon says before it ends: what it logged before is for its log.
#[track_caller]
fn expect_last_words(finished: &Finished, names: &str) {
    let last = finished.stderr.lines().last().unwrap_or_default();
    assert_eq!(finished.code, Some(FAILURE), "{finished}");
    assert!(last.contains(names) && last.contains(' '), "the last words do not name {names:?}: {finished}");
}

#[test]
fn a_command_without_an_agent_says_where_it_looked() {
    let finished =
        exec::finish(exec::command([binary(CLI)]).args(["--socket", "/run/nosuch/overlay.sock", "status"]));
    assert_eq!(complaint(&finished, &fails("", "/run/nosuch/overlay.sock")), None);
}

#[test]
fn a_user_who_is_not_root_is_refused_by_command_and_agent() {
    let cluster = Cluster::new(Plan { hosts: 1, ..Plan::default() });
    let host = &cluster.hosts[0];
    // Nobody may not look where the program was built, so the program has to go where nobody may look.
    let program: PathBuf = cluster.dir.path().join(CLI);
    fs::copy(binary(CLI), &program).unwrap();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut command = exec::command(nobody);
    command.arg(program).arg("--socket").arg(host.socket()).arg("status");
    let finished = exec::finish(&mut command);
    assert_eq!(complaint(&finished, &fails("", "root")), None);

    let other = Cluster::without_agents(Plan { hosts: 1, ..Plan::default() });
    let agent = binary(AGENT).display().to_string();
    let words: Vec<&str> =
        ["unshare", "--user", agent.as_str()].into_iter().chain(other.hosts[0].flags().words()).collect();
    expect_last_words(&other.hosts[0].netns().run(&words), "root");
}

/// Runs an agent where a file system that it needs is hidden behind an empty one.
fn agent_without(host: &Host, hidden: &str) -> Finished {
    let agent = binary(AGENT).display().to_string();
    let script = format!("mount -t tmpfs none {hidden} && exec \"$@\"");
    let before = ["unshare", "--mount", "sh", "-c", &script, "sh", agent.as_str()];
    host.netns().run(&before.into_iter().chain(host.flags().words()).collect::<Vec<_>>())
}

#[test]
fn an_agent_that_cannot_start_says_what_is_missing_and_leaves_nothing() {
    let cluster = Cluster::without_agents(Plan { hosts: 1, ..Plan::default() });
    let host = &cluster.hosts[0];
    let links = host.netns().links();
    expect_last_words(&agent_without(host, "/sys/kernel/btf"), "/sys/kernel/btf/vmlinux");
    let refused = |flag: &str, value: &str| host.run_agent(&host.flags().clone().with(flag, value), &[]);
    expect_last_words(&refused("--underlay", "nosuch0"), "nosuch0");
    expect_last_words(&refused("--store", "mysql://here"), "mysql");
    expect_last_words(&refused("--store", "sqlite:///proc/nosuch/overlay.db"), "/proc/nosuch");
    expect_last_words(&refused("--config", "/run/nosuch/agent.toml"), "/run/nosuch/agent.toml");
    assert_eq!(refused("--node", "../evil").code, Some(USAGE));
    assert_eq!(refused("--xdp", "always").code, Some(USAGE));
    assert_eq!(host.netns().links(), links, "links stayed behind");
    assert_eq!(pins_in(host.pins()), Vec::<PathBuf>::new(), "pins stayed behind");
}

/// Everything that is pinned in a directory or below it; empty directories pin nothing.
fn pins_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { pins_in(&path) } else { vec![path] }).collect()
}
