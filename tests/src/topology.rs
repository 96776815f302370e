//! Clusters: hosts on one underlay with one store.

use std::time::{Duration, Instant};

use crate::{
    container::Container,
    host::Host,
    packet::{Addr, DISCARD_PORT, Frame},
    tap::Tap,
    underlay::{MTU, Machine, Underlay, Wire},
    views::Network,
    wait,
    workdir::WorkDir,
};

/// Longest time that a change on one host may take to be in force on the others.
pub const CONVERGENCE: Duration = Duration::from_secs(1);

/// What a cluster is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Number of hosts.
    pub hosts: usize,
    /// The wire between them.
    pub wire: Wire,
    /// Value of `--xdp`.
    pub xdp: &'static str,
    /// MTU of the underlay.
    pub mtu: u16,
    /// More flags of every agent, with their values.
    pub flags: &'static [(&'static str, &'static str)],
}

impl Default for Plan {
    fn default() -> Self {
        Self { hosts: 2, wire: Wire::Offload, xdp: "auto", mtu: MTU, flags: &[] }
    }
}

/// Hosts with agents that share a store. Ends and removes all of it on drop.
#[derive(Debug)]
pub struct Cluster {
    /// `host1`, `host2` and so on.
    pub hosts: Vec<Host>,
    /// The wire between them.
    pub underlay: Underlay,
    /// Their files and pins. Dropped last.
    pub dir: WorkDir,
}

impl Cluster {
    /// Makes the hosts and waits until every agent is ready and knows all the others.
    #[must_use]
    #[track_caller]
    pub fn new(plan: Plan) -> Self {
        let cluster = Self::without_agents(plan);
        cluster.hosts.iter().for_each(Host::spawn);
        cluster.hosts.iter().for_each(Host::wait_ready);
        for host in &cluster.hosts {
            let nodes = || host.json::<Vec<serde_json::Value>>(&["node", "ls"]).len();
            wait::until("all nodes know each other", CONVERGENCE, || nodes() == plan.hosts);
        }
        cluster
    }

    /// The hosts, with no agent running.
    #[must_use]
    #[track_caller]
    pub fn without_agents(plan: Plan) -> Self {
        let (dir, underlay) = (WorkDir::new("cluster"), Underlay::new(plan.wire));
        let (pins, store) = (dir.mount_bpffs("bpf"), dir.path().join("overlay.db"));
        let host = |number: usize| {
            let label = format!("host{number}");
            let machine = underlay.add_host(&label, plan.mtu);
            let host = Host::new(machine, &label, dir.make(&label), pins.join(&label), &store);
            plan.flags
                .iter()
                .fold(host.with_flag("--xdp", plan.xdp), |host, (flag, value)| host.with_flag(flag, value))
        };
        Self { hosts: (1..=plan.hosts).map(host).collect(), underlay, dir }
    }

    /// The same hosts with another store, before an agent runs.
    #[must_use]
    pub fn with_store(mut self, url: &str) -> Self {
        self.hosts = self.hosts.into_iter().map(|host| host.with_flag("--store", url)).collect();
        self
    }

    /// Creates a network and waits until every host knows it.
    #[track_caller]
    pub fn network(&self, name: &str, extra: &[&str]) -> Network {
        let network = self.hosts[0].create_network(name, extra);
        for host in &self.hosts {
            wait::until("every host knows the network", CONVERGENCE, || {
                host.cli(&["network", "inspect", name]).is_success()
            });
        }
        network
    }

    /// Creates network `net` with container `a` on the first host and `b` on the last.
    #[must_use]
    #[track_caller]
    pub fn pair(&self) -> (Container, Container) {
        self.network("net", &[]);
        let a = Container::attached(&self.hosts[0], "net", "a");
        let b = Container::attached(&self.hosts[self.hosts.len() - 1], "net", "b");
        settle(&[&a, &b]);
        (a, b)
    }

    /// A machine on the underlay that is no node of the cluster.
    #[must_use]
    #[track_caller]
    pub fn stranger(&self) -> Machine {
        self.underlay.add_host("stranger", MTU)
    }
}

/// Two hosts on a wire.
#[must_use]
#[track_caller]
pub fn two_hosts(wire: Wire) -> Cluster {
    Cluster::new(Plan { wire, ..Plan::default() })
}

/// Three hosts.
#[must_use]
#[track_caller]
pub fn three_hosts() -> Cluster {
    Cluster::new(Plan { hosts: 3, ..Plan::default() })
}

/// Waits until raw frames pass both ways between all of these containers, which are in one network.
///
/// # Panics
/// If they do not within [`CONVERGENCE`].
#[track_caller]
pub fn settle(containers: &[&Container]) {
    let taps: Vec<(Tap, &Container)> =
        containers.iter().map(|container| (container.tap(), *container)).collect();
    for (from_tap, from) in &taps {
        for (to_tap, to) in taps.iter().filter(|(_, to)| to.name() != from.name()) {
            let passed = time_to_pass(from_tap, to_tap, from.addr(), to.addr(), CONVERGENCE);
            assert!(passed.is_some(), "{} does not reach {} within {CONVERGENCE:?}", from.name(), to.name());
        }
    }
}

/// How long it takes until a UDP frame from one end arrives at the other; one is sent every few milliseconds.
/// `None` if none arrives before the deadline.
#[must_use]
pub fn time_to_pass(
    from_tap: &Tap,
    to_tap: &Tap,
    from: Addr,
    to: Addr,
    deadline: Duration,
) -> Option<Duration> {
    const BETWEEN: Duration = Duration::from_millis(10);
    const PROBE_PORT: u16 = 1009;
    let start = Instant::now();
    let probe =
        Frame::udp(from, to, (PROBE_PORT, DISCARD_PORT), format!("probe {from:?} to {to:?}").as_bytes());
    let payload = probe.udp_packet().map(|(_, _, payload)| payload.to_vec())?;
    wait::poll(deadline, || {
        from_tap.send(&probe);
        to_tap.find(BETWEEN, |frame| frame.contains(&payload).then(|| start.elapsed()))
    })
}
