//! Docker's network and IPAM driver: `docker network create -d overlay-ebpf --ipam-driver overlay-ebpf …`.
//!
//! The engine finds the driver by the socket's name in `/run/docker/plugins` and asks it over HTTP. What it asks becomes
//! operations of the [`Service`], the same as any other front end's.
//!
//! * [`protocol`]: the messages; [`server`]: the socket and the calls
//! * [`options`]: what users say with `-o` and `--ipam-opt`
//! * [`pools`]: address pools and addresses
//! * [`networks`], [`endpoints`], [`ports`]: what the engine makes, joins and publishes
//! * [`api`], [`follow`]: what the engine tells only who asks it
//!
//! **One network on many hosts.** Each engine keeps its networks by itself, with an id of its own. The network's record
//! in the store says which engines know it and by which id, so what the engine names finds its way to the one network.
//!
//! **The engine must not wait.** It asks its drivers as it starts, and not to be answered would hold it up for 15 s. So
//! the socket answers before the agent is ready: at once where the answer is always the same, and else for
//! [`PATIENCE`] at most.

mod api;
mod endpoints;
mod follow;
mod networks;
mod options;
mod pools;
mod ports;
mod protocol;
mod server;

use std::{ffi::OsStr, path::Path, sync::Arc, time::Duration};

use tokio::{net::UnixListener, sync::watch, time::timeout};

use crate::{
    family::SameFamily,
    service::{Service, ServiceError},
};

/// How long a call waits for an agent that starts.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Why a call failed: a sentence for whoever typed `docker …`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

impl From<ServiceError> for Refusal {
    fn from(error: ServiceError) -> Self {
        Self(error.to_string())
    }
}

impl From<SameFamily> for Refusal {
    fn from(error: SameFamily) -> Self {
        Self(error.to_string())
    }
}

impl From<String> for Refusal {
    fn from(sentence: String) -> Self {
        Self(sentence)
    }
}

impl From<&str> for Refusal {
    fn from(sentence: &str) -> Self {
        Self(sentence.to_owned())
    }
}

type Answer<T> = Result<T, Refusal>;

/// The driver: what it was asked and has not done yet, and the agent behind it.
struct Driver {
    service: watch::Receiver<Option<Arc<Service>>>,
    pools: pools::Pending,
}

impl Driver {
    /// The agent's operations, once there are any.
    async fn service(&self) -> Answer<Arc<Service>> {
        let mut service = self.service.clone();
        let ready = timeout(PATIENCE, service.wait_for(Option::is_some)).await;
        match ready {
            Ok(Ok(service)) => Ok(Arc::clone(service.as_ref().expect("that was waited for"))),
            Ok(Err(_)) => Err("the overlay agent is stopping".into()),
            Err(_) => {
                Err("the overlay agent is starting and cannot do this yet: try again, and see its log".into())
            }
        }
    }
}

/// The driver's socket, answering from now on.
pub struct Plugin {
    service: watch::Sender<Option<Arc<Service>>>,
    /// What the engine calls the driver: the socket's name.
    name: String,
}

impl Plugin {
    /// Answers on a socket for as long as the agent runs.
    ///
    /// # Errors
    /// If the listener is not one with a path.
    pub fn serve(listener: UnixListener) -> std::io::Result<Self> {
        let (service, receiver) = watch::channel(None);
        let address = listener.local_addr()?;
        let name = address.as_pathname().and_then(Path::file_stem).and_then(OsStr::to_str);
        let name = name.ok_or_else(|| std::io::Error::other("the driver's socket has no name"))?.to_owned();
        let driver = Driver { service: receiver.clone(), pools: pools::Pending::default() };
        let stopped = async move {
            let mut service = receiver;
            while service.changed().await.is_ok() {}
        };
        server::spawn(listener, Arc::new(driver), stopped)?;
        Ok(Self { service, name })
    }

    /// Passes on to the agent what the engine asks, and asks the engine on this socket for names, from now on.
    pub fn ready(&self, service: &Arc<Service>, engine: &Path) {
        self.service.send_replace(Some(Arc::clone(service)));
        let engine = api::Engine::new(engine);
        tokio::spawn(follow::Follower::new(self.name.clone(), engine, Arc::clone(service)).run());
    }
}
