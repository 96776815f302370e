//! Network namespaces: which one is meant, whether it is one, and work inside it.
//!
//! A thread that enters a namespace takes everything on it along. So the work runs on a thread of its
//! own which ends afterwards: a tokio worker that came back to the wrong namespace, or not at all,
//! would break every later task on it.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

use nix::{
    fcntl::OFlag,
    libc,
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};
use tokio::sync::oneshot;

use crate::{api::types::NetnsRef, paths};

/// Why a network namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Not a name that `ip netns` takes.
    #[error(
        "{0:?} is no name of a network namespace: it may not be empty, `.`, `..` or contain `/`; give a path with --netns /PATH"
    )]
    InvalidName(String),
    /// Nothing there.
    #[error("there is no network namespace at {}: the container may be gone, or its name misspelt (see `ip netns`)", .0.display())]
    NotFound(PathBuf),
    /// No such process.
    #[error("there is no process {0}, so no network namespace of it")]
    NoProcess(u32),
    /// Something is there that is no network namespace.
    #[error("{} is no network namespace: give a file such as /run/netns/NAME or /proc/PID/ns/net", .0.display())]
    NotANamespace(PathBuf),
    /// The namespace that the agent itself is in.
    #[error("{} is the agent's own network namespace: a container needs one of its own; for the host itself, see `overlay host-port`", .0.display())]
    OwnNamespace(PathBuf),
    /// It cannot be opened or looked at.
    #[error("cannot open the network namespace {}: {source}", .path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It cannot be entered.
    #[error("cannot enter the network namespace {}: {source}", .path.display())]
    Enter {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The work inside it panicked.
    #[error("the work in the network namespace {} panicked: this is a bug in the agent, see its log", .0.display())]
    Panicked(PathBuf),
}

/// Identity of a namespace: equal for two paths exactly if they lead to the same one.
///
/// Good only while a handle to the namespace is open: the kernel uses inode numbers again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsId {
    dev: u64,
    inode: u64,
}

#[cfg(test)]
impl NetnsId {
    /// One like no other number's.
    pub(crate) const fn sample(inode: u64) -> Self {
        Self { dev: 0, inode }
    }
}

/// An open network namespace: a container's, or the agent's own if that was asked for. It lives at least as long as the handle.
#[derive(Debug)]
pub struct NetnsHandle {
    path: PathBuf,
    fd: OwnedFd,
    id: NetnsId,
}

impl NetnsHandle {
    /// Where it was found.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which namespace it is.
    #[must_use]
    pub fn identity(&self) -> NetnsId {
        self.id
    }
}

impl AsFd for NetnsHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Finds and opens the network namespace that is meant.
///
/// # Errors
/// If there is none, if what is there is something else, or if it is the agent's own.
pub fn resolve(reference: &NetnsRef) -> Result<NetnsHandle, NetnsError> {
    let path = path_of(reference)?;
    let file = open(&path).map_err(|error| open_error(reference, path.clone(), error))?;
    if !is_network_namespace(&file) {
        return Err(NetnsError::NotANamespace(path));
    }
    let id = identity(&file).map_err(|source| NetnsError::Open { path: path.clone(), source })?;
    if id == own_identity()? && *reference != NetnsRef::Host {
        return Err(NetnsError::OwnNamespace(path));
    }
    Ok(NetnsHandle { path, fd: file.into(), id })
}

/// Runs `work` in a namespace, on an OS thread that ends with it.
///
/// `work` may block and may build a current-thread tokio runtime: its sockets are then of the namespace.
///
/// # Errors
/// If the namespace cannot be entered or `work` panics.
pub async fn run_in<F, T>(ns: &NetnsHandle, work: F) -> Result<T, NetnsError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let enter_error = |source| NetnsError::Enter { path: ns.path.clone(), source };
    let fd = ns.fd.try_clone().map_err(enter_error)?;
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            let result = setns(fd, CloneFlags::CLONE_NEWNET).map(|()| work());
            // The receiver is gone if the caller was cancelled; then nobody wants the result.
            drop(sender.send(result));
        })
        .map_err(enter_error)?;
    let result = receiver.await.map_err(|_| NetnsError::Panicked(ns.path.clone()))?;
    result.map_err(|errno| enter_error(errno.into()))
}

