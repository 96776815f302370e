//! Hosts, containers and the wire between them: network namespaces, with an agent in each host's.
//!
//! Everything is named `ovl-demo-…`, so that `cargo xtask clean` finds it after a crash. Commands enter a
//! namespace of a host with `nsenter`, not with `ip netns exec`: that would mount a `/sys` of its own and hide
//! the pins.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    layout, process,
    servers::{Kind, Place, Server},
};

/// The hosts.
pub const HOSTS: [&str; 2] = ["host1", "host2"];
const CONTAINERS: [&str; 3] = ["bbox1", "bbox2", "bbox3"];
/// Where a store that is a server runs.
const STORE: &str = "store";
const STORE_ADDR: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
/// A machine that knows nothing of the overlay, and the router of every host.
pub const WORLD: &str = "world";
const WORLD_ADDR: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 200);
/// An address beyond that router.
pub const FAR: &str = "198.51.100.1";
const PREFIX: &str = "ovl-demo";
const RUN_DIR: &str = "/run/ovl-demo";
/// How long a command of the demo may take in seconds.
const PATIENCE: &str = "20";

/// The lab; dropping it without [`Lab::keep`] takes it away.
pub struct Lab {
    agents: Vec<Child>,
    server: Option<Server>,
    up: bool,
}

impl Lab {
    /// Makes namespaces and wire, and starts the store, if it is a server, and the agents.
    pub fn new(store: Option<Kind>) -> Result<Self> {
        ensure!(
            !Path::new(RUN_DIR).exists() && !netns_path("host1").exists(),
            "a demo is up already, or was cut short: `cargo xtask clean` removes it"
        );
        let mut lab = Self { agents: Vec::new(), server: None, up: true };
        fs::create_dir_all(RUN_DIR).with_context(|| format!("cannot make {RUN_DIR}"))?;
        lab.wire()?;
        lab.server = store.map(start_server).transpose()?;
        for host in HOSTS {
            lab.agents.push(start_agent(host, &lab.store_url())?);
        }
        Ok(lab)
    }

    /// The store's URL.
    pub fn store_url(&self) -> String {
        self.server.as_ref().map_or_else(|| format!("sqlite://{RUN_DIR}/overlay.db"), Server::url)
    }

    /// The keys in the store, as its own tool shows them; the embedded one has none.
    pub fn browse(&self) -> Option<Command> {
        let browser = self.server.as_ref()?.browser().ok()?;
        let mut command = inside(STORE, &[]);
        command.arg(browser.get_program()).args(browser.get_args());
        Some(command)
    }

    /// The command line, speaking to one host's agent.
    pub fn overlay(&self, host: &str, words: &[&str]) -> Command {
        let mut command = Command::new(layout::bin_dir(false).join("overlay"));
        command.arg("--socket").arg(run_dir(host).join("overlay.sock")).args(words);
        command
    }

    /// Attaches a container.
    pub fn attach(&self, host: &str, network: &str, container: &str) -> Command {
        self.overlay(host, &["attach", network, "--netns", &netns(container), "--name", container])
    }

    /// Runs a program in a container.
    pub fn in_container(&self, container: &str, words: &[&str]) -> Command {
        inside(container, words)
    }

