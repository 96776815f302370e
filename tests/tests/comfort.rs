//! What makes an operator's work light: looking before doing, watching, a doctor, a report without secrets.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use overlay_tests::{
    container::Container,
    exec::{self, Finished},
    host::{CLI, Host, binary},
    netns::Netns,
    topology::{Cluster, Plan},
};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(10);

fn one_host() -> Cluster {
    Cluster::new(Plan { hosts: 1, ..Plan::default() })
}

/// Everything that a change could change, as the host and its store tell it.
#[track_caller]
fn state(host: &Host, others: &[&Netns]) -> (Value, Vec<Vec<String>>) {
    let mut exported: Value = serde_json::from_str(&host.overlay(&["store", "export"])).expect("a document");
    // When a node last registered or an address was released is no change of ours.
    exported["entries"].as_object_mut().expect("entries").retain(|key, _| !key.contains("/nodes/"));
    (exported, others.iter().map(|netns| netns.links()).chain([host.netns().links()]).collect())
}

/// A command with `--dry-run`, which has to succeed and to change nothing.
#[track_caller]
fn rehearse(host: &Host, others: &[&Netns], words: &[&str]) -> String {
    let before = state(host, others);
    let finished = host.cli(&[words, &["--dry-run"]].concat());
    assert!(finished.stderr.contains("dry run, nothing is changed"), "{finished}");
    assert_eq!(state(host, others), before, "{finished}");
    finished.expect_success()
}

