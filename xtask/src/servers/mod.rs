//! Real store servers of Debian's packages, unpacked and not installed, each in a directory of its own.

mod consul;
mod etcd;
mod zookeeper;

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

/// How long a server may take to answer; a JVM on a busy machine is slow.
const START: Duration = Duration::from_secs(60);
/// How often to ask whether it does.
const POLL: Duration = Duration::from_millis(100);

/// A kind of store server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Consul.
    Consul,
    /// etcd.
    Etcd,
    /// ZooKeeper.
    Zookeeper,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Consul, Self::Etcd, Self::Zookeeper];

    /// The scheme of its store URLs.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Consul => "consul",
            Self::Etcd => "etcd",
            Self::Zookeeper => "zookeeper",
        }
    }

    /// Downloads what the server needs, where it is not there yet.
    ///
    /// # Errors
    /// If that is not to be had.
    pub fn ensure(self) -> Result<()> {
        self.software().map(drop)
    }

    /// The directory that its software is unpacked in; downloaded where it is not there yet.
    ///
    /// # Errors
    /// If that is not to be had.
    pub fn software(self) -> Result<PathBuf> {
        match self {
            Self::Consul => consul::software(),
            Self::Etcd => etcd::software(),
            Self::Zookeeper => zookeeper::software(),
        }
    }

    /// The ports that a server has by default, the clients' first.
    const fn default_ports(self) -> &'static [u16] {
        match self {
            Self::Consul => consul::PORTS,
            Self::Etcd => etcd::PORTS,
            Self::Zookeeper => zookeeper::PORTS,
        }
    }
}

/// The command of a ZooKeeper server with a configuration file of its own, such as one of several or one with TLS.
///
/// # Errors
/// If its software cannot be had.
pub fn zookeeper_with(config: &Path) -> Result<Command> {
    Ok(zookeeper::server(&zookeeper::software()?, config))
}

/// What a server is started with.
struct Site<'a> {
    /// Where its software is unpacked.
    software: &'a Path,
    /// Its own directory, for data and configuration.
    dir: &'a Path,
    /// The address that it binds.
    ip: Ipv4Addr,
    /// Its ports, the clients' first.
    ports: &'a [u16],
}

/// Where a server runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// A directory for its data and its log; made if it is not there.
    pub dir: PathBuf,
    /// The named network namespace that it runs in, if not this one.
    pub netns: Option<String>,
    /// An address there.
    pub ip: Ipv4Addr,
    /// The kernel kills the server when the thread that starts it ends.
    pub dies_with_thread: bool,
}

impl Place {
    /// On this machine's loopback device.
    #[must_use]
    pub fn loopback(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), netns: None, ip: Ipv4Addr::LOCALHOST, dies_with_thread: false }
    }
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    place: Place,
    ports: Vec<u16>,
    process: Option<Child>,
}

impl Server {
    /// Starts a server, on ports that are free, and waits until it serves.
    ///
    /// # Errors
    /// If its software cannot be had, or it ends or does not answer in time; its log's path is named.
    pub fn start(kind: Kind, place: Place) -> Result<Self> {
        fs::create_dir_all(&place.dir).with_context(|| format!("cannot make {}", place.dir.display()))?;
        let ports = ports(kind, &place)?;
        let mut server = Self { kind, place, ports, process: None };
        server.resume()?;
        Ok(server)
    }

