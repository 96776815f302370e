//! One agent for each network namespace, run directory, state directory and pin directory.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr, unix::net::UnixListener},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};

use crate::paths::Paths;

/// Abstract socket addresses belong to a network namespace and vanish with their process: a lock that can
/// be neither stale nor seen from another namespace.
const NAMESPACE_LOCK: &[u8] = b"overlay-agent";

/// Why an agent may not run.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The namespace has its agent.
    #[error("another overlay-agent runs in this network namespace: stop it first")]
    NamespaceTaken,
    /// A directory has its agent.
    #[error("another overlay-agent uses {}: stop it first, or name another directory with --{flag}", .path.display())]
    DirectoryTaken {
        /// The directory.
        path: PathBuf,
        /// The flag that names it.
        flag: &'static str,
    },
    /// A lock cannot be made.
    #[error("lock {}: {source}", .path.display())]
    Io {
        /// What was to be locked.
        path: PathBuf,
        /// Why it cannot be.
        source: io::Error,
    },
}

/// The locks, held until dropped.
#[derive(Debug)]
pub struct Locks {
    _namespace: UnixListener,
    _files: Vec<Flock<File>>,
}

/// Takes all locks, or none.
///
/// # Errors
/// If another agent holds one, or one cannot be made.
pub fn take(paths: &Paths) -> Result<Locks, LockError> {
    let namespace = patiently(lock_namespace)?;
    let run = lock_file(&paths.lock(), &paths.run_dir, "run-dir")?;
    // With the state directory goes the node's identity: two agents with one would take each other's containers.
    let state = lock_file(&paths.state_lock(), &paths.state_dir, "state-dir")?;
    let pins = lock_file(&paths.pin_lock(), &paths.bpffs_dir, "bpffs-dir")?;
    Ok(Locks { _namespace: namespace, _files: vec![run, state, pins] })
}

/// Asks for a lock again for a moment: a predecessor that was killed may not be quite gone.
fn patiently<T>(attempt: impl Fn() -> Result<T, LockError>) -> Result<T, LockError> {
    const PAUSE: Duration = Duration::from_millis(50);
    const ATTEMPTS: usize = 20;
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(LockError::NamespaceTaken | LockError::DirectoryTaken { .. }) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    attempt()
}

fn lock_namespace() -> Result<UnixListener, LockError> {
    let fail = |source| LockError::Io { path: "the network namespace".into(), source };
    let address = SocketAddr::from_abstract_name(NAMESPACE_LOCK).map_err(fail)?;
    UnixListener::bind_addr(&address).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => LockError::NamespaceTaken,
        _ => fail(e),
    })
}

fn lock_file(file: &Path, dir: &Path, flag: &'static str) -> Result<Flock<File>, LockError> {
    patiently(|| try_lock_file(file, dir, flag))
}

fn try_lock_file(file: &Path, dir: &Path, flag: &'static str) -> Result<Flock<File>, LockError> {
    let fail = |source| LockError::Io { path: file.to_owned(), source };
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent).map_err(fail)?;
    }
    let handle = OpenOptions::new().create(true).truncate(false).write(true).open(file).map_err(fail)?;
    Flock::lock(handle, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => LockError::DirectoryTaken { path: dir.to_owned(), flag },
        other => fail(other.into()),
    })
}