#[test]
fn a_dry_run_of_any_change_tells_what_would_come_of_it_and_changes_nothing() {
    let cluster = one_host();
    let host = &cluster.hosts[0];
    cluster.network("net1", &["--ipv6"]);
    cluster.network("net2", &[]);
    let there = Container::attached(host, "net1", "there");
    let free = Netns::new("free");
    let others = [&free, there.netns()];
    host.overlay(&["policy", "allow", "net1", "net2", "--proto", "tcp", "--port", "80"]);
    let rules: Vec<Value> = host.json(&["policy", "ls"]);
    let rule = rules[0]["id"].as_str().expect("an id").to_owned();

    let json = |words: &[&str]| -> Value {
        let text = rehearse(host, &others, &[words, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words:?} printed {text}: {e}"))
    };
    // What is promised is what then comes: the next subnet, VNI and address.
    let promised = json(&["network", "create", "net3"]);
    let attached = json(&["attach", "net1", "--netns", free.name(), "--publish", "8080:80"]);
    assert_eq!(attached["endpoint"]["ip"], "10.0.0.3/24", "{attached}");
    assert_eq!(attached["interfaces"][1]["sandbox"], free.path().display().to_string());
    assert_eq!(json(&["detach", "net1", "--name", "there"])["detached"][0]["name"], "there");
    assert_eq!(json(&["publish", "net1", "there", "8080:80"])[0]["host_port"], 8080);
    assert_eq!(json(&["policy", "allow", "net1", "net2"])[0]["from"], "net1");
    let added = json(&["policy", "allow", "net1", "net2", "--proto", "udp", "--port", "53"]);
    assert_eq!(added[0]["proto"], "udp", "{added}");
    assert_eq!(json(&["policy", "enforce", "net1", "net2"])[0]["id"], *rule);
    assert_eq!(json(&["endpoint", "label", "net1", "there", "app=web"])["labels"]["app"], "web");
    assert_eq!(json(&["node", "drain", "host1"])["drain"], "draining");
    assert_eq!(json(&["network", "rm", "net2"])["name"], "net2");
    assert_eq!(json(&["network", "prune"])[0]["name"], "net2");
    rehearse(host, &others, &["policy", "deny", "net1", "net2"]);
    rehearse(host, &others, &["policy", "rm", &rule]);

    let created: Value = host.json(&["network", "create", "net3"]);
    assert_eq!(created, promised);
    let made: Value = host.json(&["attach", "net1", "--netns", free.name()]);
    assert_eq!((&made["ips"], &made["routes"]), (&attached["ips"], &attached["routes"]));
    assert_eq!(made["routes"][1]["dst"], "::/0", "{made}");
}

#[test]
fn a_dry_run_fails_as_the_change_would() {
    let cluster = one_host();
    let host = &cluster.hosts[0];
    cluster.network("net", &[]);
    let taken = Container::attached(host, "net", "box");
    let ip = taken.addr().ip.to_string();
    let cases: [&[&str]; 6] = [
        &["network", "create", "net"],
        &["network", "create", "other", "--vni", "256"],
        &["network", "rm", "net"],
        &["attach", "net", "--netns", taken.netns().name()],
        &["node", "rm", "host1", "--force"],
        &["policy", "allow", "net", "nosuch"],
    ];
    for words in cases {
        let (real, rehearsed) = (host.cli(words), host.cli(&[words, &["--dry-run"]].concat()));
        let last = |finished: &Finished| finished.stderr.lines().last().unwrap_or_default().to_owned();
        assert_eq!((last(&rehearsed), rehearsed.code), (last(&real), Some(1)), "{words:?}");
    }
    let free = Netns::new("free");
    let refused = host.cli(&["attach", "net", "--netns", free.name(), "--ip", &ip, "--dry-run"]);
    assert!(!refused.is_success() && refused.stderr.contains(&ip), "{refused}");
}

#[test]
fn a_dry_run_of_an_import_says_what_it_would_write_and_makes_no_store() {
    let cluster = one_host();
    let host = &cluster.hosts[0];
    cluster.network("net", &[]);
    let file = cluster.dir.path().join("export.json");
    host.overlay(&["store", "export", file.to_str().expect("a path")]);
    let absent = cluster.dir.path().join("absent.db");
    let import = |url: &str, extra: &[&str]| {
        host.cli(
            &[&["store", "import", "--store", url, file.to_str().expect("a path"), "--dry-run"], extra]
                .concat(),
        )
    };
    let written = import(&format!("sqlite://{}", absent.display()), &[]).expect_success();
    assert!(written.contains("keys written, 0 unchanged, 0 deleted"), "{written}");
    assert!(!absent.exists(), "the dry run made a store");
    let own = host.flags().get("--store").expect("a store").to_owned();
    let refused = import(&own, &[]);
    assert!(!refused.is_success() && refused.stderr.contains("--force"), "{refused}");
    let nothing = import(&own, &["--force"]).expect_success();
    assert!(nothing.starts_with("0 keys written"), "{nothing}");
}

/// A command whose lines come as it prints them. Ended on drop.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(host: &Host, words: &[&str]) -> Self {
        let mut command = std::process::Command::new(binary(CLI));
        command.arg("--socket").arg(host.socket()).args(words).stdout(Stdio::piped()).stdin(Stdio::null());
        let mut child = command.spawn().expect("start the command");
        let output = child.stdout.take().expect("a pipe");
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
        });
        Self { child, lines }
    }

    /// The next line that holds a text, and how many came before it.
    #[track_caller]
    fn expect(&self, text: &str) -> usize {
        let mut before = 0;
        loop {
            let line =
                self.lines.recv_timeout(DEADLINE).unwrap_or_else(|e| panic!("no line with {text:?}: {e}"));
            if line.contains(text) {
                return before;
            }
            before += 1;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_is_watched_through_a_pipe_is_printed_when_it_changes_and_outlives_the_agent() {
    let cluster = one_host();
    let host = &cluster.hosts[0];
    let networks = Running::start(host, &["network", "ls", "--watch=0.1"]);
    assert_eq!(networks.expect("NAME"), 0);
    host.create_network("net1", &[]);
    // An empty line, the header, the network: nothing was printed while nothing changed.
    assert_eq!(networks.expect("net1"), 2);
    host.terminate();
    host.start();
    host.create_network("net2", &[]);
    networks.expect("net2");
}

/// What a command prints on a terminal of its own.
fn on_a_terminal(host: &Host, words: &str, environment: &[(&str, &str)]) -> String {
    let command = format!("{} --socket {} {words}", binary(CLI).display(), host.socket().display());
    let mut script = exec::command(["script", "--quiet", "--return", "--command", &command, "/dev/null"]);
    script.env("TERM", "xterm").env_remove("NO_COLOR").envs(environment.iter().copied());
    exec::finish(&mut script).expect_success()
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    const ESCAPE: char = '\u{1b}';
    let cluster = one_host();
    let host = &cluster.hosts[0];
    for words in ["node ls", "status"] {
        let coloured = on_a_terminal(host, words, &[]);
        assert!(
            coloured.contains("\u{1b}[32m") || coloured.contains("\u{1b}[38;5;10m"),
            "{words}: {coloured:?}"
        );
        assert!(!on_a_terminal(host, words, &[("NO_COLOR", "1")]).contains(ESCAPE), "{words} with NO_COLOR");
        assert!(
            !on_a_terminal(host, words, &[("TERM", "dumb")]).contains(ESCAPE),
            "{words} on a dumb terminal"
        );
        assert!(
            !host.cli(&words.split(' ').collect::<Vec<_>>()).stdout.contains(ESCAPE),
            "{words} in a pipe"
        );
    }
}

/// The doctor in a host's namespace, with the settings of its agent, some of them changed.
#[track_caller]
fn doctor(host: &Host, changed: &[(&str, &str)]) -> (Option<i32>, Vec<Value>) {
    let flags = changed.iter().fold(host.flags().clone(), |flags, (flag, value)| flags.with(flag, value));
    let (program, socket) = (binary(CLI).display().to_string(), host.socket().display().to_string());
    let words = [program.as_str(), "--socket", &socket, "-o", "json", "doctor", "--"];
    let words: Vec<&str> = words.into_iter().chain(flags.words()).collect();
    let finished = host.netns().run(&words);
    let findings = serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{finished}: {e}"));
    (finished.code, findings)
}

/// One line of it.
#[track_caller]
fn finding<'a>(findings: &'a [Value], check: &str) -> &'a Value {
    let found = findings.iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("the doctor did not look at {check}: {findings:?}"))
}

