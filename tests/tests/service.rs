//! The agent under its service manager: systemd itself, with the units of `packaging`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use overlay_tests::{
    builds::Build,
    exec,
    host::{AGENT, CLI, binary},
    system::System,
    topology::{Cluster, Plan},
    wait,
};
use rstest::rstest;
use serde_json::Value;

const AGENT_UNIT: &str = "overlay-agent.service";
const DOCKER_SOCKET: &str = "overlay-docker.socket";
const DEADLINE: Duration = Duration::from_secs(20);
/// What `systemd-analyze security` may say at most, in tenths.
const EXPOSURE: &str = "35";

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging")
}

/// A host whose agent is to be systemd's. The system is dropped first.
struct Machine {
    system: System,
    _cluster: Cluster,
}

impl Machine {
    /// Installs programs, object, units and settings.
    #[track_caller]
    fn new() -> Self {
        let cluster = Cluster::without_agents(Plan { hosts: 1, ..Plan::default() });
        let system = System::boot(cluster.hosts[0].netns(), &[]);
        system.install(&binary(AGENT), "/usr/bin/overlay-agent");
        system.install(&binary(CLI), "/usr/bin/overlay");
        system.install(&Build::current().object.expect("the BPF object"), "/usr/lib/overlay/overlay-ebpf.o");
        for unit in [AGENT_UNIT, "overlay-agent.socket", DOCKER_SOCKET] {
            system.install(&packaging().join("systemd").join(unit), &format!("/etc/systemd/system/{unit}"));
        }
        system.write("/etc/overlay/agent.toml", SETTINGS);
        system.must(&["systemctl", "daemon-reload"]);
        Self { system, _cluster: cluster }
    }

    #[track_caller]
    fn started() -> Self {
        let machine = Self::new();
        machine.systemctl(&["start", AGENT_UNIT]);
        machine
    }

    #[track_caller]
    fn systemctl(&self, words: &[&str]) {
        let done = self.system.run(&[&["systemctl"], words].concat());
        assert!(done.is_success(), "{done}\n{}", self.system.journal(AGENT_UNIT));
    }

    #[track_caller]
    fn overlay(&self, words: &[&str]) -> String {
        self.system.must(&[&["overlay"], words].concat())
    }

    fn main_pid(&self) -> String {
        self.system.property(AGENT_UNIT, "MainPID")
    }

    /// A container in network `net`.
    #[track_caller]
    fn container(&self, name: &str) {
        self.system.must(&["ip", "netns", "add", name]);
        self.overlay(&["attach", "net", "--netns", name]);
    }

    /// A ping from one container to another that goes on until it has sent so many, twenty a second.
    fn pinging(&self, count: u32) -> Child {
        let count = count.to_string();
        let words = ["ip", "netns", "exec", "a", "ping", "-q", "-i", "0.05", "-c", &count, "-W", "1", "b"];
        self.system.command(&words).stdout(Stdio::piped()).spawn().expect("start ping")
    }

    /// Whether every ping was answered.
    #[track_caller]
    fn expect_no_loss(pinging: Child) {
        let output = pinging.wait_with_output().expect("wait for ping");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(" 0% packet loss"), "{said}");
    }
}

const SETTINGS: &str = "node = \"host1\"\nunderlay = \"eth0\"\n";

