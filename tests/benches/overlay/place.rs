//! Where a program runs: a network namespace and a processor.

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sched::{CloneFlags, CpuSet, sched_setaffinity, setns},
    unistd::Pid,
};
use overlay_tests::{exec, netns::Netns, programs::Inside};

/// A place and a processor there.
#[derive(Clone, Copy, Debug)]
pub struct Pinned<'a> {
    place: &'a Place,
    cpu: Cpu,
}

impl Inside for Pinned<'_> {
    fn words(&self) -> Vec<String> {
        self.place.entry(self.cpu).into()
    }
}

/// A processor by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu(pub u8);

/// The server's processor.
pub const SERVER_CPU: Cpu = Cpu(0);
/// The client's processor.
pub const CLIENT_CPU: Cpu = Cpu(1);

/// A network namespace by the file that stands for it.
#[derive(Clone, Debug)]
pub struct Place {
    file: PathBuf,
}

impl Place {
    /// A named namespace.
    pub fn of(netns: &Netns) -> Self {
        Self { file: netns.path() }
    }

    /// The namespace of a process.
    pub fn of_process(pid: u32) -> Self {
        Self { file: format!("/proc/{pid}/ns/net").into() }
    }

    /// Words to put before a program: it runs in this namespace on this processor, in the same process.
    fn entry(&self, cpu: Cpu) -> [String; 5] {
        let netns = format!("--net={}", self.file.display());
        ["nsenter".into(), netns, "taskset".into(), "--cpu-list".into(), cpu.0.to_string()]
    }

    /// A processor there.
    pub fn on(&self, cpu: Cpu) -> Pinned<'_> {
        Pinned { place: self, cpu }
    }

    /// Runs a closure there on a thread of its own, and waits for it.
    pub fn enter<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(&self.file).with_context(|| format!("cannot open {}", self.file.display()))?;
        let inside = || setns(file, CloneFlags::CLONE_NEWNET).map(|()| closure());
        let joined = thread::scope(|scope| scope.spawn(inside).join());
        let entered = joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        entered.with_context(|| format!("cannot enter {}", self.file.display()))
    }

    /// Runs a program to its end; its standard output.
    pub fn run<S: AsRef<OsStr>>(&self, cpu: Cpu, argv: &[S]) -> Result<String> {
        let finished = exec::finish(exec::command(self.entry(cpu)).args(argv));
        ensure!(finished.is_success(), "{finished}");
        Ok(finished.stdout)
    }

    /// Starts a server and waits until it says that it is ready.
    pub fn serve<S: AsRef<OsStr>>(&self, cpu: Cpu, argv: &[S], ready: &str) -> Result<Server> {
        let [nsenter, words @ ..] = self.entry(cpu);
        let mut command = Command::new(nsenter);
        Server::start(command.args(words).args(argv), ready)
    }

    /// Sets values below `/proc/sys/net` that this kernel has in this namespace.
    pub fn sysctl(&self, values: &[(&str, &str)]) -> Result<()> {
        for (name, value) in values {
            let write = format!("f=/proc/sys/net/{name}; [ ! -e $f ] || echo '{value}' > $f");
            self.run(SERVER_CPU, &["sh", "-c", &write])?;
        }
        Ok(())
    }
}

/// From a client to a server.
#[derive(Clone, Debug)]
pub struct Route {
    /// Where the client runs.
    pub client: Place,
    /// Where the server runs.
    pub server: Place,
    /// The server's address, as the client sees it.
    pub addr: Ipv4Addr,
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Server {
    fn start(command: &mut Command, ready: &str) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("the server's output is no pipe")?);
        let mut server = Self { child, stdin, stdout };
        server.wait_for(ready)?;
        Ok(server)
    }

    fn wait_for(&mut self, ready: &str) -> Result<()> {
        let mut line = String::new();
        while self.stdout.read_line(&mut line)? > 0 {
            if line.contains(ready) {
                return Ok(());
            }
            line.clear();
        }
        bail!("a server ended before it said {ready:?} ({:?})", self.child.wait())
    }

    /// Closes its standard input, which asks it to end, and returns the rest of what it prints.
    pub fn finish(mut self) -> Result<String> {
        drop(self.stdin.take());
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).context("cannot read what a server printed")?;
        let status = self.child.wait().context("cannot wait for a server")?;
        ensure!(status.success(), "a server ended with {status}");
        Ok(rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has this thread stay on a processor.
pub fn pin_this_thread(cpu: Cpu) -> Result<()> {
    let mut cpus = CpuSet::new();
    let pinned = cpus.set(usize::from(cpu.0)).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpus));
    pinned.with_context(|| format!("cannot run on processor {}", cpu.0))
}

/// This program's own path, to be run again inside a namespace.
pub fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find the path of this program")
}
