//! `cargo xtask clean`: removes what a crash of the demo or of the tests left on the machine, and nothing
//! else. All that they make is named `ovl-…` or, for host ends of veth pairs, `ovl` and twelve hex digits.
//! Goes on when one thing cannot be removed; what is gone already is fine.

use std::{
    collections::HashSet,
    fmt::Display,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};

use crate::{layout, process};

/// Start of every name that the demo and the tests give.
const PREFIX: &str = "ovl-";
/// Start of the name of a host end of a veth pair; twelve hex digits follow.
const VETH_PREFIX: &str = "ovl";
/// Where named network namespaces, their own files of `/etc`, run directories and pins are.
const NETNS_DIR: &str = "/run/netns";
const NETNS_CONFIG_DIR: &str = "/etc/netns";
const RUN_DIR: &str = "/run";
const BPFFS_DIR: &str = "/sys/fs/bpf";
/// Directories of an agent that serves this machine itself: its devices look like ours.
const REAL_AGENT: [&str; 2] = ["/run/overlay", "/sys/fs/bpf/overlay"];

/// Options of `cargo xtask clean`.
#[derive(Args, Debug)]
pub struct Options {
    /// Print only what cannot be removed
    #[arg(long, short)]
    quiet: bool,
}

/// Removes processes first, as they hold the rest; then namespaces, mounts, directories and devices.
pub fn run(options: &Options) -> Result<()> {
    if !geteuid().is_root() {
        bail!("removing namespaces, mounts and devices needs root: run `cargo xtask clean` as root");
    }
    let mut sweep = Sweep { quiet: options.quiet, removed: 0, failed: 0 };
    let namespaces = entries(Path::new(NETNS_DIR), is_ours);
    sweep.processes(&namespaces);
    sweep.each("namespace", &namespaces, remove_namespace);
    sweep.each("mount", &our_mounts()?, unmount);
    let directories =
        [RUN_DIR, NETNS_CONFIG_DIR, BPFFS_DIR].map(|parent| entries(Path::new(parent), is_ours)).concat();
    sweep.each("directory", &directories, remove_directory);
    sweep.devices();
    sweep.conclude()
}

/// What was removed so far.
#[derive(Debug)]
struct Sweep {
    quiet: bool,
    removed: usize,
    failed: usize,
}

impl Sweep {
    /// Notes what became of one thing.
    fn note(&mut self, what: impl Display, result: Result<()>) {
        match result {
            Ok(()) => {
                self.removed += 1;
                self.say(format_args!("removed {what}"));
            }
            Err(error) => {
                self.failed += 1;
                eprintln!("cannot remove {what}: {error:#}");
            }
        }
    }

    fn say(&self, what: impl Display) {
        if !self.quiet {
            println!("{what}");
        }
    }

    fn each(&mut self, kind: &str, paths: &[PathBuf], remove: impl Fn(&Path) -> Result<()>) {
        for path in paths {
            self.note(format_args!("{kind} {}", path.display()), remove(path));
        }
    }

    /// Ends our binaries in our namespaces. Other programs there are somebody's shell or capture: they are
    /// named, and go on.
    fn processes(&mut self, namespaces: &[PathBuf]) {
        let ours: HashSet<_> = namespaces.iter().filter_map(|path| file_id(path)).collect();
        for process in processes().filter(|process| process.netns.is_some_and(|id| ours.contains(&id))) {
            let name = format!("process {} ({})", process.pid, process.executable.display());
            if process.is_from_here() {
                self.note(name, end(process.pid));
            } else {
                self.say(format_args!("left alone {name}, not built here"));
            }
        }
    }

    /// Removes our devices here, unless an agent serves this machine: then they are its own.
    fn devices(&mut self) {
        let devices = entries(Path::new("/sys/class/net"), is_our_device);
        if let Some(agent) = REAL_AGENT.iter().find(|path| !devices.is_empty() && Path::new(path).exists()) {
            self.say(format_args!(
                "left alone {} devices ovl…: {agent} says that an agent runs here",
                devices.len()
            ));
            return;
        }
        self.each("device", &devices, delete_device);
    }

    fn conclude(self) -> Result<()> {
        if self.failed > 0 {
            bail!("{} of {} things could not be removed, see above", self.failed, self.failed + self.removed);
        }
        if self.removed == 0 {
            self.say("clean: nothing to remove");
        }
        Ok(())
    }
}

/// Whether a namespace or directory is named as the demo and the tests name theirs.
fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Whether a device is: `ovl-…`, or `ovl` and twelve hex digits.
fn is_our_device(name: &str) -> bool {
    let is_host_veth =
        |rest: &str| rest.len() == 12 && rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_ours(name) || name.strip_prefix(VETH_PREFIX).is_some_and(is_host_veth)
}

/// What a directory holds under names that fit; nothing where it does not exist.
fn entries(directory: &Path, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(read) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<_> = read
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&fits))
        .collect();
    paths.sort();
    paths
}

/// A running process.
#[derive(Debug)]
struct Process {
    pid: Pid,
    executable: PathBuf,
    /// Program and arguments, with a NUL after each.
    command_line: Vec<u8>,
    netns: Option<FileId>,
}

