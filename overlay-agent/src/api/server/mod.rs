//! The server side of the API: HTTP/1 on a unix socket, one request for each connection.
//!
//! * this file: the socket, the limits of a connection, stopping
//! * `peer`: who may ask
//! * `routes`: which request does what
//! * [`metrics`]: what is measured, over TCP
//! * `reply`: bodies in, bodies and failures out
//!
//! The agent runs as root, so nobody may hold it up: headers, bodies, requests and connections are all
//! bounded in size, number and time. What a deadline or a client that goes away cuts off is the answer only:
//! the [`Service`] brings each change to its end.

pub mod metrics;
mod peer;
mod reply;
mod routes;

use std::{
    fs, io,
    os::{fd::AsRawFd, unix::fs::FileTypeExt, unix::fs::PermissionsExt},
    path::Path,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router, extract::DefaultBodyLimit, extract::Request, middleware, middleware::Next, response::Response,
    serve::Listener,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};

use self::{peer::Access, reply::Failure};
use crate::service::Service;

/// Root and the socket's group may connect.
const SOCKET_MODE: u32 = 0o660;

/// What a client may use.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Bytes of a request's body.
    body: usize,
    /// Until the headers are there.
    headers: Duration,
    /// From the headers to the answer.
    request: Duration,
    /// From connecting to the answer's last byte.
    connection: Duration,
    /// Connections at a time; further ones wait in the kernel's queue.
    connections: u32,
    /// How long stopping waits for running requests.
    drain: Duration,
}

impl Limits {
    const DEFAULT: Self = Self {
        body: 64 * 1024,
        headers: Duration::from_secs(5),
        request: Duration::from_secs(30),
        connection: Duration::from_secs(60),
        connections: 64,
        drain: Duration::from_secs(5),
    };
}

/// Makes the API socket. A socket that nobody answers on any more is replaced.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] if another agent answers there or something else has this path.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let in_use = |what: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, what.to_owned()));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            in_use("there is something else that is no socket")
        }
        Ok(_) if is_answered(path)? => in_use("another agent answers on it"),
        Ok(_) => fs::remove_file(path),
    }
}

/// Does not wait: a full queue is an answer too.
fn is_answered(path: &Path) -> io::Result<bool> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) | Err(Errno::EAGAIN) => Ok(true),
        Err(Errno::ECONNREFUSED) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Answers requests until `shutdown` is done; then finishes the running ones, for 5 s at most.
///
/// # Errors
/// If the listener is not one that [`bind`] made.
pub async fn serve(
    listener: UnixListener,
    service: Arc<Service>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    connections(listener, harden(routes::router(service), Limits::DEFAULT), shutdown)?.await;
    Ok(())
}

/// Answers requests on a socket, with the limits of a connection and to those who may ask, until `shutdown` is done;
/// then finishes the running ones, for 5 s at most.
///
/// # Errors
/// If the listener has no path.
pub(crate) fn connections(
    listener: UnixListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) -> io::Result<impl Future<Output = ()>> {
    let limits = Limits::DEFAULT;
    let server = Server { router, access: Access::of_socket(&listener)?, limits };
    Ok(async move {
        let connections = server.accept_until(listener, shutdown).await;
        if timeout(limits.drain, connections.all_free()).await.is_err() {
            tracing::warn!("stopping without waiting longer for running requests");
        }
    })
}

/// The router with limits, and an [`ErrorBody`](super::types::ErrorBody) in every failure.
fn harden(router: Router, limits: Limits) -> Router {
    let deadline = move |request: Request, next: Next| answer_in_time(limits.request, request, next);
    router
        .fallback(Failure::no_such_path)
        .method_not_allowed_fallback(Failure::no_such_method)
        .layer(DefaultBodyLimit::max(limits.body))
        .layer(middleware::from_fn(deadline))
}

async fn answer_in_time(limit: Duration, request: Request, next: Next) -> Result<Response, Failure> {
    let method = request.method().clone();
    timeout(limit, next.run(request)).await.map_err(|_| Failure::late(limit, &method))
}

/// A bounded number of open connections, and a way to wait until there is none.
struct Slots {
    free: Arc<Semaphore>,
    count: u32,
}

impl Slots {
    fn new(count: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(count as usize)), count }
    }

    /// Waits for a slot; dropping the permit frees it.
    async fn take(&self) -> OwnedSemaphorePermit {
        self.free.clone().acquire_owned().await.expect("nobody closes the semaphore")
    }

    async fn all_free(&self) {
        let _permits = self.free.acquire_many(self.count).await;
    }
}

/// Everything that a connection needs.
struct Server {
    router: Router,
    access: Access,
    limits: Limits,
}

impl Server {
    /// Serves connections; the slots that come back are those of the connections still open.
    async fn accept_until(self, mut listener: UnixListener, shutdown: impl Future<Output = ()>) -> Slots {
        let slots = Slots::new(self.limits.connections);
        let (_stop_when_dropped, stopping) = watch::channel(());
        let mut shutdown = pin!(shutdown);
        loop {
            let (stream, slot) = tokio::select! {
                () = &mut shutdown => return slots,
                accepted = accept(&mut listener, &slots) => accepted,
            };
            let connection = self.connection(stream, stopping.clone());
            tokio::spawn(async move {
                connection.await;
                drop(slot);
            });
        }
    }

    fn connection(
        &self,
        stream: UnixStream,
        stopping: watch::Receiver<()>,
    ) -> impl Future<Output = ()> + 'static {
        let limits = self.limits;
        let router = if self.access.admits(&stream) { self.router.clone() } else { refuse_all() };
        async move {
            match timeout(limits.connection, serve_connection(stream, router, limits, stopping)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "API connection failed"),
                Err(_) => tracing::debug!("API connection cut off: the client does not read its answer"),
            }
        }
    }
}

/// The next connection, and its slot. Where none can be accepted, as without a free descriptor, that is logged and tried
/// again after a pause.
async fn accept<L: Listener>(listener: &mut L, slots: &Slots) -> (L::Io, OwnedSemaphorePermit) {
    let slot = slots.take().await;
    let (stream, _) = listener.accept().await;
    (stream, slot)
}

/// One request, so that a limit on the connection's time is a limit on the answer's.
async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    limits: Limits,
    mut stopping: watch::Receiver<()>,
) -> hyper::Result<()> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.headers).keep_alive(false);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    tokio::select! {
        result = &mut connection => return result,
        _ = stopping.changed() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

fn refuse_all() -> Router {
    Router::new().fallback(Failure::forbidden)
}

#[cfg(test)]
mod tests;
