//! Named network namespaces that vanish with their value.

use std::{
    fs::File,
    path::PathBuf,
    process::{self, Command},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use nix::{
    fcntl::{Flock, FlockArg},
    net::if_::if_nameindex,
    sched::{CloneFlags, setns},
    unistd::geteuid,
};

use crate::exec::{self, Finished};

/// Where `ip netns` keeps its namespaces.
const DIR: &str = "/run/netns";

/// Start of the names of every namespace and directory that this process makes.
#[must_use]
pub fn own_prefix() -> String {
    format!("ovl-{}-", process::id())
}

/// A name that no other test, process or call uses.
#[must_use]
pub fn unique_name(label: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}{}-{label}", own_prefix(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A named network namespace with loopback up and IPv6 off, deleted on drop, also after a panic.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace.
    ///
    /// IPv6 is off in it: router solicitations and listener reports at moments of the kernel's choice
    /// would move drop counters that tests compare exactly.
    ///
    /// # Panics
    /// Without root, or if `ip` fails.
    #[must_use]
    #[track_caller]
    pub fn new(label: &str) -> Self {
        assert!(
            geteuid().is_root(),
            "these tests make network namespaces: run them as root, with `cargo xtask test`"
        );
        let netns = Self { name: unique_name(label) };
        add(&netns.name);
        netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
        netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        netns.ip(&["link", "set", "lo", "up"]);
        netns
    }

    /// Its name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(DIR).join(&self.name)
    }

    /// A command in it, through `nsenter`: `ip netns exec` would hide `/sys/fs/bpf` from it.
    #[must_use]
    pub fn command(&self, argv: &[&str]) -> Command {
        exec::command(self.entry().iter().map(String::as_str).chain(argv.iter().copied()))
    }

    /// The words to put before a command that shall run in it, in the same process (no fork).
    #[must_use]
    pub fn entry(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net={}", self.path().display())]
    }

    /// Runs a command in it.
    #[track_caller]
    pub fn run(&self, argv: &[&str]) -> Finished {
        exec::finish(&mut self.command(argv))
    }

    /// Runs a command in it that has to succeed; its standard output.
    #[track_caller]
    pub fn must(&self, argv: &[&str]) -> String {
        self.run(argv).expect_success()
    }

    /// Runs `ip` on it.
    #[track_caller]
    pub fn ip(&self, argv: &[&str]) -> String {
        exec::must(["ip", "-n", &self.name].iter().chain(argv))
    }

    /// Whether it has a device of that name.
    #[must_use]
    pub fn has_link(&self, ifname: &str) -> bool {
        self.links().iter().any(|link| link == ifname)
    }

    /// Names of its devices.
    ///
    /// # Panics
    /// If the kernel does not list them.
    #[must_use]
    pub fn links(&self) -> Vec<String> {
        self.enter(|| {
            let links = if_nameindex().expect("list the namespace's devices");
            links.iter().map(|link| link.name().to_string_lossy().into_owned()).collect()
        })
    }

    /// Sets a value below `/proc/sys`, if this kernel has it.
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = PathBuf::from("/proc/sys").join(name);
        self.enter(|| {
            if path.exists() {
                std::fs::write(&path, value)
                    .unwrap_or_else(|e| panic!("cannot write {value} to {}: {e}", path.display()));
            }
        });
    }

    /// Runs a closure on a thread of its own in the namespace, and waits for it. Sockets made in it stay in
    /// the namespace wherever they are used.
    ///
    /// # Panics
    /// If the closure does, or the namespace cannot be entered.
    pub fn enter<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> T {
        let join = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.move_this_thread();
                    closure()
                })
                .join()
        });
        join.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Like [`Netns::enter`], without waiting.
    pub fn spawn<T: Send + 'static>(&self, closure: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let file = self.open();
        thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            closure()
        })
    }

    /// Deletes the namespace now; its processes, if any, keep it alive without a name.
    pub fn delete(&self) {
        if self.path().exists() {
            exec::run(["ip", "netns", "del", &self.name]);
        }
    }

    fn open(&self) -> File {
        File::open(self.path()).unwrap_or_else(|e| panic!("cannot open {}: {e}", self.path().display()))
    }

    fn move_this_thread(&self) {
        setns(self.open(), CloneFlags::CLONE_NEWNET)
            .unwrap_or_else(|e| panic!("cannot enter {}: {e}", self.name));
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.delete();
    }
}

/// `ip netns add`, one at a time on the whole machine: the first one makes `/run/netns` a mount point, and two
/// that do so at once hide each other's namespaces.
#[track_caller]
fn add(name: &str) {
    static ONE: Mutex<()> = Mutex::new(());
    let _thread = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let run = File::open("/run").expect("open /run");
    let _process = Flock::lock(run, FlockArg::LockExclusive).expect("lock /run against other tests");
    exec::must(["ip", "netns", "add", name]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_only_loopback_and_vanishes_after_a_panic() {
        let (send, receive) = std::sync::mpsc::channel();
        let panicked = thread::spawn(move || {
            let netns = Netns::new("unit");
            send.send((netns.path(), netns.links())).unwrap();
            panic!("on purpose");
        });
        assert!(panicked.join().is_err());
        let (path, links) = receive.recv().unwrap();
        assert_eq!(links, ["lo"]);
        assert!(!path.exists());
    }

    #[test]
    fn a_closure_and_a_command_run_inside_while_this_thread_stays_outside() {
        let netns = Netns::new("unit");
        let identity = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let inside = netns.enter(identity);
        assert_ne!(inside, identity());
        assert_eq!(netns.must(&["readlink", "/proc/self/ns/net"]).trim(), inside.to_str().unwrap());
    }
}
