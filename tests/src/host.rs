//! A host: a namespace on the underlay with an agent in it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    os::{
        fd::OwnedFd,
        unix::{net::UnixListener, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use overlay_common::abi;
use serde::de::DeserializeOwned;

use crate::{
    builds::Build,
    exec::{self, Finished},
    netns::Netns,
    packet::Addr,
    underlay::{Machine, UNDERLAY_IFNAME},
    views, wait,
};

/// Longest time from the start of an agent until it is ready.
const READY_DEADLINE: Duration = Duration::from_secs(20);
/// Longest time from SIGTERM until an agent has ended.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// Lines of the agent's log that a failed test shows.
const LOG_LINES: usize = 40;

/// The agent.
pub const AGENT: &str = "overlay-agent";
/// The command line.
pub const CLI: &str = "overlay";

/// Path of a program of the project: in `OVERLAY_BIN_DIR`, or where this test was built.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let built = || std::env::current_exe().expect("path of this test").ancestors().nth(2).map(Path::to_owned);
    let dir = std::env::var_os("OVERLAY_BIN_DIR")
        .map(PathBuf::from)
        .or_else(built)
        .expect("a directory of programs");
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is not there: build it with `cargo build`, or set OVERLAY_BIN_DIR",
        path.display()
    );
    path
}

/// Flags of an agent with their values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags(BTreeMap<String, String>);

impl Flags {
    /// The same flags with one changed or added.
    #[must_use]
    pub fn with(mut self, flag: &str, value: impl AsRef<Path>) -> Self {
        self.0.insert(flag.to_owned(), value.as_ref().display().to_string());
        self
    }

    /// The value of a flag.
    #[must_use]
    pub fn get(&self, flag: &str) -> Option<&str> {
        self.0.get(flag).map(String::as_str)
    }

    /// As words of a command line.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|(flag, value)| [flag.as_str(), value.as_str()])
    }
}

/// A host with its agent.
#[derive(Debug)]
pub struct Host {
    machine: Machine,
    label: String,
    dir: PathBuf,
    pins: PathBuf,
    flags: Flags,
    variables: Vec<(String, OsString)>,
    build: Mutex<Build>,
    agent: Mutex<Option<Child>>,
}

impl Host {
    /// A host whose agent does not run yet. `dir` is for its files, `pins` for its pins, `store` is the
    /// file that all hosts of the cluster share.
    #[must_use]
    pub fn new(machine: Machine, label: &str, dir: PathBuf, pins: PathBuf, store: &Path) -> Self {
        let flags = Flags(BTreeMap::new())
            .with("--node", label)
            .with("--underlay", UNDERLAY_IFNAME)
            .with("--store", format!("sqlite://{}", store.display()))
            .with("--run-dir", dir.join("run"))
            .with("--state-dir", dir.join("state"))
            .with("--bpffs-dir", &pins);
        let build = Mutex::new(Build::current());
        let (label, variables, agent) = (label.to_owned(), Vec::new(), Mutex::new(None));
        Self { machine, label, dir, pins, flags, variables, build, agent }
    }

    /// The same host with a variable of its agent's environment set.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: OsString) -> Self {
        self.variables.push((name.to_owned(), value));
        self
    }

    /// The same host with one flag of its agent changed or added.
    #[must_use]
    pub fn with_flag(mut self, flag: &str, value: &str) -> Self {
        self.flags = self.flags.clone().with(flag, value);
        self
    }

    /// Its node name.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.machine.netns
    }

    /// Its address on the underlay.
    #[must_use]
    pub fn addr(&self) -> Addr {
        self.machine.addr
    }

    /// Its port on the underlay's bridge.
    #[must_use]
    pub fn port(&self) -> &str {
        &self.machine.port
    }

    /// Directory of its pins.
    #[must_use]
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// The pin of a map: counters have a layout and a directory of their own.
    #[must_use]
    pub fn map_pin(&self, map: &str) -> PathBuf {
        let dir = if abi::map::COUNTERS.contains(&map) {
            format!("counters-v{}", abi::COUNTERS_VERSION)
        } else {
            format!("maps-v{}", abi::VERSION)
        };
        self.pins.join(dir).join(map)
    }

    /// Its agent's flags.
    #[must_use]
    pub fn flags(&self) -> &Flags {
        &self.flags
    }

    /// Path of the agent's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/overlay.sock")
    }
}

/// The agent's life.
impl Host {
    /// Starts the agent and waits until it is ready.
    ///
    /// # Panics
    /// If it ends, or is not ready in time.
    #[track_caller]
    pub fn start(&self) {
        self.spawn();
        self.wait_ready();
    }

    /// Starts the agent.
    ///
    /// # Panics
    /// If it runs already.
    #[track_caller]
    pub fn spawn(&self) {
        let [nsenter, netns] = self.netns().entry();
        let mut command = Command::new(nsenter);
        command.arg(netns).stdin(Stdio::null());
        self.spawn_by(command);
    }

