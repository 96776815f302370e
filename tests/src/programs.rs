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

/// A server in a namespace; killed on drop.
#[derive(Debug)]
pub struct Server {
    process: Child,
    name: &'static str,
    log: PathBuf,
}

impl Server {
    #[track_caller]
    fn start(name: &'static str, netns: &Netns, dir: &Path, program: &Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let output = || File::options().create(true).append(true).open(&log).expect("open the server's log");
        let mut command = inside(netns, program);
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

/// The program in a namespace: what reads `/etc/resolv.conf` there reads the namespace's own, as with `ip netns exec`.
fn inside(netns: &Netns, program: &Command) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns.name()]).arg(program.get_program()).args(program.get_args());
    command.envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command
}

/// Runs a program in a namespace to its end.
fn run(netns: &Netns, program: &Command) -> Finished {
    exec::finish(&mut inside(netns, program))
}

/// redis.
pub mod redis {
    use super::{Finished, Netns, Path, Server, program, run, unpacked::REDIS};

    /// Starts a server that listens everywhere.
    #[must_use]
    #[track_caller]
    pub fn start(netns: &Netns, dir: &Path) -> Server {
        let words = ["--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir"];
        let mut server = program(&REDIS, "usr/bin/redis-server", words);
        server.arg(dir);
        Server::start("redis", netns, dir, &server)
            .wait(|| client(netns, "127.0.0.1", &["ping"]).stdout.contains("PONG"))
    }

    /// Runs `redis-cli` against a server.
    #[must_use]
    #[track_caller]
    pub fn client(netns: &Netns, host: &str, words: &[&str]) -> Finished {
        run(netns, &program(&REDIS, "usr/bin/redis-cli", [&["-h", host][..], words].concat()))
    }

    /// Runs `redis-benchmark` against a server.
    #[must_use]
    #[track_caller]
    pub fn benchmark(netns: &Netns, host: &str, words: &[&str]) -> Finished {
        run(netns, &program(&REDIS, "usr/bin/redis-benchmark", [&["-h", host][..], words].concat()))
    }
}

/// PostgreSQL. It refuses to run as root: it gets a user namespace in which root has another number.
pub mod postgres {
    use super::{Command, Finished, Netns, Path, Server, exec, program, run, unpacked::POSTGRES};

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
    pub fn start(netns: &Netns, dir: &Path) -> Server {
        let data = dir.join("postgres");
        let data = data.to_str().expect("a path of text");
        let made = tool("initdb", &["-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C"]);
        let _ = exec::finish(&mut not_as_root(&made)).expect_success();
        let hba = dir.join("postgres/pg_hba.conf");
        std::fs::write(hba, "host all all 0.0.0.0/0 trust\n").expect("write pg_hba.conf");
        let words = ["-D", data, "-h", "0.0.0.0", "-k", "", "-F", "-c", "jit=off"];
        Server::start("postgres", netns, dir, &not_as_root(&tool("postgres", &words)))
            .wait(|| query(netns, "127.0.0.1", "select 1").is_success())
    }

    /// Asks one question; the bare answer.
    #[must_use]
    #[track_caller]
    pub fn query(netns: &Netns, host: &str, sql: &str) -> Finished {
        run(netns, &tool("psql", &["-h", host, "-U", "postgres", "-X", "-A", "-t", "-c", sql]))
    }

    /// Runs `pgbench` against a server.
    #[must_use]
    #[track_caller]
    pub fn bench(netns: &Netns, host: &str, words: &[&str]) -> Finished {
        run(netns, &tool("pgbench", &[&["-h", host, "-U", "postgres"][..], words, &["postgres"]].concat()))
    }
}

/// nginx.
pub mod nginx {
    use super::{Finished, Netns, Path, Server, exec, fs, inside, program, run, unpacked::NGINX};

    /// Starts a server that gives and takes files of a directory.
    #[must_use]
    #[track_caller]
    pub fn start(netns: &Netns, dir: &Path) -> Server {
        let config = dir.join("nginx.conf");
        fs::write(&config, settings(dir)).expect("write nginx.conf");
        let mut server = program(&NGINX, "usr/sbin/nginx", ["-e", "stderr", "-c"]);
        server.arg(config);
        Server::start("nginx", netns, dir, &server)
            .wait(|| curl(netns, &["-o", "/dev/null", "http://127.0.0.1/nginx.conf"]).is_success())
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
    pub fn curl(netns: &Netns, words: &[&str]) -> Finished {
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "30"]).args(words);
        exec::finish(&mut inside(netns, &curl))
    }

    /// Runs `wrk` against a server.
    #[must_use]
    #[track_caller]
    pub fn wrk(netns: &Netns, words: &[&str]) -> Finished {
        run(netns, &program(&NGINX, "usr/bin/wrk", words))
    }
}