#[track_caller]
fn expect_wrong(findings: &[Value], check: &str, found: &str, fix: &str) {
    let finding = finding(findings, check);
    let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    assert_eq!(finding["health"], "wrong", "{finding}");
    assert!(text("found").contains(found) && text("fix").contains(fix), "{finding}");
}

#[test]
fn the_doctor_finds_a_host_well_with_an_agent_and_without_one() {
    const CHECKS: [&str; 16] = [
        "kernel",
        "BTF",
        "JIT",
        "pins",
        "underlay",
        "MTU",
        "tcx",
        "XDP",
        "GRO",
        "checksum offload",
        "VLAN offload",
        "UDP port",
        "nft",
        "FORWARD",
        "host-local range",
        "store",
    ];
    let cluster = Cluster::without_agents(Plan { hosts: 1, ..Plan::default() });
    let host = &cluster.hosts[0];
    let links = host.netns().links();
    let (code, findings) = doctor(host, &[]);
    for check in CHECKS {
        finding(&findings, check);
    }
    assert_eq!(code, Some(0), "{findings:#?}");
    assert!(!cluster.dir.path().join("overlay.db").exists(), "the doctor made a store");
    assert_eq!(host.netns().links(), links, "the doctor made a device");
    host.start();
    cluster.network("net", &[]);
    let (code, findings) = doctor(host, &[]);
    for check in CHECKS {
        finding(&findings, check);
    }
    assert_eq!(code, Some(0), "{findings:#?}");
    assert_eq!(finding(&findings, "agent")["health"], "ok");
}

#[test]
fn the_doctor_names_what_is_wrong_and_what_to_do() {
    let cluster = Cluster::without_agents(Plan { hosts: 1, ..Plan::default() });
    let host = &cluster.hosts[0];
    let _taken = host.netns().enter(|| std::net::UdpSocket::bind("0.0.0.0:4789")).expect("bind the port");
    host.netns().ip(&["link", "set", "eth0", "down"]);
    let (code, findings) = doctor(host, &[("--host-range", "192.168.0.0/16")]);
    assert_eq!(code, Some(1));
    expect_wrong(&findings, "UDP port", "4789", "--vxlan-port");
    expect_wrong(&findings, "underlay", "down", "ip link set eth0 up");
    let (_, findings) = doctor(host, &[("--vxlan-port", "70000")]);
    expect_wrong(&findings, "settings", "70000", "--config");
    host.netns().ip(&["link", "set", "eth0", "up"]);
    let (_, findings) = doctor(host, &[("--store", "consul://192.0.2.1:1")]);
    expect_wrong(&findings, "store", "192.0.2.1", "docs/stores.md");
    let (_, findings) = doctor(host, &[("--underlay", "nosuch0")]);
    expect_wrong(&findings, "underlay", "nosuch0", "--underlay");
}

