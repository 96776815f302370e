//! Hosts with an agent and a real Docker engine each.

use std::{ops::Deref, thread, time::Duration};

use overlay_tests::{
    docker::{Cgroup, Engine, Packages},
    exec::Finished,
    host::Host,
    topology::{Cluster, Plan},
    wait,
};

/// Longest time until what one host did is known to the other's engine.
pub const SOON: Duration = Duration::from_secs(10);

/// Name of the driver's socket, which is what Docker calls the driver.
pub const DRIVER: &str = "overlay-ebpf";
/// What makes a network ours, addresses included.
pub const OURS: &str = "-d overlay-ebpf --ipam-driver overlay-ebpf";

/// Two hosts. The engines end before the agents.
pub struct Dock {
    engines: Vec<Engine>,
    cgroup: Cgroup,
    pub cluster: Cluster,
}

/// One of the engines.
pub struct Docker<'a>(&'a Engine);

impl Dock {
    /// Starts agents, then engines.
    pub fn new() -> Self {
        let packages = Packages::unpacked().expect("Docker's packages");
        let mut dock = Self::with_agents(&packages);
        dock.start_engines(&packages);
        dock
    }

    /// The same without the engines.
    fn with_agents(packages: &Packages) -> Self {
        let mut cluster = Cluster::without_agents(Plan::default());
        let hosts = std::mem::take(&mut cluster.hosts);
        for host in hosts {
            let dir = cluster.dir.make(format!("docker-{}", host.label()));
            let socket = Engine::plugins(&dir).join(format!("{DRIVER}.sock"));
            let api = Engine::socket(&dir);
            let host = host.with_flag("--docker-socket", &socket.display().to_string());
            let host = host.with_flag("--docker-api", &api.display().to_string());
            let variables = packages.environment().expect("Docker's libraries");
            let with = |host: Host, (name, value)| host.with_variable(name, value);
            cluster.hosts.push(variables.into_iter().fold(host, with));
        }
        cluster.hosts.iter().for_each(Host::spawn);
        cluster.hosts.iter().for_each(Host::wait_ready);
        Self { engines: Vec::new(), cgroup: Cgroup::new(), cluster }
    }

    /// Starts all engines at once.
    fn start_engines(&mut self, packages: &Packages) {
        let (dir, cgroup) = (&self.cluster.dir, self.cgroup.name());
        let hosts =
            self.cluster.hosts.iter().map(|host| (host, dir.make(format!("docker-{}", host.label()))));
        let hosts: Vec<_> = hosts.collect();
        let start = |host: &Host, dir| {
            Engine::start(host.netns(), dir, packages.clone(), cgroup).expect("start an engine")
        };
        self.engines = thread::scope(|scope| {
            let starting: Vec<_> =
                hosts.into_iter().map(|(host, dir)| scope.spawn(move || start(host, dir))).collect();
            starting.into_iter().map(|engine| engine.join().expect("an engine")).collect()
        });
    }

    /// The engine of host 1 or 2.
    pub fn on(&self, host: usize) -> Docker<'_> {
        Docker(&self.engines[host - 1])
    }

    /// The engine itself, to be ended and started.
    pub fn engine(&mut self, host: usize) -> &mut Engine {
        &mut self.engines[host - 1]
    }

    /// The agent of host 1 or 2.
    pub fn agent(&self, host: usize) -> &Host {
        &self.cluster.hosts[host - 1]
    }

    /// Creates a network on one engine and waits until the other knows it.
    #[track_caller]
    pub fn network(&self, host: usize, name: &str, more: &str) {
        self.on(host).must(&format!("network create {OURS} {more} {name}"));
        let other = self.on(3 - host);
        wait::until("the other engine knows the network", SOON, || {
            other.run(&format!("network inspect {name}")).is_success()
        });
    }

    /// Fails unless everything on all hosts is as it should be.
    #[track_caller]
    pub fn verify(&self) {
        for host in &self.cluster.hosts {
            host.overlay(&["verify"]);
        }
    }
}

impl Deref for Docker<'_> {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        self.0
    }
}

impl Docker<'_> {
    /// Runs `docker WORDS`, whatever comes of it.
    pub fn run(&self, words: &str) -> Finished {
        self.cli(&words.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs `docker WORDS`, which has to succeed; what it prints, without white space around it.
    #[track_caller]
    pub fn must(&self, words: &str) -> String {
        self.run(words).expect_success().trim().to_owned()
    }

    /// Runs `docker WORDS`, which has to fail; what it says.
    #[track_caller]
    pub fn refused(&self, words: &str) -> String {
        let finished = self.run(words);
        assert!(!finished.is_success(), "{finished}");
        finished.stderr
    }

    /// Whether a container pings somebody with one packet.
    pub fn pings(&self, container: &str, whom: &str) -> bool {
        self.run(&format!("exec {container} ping -c 1 -W 2 {whom}")).is_success()
    }

    /// A container's address in a network.
    #[track_caller]
    pub fn address(&self, container: &str, network: &str) -> String {
        self.inspect(container, network).expect("an address").addr.to_string()
    }
}
