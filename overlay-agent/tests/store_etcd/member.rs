//! etcd servers with settings of their own.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use etcd_client::{Client, ConnectOptions};
use xtask::servers::Kind;

/// One server; killed when dropped.
pub struct Member {
    name: String,
    dir: PathBuf,
    /// For clients and for other members.
    ports: [u16; 2],
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Member {
    /// One that is alone, reached by `scheme`.
    pub fn alone(dir: &Path, scheme: &str, arguments: &[String]) -> Self {
        let mut member = Self::new(dir, "one");
        let clients = format!("{scheme}://127.0.0.1:{}", member.ports[0]);
        member.set("--initial-cluster", &format!("one={}", member.peer_url()));
        member.listen(&clients);
        member.arguments.extend_from_slice(arguments);
        member.start();
        member
    }

    /// A cluster of three.
    pub fn three(dir: &Path) -> Vec<Self> {
        let mut members: Vec<Self> = ["a", "b", "c"].iter().map(|name| Self::new(dir, name)).collect();
        let all: Vec<String> = members.iter().map(|m| format!("{}={}", m.name, m.peer_url())).collect();
        for member in &mut members {
            member.set("--initial-cluster", &all.join(","));
            member.listen(&format!("http://{}", member.address()));
            member.start();
        }
        members
    }

    fn new(dir: &Path, name: &str) -> Self {
        // Both are held until both are found.
        let held = [0, 0].map(|any| TcpListener::bind((Ipv4Addr::LOCALHOST, any)).unwrap());
        let ports = held.map(|listener| listener.local_addr().unwrap().port());
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self { name: name.to_owned(), dir, ports, arguments: Vec::new(), process: None }
    }

    fn set(&mut self, flag: &str, value: &str) {
        self.arguments.extend([flag.to_owned(), value.to_owned()]);
    }

    fn listen(&mut self, clients: &str) {
        let (name, data, peers) =
            (self.name.clone(), self.dir.join("data").display().to_string(), self.peer_url());
        self.set("--name", &name);
        self.set("--data-dir", &data);
        self.set("--listen-client-urls", clients);
        self.set("--advertise-client-urls", clients);
        self.set("--listen-peer-urls", &peers);
        self.set("--initial-advertise-peer-urls", &peers);
        self.set("--log-level", "warn");
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[1])
    }

    /// Where clients connect to.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// Starts it with what it stored.
    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut etcd = Command::new(Kind::Etcd.software().unwrap().join("usr/bin/etcd"));
        etcd.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(etcd.spawn().unwrap());
    }

    /// Kills it; what it stored stays.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An administrator's client, once the server serves.
pub async fn administrator(address: &str, options: ConnectOptions) -> Client {
    loop {
        let client = Client::connect([address], Some(options.clone())).await;
        if let Ok(mut client) = client
            && client.get("any", None).await.is_ok()
        {
            return client;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
