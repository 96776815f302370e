//! A system of its own: systemd as the first process of its namespaces, on a copy of this machine's files that is thrown
//! away, in the network namespace of a host.
//!
//! What is installed, changed or broken in it is gone with it. Only the network namespace, and directories that are named,
//! it shares with others.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    exec::{self, Finished},
    netns::Netns,
    wait,
    workdir::WorkDir,
};

/// Longest time from the start of systemd until its units have started.
const BOOTED: Duration = Duration::from_secs(30);

/// Puts a root together and starts systemd on it. `$1` is an empty directory, `$2…` are directories to share.
///
/// Units that would act on the kernel of the machine itself are masked: its settings, modules and devices are not ours.
const BOOT: &str = r#"
set -e
dir=$1; shift
mount --make-rprivate /
mount -t tmpfs tmpfs "$dir"
mkdir "$dir/upper" "$dir/work" "$dir/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
cd "$dir/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
for new in run tmp dev; do mount -t tmpfs tmpfs $new; done
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mkdir dev/pts dev/shm
mount -t devpts devpts dev/pts -o newinstance,ptmxmode=0666
ln -s pts/ptmx dev/ptmx
for node in null zero full random urandom tty; do
    touch dev/$node; mount --bind /dev/$node dev/$node
done
for shared in "$@"; do
    mkdir -p ".$shared"; mount --bind "$shared" ".$shared"
done
rm -rf etc/systemd/system/*.wants/* etc/machine-id var/log/journal
# Says of a machine without a service manager that packages may start nothing.
rm -f usr/sbin/policy-rc.d
mkdir -p etc/systemd/system/multi-user.target.wants etc/systemd/system/sockets.target.wants
for unit in systemd-sysctl systemd-modules-load systemd-udevd systemd-remount-fs systemd-journal-flush \
    systemd-networkd systemd-networkd-wait-online; do
    ln -sf /dev/null etc/systemd/system/$unit.service
done
mkdir -p old
pivot_root . old
umount -l old
# What a unit sees of later mounts (network namespaces) comes by propagation, which systemd leaves to who made the mounts.
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=basic.target --show-status=no \
    >/console.log 2>&1 </dev/null
"#;

/// A running system. Everything in it ends on drop.
#[derive(Debug)]
pub struct System {
    child: Child,
    init: u32,
    _dir: WorkDir,
}

impl System {
    /// Boots one in a network namespace; `shared` directories are the machine's own.
    ///
    /// # Panics
    /// If systemd does not come up.
    #[must_use]
    #[track_caller]
    pub fn boot(netns: &Netns, shared: &[&Path]) -> Self {
        let dir = WorkDir::new("system");
        let [nsenter, entry] = netns.entry();
        let mut command = Command::new(nsenter);
        command.arg(entry).args([
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--uts",
            "--ipc",
            "--cgroup",
        ]);
        command.args(["sh", "-c", BOOT, "sh"]).arg(dir.path()).args(shared).stdin(Stdio::null());
        let mut child = command.spawn().expect("start unshare");
        let init = wait::poll(BOOTED, || {
            assert!(child.try_wait().is_ok_and(|ended| ended.is_none()), "the system ended before it was up");
            first_child(child.id())
        });
        let init = init.expect("the first process of the system");
        let system = Self { child, init, _dir: dir };
        wait::until("the system is up", BOOTED, || {
            matches!(system.run(&["systemctl", "is-system-running"]).stdout.trim(), "running" | "degraded")
        });
        system
    }

    /// A command in it.
    #[must_use]
    pub fn command(&self, argv: &[&str]) -> Command {
        let target = format!("--target={}", self.init);
        let words = [
            "nsenter", &target, "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net", "--root", "--wd=/",
        ];
        exec::command(words.iter().chain(argv))
    }

    /// Runs a command in it, whatever comes of it.
    #[track_caller]
    pub fn run(&self, argv: &[&str]) -> Finished {
        exec::finish(&mut self.command(argv))
    }

    /// Runs a command in it that has to succeed; its standard output.
    #[track_caller]
    pub fn must(&self, argv: &[&str]) -> String {
        self.run(argv).expect_success()
    }

    /// Where its files are seen from outside.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init)).join(inside.trim_start_matches('/'))
    }

    /// Writes a file in it, and the directories above.
    ///
    /// # Panics
    /// If it cannot be written.
    #[track_caller]
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        written.unwrap_or_else(|e| panic!("cannot write {inside} in the system: {e}"));
    }

    /// Copies a file of the machine's into it.
    ///
    /// # Panics
    /// If it cannot be copied.
    #[track_caller]
    pub fn install(&self, file: &Path, inside: &str) {
        let path = self.path(inside);
        let copied = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::copy(file, &path));
        copied.unwrap_or_else(|e| panic!("cannot install {} as {inside}: {e}", file.display()));
    }

    /// A property of a unit, as `systemctl show` tells it.
    #[track_caller]
    #[must_use]
    pub fn property(&self, unit: &str, property: &str) -> String {
        self.must(&["systemctl", "show", "--value", "--property", property, unit]).trim().to_owned()
    }

    /// The log of a unit.
    #[must_use]
    pub fn journal(&self, unit: &str) -> String {
        self.run(&["journalctl", "--no-pager", "--unit", unit]).stdout
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // With the first process of a process namespace all others end.
        let _ = self.child.kill();
        let _ = self.child.wait();
        wait::poll(Duration::from_secs(5), || {
            (!Path::new(&format!("/proc/{}", self.init)).exists()).then_some(())
        });
    }
}

/// The only child of a process, once it has one.
fn first_child(parent: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
