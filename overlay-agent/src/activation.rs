//! Sockets that systemd opened before it started the agent (`sd_listen_fds(3)`): who connects meanwhile waits instead of
//! failing.

use std::{env, io};

use listenfd::ListenFd;
use tokio::net::UnixListener;

/// Name of the API's socket.
pub const API: &str = "api";
/// Name of the Docker driver's socket (`FileDescriptorName=` in its unit).
pub const DOCKER: &str = "docker";

/// The sockets that are there, each to be taken once.
pub struct Sockets {
    sockets: ListenFd,
    names: Vec<String>,
}

impl Sockets {
    /// Those that this process was started with.
    #[must_use]
    pub fn of_this_process() -> Self {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        Self { sockets: ListenFd::from_env(), names: names.split(':').map(str::to_owned).collect() }
    }

    /// The socket with this name, if there is one.
    ///
    /// # Errors
    /// If it is no stream socket with a path that listens.
    pub fn take(&mut self, name: &str) -> io::Result<Option<UnixListener>> {
        let Some(position) = self.names.iter().position(|known| known == name) else { return Ok(None) };
        let Some(listener) = self.sockets.take_unix_listener(position)? else { return Ok(None) };
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(Some)
    }
}
