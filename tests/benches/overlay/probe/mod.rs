//! A small netperf: request/response over TCP and UDP, connect/request/response, and datagrams as fast as they go.
//!
//! The benchmark runs itself again inside a namespace, once to serve and once to measure, so every peer is measured
//! by the same code.

pub mod measure;
pub mod serve;

use std::{ffi::OsString, io, os::fd::AsFd};

use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};

use crate::rows::stream::CONGESTION_CONTROL;

/// Port of every server.
pub const PORT: u16 = 7100;
/// What a server prints when it takes requests.
pub const READY: &str = "ready";
/// Bytes of a request and of its answer.
pub const REQUEST: usize = 1;

/// What somebody who asked and waited saw.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Waited {
    /// Answers that came.
    pub transactions: u64,
    /// Over how long.
    pub seconds: f64,
    /// Half of the answers came within this time.
    pub p50_us: f64,
    /// Of a hundred answers one took longer.
    pub p99_us: f64,
}

/// What somebody who sent without waiting did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub datagrams: u64,
    /// Over how long.
    pub seconds: f64,
}

/// What arrived at a sink.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Received {
    /// Datagrams.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Has a TCP socket use the congestion control that all peers use. By socket, since a namespace may take as its default
/// only what the machine's own namespace allows.
fn choose_congestion_control(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::TcpCongestion, &OsString::from(CONGESTION_CONTROL))?)
}
