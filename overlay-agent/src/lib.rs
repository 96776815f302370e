//! The agent: keeps networks, endpoints and nodes in a store and the host's BPF maps true to it.
//!
//! ```text
//! request → api → service ──→ store ──→ mirror → reconcile → datapath → BPF maps → packets
//!                   └─→ netlink, netns (veth pairs, addresses, routes)
//! ```
//!
//! Nothing reaches a map any other way than through [`reconcile`] and [`datapath`].

pub mod activation;
pub mod agent;
pub mod api;
pub mod bugreport;
pub mod cli;
pub mod cni;
pub mod config;
pub mod datapath;
pub mod dns;
pub mod docker;
pub mod doctor;
pub mod engine;
pub mod family;
pub mod ipam;
pub mod ipam6;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod nat;
pub mod netavark;
pub mod netlink;
pub mod netns;
pub mod paths;
pub mod reconcile;
pub mod service;
pub mod store;
pub mod trace;
pub mod verify;
