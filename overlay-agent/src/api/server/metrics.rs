//! Metrics over TCP, for a Prometheus on another machine: the only thing that the agent says to who asks from there.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{Router, routing::get};
use tokio::{net::TcpListener, time::timeout};

use super::{Limits, Slots, accept, harden, routes, serve_connection};
use crate::service::Service;

/// Listens where the settings say.
///
/// # Errors
/// If that address is not this host's, or taken.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers `GET /metrics`, for as long as the agent runs.
pub async fn serve(mut listener: TcpListener, service: Arc<Service>) {
    let limits = Limits { connections: CONNECTIONS, ..Limits::DEFAULT };
    let router = harden(Router::new().route("/metrics", get(routes::metrics)).with_state(service), limits);
    let slots = Slots::new(limits.connections);
    // Kept: a connection ends by its own limits.
    let (_stop, stopping) = tokio::sync::watch::channel(());
    loop {
        let (stream, slot) = accept(&mut listener, &slots).await;
        let connection = serve_connection(stream, router.clone(), limits, stopping.clone());
        tokio::spawn(async move {
            // Whoever asks and does not read his answer is cut off.
            let _ = timeout(limits.connection, connection).await;
            drop(slot);
        });
    }
}

/// Connections at a time: more than a pair of servers needs.
const CONNECTIONS: u32 = 8;
