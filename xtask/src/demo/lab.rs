//! Hosts, containers and the wire between them: network namespaces, with an agent in each host's.
//!
//! Everything is named `ovl-demo-…`, so that `cargo xtask clean` finds it after a crash. Commands enter a
//! namespace with `nsenter`, not with `ip netns exec`: that would mount a `/sys` of its own and hide the
//! pins.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{layout, process};

/// The hosts.
pub const HOSTS: [&str; 2] = ["host1", "host2"];
const CONTAINERS: [&str; 3] = ["bbox1", "bbox2", "bbox3"];
const PREFIX: &str = "ovl-demo";
const RUN_DIR: &str = "/run/ovl-demo";
/// How long a command of the demo may take in seconds.
const PATIENCE: &str = "20";

/// The lab; dropping it without [`Lab::keep`] takes it away.
pub struct Lab {
    agents: Vec<Child>,
    up: bool,
}

impl Lab {
    /// Makes namespaces and wire, and starts the agents.
    pub fn new() -> Result<Self> {
        ensure!(
            !Path::new(RUN_DIR).exists() && !netns_path("host1").exists(),
            "a demo is up already, or was cut short: `cargo xtask clean` removes it"
        );
        let mut lab = Self { agents: Vec::new(), up: true };
        fs::create_dir_all(RUN_DIR).with_context(|| format!("cannot make {RUN_DIR}"))?;
        lab.wire()?;
        for host in HOSTS {
            lab.agents.push(start_agent(host)?);
        }
        Ok(lab)
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

    /// Pings from a container.
    pub fn ping(&self, container: &str, address: &str) -> Command {
        inside(container, &["ping", "-c", "3", "-i", "0.2", "-W", "1", address])
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
        println!("\nThe lab stays up. To play with it:");
        for host in HOSTS {
            println!("  export OVERLAY_SOCKET={}/overlay.sock   # speak to {host}", run_dir(host).display());
        }
        println!("  {} endpoint ls", layout::shown(&layout::bin_dir(false).join("overlay")));
        println!("  nsenter --net={} ping 10.0.0.2", netns_path("bbox2").display());
        println!("  cargo xtask clean                                  # takes it away");
    }

    /// Takes everything away, and looks whether anything is left.
    pub fn remove(mut self) -> Result<()> {
        self.up = false;
        self.take_down()
    }

    fn wire(&self) -> Result<()> {
        for name in HOSTS.iter().chain(&CONTAINERS).chain(&["wire"]) {
            ip(&["netns", "add", &netns(name)])?;
            ip(&["-n", &netns(name), "link", "set", "lo", "up"])?;
        }
        let wire = netns("wire");
        ip(&["-n", &wire, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &wire, "link", "set", "br0", "up"])?;
        for (number, host) in (1..).zip(HOSTS) {
            let (ns, port, address) = (netns(host), format!("to-{host}"), format!("192.168.77.{number}/24"));
            ip(&["-n", &ns, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &wire])?;
            ip(&["-n", &wire, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", &ns, "address", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &ns, "link", "set", "eth0", "up"])?;
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
            result = result.and(process::output(&mut agent_command(host, &["--cleanup"])).map(drop));
        }
        for name in HOSTS.iter().chain(&CONTAINERS).chain(&["wire"]).filter(|name| netns_path(name).exists())
        {
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

fn start_agent(host: &str) -> Result<Child> {
    let dir = run_dir(host);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let log = File::create(dir.join("agent.log")).context("cannot make the agent's log")?;
    agent_command(host, &[])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start the agent of {host}"))
}

fn agent_command(host: &str, more: &[&str]) -> Command {
    let mut command = inside(host, &[]);
    command
        .arg(layout::bin_dir(false).join("overlay-agent"))
        .args(["--node", host, "--underlay", "eth0", "--store", "sqlite:///run/ovl-demo/overlay.db"])
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
