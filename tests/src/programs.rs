//! Real servers and their clients in containers: redis, PostgreSQL and nginx of Debian's packages, unpacked.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use xtask::unpacked::{self, Tree};

use crate::{
    exec::{self, Finished},
    netns::Netns,
    wait,
};

/// Longest time until a server serves.
const START: Duration = Duration::from_secs(30);

/// A running server; killed on drop.
#[derive(Debug)]
pub struct Server {
    process: Child,
    name: &'static str,
    log: PathBuf,
}

impl Server {
    #[track_caller]
    fn start(name: &'static str, place: &impl Inside, dir: &Path, program: &Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let output = || File::options().create(true).append(true).open(&log).expect("open the server's log");
        let mut command = inside(place, program);
        command.stdin(Stdio::null()).stdout(output()).stderr(output());
        let process = command.spawn().unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        Self { process, name, log }
    }

    /// Waits until a question to the server is answered.
    #[track_caller]
    fn wait(mut self, ask: impl Fn() -> bool) -> Self {
        let served = wait::poll(START, || {
            let ended = self.process.try_wait().expect("look after the server");
            assert!(ended.is_none(), "{} ended: {}", self.name, self.log());
            ask().then_some(())
        });
        assert!(served.is_some(), "{} does not serve: {}", self.name, self.log());
        self
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A program of an unpacked tree.
///
/// # Panics
/// If the tree cannot be had.
#[track_caller]
fn program<S: AsRef<OsStr>>(tree: &Tree, path: &str, words: impl IntoIterator<Item = S>) -> Command {
    let mut command = tree.program(path).unwrap_or_else(|e| panic!("{e:#}"));
    command.args(words);
    command
}

/// Where programs can run.
pub trait Inside {
    /// Words that have the command after them run there.
    fn words(&self) -> Vec<String>;
}

impl Inside for Netns {
    /// What reads `/etc/resolv.conf` there reads the namespace's own.
    fn words(&self) -> Vec<String> {
        ["ip", "netns", "exec", self.name()].map(str::to_owned).into()
    }
}

/// The program at its place.
fn inside(place: &impl Inside, program: &Command) -> Command {
    let words = place.words();
    let (first, rest) = words.split_first().expect("a place has words");
    let mut command = Command::new(first);
    command.args(rest).arg(program.get_program()).args(program.get_args());
    command.envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command
}

/// Runs a program at its place to its end.
fn run(place: &impl Inside, program: &Command) -> Finished {
    exec::finish(&mut inside(place, program))
}

/// redis.
pub mod redis {
    use super::{Finished, Inside, Path, Server, program, run, unpacked::REDIS};

    /// Starts a server that listens everywhere.
    #[must_use]
    #[track_caller]
    pub fn start(place: &impl Inside, dir: &Path) -> Server {
        let words = ["--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir"];
        let mut server = program(&REDIS, "usr/bin/redis-server", words);
        server.arg(dir);
        Server::start("redis", place, dir, &server)
            .wait(|| client(place, "127.0.0.1", &["ping"]).stdout.contains("PONG"))
    }

    /// Runs `redis-cli` against a server.
    #[must_use]
    #[track_caller]
    pub fn client(place: &impl Inside, host: &str, words: &[&str]) -> Finished {
        run(place, &program(&REDIS, "usr/bin/redis-cli", [&["-h", host][..], words].concat()))
    }

    /// Runs `redis-benchmark` against a server.
    #[must_use]
    #[track_caller]
    pub fn benchmark(place: &impl Inside, host: &str, words: &[&str]) -> Finished {
        run(place, &program(&REDIS, "usr/bin/redis-benchmark", [&["-h", host][..], words].concat()))
    }
}

/// PostgreSQL. It refuses to run as root: it gets a user namespace in which root has another number.
pub mod postgres {
    use super::{Command, Finished, Inside, Path, Server, exec, program, run, unpacked::POSTGRES};

    const BIN: &str = "usr/lib/postgresql/15/bin";

    #[track_caller]
    fn tool(name: &str, words: &[&str]) -> Command {
        program(&POSTGRES, &format!("{BIN}/{name}"), words)
    }

    fn not_as_root(of: &Command) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-user=1000", "--map-group=1000"]);
        command.arg(of.get_program()).args(of.get_args());
        command.envs(of.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command
    }

    /// Makes a cluster that trusts everybody, and starts a server on it that listens everywhere.
    #[must_use]
    #[track_caller]
    pub fn start(place: &impl Inside, dir: &Path) -> Server {
        let data = dir.join("postgres");
        let data = data.to_str().expect("a path of text");
        let made = tool("initdb", &["-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C"]);
        let _ = exec::finish(&mut not_as_root(&made)).expect_success();
        let hba = dir.join("postgres/pg_hba.conf");
        std::fs::write(hba, "host all all 0.0.0.0/0 trust\n").expect("write pg_hba.conf");
        let words = ["-D", data, "-h", "0.0.0.0", "-k", "", "-F", "-c", "jit=off"];
        Server::start("postgres", place, dir, &not_as_root(&tool("postgres", &words)))
            .wait(|| query(place, "127.0.0.1", "select 1").is_success())
    }

    /// Asks one question; the bare answer.
    #[must_use]
    #[track_caller]
    pub fn query(place: &impl Inside, host: &str, sql: &str) -> Finished {
        run(place, &tool("psql", &["-h", host, "-U", "postgres", "-X", "-A", "-t", "-c", sql]))
    }

    /// Runs `pgbench` against a server.
    #[must_use]
    #[track_caller]
    pub fn bench(place: &impl Inside, host: &str, words: &[&str]) -> Finished {
        run(place, &tool("pgbench", &[&["-h", host, "-U", "postgres"][..], words, &["postgres"]].concat()))
    }
}

/// nginx.
pub mod nginx {
    use super::{Finished, Inside, Path, Server, exec, fs, inside, program, run, unpacked::NGINX};

    /// Starts a server that gives and takes files of a directory.
    #[must_use]
    #[track_caller]
    pub fn start(place: &impl Inside, dir: &Path) -> Server {
        let config = dir.join("nginx.conf");
        fs::write(&config, settings(dir)).expect("write nginx.conf");
        let mut server = program(&NGINX, "usr/sbin/nginx", ["-e", "stderr", "-c"]);
        server.arg(config);
        Server::start("nginx", place, dir, &server)
            .wait(|| curl(place, &["-o", "/dev/null", "http://127.0.0.1/nginx.conf"]).is_success())
    }

    fn settings(dir: &Path) -> String {
        let dir = dir.display();
        format!(
            "daemon off; master_process off; user root; pid {dir}/nginx.pid; error_log stderr;
             events {{ worker_connections 256; }}
             http {{ access_log off; client_max_body_size 0; client_body_temp_path {dir}/body;
               proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fcgi; uwsgi_temp_path {dir}/uwsgi;
               scgi_temp_path {dir}/scgi;
               server {{ listen 80; root {dir}; location / {{ dav_methods PUT; }} }} }}"
        )
    }

    /// Runs `curl`, silent but for errors, for half a minute at most.
    #[must_use]
    #[track_caller]
    pub fn curl(place: &impl Inside, words: &[&str]) -> Finished {
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "30"]).args(words);
        exec::finish(&mut inside(place, &curl))
    }

    /// Runs `wrk` against a server.
    #[must_use]
    #[track_caller]
    pub fn wrk(place: &impl Inside, words: &[&str]) -> Finished {
        run(place, &program(&NGINX, "usr/bin/wrk", words))
    }
}
