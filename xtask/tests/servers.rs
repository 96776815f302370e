//! The store servers that everything else stands on.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{fs, net::TcpStream};

use xtask::servers::{Kind, Place, Server};

/// Starts a server, kills it, starts it again, wipes it.
fn lives(kind: Kind) {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(kind, Place::loopback(dir.path())).unwrap();
    assert_eq!(server.url(), format!("{}://{}", kind.scheme(), server.address()));
    let first = server.pid().unwrap();
    server.kill();
    assert!(TcpStream::connect(server.address()).is_err(), "killed");
    server.resume().unwrap();
    assert_ne!(server.pid().unwrap(), first);
    let marker = dir.path().join("data/of-before");
    fs::write(&marker, "").unwrap();
    server.wipe().unwrap();
    assert!(!marker.exists());
    drop(server);
    assert!(!fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let line = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        line.contains(dir.path().to_str().unwrap())
    }));
}

#[test]
fn consul_starts_and_ends_as_told() {
    lives(Kind::Consul);
}

#[test]
fn etcd_starts_and_ends_as_told() {
    lives(Kind::Etcd);
}

#[test]
fn zookeeper_starts_and_ends_as_told() {
    lives(Kind::Zookeeper);
}
