//! Consul: one server that elects itself.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::{Site, data, http_get};
use crate::unpacked;

/// HTTP, and the two among servers that cannot be switched off, where Consul has them by default.
pub const PORTS: &[u16] = &[8500, 8300, 8301];

/// More settings, for tests that need them, in a server's directory.
const SETTINGS: &str = "more.hcl";

pub fn software() -> Result<PathBuf> {
    unpacked::CONSUL.ensure()
}

pub fn command(site: &Site<'_>) -> Result<Command> {
    let mut consul = Command::new(site.software.join("usr/bin/consul"));
    let &[http, server, serf] = site.ports else { unreachable!("as many as PORTS says") };
    consul.args(["agent", "-server", "-bootstrap-expect=1", "-ui", "-log-level=warn"]);
    // Elections with the shortest times that Consul knows: there is nobody to lose one to.
    consul.args(["-hcl", "performance { raft_multiplier = 1 }"]);
    // For values of the size that the contract allows, and for many agents on one machine.
    consul.args(["-hcl", "limits { txn_max_req_len = 1048576 http_max_conns_per_client = 10000 }"]);
    consul.args(["-dns-port=-1", "-grpc-port=-1", "-serf-wan-port=-1"]);
    consul.arg(format!("-data-dir={}", data(site.dir).display()));
    consul.arg(format!("-bind={}", site.ip)).arg(format!("-client={}", site.ip));
    consul.arg(format!("-http-port={http}"));
    consul.arg(format!("-server-port={server}")).arg(format!("-serf-lan-port={serf}"));
    let more = site.dir.join(SETTINGS);
    if more.exists() {
        consul.arg(format!("-config-file={}", more.display()));
    }
    Ok(consul)
}

pub fn browser(software: &Path, address: SocketAddr) -> Command {
    let mut consul = Command::new(software.join("usr/bin/consul"));
    consul.args(["kv", "get", "-keys", "-separator=", &format!("-http-addr={address}"), ""]);
    consul
}

/// Whether there is a leader.
pub fn serves(address: SocketAddr) -> bool {
    http_get(address, "/v1/kv/?keys").is_some_and(|answer| {
        // An empty store has no such key: that is an answer too.
        answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.0 404")
    })
}