/// The unit's capabilities, as their bits.
fn capabilities_of_the_unit() -> Vec<String> {
    let unit = fs::read_to_string(packaging().join("systemd").join(AGENT_UNIT)).expect("the unit");
    let line =
        unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("capabilities");
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn the_unit_asks_for_little() {
    let unit = packaging().join("systemd").join(AGENT_UNIT).display().to_string();
    let rating = exec::run([
        "systemd-analyze",
        "security",
        "--no-pager",
        "--offline=true",
        "--threshold",
        EXPOSURE,
        &unit,
    ]);
    assert!(rating.is_success(), "{rating}");
}

#[test]
fn systemd_runs_the_agent_with_a_few_capabilities_and_it_does_all_its_work() {
    let machine = Machine::started();
    let system = &machine.system;
    // `start` returns when the agent is ready, not before.
    let status: Value = serde_json::from_str(&machine.overlay(&["status", "-o", "json"])).expect("a status");
    assert_eq!(status["ready"], true);
    assert!(system.property(AGENT_UNIT, "StatusText").contains("of the store is in force"));
    let of_process = system.must(&[
        "sh",
        "-c",
        "grep CapBnd: /proc/$(systemctl show --value -p MainPID overlay-agent)/status",
    ]);
    let bits = u64::from_str_radix(of_process.trim_start_matches("CapBnd:").trim(), 16).expect("a bit set");
    assert_eq!(bits.count_ones() as usize, capabilities_of_the_unit().len(), "{of_process}");

    machine.overlay(&["network", "create", "net"]);
    machine.container("a");
    machine.container("b");
    Machine::expect_no_loss(machine.pinging(3));
    // The namespace of a process that is more than the agent may do, too.
    let script = "unshare --net sleep 60 & pid=$!; while [ $(readlink /proc/$pid/ns/net) = $(readlink /proc/self/ns/net) ]; \
                  do sleep 0.05; done; overlay attach net --pid $pid --name c; overlay detach net --name c; kill $pid";
    system.must(&["sh", "-c", script]);
    machine.overlay(&["publish", "net", "a", "8080:80"]);
    system.must(&["nft", "list", "table", "ip", "overlay-ebpf"]);
    assert!(machine.overlay(&["status"]).contains("172.18.0.0/16"), "no gateway");
    machine.overlay(&["verify"]);
    let doctor = system.run(&["overlay", "doctor"]);
    assert!(doctor.is_success(), "{doctor}");
    machine.overlay(&["detach", "net", "--netns", "a"]);
    let journal = system.journal(AGENT_UNIT);
    assert!(
        !journal.contains("not permitted") && !journal.contains("Read-only") && !journal.contains("WARN"),
        "{journal}"
    );
}

#[test]
fn a_restart_loses_no_packet_and_callers_wait_in_the_queue() {
    let machine = Machine::started();
    machine.overlay(&["network", "create", "net"]);
    machine.container("a");
    machine.container("b");
    let pinging = machine.pinging(60);
    let before = machine.main_pid();
    let restart =
        machine.system.command(&["systemctl", "restart", AGENT_UNIT]).spawn().expect("start systemctl");
    // None of these may find the agent away.
    for _ in 0..10 {
        machine.overlay(&["network", "ls"]);
    }
    assert!(restart.wait_with_output().expect("wait for systemctl").status.success());
    assert_ne!(machine.main_pid(), before);
    machine.overlay(&["verify"]);
    Machine::expect_no_loss(pinging);
}

#[test]
fn a_call_starts_the_agent_where_its_socket_listens() {
    let machine = Machine::new();
    machine.systemctl(&["start", "overlay-agent.socket"]);
    assert_eq!(machine.system.property(AGENT_UNIT, "ActiveState"), "inactive");
    machine.overlay(&["status", "--wait"]);
    assert_eq!(machine.system.property(AGENT_UNIT, "ActiveState"), "active");
    let mode = machine.system.must(&["stat", "-c", "%a", "/run/overlay/overlay.sock"]);
    assert_eq!(mode.trim(), "660");
}

#[test]
fn dockers_first_call_starts_the_agent_where_the_driver_listens() {
    let machine = Machine::new();
    machine.systemctl(&["start", DOCKER_SOCKET]);
    assert_eq!(machine.system.property(AGENT_UNIT, "ActiveState"), "inactive");
    let socket = ["--unix-socket", "/run/docker/plugins/overlay-ebpf.sock"];
    let call = ["curl", "-sS", "--max-time", "20", "-X", "POST", "http://localhost/Plugin.Activate"];
    let answer = machine.system.must(&[&call[..], &socket].concat());
    assert_eq!(answer.trim(), r#"{"Implements":["NetworkDriver","IpamDriver"]}"#);
    // Docker is answered before the agent is ready.
    wait::until("the agent is ready", DEADLINE, || {
        machine.system.property(AGENT_UNIT, "ActiveState") == "active"
    });
}

#[test]
fn an_agent_that_hangs_is_started_anew_and_its_containers_do_not_notice() {
    let machine = Machine::new();
    machine
        .system
        .write(&format!("/etc/systemd/system/{AGENT_UNIT}.d/test.conf"), "[Service]\nWatchdogSec=4s\n");
    machine.systemctl(&["daemon-reload"]);
    machine.systemctl(&["start", AGENT_UNIT]);
    machine.overlay(&["network", "create", "net"]);
    machine.container("a");
    machine.container("b");
    let before = machine.main_pid();
    // Alive, as long as it makes progress: two periods of the watchdog.
    Machine::expect_no_loss(machine.pinging(160));
    assert_eq!(machine.main_pid(), before, "{}", machine.system.journal(AGENT_UNIT));
    machine.system.must(&["kill", "-STOP", &before]);
    wait::until("the agent is started anew", DEADLINE, || {
        machine.main_pid() != before && machine.system.property(AGENT_UNIT, "ActiveState") == "active"
    });
    assert!(machine.system.journal(AGENT_UNIT).contains("Watchdog timeout"), "not the watchdog's work");
    Machine::expect_no_loss(machine.pinging(3));
}

#[test]
fn a_reload_takes_what_can_be_taken_and_names_the_rest() {
    let machine = Machine::started();
    let before = machine.main_pid();
    let reload = |settings: &str| {
        machine.system.write("/etc/overlay/agent.toml", settings);
        machine.systemctl(&["reload", AGENT_UNIT]);
    };
    let says = |text: &str| {
        wait::until(text, DEADLINE, || machine.system.journal(AGENT_UNIT).contains(text));
    };
    reload(&format!("{SETTINGS}log = \"warn\"\n"));
    machine.overlay(&["network", "create", "quiet"]);
    reload(SETTINGS);
    says("settings read again");
    machine.overlay(&["network", "create", "loud"]);
    says("network created network=loud");
    assert!(!machine.system.journal(AGENT_UNIT).contains("network=quiet"), "the log level was not changed");
    reload(&format!("{SETTINGS}vxlan_port = 5000\n"));
    says("need a restart");
    reload("node = [\n");
    says("cannot be read again");
    assert_eq!(machine.main_pid(), before);
    machine.overlay(&["verify"]);
    machine.systemctl(&["stop", AGENT_UNIT]);
    says("stopped; the data path stays");
    assert_eq!(machine.system.property(AGENT_UNIT, "Result"), "success");
}

#[rstest]
#[case("bpf", "CAP_BPF")]
#[case("perfmon", "CAP_PERFMON")]
#[case("net_admin", "CAP_NET_ADMIN")]
#[case("sys_admin", "CAP_SYS_ADMIN")]
fn an_agent_that_lacks_a_capability_names_it_and_leaves_nothing(#[case] without: &str, #[case] name: &str) {
    let cluster = Cluster::without_agents(Plan { hosts: 1, ..Plan::default() });
    let host = &cluster.hosts[0];
    let links = host.netns().links();
    let (agent, set) = (binary(AGENT).display().to_string(), format!("--bounding-set=-{without}"));
    let words = ["setpriv", set.as_str(), "--", agent.as_str()];
    let words: Vec<&str> = words.into_iter().chain(host.flags().words()).collect();
    let refused = host.netns().run(&words);
    let last = refused.stderr.lines().last().unwrap_or_default();
    assert!(refused.code == Some(1) && last.contains(name) && last.contains("root"), "{refused}");
    assert_eq!(host.netns().links(), links);
}

/// The page for operators, followed as it stands on a host where all is installed.
#[test]
fn the_commands_of_the_operators_page_work_as_written() {
    let machine = Machine::new();
    let page = fs::read_to_string(packaging().join("../docs/operations.md")).expect("the page");
    let mut blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    let mut count = 0;
    blocks.by_ref().for_each(|block| {
        count += 1;
        let done = machine.system.run(&["bash", "-ec", block]);
        assert!(done.is_success(), "{done}\n{}", machine.system.journal(AGENT_UNIT));
    });
    assert!(count >= 4, "the page has only {count} blocks");
}
