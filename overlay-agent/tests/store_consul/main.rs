//! What Consul's store must survive: servers that die, hang or lose all they held, lost answers, tokens, TLS, size.
//!
//! What all stores have in common is in `store_conformance`.

#![cfg(feature = "consul")]
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod access;
mod failover;
mod layout;
mod lost_answer;
mod member;
mod proxy;
mod scale;
#[path = "../store_servers/mod.rs"]
mod store_servers;

use store_servers::{Hung, in_a_minute, next_item, open, put, values_until, watch_from_now};
use xtask::servers::{Kind, Place, Server};

/// One server; it ends with the test.
fn server(dir: &tempfile::TempDir) -> Server {
    let place = Place { dies_with_thread: true, ..Place::loopback(dir.path()) };
    Server::start(Kind::Consul, place).unwrap()
}
