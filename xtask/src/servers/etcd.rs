//! etcd: a cluster of one member.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::{Site, data, http_get};
use crate::unpacked;

/// For clients and for peers, where etcd has them by default.
pub const PORTS: &[u16] = &[2379, 2380];

pub fn software() -> Result<PathBuf> {
    unpacked::ETCD.ensure()
}

pub fn command(site: &Site<'_>) -> Result<Command> {
    let &[client, peer] = site.ports else { unreachable!("as many as PORTS says") };
    let client = format!("http://{}:{client}", site.ip);
    let peer = format!("http://{}:{peer}", site.ip);
    let mut etcd = Command::new(site.software.join("usr/bin/etcd"));
    etcd.arg("--data-dir").arg(data(site.dir));
    etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    etcd.args(["--name", "one", "--initial-cluster", &format!("one={peer}")]);
    etcd.args(["--log-level", "warn"]);
    Ok(etcd)
}

pub fn browser(software: &Path, address: SocketAddr) -> Command {
    let mut etcdctl = Command::new(software.join("usr/bin/etcdctl"));
    etcdctl.args([&format!("--endpoints={address}"), "get", "--prefix", "--keys-only", ""]);
    etcdctl
}

/// Whether there is a leader.
pub fn serves(address: SocketAddr) -> bool {
    http_get(address, "/health").is_some_and(|answer| answer.contains("\"true\""))
}