#[test]
fn the_doctor_sees_a_firewall_that_keeps_containers_inside() {
    let cluster = one_host();
    let host = &cluster.hosts[0];
    let drop_all = "add table ip fw; add chain ip fw in { type filter hook input priority 0; policy drop; }; \
                    add rule ip fw in ct state established accept";
    host.netns().must(&["nft", drop_all]);
    let (code, findings) = doctor(host, &[]);
    assert_eq!(
        (code, &finding(&findings, "INPUT")["health"]),
        (Some(0), &Value::from("note")),
        "{findings:?}"
    );
    host.netns().must(&["nft", "add rule ip fw in udp dport 4789 accept"]);
    assert_eq!(finding(&doctor(host, &[]).1, "INPUT")["health"], "ok");
    host.netns()
        .must(&["nft", "add chain ip fw through { type filter hook forward priority 0; policy drop; }"]);
    overlay_tests::wait::until("the agent has let containers through", DEADLINE, || {
        finding(&doctor(host, &[]).1, "FORWARD")["found"]
            .as_str()
            .is_some_and(|found| found.contains("let through"))
    });
}

/// Everything in an archive, as one text, by `tar` itself.
#[track_caller]
fn unpacked(archive: &Path, to: &Path) -> (Vec<String>, String) {
    let names = exec::must(["tar", "-tzf", &archive.display().to_string()]);
    exec::must(["tar", "-xzf", &archive.display().to_string(), "-C", &to.display().to_string()]);
    let text = exec::must(["grep", "-r", "", &to.display().to_string()]);
    (names.lines().map(str::to_owned).collect(), text)
}

#[test]
fn a_report_has_everything_but_secrets() {
    const TOKEN: &str = "PLANTED-TOKEN-4711";
    const PASSWORD: &str = "PLANTED-PASSWORD-4712";
    let cluster = one_host();
    let host = &cluster.hosts[0];
    cluster.network("net", &["--label", &format!("db-password={PASSWORD}")]);
    let _box = Container::attached(host, "net", "box");
    let dir = cluster.dir.make("report");
    let path = |name: &str| dir.join(name).display().to_string();
    fs::write(path("token"), format!("{TOKEN}\n")).expect("write the token");
    let config = format!(
        "node = \"host1\"\nstore = \"consul://user:{PASSWORD}@192.0.2.1:1?token={TOKEN}\"\nold_secret = \"{PASSWORD}\"\n\
         # {TOKEN}\n[store_access]\ntoken_file = \"{}\"\n",
        path("token")
    );
    fs::write(path("agent.toml"), config).expect("write the settings");
    let (program, socket) = (binary(CLI).display().to_string(), host.socket().display().to_string());
    let mut command =
        host.netns().command(&[&program, "--socket", &socket, "bugreport", &path("report.tar.gz")]);
    command.args(["--config", &path("agent.toml")]).env("OVERLAY_STORE_PASSWORD", PASSWORD);
    let said = exec::finish(&mut command).expect_success();
    assert!(said.contains("report.tar.gz"), "{said}");
    let mode = fs::metadata(path("report.tar.gz")).expect("the report").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others may read the report");
    let (names, text) = unpacked(Path::new(&path("report.tar.gz")), &cluster.dir.make("unpacked"));
    for part in [
        "agent/status.json",
        "agent/verify.json",
        "agent/drops.json",
        "agent/networks.json",
        "agent/endpoints.json",
        "agent/nodes.json",
        "agent/maps.json",
        "agent/maps/fdb.json",
        "doctor.json",
        "host/kernel.txt",
        "host/links.txt",
        "host/nft-table.txt",
        "host/bpf-attached.txt",
        "host/bpf-programs.txt",
        "settings/agent.toml",
        "settings/environment.txt",
        "missing.txt",
    ] {
        assert!(names.iter().any(|name| name.ends_with(part)), "no {part} in {names:?}");
    }
    for there in ["OVERLAY_STORE_PASSWORD=[removed]", "from_endpoint", "overlay-ebpf", "token_file = "] {
        assert!(text.contains(there), "{there:?} is not in the report");
    }
    for secret in [TOKEN, PASSWORD] {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(secret)).collect();
        assert!(lines.is_empty(), "{secret} is in the report: {lines:?}");
    }
}

