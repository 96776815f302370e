//! A host as a machine of its own: what people install and configure on it stays in it, and goes with it.
//!
//! In the host's network namespace runs a shell with mounts and processes of its own. `/etc` and `/usr` are the machine's,
//! with unpacked packages laid over them as if they were installed, and whatever is written to them goes to memory;
//! `/run`, `/var/lib`, `/opt` and the BPF file system are empty. When the shell ends, every process in it is killed.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use crate::{netns::Netns, wait};

/// Longest time that one script may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// Longest time until everything in it has ended.
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);
/// Comes after the output of a script, with its exit code.
const END: &str = "--end-of-script--";

/// Lays the trees over the system and becomes a shell. The arguments: the machine's name, a directory that stays visible
/// although it lies below `/run`, then the trees.
const ENTER: &str = r#"set -e
hostname "$1"; dir=$2; shift 2
mount --bind "$dir" /mnt
mount -t tmpfs room /run
mkdir -p "$dir" /run/netns /run/lock /run/room/etc/upper /run/room/etc/work /run/room/usr/upper /run/room/usr/work
mount --move /mnt "$dir"
usr=/usr etc=/etc
for tree in "$@"; do
  usr=$tree/usr:$usr
  [ ! -d "$tree/etc" ] || etc=$tree/etc:$etc
done
mount -t overlay room -o "lowerdir=$usr,upperdir=/run/room/usr/upper,workdir=/run/room/usr/work" /usr
mount -t overlay room -o "lowerdir=$etc,upperdir=/run/room/etc/upper,workdir=/run/room/etc/work" /etc
for tree in "$@"; do
  for old in bin sbin lib; do [ ! -d "$tree/$old" ] || cp -a "$tree/$old" /usr/; done
done
for empty in /var/lib /var/log /opt; do mount -t tmpfs room $empty; done
mount -t bpf room /sys/fs/bpf
export HOME=/run/room/home TMPDIR=/run/room/tmp; mkdir $HOME $TMPDIR
exec bash --noprofile --norc
"#;

/// What a script left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What it printed, errors among it.
    pub output: String,
    /// Its exit code; `None` if it did not end in time, or ended the shell.
    pub code: Option<i32>,
}

/// The machine, with a shell on it that runs one script after the other.
#[derive(Debug)]
pub struct Room {
    name: String,
    shell: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Room {
    /// Enters a host and gives it a name. `dir` is kept visible; `trees` are unpacked packages, those that come later win.
    ///
    /// # Panics
    /// If the mounts cannot be made.
    #[must_use]
    #[track_caller]
    pub fn enter(netns: &Netns, name: &str, dir: &Path, trees: &[PathBuf]) -> Self {
        let [nsenter, namespace] = netns.entry();
        let mut command = Command::new(nsenter);
        command.arg(namespace);
        command.args([
            "unshare",
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]);
        command.args(["sh", "-c", ENTER, "room", name]).arg(dir).args(trees);
        let (output, both) = std::io::pipe().expect("a pipe");
        let errors = both.try_clone().expect("a pipe's end");
        command.stdin(Stdio::piped()).stdout(both).stderr(errors);
        let mut shell = command.spawn().expect("start nsenter");
        // The command holds the pipe's other ends open.
        drop(command);
        let stdin = shell.stdin.take().expect("a pipe");
        let (send, lines) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
            lines.map(|line| String::from_utf8_lossy(&line).into_owned()).try_for_each(|line| send.send(line))
        });
        let mut room = Self { name: name.to_owned(), shell, stdin, lines };
        room.must("true");
        room
    }

    /// Runs a script in the shell: what it sets stays set. It ends at its first failure.
    pub fn run(&mut self, script: &str) -> Outcome {
        // A shell function keeps the script's input apart from the shell's own.
        let wrapped = format!(
            "eval \"$(cat <<'{END}'\nset -e -o pipefail\n{script}\n{END}\n)\" </dev/null; echo \"\n{END} $?\"; set +e\n"
        );
        let sent = self.stdin.write_all(wrapped.as_bytes()).and_then(|()| self.stdin.flush());
        let (mut output, start) = (Vec::new(), Instant::now());
        let code = sent.ok().and_then(|()| {
            loop {
                let left = DEADLINE.checked_sub(start.elapsed())?;
                let line = self.lines.recv_timeout(left).ok()?;
                match line.strip_prefix(END) {
                    Some(code) => break code.trim().parse().ok(),
                    None => output.push(line),
                }
            }
        });
        Outcome { output: output.join("\n").trim_matches('\n').to_owned(), code }
    }

    /// Runs a script that has to succeed; what it printed.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn must(&mut self, script: &str) -> String {
        let Outcome { output, code } = self.run(script);
        assert_eq!(code, Some(0), "on {}:\n{script}\nprinted:\n{output}", self.name);
        output
    }
}

impl Drop for Room {
    /// The shell is the first process of its namespace: when it has ended, so have all others.
    fn drop(&mut self) {
        let _ = self.stdin.write_all(b"exit\n");
        if wait::poll(LEAVE_DEADLINE, || self.shell.try_wait().ok().flatten()).is_none() {
            let _ = self.shell.kill();
            let _ = self.shell.wait();
        }
    }
}