    /// Starts the agent with a socket that is open already and has this name, as systemd does.
    ///
    /// # Panics
    /// If it runs already.
    #[track_caller]
    pub fn spawn_activated(&self, listener: UnixListener, name: &str) {
        const PASS_ON: &str =
            "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=$1; shift; exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", PASS_ON, "sh", name]).args(self.netns().entry());
        command.stdin(OwnedFd::from(listener));
        self.spawn_by(command);
    }

    /// Starts the agent by a command that runs in the host's namespace what is behind it.
    #[track_caller]
    fn spawn_by(&self, mut command: Command) {
        let mut agent = self.agent();
        assert!(agent.is_none(), "the agent of {} runs already", self.label);
        fs::create_dir_all(&self.dir).expect("make the host's directory");
        let log = || -> File {
            OpenOptions::new().create(true).append(true).open(self.log_path()).expect("open the agent's log")
        };
        let Build { agent: program, object } =
            self.build.lock().unwrap_or_else(PoisonError::into_inner).clone();
        command.arg(program).args(self.flags.words());
        command.args(object.iter().flat_map(|object| [Path::new("--bpf-object"), object]));
        command.envs(self.variables.iter().cloned()).stdout(log()).stderr(log());
        *agent = Some(command.spawn().expect("start nsenter"));
    }

    /// Installs another build of the agent: what the next start runs.
    pub fn install(&self, build: &Build) {
        *self.build.lock().unwrap_or_else(PoisonError::into_inner) = build.clone();
    }

    /// Waits until the agent's first pass is done.
    ///
    /// # Panics
    /// If it ends, or is not ready in time.
    #[track_caller]
    pub fn wait_ready(&self) {
        let ready = wait::poll(READY_DEADLINE, || {
            let ended = self.agent().as_mut().and_then(|child| child.try_wait().ok()).flatten();
            assert!(ended.is_none(), "the agent of {} ended: {ended:?}\n{}", self.label, self.log_tail());
            self.cli(&["status", "--wait"]).is_success().then_some(())
        });
        assert!(
            ready.is_some(),
            "the agent of {} is not ready: {}\n{}",
            self.label,
            self.cli(&["status"]),
            self.log_tail()
        );
    }

    /// The agent's process.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.agent().as_ref().unwrap_or_else(|| panic!("the agent of {} does not run", self.label)).id()
    }

    /// Ends the agent without a chance to tidy up.
    #[track_caller]
    pub fn kill9(&self) {
        let status = self.stop(Signal::SIGKILL);
        assert_eq!(
            status.signal(),
            Some(Signal::SIGKILL as i32),
            "the agent ended by itself: {status}\n{}",
            self.log_tail()
        );
    }

    /// Asks the agent to end, and waits for it.
    #[track_caller]
    pub fn terminate(&self) -> ExitStatus {
        self.stop(Signal::SIGTERM)
    }

    /// Runs an agent in this host's namespace to its end: one that shall fail, or one that cleans up.
    #[track_caller]
    pub fn run_agent(&self, flags: &Flags, extra: &[&str]) -> Finished {
        let agent = binary(AGENT).display().to_string();
        let words: Vec<&str> =
            [agent.as_str()].into_iter().chain(flags.words()).chain(extra.iter().copied()).collect();
        self.netns().run(&words)
    }

    /// Removes everything of the agent's.
    #[track_caller]
    pub fn cleanup(&self) -> Finished {
        self.run_agent(&self.flags, &["--cleanup"])
    }

    #[track_caller]
    fn stop(&self, signal: Signal) -> ExitStatus {
        let mut child =
            self.agent().take().unwrap_or_else(|| panic!("the agent of {} does not run", self.label));
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        kill(pid, signal).expect("signal the agent");
        wait::poll(STOP_DEADLINE, || child.try_wait().ok().flatten()).unwrap_or_else(|| {
            child.kill().and_then(|()| child.wait()).expect("end the agent");
            panic!(
                "the agent of {} did not end {STOP_DEADLINE:?} after {signal}\n{}",
                self.label,
                self.log_tail()
            )
        })
    }

    fn agent(&self) -> MutexGuard<'_, Option<Child>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The command line.
impl Host {
    /// Runs the command line against this host's agent, whatever comes of it.
    #[track_caller]
    pub fn cli(&self, argv: &[&str]) -> Finished {
        exec::finish(exec::command([binary(CLI)]).arg("--socket").arg(self.socket()).args(argv))
    }

    /// Runs a command that has to succeed; what it prints.
    #[track_caller]
    pub fn overlay(&self, argv: &[&str]) -> String {
        self.cli(argv).expect_success()
    }

    /// Runs a command that has to succeed with `-o json`, and reads what it prints.
    ///
    /// # Panics
    /// If it fails, or prints something else.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self, argv: &[&str]) -> T {
        let text = self.overlay(&[argv, &["-o", "json"]].concat());
        serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("`overlay {}` printed {text}: {e}", argv.join(" ")))
    }

    /// Creates a network.
    #[track_caller]
    pub fn create_network(&self, name: &str, extra: &[&str]) -> views::Network {
        self.json(&[&["network", "create", name], extra].concat())
    }

    /// All endpoints that this host knows of.
    #[track_caller]
    #[must_use]
    pub fn endpoints(&self) -> Vec<views::Endpoint> {
        self.json(&["endpoint", "ls"])
    }

    /// A node, as this host sees it.
    ///
    /// # Panics
    /// If it does not list it.
    #[track_caller]
    #[must_use]
    pub fn node(&self, name: &str) -> views::Node {
        let nodes: Vec<views::Node> = self.json(&["node", "ls"]);
        let found = nodes.iter().find(|node| node.name == name).cloned();
        found.unwrap_or_else(|| panic!("{} does not list {name}: {nodes:?}", self.label))
    }

    /// The agent's own state.
    #[track_caller]
    #[must_use]
    pub fn status(&self) -> views::Status {
        self.json(&["status"])
    }
}

/// The log.
impl Host {
    fn log_path(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// What the agent wrote last.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
        format!("--- log of {} ---\n{}\n---", self.label, tail.join("\n"))
    }
}

impl Drop for Host {
    /// Ends the agent, has it clean up, and says so if it cannot.
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        if let Some(mut child) = self.agent().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let cleaned = self.cleanup();
        if !cleaned.is_success() {
            let message = format!("clean-up of {} failed: {cleaned}", self.label);
            if thread::panicking() { eprintln!("{message}") } else { panic!("{message}") }
        }
    }
}