/// Values by series, of the text form.
fn series(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let split = lines.map(|line| line.rsplit_once(' ').unwrap_or_else(|| panic!("no series: {line}")));
    split
        .map(|(name, value)| {
            (name.to_owned(), value.parse().unwrap_or_else(|e| panic!("{name} {value}: {e}")))
        })
        .collect()
}

#[test]
fn metrics_say_what_the_commands_say() {
    const LISTEN: &str = "127.0.0.1:9469";
    let cluster = Cluster::new(Plan { hosts: 1, flags: &[("--metrics-listen", LISTEN)], ..Plan::default() });
    let host = &cluster.hosts[0];
    cluster.network("net1", &[]);
    cluster.network("net2", &[]);
    let (a, b) = (Container::attached(host, "net1", "a"), Container::attached(host, "net1", "b"));
    let c = Container::attached(host, "net2", "c");
    a.netns().must(&["ping", "-q", "-c", "3", "-W", "1", &b.addr().ip.to_string()]);
    a.netns().run(&["ping", "-q", "-c", "2", "-i", "0.2", "-W", "0.2", &c.addr().ip.to_string()]);

    let socket = host.socket().display().to_string();
    let text = exec::must(["curl", "-sf", "--unix-socket", &socket, "http://localhost/v1/metrics"]);
    let all = series(&text);
    let value = |name: &str| *all.get(name).unwrap_or_else(|| panic!("no {name} in\n{text}"));
    assert_eq!(value("overlay_ready"), 1.0);
    assert_eq!(value("overlay_store_up"), 1.0);
    assert_eq!(value("overlay_networks"), 2.0);
    assert_eq!(value("overlay_local_endpoints"), 3.0);
    assert_eq!(value("overlay_nodes{state=\"up\"}"), 1.0);
    assert_eq!(value("overlay_map_entries{map=\"endpoints\"}"), 3.0);
    let drops: Vec<Value> = host.json(&["drops"]);
    let denied = drops
        .iter()
        .find(|drop| drop["reason"] == "policy_denied")
        .expect("drops of the ping between networks");
    let name = "overlay_dropped_packets_total{reason=\"policy_denied\",network=\"net1\",endpoint=\"a\"}";
    assert_eq!(value(name), denied["packets"].as_f64().expect("a number"));
    let endpoints: Vec<Value> = host.json(&["endpoint", "inspect", "b"]);
    let id = endpoints[0]["id"].as_str().expect("an id");
    let name =
        format!("overlay_endpoint_receive_packets_total{{network=\"net1\",endpoint=\"b\",id=\"{id}\"}}");
    assert!(value(&name) >= 3.0, "{text}");

    let url = format!("http://{LISTEN}/metrics");
    let over_tcp = host.netns().must(&["curl", "-sf", &url]);
    assert_eq!(series(&over_tcp).len(), all.len());
    let open_metrics =
        host.netns().must(&["curl", "-sf", "-H", "Accept: application/openmetrics-text", &url]);
    assert!(open_metrics.ends_with("# EOF\n"), "{open_metrics}");
    // Nothing else is said there.
    let other = host.netns().run(&[
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &format!("http://{LISTEN}/v1/status"),
    ]);
    assert_eq!(other.stdout, "404");

    let taken = host.run_agent(&host.flags().clone().with("--metrics-listen", "198.51.100.1:1"), &[]);
    assert!(!taken.is_success());
}