pub(crate) fn path_of(reference: &NetnsRef) -> Result<PathBuf, NetnsError> {
    match reference {
        NetnsRef::Path(path) => Ok(path.clone()),
        NetnsRef::Name(name) if is_netns_name(name) => Ok(Path::new(paths::NETNS_DIR).join(name)),
        NetnsRef::Name(name) => Err(NetnsError::InvalidName(name.clone())),
        NetnsRef::Pid(pid) => Ok(PathBuf::from(format!("/proc/{pid}/ns/net"))),
        NetnsRef::Host => Ok(paths::OWN_NETNS.into()),
    }
}

/// The names of `ip netns`: one component of a path that leads nowhere else.
fn is_netns_name(name: &str) -> bool {
    Path::new(name).file_name() == Some(OsStr::new(name)) && !name.contains('\0')
}

/// Opens without waiting: the path may lead to a FIFO or a terminal.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    File::options().read(true).custom_flags(flags.bits()).open(path)
}

fn open_error(reference: &NetnsRef, path: PathBuf, source: io::Error) -> NetnsError {
    match (reference, source.kind()) {
        (NetnsRef::Pid(pid), io::ErrorKind::NotFound) => NetnsError::NoProcess(*pid),
        (_, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => NetnsError::NotFound(path),
        _ => NetnsError::Open { path, source },
    }
}

/// Asks the file system first: on another one the number of the request may mean something else.
fn is_network_namespace(file: &File) -> bool {
    let on_nsfs = fstatfs(file).is_ok_and(|stat| stat.filesystem_type() == NSFS_MAGIC);
    on_nsfs && namespace_type(file).is_ok_and(|kind| kind == libc::CLONE_NEWNET)
}

fn namespace_type(file: &File) -> nix::Result<i32> {
    // SAFETY: NS_GET_NSTYPE takes no argument and touches no memory of ours; the descriptor is open
    // for as long as `file` is borrowed.
    unsafe { ns_get_nstype(file.as_raw_fd()) }
}

/// `NS_GET_NSTYPE` of `linux/nsfs.h`.
mod ns_ioctl {
    nix::ioctl_none!(ns_get_nstype, 0xb7, 0x3);
}
use ns_ioctl::ns_get_nstype;

fn identity(file: &File) -> io::Result<NetnsId> {
    file.metadata().map(|meta| NetnsId { dev: meta.dev(), inode: meta.ino() })
}

fn own_identity() -> Result<NetnsId, NetnsError> {
    File::open(paths::OWN_NETNS)
        .and_then(|file| identity(&file))
        .map_err(|source| NetnsError::Open { path: paths::OWN_NETNS.into(), source })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn names_are_those_of_ip_netns() {
        for good in ["box", "cni-1234", "a.b", "..."] {
            assert_eq!(
                path_of(&NetnsRef::Name(good.to_owned())).unwrap(),
                Path::new("/run/netns").join(good)
            );
        }
        for bad in ["", ".", "..", "a/b", "/box", "box/", "../proc/1/ns/net", "a\0b"] {
            let result = path_of(&NetnsRef::Name(bad.to_owned()));
            assert!(matches!(result, Err(NetnsError::InvalidName(_))), "{bad:?}: {result:?}");
        }
    }

    #[rstest]
    #[case::regular_file("/proc/self/status")]
    #[case::directory("/")]
    #[case::device("/dev/null")]
    #[case::namespace_of_another_kind("/proc/self/ns/mnt")]
    fn what_is_no_network_namespace_is_refused(#[case] path: &str) {
        let result = resolve(&NetnsRef::Path(path.into()));
        assert!(matches!(result, Err(NetnsError::NotANamespace(_))), "{result:?}");
    }

    #[test]
    fn the_agents_own_namespace_is_refused_by_path_and_by_process() {
        for own in [NetnsRef::Path(paths::OWN_NETNS.into()), NetnsRef::Pid(std::process::id())] {
            let result = resolve(&own);
            assert!(matches!(result, Err(NetnsError::OwnNamespace(_))), "{result:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = resolve(&NetnsRef::Path("/run/netns/no/such".into())).unwrap_err().to_string();
        assert!(missing.contains("/run/netns/no/such"), "{missing}");
        let process = resolve(&NetnsRef::Pid(u32::MAX)).unwrap_err();
        assert!(matches!(process, NetnsError::NoProcess(u32::MAX)), "{process:?}");
    }

    #[test]
    fn a_fifo_does_not_make_the_agent_wait() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(resolve(&NetnsRef::Path(fifo)), Err(NetnsError::NotANamespace(_))));
    }
}
