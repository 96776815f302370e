//! Stores under fault: what a test does to the store that its agents share, whatever kind of store it is.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use xtask::servers::{Kind, Place, Server};

use crate::{
    fault_proxy::{Fault, FaultProxy},
    netns::Netns,
    underlay::Underlay,
    workdir::WorkDir,
};

/// A store that can be taken away, given back and emptied. It is there at first.
pub trait FaultyStore {
    /// Its address, for `--store`.
    fn url(&self) -> String;

    /// From now on nobody reaches it, also those who have it open.
    fn stop(&self);

    /// Everybody reaches it again, as it was.
    fn start(&self);

    /// Empties it while it is there.
    fn wipe(&self);

    /// Connects it with the hosts; a file is there without.
    fn plug_into(&self, _underlay: &Underlay) {}

    /// Longest time until an agent notices that the store is gone.
    fn notice(&self) -> Duration {
        Duration::from_secs(5)
    }
}

/// A real server in a namespace of its own.
#[derive(Debug)]
pub struct ServerStore {
    server: Mutex<Server>,
    netns: Netns,
    // Its directory goes last.
    _dir: WorkDir,
}

impl ServerStore {
    const ADDR: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 250);
    const PLUG: &str = "plug";

    /// Starts a server that no host reaches yet.
    ///
    /// # Panics
    /// If it cannot be had or started.
    #[must_use]
    #[track_caller]
    pub fn new(kind: Kind) -> Self {
        let (dir, netns) = (WorkDir::new(kind.scheme()), Netns::new(kind.scheme()));
        netns.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", Self::PLUG]);
        netns.ip(&["address", "add", &format!("{}/24", Self::ADDR), "dev", "eth0"]);
        netns.ip(&["link", "set", "eth0", "up"]);
        let place = Place {
            dir: dir.path().to_owned(),
            netns: Some(netns.name().to_owned()),
            ip: Self::ADDR,
            dies_with_thread: false,
        };
        let server = Server::start(kind, place).unwrap_or_else(|e| panic!("no {}: {e:#}", kind.scheme()));
        Self { server: Mutex::new(server), netns, _dir: dir }
    }

    fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FaultyStore for ServerStore {
    fn url(&self) -> String {
        self.server().url()
    }

    fn stop(&self) {
        self.server().kill();
    }

    fn start(&self) {
        self.server().resume().expect("start the server again");
    }

    fn wipe(&self) {
        self.server().wipe().expect("wipe the server");
    }

    fn plug_into(&self, underlay: &Underlay) {
        self.netns.ip(&["link", "set", Self::PLUG, "netns", underlay.netns().name()]);
        underlay.plug(Self::PLUG);
    }
}

/// A real server behind a proxy: it is gone for those who ask by way of the proxy's fault.
#[derive(Debug)]
pub struct ProxiedStore {
    store: ServerStore,
    kind: Kind,
    proxy: FaultProxy,
    fault: Fault,
}

impl ProxiedStore {
    /// A server that goes away by this fault.
    ///
    /// # Panics
    /// If it cannot be had or started.
    #[must_use]
    #[track_caller]
    pub fn new(kind: Kind, fault: Fault) -> Self {
        let store = ServerStore::new(kind);
        let upstream = store.server().address();
        let listen = || TcpListener::bind((ServerStore::ADDR, 0)).expect("a port beside the server");
        let proxy = store.netns.enter(|| FaultProxy::on(listen(), upstream));
        Self { store, kind, proxy, fault }
    }

    /// The proxy.
    #[must_use]
    pub fn proxy(&self) -> &FaultProxy {
        &self.proxy
    }
}

impl FaultyStore for ProxiedStore {
    fn url(&self) -> String {
        let address: SocketAddr = self.proxy.addr();
        format!("{}://{address}", self.kind.scheme())
    }

    fn stop(&self) {
        self.proxy.set(self.fault);
    }

    fn start(&self) {
        self.proxy.set(Fault::None);
    }

    fn wipe(&self) {
        self.store.wipe();
    }

    fn plug_into(&self, underlay: &Underlay) {
        self.store.plug_into(underlay);
    }

    /// Who is not told has to find out: a watch that stays silent is one whose server has nothing to tell, until a
    /// sign of life fails or its client's keepalive does.
    fn notice(&self) -> Duration {
        Duration::from_secs(20)
    }
}

/// The SQLite store: a file in a directory of its own.
#[derive(Debug)]
pub struct SqliteFile {
    dir: PathBuf,
}

impl SqliteFile {
    /// A store in a directory that is made for it.
    ///
    /// # Panics
    /// If the directory cannot be made.
    #[must_use]
    #[track_caller]
    pub fn new(dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("cannot make {}: {e}", dir.display()));
        Self { dir }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join("overlay.db")
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes the file with what SQLite keeps beside it.
    ///
    /// # Panics
    /// If it is not there.
    #[track_caller]
    pub fn delete(&self) {
        fs::remove_file(self.path()).expect("remove the store's file");
        for beside in ["overlay.db-wal", "overlay.db-shm"] {
            // They come and go.
            let _ = fs::remove_file(self.dir.join(beside));
        }
    }

    /// Where the directory is while it is away.
    fn away(&self) -> PathBuf {
        self.dir.with_extension("away")
    }
}

impl FaultyStore for SqliteFile {
    fn url(&self) -> String {
        format!("sqlite://{}", self.path().display())
    }

    /// A plain file in the directory's place keeps agents from making the store anew.
    fn stop(&self) {
        fs::rename(&self.dir, self.away()).expect("move the store away");
        fs::write(&self.dir, "").expect("block the store's place");
    }

    fn start(&self) {
        fs::remove_file(&self.dir).expect("free the store's place");
        fs::rename(self.away(), &self.dir).expect("move the store back");
    }

    fn wipe(&self) {
        self.delete();
        fs::write(self.path(), "").expect("make an empty file");
    }
}
