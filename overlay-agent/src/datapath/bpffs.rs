//! The BPF file system: pins are what lets the data path outlive the agent.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount, umount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::DatapathError;

/// Where distributions mount the BPF file system.
pub const SYSTEM_BPFFS: &str = "/sys/fs/bpf";
/// Held while looking and mounting: two agents that start together must not mount over each other.
const MOUNT_LOCK: &str = "/run/overlay-bpffs.lock";

/// Makes `dir` a directory on a BPF file system, mounting one where there is none: on `/sys/fs/bpf` for
/// directories below it, else on `dir` itself. Returns a warning if the mount will not outlive the agent.
///
/// # Errors
/// If the directory or the mount cannot be made.
pub fn prepare(dir: &Path) -> Result<Option<String>, DatapathError> {
    let fail = |source| DatapathError::Bpffs { path: dir.to_owned(), source };
    let _lock = lock_mounts().map_err(fail)?;
    let mounted = if holds(dir).map_err(fail)? {
        false
    } else {
        mount_for(dir).map_err(fail)?;
        true
    };
    fs::create_dir_all(dir).map_err(fail)?;
    let private = mounted && in_private_mount_namespace();
    Ok(private.then(|| {
        "the BPF file system was mounted in this agent's own mount namespace, so the data path ends with the agent; \
         start agents with `nsenter --net=…` instead of `ip netns exec`"
            .to_owned()
    }))
}

/// Whether `dir`, or what there is of the way to it, lies on a BPF file system.
///
/// # Errors
/// If it cannot be looked at.
pub fn holds(dir: &Path) -> io::Result<bool> {
    is_bpffs(nearest_existing(dir))
}

/// Removes our directory, and the mount if it is on the directory itself. What is gone is no error.
///
/// # Errors
/// If something of ours cannot be removed.
pub fn remove(dir: &Path) -> Result<(), DatapathError> {
    let fail = |source| DatapathError::Bpffs { path: dir.to_owned(), source };
    let parent = dir.parent().unwrap_or(dir);
    let own_mount = matches!((fs::metadata(dir), fs::metadata(parent)), (Ok(d), Ok(p)) if d.dev() != p.dev());
    if own_mount {
        umount(dir).map_err(|e| fail(e.into()))?;
    }
    gone_is_success(fs::remove_dir_all(dir)).map_err(fail)
}

fn mount_for(dir: &Path) -> io::Result<()> {
    let at = if dir.starts_with(SYSTEM_BPFFS) { Path::new(SYSTEM_BPFFS) } else { dir };
    fs::create_dir_all(at)?;
    mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), Some("mode=0700"))?;
    Ok(())
}

fn is_bpffs(dir: &Path) -> io::Result<bool> {
    Ok(statfs(dir)?.filesystem_type() == BPF_FS_MAGIC)
}

fn nearest_existing(dir: &Path) -> &Path {
    dir.ancestors().find(|d| d.exists()).unwrap_or(Path::new("/"))
}

fn lock_mounts() -> io::Result<Flock<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(MOUNT_LOCK)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

/// Whether whoever started the agent, or the first process, lives in another mount namespace. One that cannot
/// be looked at says nothing.
fn in_private_mount_namespace() -> bool {
    let namespace = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/mnt")).map(|m| m.ino()).ok();
    let own = namespace("self");
    let parent = nix::unistd::getppid().to_string();
    [parent.as_str(), "1"].into_iter().filter_map(namespace).any(|other| own.is_some_and(|own| own != other))
}

/// Removing what is not there has succeeded.
pub(crate) fn gone_is_success(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
