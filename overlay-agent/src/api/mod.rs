//! The agent's API: HTTP/JSON on a unix socket.
//!
//! * [`types`]: requests and answers, shared by server and client
//! * [`server`]: routes, limits, peer credentials
//! * [`client`]: what the command line speaks with

pub mod client;
pub mod server;
pub mod types;
