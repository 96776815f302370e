//! What on this host keeps the overlay from working, or from working well, and what to do about each of it.
//!
//! * [`kernel`]: version, types, JIT, the file system of the pins
//! * [`underlay`]: the device that carries the tunnels: MTU, hooks, offloads
//! * [`firewall`]: `nft`, the tunnels' port, chains that drop by policy
//! * [`ranges`]: addresses that mean two things
//! * [`cluster`]: the agent, its store, the clocks
//!
//! Examined with an agent or without: what an agent uses is asked of it, else what its settings say is taken. Nothing
//! is changed.

pub mod cluster;
pub mod firewall;
pub mod kernel;
pub mod ranges;
pub mod underlay;

use serde::Serialize;

use crate::{
    api::{
        client::{Client, ClientError},
        types::{NetworkView, NodeView, Status},
    },
    config::Config,
    netlink::Netlink,
};

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could, or it could not be looked at.
    Note,
    /// The overlay does not work, or not all of it.
    Wrong,
}

/// What was looked at, what was found, what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it is.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do; nothing if all is well.
    pub fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, health: Health::Ok, found: found.into(), fix: None }
    }

    fn note(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, health: Health::Note, found: found.into(), fix: Some(fix.into()) }
    }

    fn wrong(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { health: Health::Wrong, ..Self::note(check, found, fix) }
    }
}

/// A host, and what is known of its agent.
pub struct Patient {
    /// What the agent is, or would be, started with; or why that cannot be known.
    pub config: Result<Config, String>,
    /// What a running agent says, or why none does.
    pub agent: Result<Agent, ClientError>,
}

/// What a running agent says.
pub struct Agent {
    /// Its state.
    pub status: Status,
    /// The networks that it knows.
    pub networks: Vec<NetworkView>,
    /// The nodes that it knows.
    pub nodes: Vec<NodeView>,
}

impl Agent {
    /// Asks the agent on a socket.
    ///
    /// # Errors
    /// If none answers.
    pub async fn ask(client: &Client) -> Result<Self, ClientError> {
        let status = client.status().await?;
        Ok(Self { status, networks: client.networks().await?, nodes: client.nodes().await? })
    }
}

impl Patient {
    fn status(&self) -> Option<&Status> {
        self.agent.as_ref().ok().map(|agent| &agent.status)
    }

    /// UDP port of the tunnels.
    fn vxlan_port(&self) -> u16 {
        let of_config = || self.config.as_ref().map_or(crate::config::VXLAN_PORT, |config| config.vxlan_port);
        self.status().map_or_else(of_config, |status| status.underlay.vxlan_port)
    }
}

/// Looks at everything, in the order in which it is built on each other.
pub async fn examine(patient: &Patient) -> Vec<Finding> {
    let mut findings = kernel::examine(patient);
    match Netlink::open() {
        Ok(netlink) => {
            findings.extend(underlay::examine(patient, &netlink).await);
            findings.extend(firewall::examine(patient, &netlink).await);
            findings.extend(ranges::examine(patient, &netlink).await);
        }
        Err(e) => findings.push(Finding::wrong("devices", e.to_string(), "run this on the host itself")),
    }
    findings.extend(cluster::examine(patient).await);
    findings
}
