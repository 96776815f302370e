//! The cluster's objects, as types that cannot hold an illegal value.
//!
//! * [`name`]: the one grammar of names
//! * [`owner`]: which front end an endpoint is for
//! * [`publication`]: ports of a host that lead to a container
//! * [`limits`]: how fast an endpoint may send and receive
//! * [`rule`]: what of one network's traffic another takes
//! * [`records`]: what the store holds under each key
//! * [`host_range`]: where addresses on a host come from
//! * [`keys`]: which key that is
//! * [`time`]: wall-clock times in records
//! * [`cluster`]: all of it together, parsed, as one agent knows it
//! * [`journal`]: what changed in it lately
//! * [`standing`]: what it says of a node's life

pub mod cluster;
pub mod host_range;
pub mod journal;
pub mod keys;
pub mod limits;
pub mod name;
pub mod owner;
pub mod publication;
pub mod records;
pub mod rule;
pub mod standing;
pub mod time;

pub use cluster::Cluster;
pub use host_range::{HostRange, InvalidHostRange};
pub use limits::{InvalidRate, Limits, Rate};
pub use name::{InvalidName, Name};
pub use owner::{ForeignId, FrontEnd, InvalidForeignId, Owner};
pub use publication::{InvalidPublication, Protocol, Publication};
pub use records::{
    Address, ClusterRecord, Endpoint, EndpointId, EngineNetwork, Life, Network, NetworkIpv6, NetworkState,
    Node, NodeAlive, Policy,
};
pub use rule::{Allowance, Labels, Ports, Rule, RuleId, RuleProtocol, Slot, Traffic};
pub use standing::Standing;
pub use time::Timestamp;
