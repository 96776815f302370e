//! ZooKeeper servers with settings of their own.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

/// One server; killed when dropped.
pub struct Member {
    dir: PathBuf,
    /// For clients, clients with TLS, other members, and their elections.
    ports: [u16; 4],
    settings: String,
    process: Option<Child>,
}

impl Member {
    /// One that is alone, with these settings.
    pub fn alone(dir: &Path, settings: impl FnOnce(&Self) -> String) -> Self {
        let mut member = Self::new(dir, 1);
        member.settings = settings(&member);
        member.start();
        member
    }

    /// An ensemble of three.
    pub fn three(dir: &Path) -> Vec<Self> {
        let mut members: Vec<Self> = (1..=3).map(|id| Self::new(dir, id)).collect();
        let servers: Vec<String> = (1..).zip(&members).map(|(id, member)| member.peer(id)).collect();
        for member in &mut members {
            member.settings = format!("initLimit=20\nsyncLimit=10\n{}\n", servers.join("\n"));
            member.start();
        }
        members
    }

    fn new(dir: &Path, id: u32) -> Self {
        let dir = dir.join(id.to_string());
        fs::create_dir_all(dir.join("data")).unwrap();
        fs::write(dir.join("data/myid"), id.to_string()).unwrap();
        // All are held until all are found.
        let held = [0; 4].map(|any| TcpListener::bind((Ipv4Addr::LOCALHOST, any)).unwrap());
        let ports = held.map(|listener| listener.local_addr().unwrap().port());
        Self { dir, ports, settings: String::new(), process: None }
    }

    fn peer(&self, id: u32) -> String {
        format!("server.{id}=127.0.0.1:{}:{}", self.ports[2], self.ports[3])
    }

    /// Where clients connect to.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// The port for clients with TLS.
    pub fn tls_port(&self) -> u16 {
        self.ports[1]
    }

    /// Starts it with what it stored.
    pub fn start(&mut self) {
        let config = self.dir.join("zoo.cfg");
        let (data, port) = (self.dir.join("data"), self.ports[0]);
        let text = format!(
            "tickTime=500\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nmaxClientCnxns=0\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\n{}",
            data.display(),
            self.settings
        );
        fs::write(&config, text).unwrap();
        let log = File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut java = xtask::servers::zookeeper_with(&config).unwrap();
        java.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(java.spawn().unwrap());
    }

    /// Waits until it serves clients.
    pub async fn serve(&self) {
        while !self.serves() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn serves(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(self.address())?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"srvr")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok::<_, std::io::Error>(answer)
        };
        ask().is_ok_and(|answer| answer.contains("Mode:"))
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
