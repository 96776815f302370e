//! One Docker engine in a host's namespace.
//!
//! It runs in a mount namespace of its own, where `/run`, `/var/lib` and `/etc` are copies that nobody else sees: the
//! engine writes to fixed paths there whatever its flags say.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use overlay_tests::{exec, packet::Addr, underlay::Machine, wait};

use super::{Container, NETWORK, packages::Packages};
use crate::place::Place;

const IMAGE: &str = "bench/busybox";
/// Longest time from the start of an engine until it answers, and from SIGTERM until it has ended.
const DEADLINE: Duration = Duration::from_secs(20);
/// A container that nobody removed ends by itself.
const LIFE_SECONDS: &str = "7200";
/// Hides the fixed paths, keeps the engine's own directory visible, and becomes the engine.
const ENTER: &str = r#"set -e
dir=$1; shift
mount --bind "$dir" /mnt
mount -t tmpfs docker /run
mkdir -p "$dir" /run/etc /run/work
mount --move /mnt "$dir"
mount -t tmpfs docker /var/lib
mount -t overlay docker -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/work /etc
exec "$@""#;

/// A running engine; ended with all its containers when dropped.
#[derive(Debug)]
pub struct Engine {
    machine: Machine,
    dir: PathBuf,
    packages: Packages,
    child: Child,
}

impl Engine {
    /// Starts one and waits until it answers.
    pub fn start(machine: Machine, dir: PathBuf, packages: Packages, cgroup: &str) -> Result<Self> {
        let log = File::create(dir.join("log")).context("cannot make the engine's log")?;
        let mut command = engine_command(&machine, &dir, &packages, cgroup)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = packages.prepare(&mut command)?.spawn().context("cannot start nsenter")?;
        let mut engine = Self { machine, dir, packages, child };
        engine.wait_ready()?;
        let archive = r#"tar -C "$1" -c busybox | "$2" --host "$3" import - "$4""#;
        let busybox = engine.packages.program("busybox")?;
        let program = engine.packages.program("docker")?;
        let mut import = exec::command(["sh", "-c", archive, "import"]);
        import.arg(busybox.parent().unwrap_or(Path::new("/"))).arg(program).args([&engine.url(), IMAGE]);
        let imported = exec::finish(&mut import);
        ensure!(imported.is_success(), "the image cannot be made: {imported}");
        Ok(engine)
    }

    /// Its host on the underlay.
    pub fn host(&self) -> Addr {
        self.machine.addr
    }

    /// Runs Docker's command line against it; what it prints.
    pub fn docker(&self, words: &[&str]) -> Result<String> {
        let mut command = exec::command([self.packages.program("docker")?]);
        let config = self.dir.join("config");
        let finished =
            exec::finish(command.env("DOCKER_CONFIG", config).args(["--host", &self.url()]).args(words));
        ensure!(finished.is_success(), "{finished}");
        Ok(finished.stdout)
    }

    /// Starts a container that only waits.
    pub fn run_container(&self, name: &str, network: &str) -> Result<Container> {
        let run = ["run", "--detach", "--name", name, "--network", network, IMAGE];
        self.docker(&[&run[..], &["/busybox", "sleep", LIFE_SECONDS]].concat())?;
        let format = format!("{{{{.State.Pid}}}} {{{{.NetworkSettings.Networks.{NETWORK}.IPAddress}}}}");
        let text = self.docker(&["inspect", "--format", &format, name])?;
        let (pid, addr) = text.trim().split_once(' ').with_context(|| format!("no address in {text:?}"))?;
        Ok(Container {
            place: Place::of_process(pid.parse().context("no process id")?),
            addr: addr.parse().with_context(|| format!("{addr:?} is no address"))?,
        })
    }

    /// Keeps bridged packets out of netfilter, on the host and in the network's own namespace: for none of the peers
    /// they go there.
    pub fn no_bridge_filter(&self) -> Result<()> {
        const VALUES: &[(&str, &str)] = &[("bridge/bridge-nf-call-iptables", "0")];
        Place::of(&self.machine.netns).sysctl(VALUES)?;
        let mounts = format!("--mount=/proc/{}/ns/mnt", self.child.id());
        let each = format!(
            "for n in {}/exec/netns/*; do \
             nsenter --net=$n sh -c '[ ! -e /proc/sys/net/{1} ] || echo {2} > /proc/sys/net/{1}'; done",
            self.dir.display(),
            VALUES[0].0,
            VALUES[0].1,
        );
        let finished = exec::run(["nsenter", &mounts, "sh", "-c", &each]);
        ensure!(finished.is_success(), "{finished}");
        Ok(())
    }

    fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    fn wait_ready(&mut self) -> Result<()> {
        let ready = wait::poll(DEADLINE, || match self.child.try_wait() {
            Ok(None) => (self.socket().exists() && self.docker(&["version"]).is_ok()).then_some(true),
            _ => Some(false),
        });
        match ready {
            Some(true) => Ok(()),
            Some(false) => bail!("a Docker engine ended: {}", self.last_words()),
            None => bail!("a Docker engine did not answer within {DEADLINE:?}: {}", self.last_words()),
        }
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        log.lines().last().unwrap_or("it said nothing").to_owned()
    }

    /// Asks everything to end, in Docker's own order.
    fn stop(&mut self) -> Result<()> {
        let containers = self.docker(&["ps", "--all", "--quiet"])?;
        let containers: Vec<&str> = containers.split_whitespace().collect();
        if !containers.is_empty() {
            self.docker(&[&["rm", "--force"], &containers[..]].concat())?;
        }
        // An engine that never joined cannot leave.
        let _ = self.docker(&["swarm", "leave", "--force"]);
        let pid = i32::try_from(self.child.id()).context("process id out of range")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("cannot signal the engine")?;
        let ended = wait::poll(DEADLINE, || self.child.try_wait().ok().flatten());
        ended.with_context(|| format!("the engine did not end within {DEADLINE:?}")).map(drop)
    }

    /// Kills what is still there of it: whoever runs its programs in its network namespace.
    fn kill_rest(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let netns = fs::metadata(self.machine.netns.path()).map(|file| file.ino()).ok();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in processes {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let its_netns = fs::metadata(process.path().join("ns/net")).map(|file| file.ino()).ok();
            let is_its = its_netns.is_some() && its_netns == netns;
            if is_its && kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
                eprintln!("killed process {pid} that a Docker engine left");
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(e) = self.stop() {
            eprintln!("a Docker engine did not go by itself: {e:#}");
        }
        self.kill_rest();
    }
}

/// `nsenter`, not `ip netns exec`, which would hide the cgroup mounts.
fn engine_command(machine: &Machine, dir: &Path, packages: &Packages, cgroup: &str) -> Result<Command> {
    let [nsenter, netns] = machine.netns.entry();
    let mut command = Command::new(nsenter);
    command.arg(netns).args(["unshare", "--mount", "sh", "-c", ENTER, "enter"]).arg(dir);
    command.arg(packages.program("dockerd")?);
    for (flag, file) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
        command.arg(flag).arg(dir.join(file));
    }
    command.arg("--host").arg(format!("unix://{}", dir.join("docker.sock").display()));
    command.args(["--storage-driver", "vfs", "--bridge", "none", "--cgroup-parent"]);
    command.arg(format!("/{cgroup}"));
    Ok(command)
}
