//! Consul servers with settings of their own.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use xtask::servers::Kind;

/// One server of three; killed when dropped.
pub struct Member {
    dir: PathBuf,
    /// HTTP, servers, gossip.
    ports: [u16; 3],
    others: Vec<u16>,
    process: Option<Child>,
}

impl Member {
    /// A cluster of three.
    pub fn three(dir: &Path) -> Vec<Self> {
        let mut members: Vec<Self> = ["a", "b", "c"].iter().map(|name| Self::new(&dir.join(name))).collect();
        let gossip: Vec<u16> = members.iter().map(|member| member.ports[2]).collect();
        for member in &mut members {
            member.others.clone_from(&gossip);
            member.start();
        }
        members
    }

    fn new(dir: &Path) -> Self {
        // All are held until all are found.
        let held = [0; 3].map(|any| TcpListener::bind((Ipv4Addr::LOCALHOST, any)).unwrap());
        let ports = held.map(|listener| listener.local_addr().unwrap().port());
        std::fs::create_dir_all(dir).unwrap();
        Self { dir: dir.to_owned(), ports, others: Vec::new(), process: None }
    }

    /// Where clients connect to.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// Starts it with what it stored.
    pub fn start(&mut self) {
        let [http, server, gossip] = self.ports;
        let name = self.dir.file_name().unwrap().to_str().unwrap();
        let log = File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut consul = Command::new(Kind::Consul.software().unwrap().join("usr/bin/consul"));
        consul.args(["agent", "-server", "-bootstrap-expect=3", "-bind=127.0.0.1", "-log-level=warn"]);
        consul.args(["-hcl", "performance { raft_multiplier = 1 }", "-dns-port=-1", "-grpc-port=-1"]);
        consul.args(["-serf-wan-port=-1", &format!("-node={name}"), &format!("-http-port={http}")]);
        consul.args([format!("-server-port={server}"), format!("-serf-lan-port={gossip}")]);
        consul.arg(format!("-data-dir={}", self.dir.join("data").display()));
        consul.args(self.others.iter().map(|port| format!("-retry-join=127.0.0.1:{port}")));
        consul.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(consul.spawn().unwrap());
    }

    /// Kills it; what it stored stays.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Waits until it knows a leader.
    pub async fn serves(&self) {
        let url = format!("consul://{}", self.address());
        loop {
            if let Ok(store) = overlay_agent::store::open(&url.as_str().into()).await
                && store.get("any").await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
