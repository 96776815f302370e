//! ZooKeeper: one server on the system's Java.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{Site, data, exchange};
use crate::{
    packages::{self, JAVA},
    unpacked,
};

/// For clients, where ZooKeeper has it by default.
pub const PORTS: &[u16] = &[2181];

/// What the server loads, and no second binding of the logging library, which would refuse to start.
const JARS: &[&str] = &[
    "zookeeper",
    "zookeeper-jute",
    "slf4j-api",
    "slf4j-simple",
    "commons-cli",
    "metrics-core",
    "snappy-java",
    "netty-buffer",
    "netty-codec",
    "netty-common",
    "netty-handler",
    "netty-resolver",
    "netty-transport",
    "netty-transport-native-epoll",
];

pub fn software() -> Result<PathBuf> {
    packages::ensure(JAVA)?;
    unpacked::ZOOKEEPER.ensure()
}

pub fn command(site: &Site<'_>) -> Result<Command> {
    let config = site.dir.join("zoo.cfg");
    fs::write(&config, settings(site)).with_context(|| format!("cannot write {}", config.display()))?;
    Ok(server(site.software, &config))
}

/// A server with a configuration of its own.
pub fn server(software: &Path, config: &Path) -> Command {
    let mut java = java(software);
    java.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain").arg(config);
    java
}

fn settings(site: &Site<'_>) -> String {
    format!(
        "tickTime=500\ndataDir={}\nclientPort={}\nclientPortAddress={}\nmaxClientCnxns=0\n\
         admin.enableServer=false\n4lw.commands.whitelist=*\n",
        data(site.dir).display(),
        site.ports[0],
        site.ip
    )
}

pub fn browser(software: &Path, address: SocketAddr) -> Command {
    let mut client = java(software);
    client.args([
        "org.apache.zookeeper.ZooKeeperMain",
        "-server",
        &address.to_string(),
        "ls",
        "-R",
        "/overlay",
    ]);
    client
}

/// Java with what the server and its client load.
fn java(software: &Path) -> Command {
    let jars: Vec<String> = JARS
        .iter()
        .map(|jar| software.join(format!("usr/share/java/{jar}.jar")).display().to_string())
        .collect();
    let mut java = Command::new("java");
    // Small, and quick to start.
    java.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    java.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn");
    java.args(["-cp", &jars.join(":")]);
    java
}

/// Whether it takes requests.
pub fn serves(address: SocketAddr) -> bool {
    exchange(address, "srvr").is_some_and(|answer| answer.contains("Mode:"))
}
