//! The Debian package's life, on a system of its own with systemd and dpkg: installed, upgraded under traffic, removed, purged.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use overlay_tests::{
    container::Container,
    exec,
    system::System,
    topology::{Cluster, Plan},
    wait,
};

const UNIT: &str = "overlay-agent.service";
const SOCKETS: [&str; 2] = ["overlay-agent.socket", "overlay-docker.socket"];
const SETTINGS: &str = "/etc/overlay/agent.toml";
const DEADLINE: Duration = Duration::from_secs(20);

/// The package, as `cargo xtask test` made it.
fn package() -> PathBuf {
    env::var_os("OVERLAY_DEB").map(PathBuf::from).expect("OVERLAY_DEB: `cargo xtask test` makes the package")
}

/// The same package under an older version's number.
#[track_caller]
fn older(dir: &Path) -> PathBuf {
    let (tree, older) = (dir.join("package"), dir.join("older.deb"));
    let text = |path: &Path| path.display().to_string();
    exec::must(["dpkg-deb", "--raw-extract", &text(&package()), &text(&tree)]);
    let control = tree.join("DEBIAN/control");
    let fields = fs::read_to_string(&control).expect("the package's fields");
    let version = fields.lines().find(|line| line.starts_with("Version: ")).expect("a version");
    fs::write(&control, fields.replace(version, "Version: 0.0.9-1")).expect("write the package's fields");
    exec::must(["dpkg-deb", "-Znone", "--build", &text(&tree), &text(&older)]);
    fs::remove_dir_all(&tree).expect("remove the unpacked package");
    older
}

#[track_caller]
fn install(system: &System, package: &Path) {
    system.install(package, "/root/package.deb");
    system.must(&["dpkg", "--force-unsafe-io", "--install", "/root/package.deb"]);
    system.must(&["rm", "/root/package.deb"]);
}

/// Every file that a package could leave, but for what package manager, service manager and harness write for themselves.
fn files(system: &System) -> BTreeSet<String> {
    const FIND: &str = "find /etc /opt /root /run /srv /sys/fs/bpf /usr /var -xdev \
        -not -path '/var/lib/dpkg/*' -not -path '/var/cache/*' -not -path '/var/log/*' -not -path '/run/ovl-*' -not -path '/etc/netns/ovl-*' \
        -not -path '/run/log/*' -not -path '/run/systemd/*' -not -path '/run/netns*'";
    system.must(&["sh", "-c", FIND]).lines().map(str::to_owned).collect()
}

/// A ping a hundred times a second, until it is stopped.
struct Pinging<'a> {
    system: &'a System,
    child: Child,
}

impl<'a> Pinging<'a> {
    fn start(system: &'a System, netns: &str, ip: &str) -> Self {
        let script = format!("echo $$ >/run/ping.pid; exec ip netns exec {netns} ping -q -i 0.01 -W 1 {ip}");
        let mut command = system.command(&["sh", "-c", &script]);
        let child = command.stdout(Stdio::piped()).spawn().expect("start ping");
        wait::until("ping runs", DEADLINE, || system.path("/run/ping.pid").exists());
        Self { system, child }
    }

    /// Stops it; how many were answered, all of them.
    #[track_caller]
    fn expect_no_loss(self) -> u32 {
        self.system.must(&["sh", "-c", "kill -INT $(cat /run/ping.pid); rm /run/ping.pid"]);
        let output = self.child.wait_with_output().expect("wait for ping");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(" 0% packet loss"), "{said}");
        let count = said.lines().find_map(|line| line.split_once(" packets transmitted"));
        count.and_then(|(count, _)| count.parse().ok()).unwrap_or_else(|| panic!("{said}"))
    }
}

