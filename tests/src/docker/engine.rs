//! One Docker engine in a host's namespace.
//!
//! It runs in a mount namespace of its own, where `/run`, `/var/lib` and `/etc` are copies that nobody else sees: the
//! engine writes to fixed paths there whatever its flags say. Two directories lead out of it: that of its plugins, and that
//! where it keeps the containers' network namespaces, as on a host whose agent sees them.

use std::{
    fs::{self, OpenOptions},
    net::Ipv4Addr,
    os::unix::{fs::MetadataExt as _, fs::symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::packages::Packages;
use crate::{
    exec::{self, Finished},
    netns::Netns,
    wait,
};

/// The one image: static busybox under all its names, which waits unless it is told something else.
pub const IMAGE: &str = "busybox";
/// Longest time from the start of an engine until it answers, and from SIGTERM until it has ended.
const DEADLINE: Duration = Duration::from_secs(40);
/// A container that nobody removed ends by itself.
const LIFE: &str = r#"CMD ["/bin/sleep", "7200"]"#;
/// Hides the fixed paths, keeps the engine's own directory visible, and becomes the engine. What is mounted in `exec` is
/// mounted for all; every other mount becomes its own first.
const ENTER: &str = r#"set -e
dir=$1; shift
cut -d' ' -f5 /proc/self/mountinfo | while read -r point; do
  # Others' come and go.
  [ "$point" = "$dir/exec" ] || mount --make-private "$point" 2>/dev/null || ! mountpoint -q "$point"
done
mount --rbind "$dir" /mnt
mount -t tmpfs docker /run
mkdir -p "$dir" /run/etc /run/work /run/docker/plugins
mount --move /mnt "$dir"
mount --bind "$dir/plugins" /run/docker/plugins
mount -t tmpfs docker /var/lib
mount -t overlay docker -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/work /etc
exec "$@""#;

/// A running engine; ended with all its containers when dropped.
#[derive(Debug)]
pub struct Engine {
    netns: PathBuf,
    entry: [String; 2],
    dir: PathBuf,
    packages: Packages,
    cgroup: String,
    child: Child,
}

/// A running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its first process.
    pub pid: u32,
    /// Its address in a network.
    pub addr: Ipv4Addr,
}

impl Engine {
    /// Starts one with its files in `dir`, and waits until it answers and has its image.
    ///
    /// # Errors
    /// What did not work.
    pub fn start(netns: &Netns, dir: PathBuf, packages: Packages, cgroup: &str) -> Result<Self> {
        for part in ["plugins", "exec"] {
            fs::create_dir_all(dir.join(part)).with_context(|| format!("cannot make {part}"))?;
        }
        share(&dir.join("exec"))?;
        let (entry, cgroup) = (netns.entry(), cgroup.to_owned());
        let child = spawn(&entry, &dir, &packages, &cgroup)?;
        let mut engine = Self { netns: netns.path(), entry, dir, packages, cgroup, child };
        engine.wait_ready()?;
        engine.make_image()?;
        Ok(engine)
    }

    /// Where its plugins have their sockets.
    #[must_use]
    pub fn plugins(dir: &Path) -> PathBuf {
        dir.join("plugins")
    }

    /// Its own socket.
    #[must_use]
    pub fn socket(dir: &Path) -> PathBuf {
        dir.join("docker.sock")
    }

    /// The engine's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs Docker's command line against it, whatever comes of it.
    pub fn cli(&self, words: &[&str]) -> Finished {
        let program = self.packages.program("docker").unwrap_or_else(|_| "docker".into());
        let mut command = exec::command([program]);
        let config = self.dir.join("config");
        exec::finish(command.env("DOCKER_CONFIG", config).args(["--host", &self.url()]).args(words))
    }

    /// Runs a command that has to succeed; what it prints.
    ///
    /// # Errors
    /// If it does not.
    pub fn docker(&self, words: &[&str]) -> Result<String> {
        let finished = self.cli(words);
        ensure!(finished.is_success(), "{finished}");
        Ok(finished.stdout)
    }

    /// A container's process and address.
    ///
    /// # Errors
    /// If it does not run, or is not in the network.
    pub fn inspect(&self, name: &str, network: &str) -> Result<Running> {
        let format =
            format!("{{{{.State.Pid}}}} {{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        let text = self.docker(&["inspect", "--format", &format, name])?;
        let (pid, addr) = text.trim().split_once(' ').with_context(|| format!("no address in {text:?}"))?;
        Ok(Running {
            pid: pid.parse().context("no process id")?,
            addr: addr.parse().with_context(|| format!("{addr:?} is no address"))?,
        })
    }

    /// Starts a container that only waits.
    ///
    /// # Errors
    /// If it does not start.
    pub fn run_container(&self, name: &str, network: &str) -> Result<Running> {
        self.docker(&["run", "--detach", "--name", name, "--network", network, IMAGE])?;
        self.inspect(name, network)
    }

    /// How its command line finds it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("unix://{}", Self::socket(&self.dir).display())
    }

    /// What it wrote, all of it.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Ends the engine with a signal and starts it again; how long the start took until it answered.
    ///
    /// # Errors
    /// If it does not end or start.
    pub fn restart(&mut self, signal: Signal) -> Result<Duration> {
        self.end(signal)?;
        self.start_again()
    }

    /// Ends the engine with a signal.
    ///
    /// # Errors
    /// If it does not end.
    pub fn end(&mut self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("process id out of range")?;
        kill(Pid::from_raw(pid), signal).context("cannot signal the engine")?;
        let ended = wait::poll(DEADLINE, || self.child.try_wait().ok().flatten());
        ended.with_context(|| format!("the engine did not end within {DEADLINE:?}"))?;
        self.wait_for_containerd()
    }

    /// It ends with the engine, a little later. The next engine would take even what init has not yet buried for a living
    /// one, and wait for it in vain.
    fn wait_for_containerd(&self) -> Result<()> {
        let file = self.dir.join("exec/containerd/containerd.pid");
        let Ok(pid) = fs::read_to_string(&file) else { return Ok(()) };
        let exe = PathBuf::from(format!("/proc/{}/exe", pid.trim()));
        let is_gone = || fs::read_link(&exe).is_err().then_some(());
        wait::poll(DEADLINE, is_gone)
            .with_context(|| format!("containerd did not end within {DEADLINE:?}"))?;
        fs::remove_file(&file).context("cannot remove containerd's pid file")
    }

    /// Starts an engine that has ended, with all that it knew; how long it took until it answered.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_again(&mut self) -> Result<Duration> {
        let start = std::time::Instant::now();
        self.child = spawn(&self.entry, &self.dir, &self.packages, &self.cgroup)?;
        self.wait_ready()?;
        Ok(start.elapsed())
    }

    fn make_image(&self) -> Result<()> {
        let tree = self.dir.join("image/bin");
        fs::create_dir_all(&tree).context("cannot make the image's tree")?;
        let busybox = self.packages.program("busybox")?;
        fs::copy(&busybox, tree.join("busybox")).context("cannot copy busybox")?;
        let list = exec::run([busybox.as_os_str(), "--list".as_ref()]);
        ensure!(list.is_success(), "{list}");
        for applet in list.stdout.lines().filter(|applet| *applet != "busybox") {
            symlink("busybox", tree.join(applet)).with_context(|| format!("cannot make {applet}"))?;
        }
        let archive = r#"tar -C "$1" -c bin | "$2" --host "$3" import --change "$4" - "$5""#;
        let program = self.packages.program("docker")?;
        let mut import = exec::command(["sh", "-c", archive, "import"]);
        import.arg(self.dir.join("image")).arg(program).args([&self.url(), LIFE, IMAGE]);
        let imported = exec::finish(&mut import);
        ensure!(imported.is_success(), "the image cannot be made: {imported}");
        Ok(())
    }

    fn wait_ready(&mut self) -> Result<()> {
        let socket = Self::socket(&self.dir);
        let ready = wait::poll(DEADLINE, || match self.child.try_wait() {
            Ok(None) => (socket.exists() && self.cli(&["version"]).is_success()).then_some(true),
            _ => Some(false),
        });
        match ready {
            Some(true) => Ok(()),
            Some(false) => bail!("a Docker engine ended: {}", self.last_words()),
            None => bail!("a Docker engine did not answer within {DEADLINE:?}: {}", self.last_words()),
        }
    }

    fn last_words(&self) -> String {
        self.log().lines().last().unwrap_or("it said nothing").to_owned()
    }

    /// Asks everything to end, in Docker's own order.
    fn stop(&mut self) -> Result<()> {
        let containers = self.docker(&["ps", "--all", "--quiet"])?;
        let containers: Vec<&str> = containers.split_whitespace().collect();
        if !containers.is_empty() {
            self.docker(&[&["rm", "--force"], &containers[..]].concat())?;
        }
        // An engine that never joined a swarm cannot leave.
        self.cli(&["swarm", "leave", "--force"]);
        self.end(Signal::SIGTERM)
    }

    /// Kills what is still there of it: whoever runs its programs in its network namespace.
    fn kill_rest(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let netns = fs::metadata(&self.netns).map(|file| file.ino()).ok();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in processes {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let its_netns = fs::metadata(process.path().join("ns/net")).map(|file| file.ino()).ok();
            let is_in_it = its_netns.is_some() && its_netns == netns;
            if is_in_it
                && self.packages.own(&process.path())
                && kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
            {
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

/// Has mounts in a directory come and go in all mount namespaces that see it.
fn share(dir: &Path) -> Result<()> {
    let make = |source: Option<&Path>, flags| mount(source, dir, None::<&str>, flags, None::<&str>);
    make(Some(dir), MsFlags::MS_BIND)
        .and_then(|()| make(None, MsFlags::MS_SHARED))
        .with_context(|| format!("cannot share the mounts in {}", dir.display()))
}

/// `nsenter`, not `ip netns exec`, which would hide the cgroup mounts.
fn spawn(entry: &[String; 2], dir: &Path, packages: &Packages, cgroup: &str) -> Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .context("cannot make the engine's log")?;
    let [nsenter, netns] = entry;
    let mut command = Command::new(nsenter);
    command.arg(netns).args(["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", ENTER, "enter"]);
    command.arg(dir).arg(packages.program("dockerd")?);
    for (flag, file) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
        command.arg(flag).arg(dir.join(file));
    }
    command.arg("--host").arg(format!("unix://{}", Engine::socket(dir).display()));
    command
        .args(["--storage-driver", "vfs", "--bridge", "none", "--cgroup-parent"])
        .arg(format!("/{cgroup}"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    packages.prepare(&mut command)?.spawn().context("cannot start nsenter")
}
