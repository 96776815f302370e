//! Names: the resolver that containers ask at their gateway's address.
//!
//! A query reaches it through the data path, which gives it the asker's host-local address as source. No
//! container can forge that, so who asks is known and with it which names it may know: those of the networks
//! that it is attached to, on all hosts. Everything else is asked of the host's own resolvers, except for
//! containers that have no way out.
//!
//! * [`names`]: what a name means to whom; [`directory`]: which endpoints have it; both pure
//! * [`handler`]: from a query to its answer
//! * [`server`]: the sockets; [`limits`]: how much of all that one container gets
//! * [`upstream`]: other people's names
//! * [`resolv_conf`]: telling containers whom to ask
//!
//! The protocol is hickory's.

mod directory;
mod handler;
mod limits;
mod names;
pub mod resolv_conf;
mod server;
#[cfg(test)]
mod tests;
mod upstream;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{sync::watch, task::JoinHandle};

use self::{handler::Handler, server::Sockets};
use crate::{
    agent::presence::Absences,
    model::{Cluster, EndpointId, Name},
};

pub use upstream::{ServerAddress, Upstream, UpstreamError};

/// The port (RFC 1035 section 4.2).
pub const PORT: u16 = 53;

/// A container that asks: its endpoints on this host.
pub type Asker = Arc<BTreeSet<EndpointId>>;
/// Tells which container has a host-local address.
pub type WhoIs = Arc<dyn Fn(Ipv4Addr) -> Option<Asker> + Send + Sync>;

/// What a resolver answers from.
#[derive(Clone)]
pub struct Sources {
    /// This node.
    pub here: Name,
    /// The cluster's state.
    pub cluster: watch::Receiver<Arc<Cluster>>,
    /// Which nodes count as down.
    pub absences: watch::Receiver<Absences>,
    /// Who asks.
    pub who_is: WhoIs,
    /// For other names, if there is anybody to ask.
    pub upstream: Option<Arc<Upstream>>,
}

/// Where a resolver says why names are not answered just now.
pub type Trouble = watch::Sender<Option<String>>;

/// Answers on an address until dropped.
pub struct Resolver(JoinHandle<()>);

impl Resolver {
    /// Starts to answer, as soon as the address is there.
    #[must_use]
    pub fn start(sources: Sources, address: SocketAddr, trouble: Trouble) -> Self {
        Self(tokio::spawn(async move {
            let sockets = Sockets::bind_when_there(address, &trouble).await;
            tracing::info!(%address, "answering names");
            sockets.serve(Handler::new(sources)).await;
        }))
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