impl Process {
    /// Built here or unpacked here; of a program that runs on something installed, such as ZooKeeper on Java, the
    /// arguments tell.
    fn is_from_here(&self) -> bool {
        let target = layout::target();
        let target = target.as_os_str().as_encoded_bytes();
        self.executable.as_os_str().as_encoded_bytes().starts_with(target)
            || self.command_line.windows(target.len()).any(|part| part == target)
    }
}

/// Device and inode: the same for every path of one namespace.
type FileId = (u64, u64);

fn file_id(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// All processes whose executable is known, which leaves out the kernel's own.
fn processes() -> impl Iterator<Item = Process> {
    entries(Path::new("/proc"), |name| name.bytes().all(|b| b.is_ascii_digit())).into_iter().filter_map(
        |path| {
            let pid = Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?);
            Some(Process {
                pid,
                executable: fs::read_link(path.join("exe")).ok()?,
                command_line: fs::read(path.join("cmdline")).ok()?,
                netns: file_id(&path.join("ns/net")),
            })
        },
    )
}

/// Kills outright: SIGTERM would leave the data path in place, and all of it goes.
fn end(pid: Pid) -> Result<()> {
    match kill(pid, Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).context("cannot kill it"),
    }
}

fn remove_namespace(path: &Path) -> Result<()> {
    unmount(path)?;
    gone_is_fine(fs::remove_file(path)).context("cannot remove its file")
}

/// Detaches a mount; one that is in use goes when its last user does.
fn unmount(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // EINVAL: not a mount point.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(error).context("cannot unmount it"),
    }
}

/// Mounts below our run directories, the deepest first.
fn our_mounts() -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(mounts_in(&text))
}

/// Our mount points in a mountinfo file, the latest first: a mount comes after the one that holds it.
fn mounts_in(mountinfo: &str) -> Vec<PathBuf> {
    let below_ours = |point: &&str| {
        [RUN_DIR, BPFFS_DIR].iter().any(|parent| {
            point.strip_prefix(parent).and_then(|rest| rest.strip_prefix('/')).is_some_and(is_ours)
        })
    };
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    let mut points: Vec<_> = points.filter(below_ours).map(PathBuf::from).collect();
    points.reverse();
    points
}

/// Removes a directory with all in it, unless something is still mounted there.
fn remove_directory(path: &Path) -> Result<()> {
    if our_mounts()?.iter().any(|mount| mount.starts_with(path)) {
        bail!("something is still mounted in it");
    }
    let removed = if path.is_file() { fs::remove_file(path) } else { fs::remove_dir_all(path) };
    gone_is_fine(removed).context("cannot remove it")
}

fn delete_device(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default();
    let removed = process::output(Command::new("ip").args(["link", "delete", "dev"]).arg(name));
    // The other end of a pair goes with the first.
    if path.exists() { removed.map(drop) } else { Ok(()) }
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_ours() {
        for name in ["ovl-host1", "ovl-"] {
            assert!(is_ours(name), "{name}");
        }
        for name in ["", "ovl", "overlay", "ovlx-host1", "my-ovl-host1", "default"] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[test]
    fn our_devices_are_ovl_dash_or_ovl_and_twelve_hex_digits() {
        for name in ["ovl-tunnel", "ovl0123456789ab", "ovlabcdefabcdef"] {
            assert!(is_our_device(name), "{name}");
        }
        for name in
            ["eth0", "lo", "ovl", "ovl0123456789a", "ovl0123456789abc", "ovl0123456789ag", "ovl0123456789AB"]
        {
            assert!(!is_our_device(name), "{name}");
        }
    }

    #[test]
    fn only_mounts_below_our_directories_go_and_the_inner_before_the_outer() {
        let mountinfo = "\
            21 1 0:5 / /run rw - tmpfs tmpfs rw\n\
            22 21 0:6 / /run/ovl-a rw - tmpfs tmpfs rw\n\
            23 22 0:7 / /run/ovl-a/bpf rw shared:1 - bpf bpf rw\n\
            24 21 0:8 / /run/netns/ovl-a rw - nsfs nsfs rw\n\
            25 21 0:9 / /run/overlay rw - tmpfs tmpfs rw\n\
            26 21 0:9 / /sys/fs/bpf rw - bpf bpf rw\n\
            27 26 0:9 / /sys/fs/bpf/ovl-b rw - bpf bpf rw\n";
        let expected = ["/sys/fs/bpf/ovl-b", "/run/ovl-a/bpf", "/run/ovl-a"];
        assert_eq!(mounts_in(mountinfo), expected.map(PathBuf::from));
    }

    #[test]
    fn a_directory_goes_with_its_content_and_its_absence_is_fine() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("ovl-x");
        fs::create_dir_all(directory.join("inner")).unwrap();
        remove_directory(&directory).unwrap();
        assert!(!directory.exists());
        remove_directory(&directory).unwrap();
    }

    #[test]
    fn this_process_is_among_the_processes_with_its_namespace() {
        let own = processes().find(|process| process.pid == Pid::this()).unwrap();
        assert_eq!(own.executable, std::env::current_exe().unwrap());
        assert_eq!(own.netns, file_id(Path::new("/proc/self/ns/net")));
    }
}
