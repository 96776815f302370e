//! Names: the resolver that containers ask at their gateway's address.
//!
//! A query reaches it through the data path, which gives it the asker's host-local address as source. No
//! container can forge that, so who asks is known and with it which names it may know: those of the networks
//! that it is attached to, on all hosts. Everything else is asked of the host's own resolvers, except for
//! containers that have no way out.
//!
//! * [`names`]: what a name means to whom; pure
//! * [`handler`]: queries, answers and limits
//! * [`upstream`]: other people's names
//! * [`resolv_conf`]: telling containers whom to ask
//!
//! The protocol is hickory's.

mod handler;
mod names;
pub mod resolv_conf;
#[cfg(test)]
mod tests;
mod upstream;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_server::Server;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
    task::JoinHandle,
};

use self::handler::Handler;
use crate::model::{Cluster, EndpointId};

pub use upstream::{ServerAddress, Upstream, UpstreamError};

/// The port (RFC 1035 section 4.2).
pub const PORT: u16 = 53;
/// How long an idle connection is kept (RFC 7766 section 6.2.3 wants a few seconds).
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Responses that one connection may have waiting.
const TCP_BUFFER: usize = 32;
/// Pause before trying again to take an address that is not there yet.
const RETRY: Duration = Duration::from_millis(100);

/// Tells which local endpoint has a host-local address.
pub type WhoIs = Arc<dyn Fn(Ipv4Addr) -> Option<EndpointId> + Send + Sync>;

/// What a resolver answers from.
pub struct Sources {
    /// The cluster's state.
    pub cluster: watch::Receiver<Arc<Cluster>>,
    /// Who asks.
    pub who_is: WhoIs,
    /// For other names.
    pub upstream: Upstream,
}

/// Answers on an address until dropped.
pub struct Resolver(JoinHandle<()>);

impl Resolver {
    /// Starts to answer, as soon as the address is there.
    #[must_use]
    pub fn start(sources: Sources, address: SocketAddr) -> Self {
        Self(tokio::spawn(async move {
            let handler = Handler::new(sources);
            let (udp, tcp) = bind_when_there(address).await;
            let mut server = Server::new(handler);
            server.register_socket(udp);
            server.register_listener(tcp, TCP_IDLE, TCP_BUFFER);
            tracing::info!(%address, "answering names");
            if let Err(e) = server.block_until_done().await {
                tracing::warn!(%address, reason = %e, "names are not answered any more");
            }
        }))
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn bind_when_there(address: SocketAddr) -> (UdpSocket, TcpListener) {
    let mut said = false;
    loop {
        match bind(address).await {
            Ok(sockets) => return sockets,
            Err(e) if said => tracing::debug!(%address, reason = %e, "names are not answered yet"),
            Err(e) => {
                said = true;
                tracing::warn!(%address, reason = %e, "names are not answered yet; trying again");
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let tcp = TcpListener::bind(address).await?;
    // The same port for both, also where the kernel chose it.
    let udp = UdpSocket::bind(tcp.local_addr()?).await?;
    Ok((udp, tcp))
}