    /// Pings from a container, by address or by name: unlike `nsenter`, `ip netns exec` shows it its own resolv.conf.
    pub fn ping(&self, container: &str, whom: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &netns(container)]);
        command.args(["ping", "-c", "3", "-i", "0.2", "-W", "1", whom]);
        command
    }

    /// Waits in a container for one connection, and says who made it.
    pub fn listen(&self, container: &str, port: &str) -> Command {
        inside(container, &["timeout", PATIENCE, "nc", "-l", "-v", "-n", port])
    }

    /// Connects, from a container or from the world.
    pub fn connect(&self, from: &str, address: &str, port: &str) -> Command {
        inside(from, &["nc", "-z", "-n", "-w", "2", address, port])
    }

    /// Shows the next VXLAN packet on a host's underlay device.
    pub fn capture(&self, host: &str) -> Command {
        inside(host, &["timeout", PATIENCE, "tcpdump", "-i", "eth0", "-nn", "-c", "1", "udp port 4789"])
    }

    /// The FDB as the kernel's own tool shows it.
    pub fn bpftool_fdb(&self, host: &str) -> Command {
        let mut command = Command::new("bpftool");
        let maps = fs::read_dir(bpffs_dir(host)).into_iter().flatten().flatten().map(|entry| entry.path());
        let pin = maps.filter(|path| is_map_dir(path)).map(|dir| dir.join("fdb")).next().unwrap_or_default();
        command.args(["map", "dump", "pinned"]).arg(pin);
        command
    }

    /// Leaves everything up and says how to play with it.
    pub fn keep(mut self) {
        self.up = false;
        // Its process outlives this one.
        std::mem::forget(self.server.take());
        println!("\nThe lab stays up. To play with it:");
        for host in HOSTS {
            println!("  export OVERLAY_SOCKET={}/overlay.sock   # speak to {host}", run_dir(host).display());
        }
        println!("  {} endpoint ls", layout::shown(&layout::bin_dir(false).join("overlay")));
        println!("  ip netns exec {} ping bbox1", netns("bbox2"));
        println!("  cargo xtask clean                                  # takes it away");
    }

    /// Takes everything away, and looks whether anything is left.
    pub fn remove(mut self) -> Result<()> {
        self.up = false;
        self.take_down()
    }

    fn wire(&self) -> Result<()> {
        for name in HOSTS.iter().chain(&CONTAINERS).chain(&[STORE, WORLD, "wire"]) {
            ip(&["netns", "add", &netns(name)])?;
            ip(&["-n", &netns(name), "link", "set", "lo", "up"])?;
        }
        let wire = netns("wire");
        ip(&["-n", &wire, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &wire, "link", "set", "br0", "up"])?;
        let hosts = (1..).map(|number| Ipv4Addr::new(192, 168, 77, number)).zip(HOSTS);
        for (address, host) in hosts.chain([(STORE_ADDR, STORE), (WORLD_ADDR, WORLD)]) {
            let (ns, port, address) = (netns(host), format!("to-{host}"), format!("{address}/24"));
            ip(&["-n", &ns, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &wire])?;
            ip(&["-n", &wire, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", &ns, "address", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &ns, "link", "set", "eth0", "up"])?;
        }
        ip(&["-n", &netns(WORLD), "address", "add", FAR, "dev", "lo"])?;
        for host in HOSTS {
            ip(&["-n", &netns(host), "route", "add", "default", "via", &WORLD_ADDR.to_string()])?;
        }
        Ok(())
    }

    /// Goes on past failures, so that one thing that cannot be removed does not keep the rest.
    fn take_down(&mut self) -> Result<()> {
        let mut result = Ok(());
        for mut agent in self.agents.drain(..) {
            result = result.and(stop(&mut agent));
        }
        for host in HOSTS {
            let mut cleanup = agent_command(host, &self.store_url(), &["--cleanup"]);
            result = result.and(process::output(&mut cleanup).map(drop));
        }
        self.server = None;
        let namespaces = HOSTS.iter().chain(&CONTAINERS).chain(&[STORE, WORLD, "wire"]);
        for name in namespaces.filter(|name| netns_path(name).exists()) {
            result = result.and(ip(&["netns", "delete", &netns(name)]));
        }
        result = result.and(fs::remove_dir_all(RUN_DIR).context("cannot remove the run directory"));
        result.and_then(|()| nothing_is_left())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.up
            && let Err(e) = self.take_down()
        {
            eprintln!("cannot take the demo away: {e:#}; `cargo xtask clean` does");
        }
    }
}

fn nothing_is_left() -> Result<()> {
    let pins = HOSTS.map(bpffs_dir).into_iter().filter(|dir| dir.exists());
    let namespaces =
        HOSTS.iter().chain(&CONTAINERS).map(|name| netns_path(name)).filter(|path| path.exists());
    match pins.chain(namespaces).next() {
        Some(path) => bail!("{} is still there", path.display()),
        None => Ok(()),
    }
}

fn start_server(kind: Kind) -> Result<Server> {
    let place =
        Place { dir: run_dir(STORE), netns: Some(netns(STORE)), ip: STORE_ADDR, dies_with_thread: false };
    Server::start(kind, place)
}

fn start_agent(host: &str, store: &str) -> Result<Child> {
    let dir = run_dir(host);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let log = File::create(dir.join("agent.log")).context("cannot make the agent's log")?;
    agent_command(host, store, &[])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start the agent of {host}"))
}

fn agent_command(host: &str, store: &str, more: &[&str]) -> Command {
    let mut command = inside(host, &[]);
    command
        .arg(layout::bin_dir(false).join("overlay-agent"))
        .args(["--node", host, "--underlay", "eth0", "--store", store])
        // The world has no resolver, and says so at once.
        .args(["--dns", FAR])
        .arg("--run-dir")
        .arg(run_dir(host))
        .arg("--state-dir")
        .arg(run_dir(host).join("state"))
        .arg("--bpffs-dir")
        .arg(bpffs_dir(host))
        .args(more);
    command
}

/// Asks an agent to end, and makes it if it does not.
fn stop(agent: &mut Child) -> Result<()> {
    const STEP: Duration = Duration::from_millis(20);
    let pid = Pid::from_raw(agent.id().try_into().context("process id out of range")?);
    kill(pid, Signal::SIGTERM).context("cannot end an agent")?;
    for _ in 0..500 {
        if agent.try_wait()?.is_some() {
            return Ok(());
        }
        std::thread::sleep(STEP);
    }
    agent.kill()?;
    agent.wait()?;
    bail!("an agent did not end within 10 s")
}

fn inside(name: &str, words: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns_path(name).display())).args(words);
    command
}

fn ip(words: &[&str]) -> Result<()> {
    process::run(Command::new("ip").args(words))
}

fn netns(name: &str) -> String {
    format!("{PREFIX}-{name}")
}

fn netns_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(netns(name))
}

fn run_dir(host: &str) -> PathBuf {
    Path::new(RUN_DIR).join(host)
}

fn bpffs_dir(host: &str) -> PathBuf {
    Path::new("/sys/fs/bpf").join(netns(host))
}

fn is_map_dir(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("maps-"))
}