#[track_caller]
fn expect_installed_and_waiting(system: &System) {
    for unit in SOCKETS.into_iter().chain([UNIT]) {
        assert_eq!(system.run(&["systemctl", "is-enabled", unit]).stdout.trim(), "enabled", "{unit}");
    }
    for socket in SOCKETS {
        assert_eq!(system.property(socket, "ActiveState"), "active", "{socket}");
    }
    assert_eq!(system.property(UNIT, "ActiveState"), "inactive");
    for file in [
        "/usr/lib/cni/overlay-cni",
        "/usr/lib/podman/overlay-netavark",
        "/usr/share/bash-completion/completions/overlay",
        "/usr/share/fish/vendor_completions.d/overlay.fish",
        "/usr/share/zsh/vendor-completions/_overlay",
        "/usr/share/doc/overlay-agent/copyright",
        "/usr/share/doc/overlay-agent/examples/ov_net1.conflist",
    ] {
        assert!(system.run(&["test", "-s", file]).is_success(), "no {file}");
    }
    for page in
        ["man1/overlay-network-create.1", "man1/overlay.1", "man8/overlay-agent.8", "man8/overlay-cni.8"]
    {
        let text = system.must(&["zcat", &format!("/usr/share/man/{page}.gz")]);
        assert!(text.contains(".SH NAME\n") && text.contains(".SH DESCRIPTION\n"), "{page}: {text}");
    }
}

#[test]
fn the_package_installs_upgrades_without_losing_a_packet_and_leaves_nothing() {
    let cluster = Cluster::without_agents(Plan { hosts: 2, ..Plan::default() });
    let [first, second] = cluster.hosts.as_slice() else { unreachable!("two hosts") };
    let system = System::boot(first.netns(), &[cluster.dir.path()]);
    let (before, links) = (files(&system), first.netns().links());

    install(&system, &older(cluster.dir.path()));
    expect_installed_and_waiting(&system);
    assert_eq!(first.netns().links(), links, "the installation made a device");

    let store = first.flags().get("--store").expect("a store");
    let settings = format!("node = \"host1\"\nunderlay = \"eth0\"\nstore = \"{store}\"\n");
    system.write(SETTINGS, &settings);
    // The first call starts the agent.
    let ready = system.run(&["overlay", "status", "--wait"]);
    assert!(ready.is_success(), "{ready}\n{}", system.journal(UNIT));
    second.start();
    system.must(&["overlay", "network", "create", "net"]);
    wait::until("the other host knows the network", DEADLINE, || {
        second.cli(&["network", "inspect", "net"]).is_success()
    });
    let far = Container::attached(second, "net", "far");
    system.must(&["ip", "netns", "add", "near"]);
    system.must(&["overlay", "attach", "net", "--netns", "near"]);
    let ip = far.addr().ip.to_string();
    wait::until("the containers talk", DEADLINE, || {
        system.run(&["ip", "netns", "exec", "near", "ping", "-c", "1", "-W", "1", &ip]).is_success()
    });

    let pinging = Pinging::start(&system, "near", &ip);
    let agent = system.property(UNIT, "MainPID");
    install(&system, &package());
    assert_eq!(system.property(UNIT, "ActiveState"), "active", "{}", system.journal(UNIT));
    assert_ne!(system.property(UNIT, "MainPID"), agent, "the old agent runs on");
    system.must(&["overlay", "verify"]);
    assert!(pinging.expect_no_loss() > 10, "hardly a ping was sent meanwhile");
    assert_eq!(fs::read_to_string(system.path(SETTINGS)).expect("the settings"), settings);

    system.must(&["dpkg", "--remove", "overlay-agent"]);
    assert_eq!(first.netns().links(), links, "devices were left");
    assert!(!system.run(&["nft", "list", "table", "ip", "overlay-ebpf"]).is_success(), "rules were left");
    assert!(!system.path("/sys/fs/bpf/overlay").exists(), "pins were left");
    assert!(system.path("/var/lib/overlay/node-id").exists(), "the node's identity is for purge to remove");
    system.must(&["dpkg", "--purge", "overlay-agent"]);
    system.must(&["ip", "netns", "del", "near"]);
    let after = files(&system);
    let left: Vec<&String> = after.difference(&before).collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
}
