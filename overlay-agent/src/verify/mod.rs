//! Differences between what should be and what is, layer by layer: what `overlay verify` shows, and what the
//! agent writes down when it repairs something by itself.
//!
//! ```text
//! store ── mirror ── maps · links · pins · devices · neighbours
//! ```
//!
//! Each layer is held against the one to its left, so a difference names the layer that is wrong and not
//! those that follow from it.
//!
//! * [`maps`]: the mirror against the BPF maps
//! * [`mod@mirror`]: the store against the mirror
//! * [`store`]: the store's records against each other
//!
//! All pure. Looking is the [reconciler's](crate::agent::reconciler) part, since nothing changes while it looks.

use serde::{Deserialize, Serialize};

use crate::{
    datapath::links::Broken,
    model::{Cluster, Endpoint, Name, keys::Key},
    paths,
};

pub mod maps;
pub mod mirror;
pub mod store;

/// Which layer is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// The store's records contradict each other.
    Store,
    /// The agent's copy of the store is not what the store holds.
    Mirror,
    /// A BPF map.
    Map,
    /// A program is not attached where it should be.
    Link,
    /// A pin is missing.
    Pin,
    /// A network device.
    Device,
    /// A neighbour entry.
    Neighbour,
    /// The host's packet filter.
    Firewall,
}

impl std::fmt::Display for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Store => "store",
            Self::Mirror => "mirror",
            Self::Map => "map",
            Self::Link => "link",
            Self::Pin => "pin",
            Self::Device => "device",
            Self::Neighbour => "neighbour",
            Self::Firewall => "firewall",
        })
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Difference {
    /// Which layer is wrong.
    pub layer: Layer,
    /// The thing: a map's name, a key of the store, a program, a path, a device, an address.
    pub subject: String,
    /// What there is; nothing if it is missing.
    pub found: Option<String>,
    /// What there should be; nothing if it should not be there.
    pub wanted: Option<String>,
    /// What that means.
    pub reason: String,
    /// Whom it concerns.
    #[serde(flatten)]
    pub concerns: Concerns,
}

/// Whom a difference concerns, as far as that can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Concerns {
    /// The network.
    pub network: Option<Name>,
    /// The endpoint.
    pub endpoint: Option<Name>,
    /// The node.
    pub node: Option<Name>,
}

impl Concerns {
    /// A network.
    #[must_use]
    pub fn network(name: &Name) -> Self {
        Self { network: Some(name.clone()), ..Self::default() }
    }

    /// An endpoint, and with it its network and node.
    #[must_use]
    pub fn endpoint(endpoint: &Endpoint) -> Self {
        Self {
            network: Some(endpoint.network.clone()),
            endpoint: Some(endpoint.name.clone()),
            node: Some(endpoint.node.clone()),
        }
    }

    /// A node.
    #[must_use]
    pub fn node(name: &Name) -> Self {
        Self { node: Some(name.clone()), ..Self::default() }
    }

    /// Whom a text speaks of that may be a key of the store.
    #[must_use]
    pub fn key(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::default(), |key| Self::of(&key))
    }

    /// Whom a key of the store speaks of.
    #[must_use]
    pub fn of(key: &Key) -> Self {
        match key {
            Key::EndpointName(network, name) => {
                Self { endpoint: Some(name.clone()), ..Self::network(network) }
            }
            Key::Network(network)
            | Key::Endpoint(network, _)
            | Key::Mac(network, _)
            | Key::Address(network, _)
            | Key::Policy(network, _)
            | Key::Rule(network, ..) => Self::network(network),
            Key::Node(node) | Key::Alive(node) => Self::node(node),
            _ => Self::default(),
        }
    }

    /// The endpoint that a host veth belongs to.
    #[must_use]
    pub fn host_veth(cluster: &Cluster, ifname: &str) -> Self {
        let mut endpoints = cluster.endpoints.values().map(|e| &e.record);
        let found = endpoints.find(|e| paths::host_veth(&e.id) == ifname);
        found.map_or_else(Self::default, Self::endpoint)
    }
}

/// What a look found; the answer to `GET /v1/verify` and `POST /v1/verify`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verification {
    /// Revision of the store that was looked at.
    pub revision: u64,
    /// What is wrong now.
    pub differences: Vec<Difference>,
    /// What was wrong before this call repaired it.
    pub repaired: Vec<Difference>,
    /// What the agent repaired by itself, the last of it.
    pub repaired_by_itself: Vec<Repair>,
}

/// Something that was wrong and was repaired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// When, in seconds since 1970.
    pub unix_seconds: u64,
    /// What.
    pub difference: Difference,
}

/// Something broken of the data path, as a difference.
#[must_use]
pub fn broken(cluster: &Cluster, broken: &Broken) -> Difference {
    match broken {
        Broken::Detached(hook) => Difference {
            layer: Layer::Link,
            subject: format!("{} on {}", hook.program(), hook.ifname),
            found: None,
            wanted: Some("attached".to_owned()),
            reason: format!("packets of {} pass unfiltered: the program is not attached", hook.ifname),
            concerns: Concerns::host_veth(cluster, &hook.ifname),
        },
        Broken::Unpinned(path) => Difference {
            layer: Layer::Pin,
            subject: path.display().to_string(),
            found: None,
            wanted: Some("pinned".to_owned()),
            reason: "the next agent would not find it: the pin is gone".to_owned(),
            concerns: Concerns::default(),
        },
    }
}