    /// A server for the whole of this process, on this machine's loopback device. It ends with the process,
    /// however that ends.
    ///
    /// # Panics
    /// If it cannot be started: a test without its server fails.
    #[must_use]
    pub fn shared(kind: Kind) -> &'static Self {
        static SHARED: [OnceLock<Server>; 3] = [const { OnceLock::new() }; 3];
        SHARED[kind as usize].get_or_init(|| {
            let dir = shared_dir(kind);
            let (sender, receiver) = mpsc::channel();
            // The kernel kills the server when the thread that started it ends: this one never does before the process.
            thread::spawn(move || {
                let server = Self::start(kind, Place { dies_with_thread: true, ..Place::loopback(&dir) });
                let _ = sender.send(server);
                loop {
                    thread::park();
                }
            });
            let started = receiver.recv().unwrap_or_else(|_| Err(anyhow!("its thread ended")));
            started.unwrap_or_else(|error| panic!("no {}: {error:#}", kind.scheme()))
        })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.place.ip), self.ports[0])
    }

    /// Its URL for `--store`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.kind.scheme(), self.address())
    }

    /// Process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Kills it; what it stored stays.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts it again, on the same ports and with what it stored.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn resume(&mut self) -> Result<()> {
        let software = self.kind.software()?;
        let dir = self.place.dir.clone();
        let site = Site { software: &software, dir: &dir, ip: self.place.ip, ports: &self.ports };
        let command = match self.kind {
            Kind::Consul => consul::command(&site),
            Kind::Etcd => etcd::command(&site),
            Kind::Zookeeper => zookeeper::command(&site),
        }?;
        self.process = Some(self.spawn(&command)?);
        self.wait_until_it_serves()
    }

    /// Kills it, throws away what it stored, and starts it again.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn wipe(&mut self) -> Result<()> {
        self.kill();
        let data = data(&self.place.dir);
        if data.exists() {
            fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))?;
        }
        self.resume()
    }

    /// The store's own command that lists all keys; to be run where the server runs.
    ///
    /// # Errors
    /// If its software cannot be had.
    pub fn browser(&self) -> Result<Command> {
        let (software, address) = (self.kind.software()?, self.address());
        Ok(match self.kind {
            Kind::Consul => consul::browser(&software, address),
            Kind::Etcd => etcd::browser(&software, address),
            Kind::Zookeeper => zookeeper::browser(&software, address),
        })
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.place.dir.join("log")
    }

    fn spawn(&self, command: &Command) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut placed = match &self.place.netns {
            None => Command::new(command.get_program()),
            Some(netns) => {
                let mut inside = Command::new("ip");
                inside.args(["netns", "exec", netns]).arg(command.get_program());
                inside
            }
        };
        placed.args(command.get_args()).current_dir(&self.place.dir);
        placed.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if self.place.dies_with_thread {
            die_with_thread(&mut placed);
        }
        placed.spawn().with_context(|| format!("cannot start {}", self.kind.scheme()))
    }

    fn wait_until_it_serves(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        while !self.serves() {
            if let Some(status) = self.process.as_mut().and_then(|p| p.try_wait().transpose()).transpose()? {
                bail!("{} ended ({status}): see {}", self.kind.scheme(), self.log().display());
            }
            if Instant::now() > deadline {
                bail!("{} does not answer: see {}", self.kind.scheme(), self.log().display());
            }
            sleep(POLL);
        }
        Ok(())
    }

    fn serves(&self) -> bool {
        let ask = || match self.kind {
            Kind::Consul => consul::serves(self.address()),
            Kind::Etcd => etcd::serves(self.address()),
            Kind::Zookeeper => zookeeper::serves(self.address()),
        };
        match &self.place.netns {
            None => ask(),
            Some(netns) => inside(netns, ask).unwrap_or(false),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn die_with_thread(command: &mut Command) {
    let ask = || nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(io::Error::from);
    // SAFETY: between fork and exec this makes one system call and touches no memory of the parent's.
    unsafe { command.pre_exec(ask) };
}

/// A directory for this process's shared server. Those of processes that are gone are removed: nobody else could.
fn shared_dir(kind: Kind) -> PathBuf {
    let start = format!("ovl-{}-", kind.scheme());
    let here = std::env::temp_dir();
    for entry in fs::read_dir(&here).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(&start));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another process may be quicker.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    here.join(format!("{start}{}", std::process::id()))
}

/// Where a server keeps what it stores.
fn data(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// The usual ports in a namespace of its own, free ones in this one.
fn ports(kind: Kind, place: &Place) -> Result<Vec<u16>> {
    let usual = kind.default_ports();
    if place.netns.is_some() {
        return Ok(usual.to_vec());
    }
    // All are held until the last is found, so that none is named twice.
    let held: Vec<TcpListener> = usual
        .iter()
        .map(|_| TcpListener::bind((place.ip, 0)))
        .collect::<Result<_, _>>()
        .context("no port is free")?;
    Ok(held.iter().map(|l| l.local_addr().map(|a| a.port())).collect::<Result<_, _>>()?)
}

/// Runs a question on a thread that has entered a named network namespace, and ends there.
fn inside<T: Send>(netns: &str, question: impl Fn() -> T + Send + Sync) -> Result<T> {
    let namespace = File::open(Path::new("/run/netns").join(netns))?;
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
            Ok(question())
        });
        asking.join().map_err(|_| anyhow!("the question panicked"))?
    })
}

/// What a server answers to a few bytes, as far as it comes within a second.
fn exchange(address: SocketAddr, request: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};
    const PATIENCE: Duration = Duration::from_secs(1);
    let mut stream = std::net::TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    // What came before a time-out is what there is.
    let _ = stream.read_to_end(&mut answer);
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// Body and head of the answer to an HTTP request, without its connection kept.
fn http_get(address: SocketAddr, path: &str) -> Option<String> {
    exchange(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n"))
}
