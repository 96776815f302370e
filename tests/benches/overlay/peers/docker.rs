//! Two real Docker engines on this machine, one swarm, one attachable overlay network.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    docker::{Cgroup, Engine, Packages, Running},
    exec,
    underlay::{MTU, Machine, Underlay},
    workdir::WorkDir,
};

use super::{Setting, Stage};
use crate::place::{Place, Route};

const NETWORK: &str = "bench";
/// Apart from the underlay and from what Docker takes for its own bridges.
const SUBNET: &str = "10.201.0.0/24";

/// Builds it: one container on the first host, two on the second.
pub fn build(setting: Setting, root: Option<&Path>) -> Result<Stage> {
    let packages = Packages::at(root.context("Docker's packages were not unpacked (see --docker-root)")?)?;
    let docker = Docker::start(setting, &packages)?;
    let [(one, _), (two, machine)] = &docker.hosts[..] else { unreachable!("two engines were started") };
    let client = one.run_container("client", NETWORK)?;
    let server = two.run_container("server", NETWORK)?;
    let neighbour = two.run_container("neighbour", NETWORK)?;
    docker.hosts.iter().try_for_each(|(engine, machine)| no_bridge_filter(machine, engine))?;
    let from = |container: &Running| Route {
        client: Place::of_process(container.pid),
        server: Place::of_process(server.pid),
        addr: server.addr,
    };
    let hostile = setting.hostile(machine.addr, &docker.underlay);
    Ok(Stage::new(from(&client), from(&neighbour), hostile, docker))
}

/// Keeps bridged packets out of netfilter, on the host and in the network's own namespace: for none of the peers they go
/// there.
fn no_bridge_filter(machine: &Machine, engine: &Engine) -> Result<()> {
    const VALUES: &[(&str, &str)] = &[("bridge/bridge-nf-call-iptables", "0")];
    Place::of(&machine.netns).sysctl(VALUES)?;
    let mounts = format!("--mount=/proc/{}/ns/mnt", engine.pid());
    let each = format!(
        "for n in {}/exec/netns/*; do \
         nsenter --net=$n sh -c '[ ! -e /proc/sys/net/{1} ] || echo {2} > /proc/sys/net/{1}'; done",
        engine.dir().display(),
        VALUES[0].0,
        VALUES[0].1,
    );
    let finished = exec::run(["nsenter", &mounts, "sh", "-c", &each]);
    ensure!(finished.is_success(), "{finished}");
    Ok(())
}

/// The engines on their hosts; all of it ends in the order of the fields.
struct Docker {
    hosts: Vec<(Engine, Machine)>,
    cgroup: Cgroup,
    underlay: Underlay,
    dir: WorkDir,
}

impl Docker {
    fn start(setting: Setting, packages: &Packages) -> Result<Self> {
        let (dir, underlay) = (WorkDir::new("docker"), Underlay::new(setting.wire));
        let mut docker = Self { hosts: Vec::new(), cgroup: Cgroup::new(), underlay, dir };
        for label in ["docker1", "docker2"] {
            let (machine, dir) = (docker.underlay.add_host(label, MTU), docker.dir.make(label));
            let engine = Engine::start(&machine.netns, dir, packages.clone(), docker.cgroup.name())?;
            docker.hosts.push((engine, machine));
        }
        docker.make_network()?;
        Ok(docker)
    }

    fn make_network(&self) -> Result<()> {
        let ((manager, machine), workers) = self.hosts.split_first().context("there is no engine")?;
        let addr = machine.addr.ip.to_string();
        manager.docker(&["swarm", "init", "--advertise-addr", &addr])?;
        let token = manager.docker(&["swarm", "join-token", "--quiet", "worker"])?;
        for (worker, machine) in workers {
            let own = machine.addr.ip.to_string();
            let manager = format!("{addr}:2377");
            worker.docker(&["swarm", "join", "--advertise-addr", &own, "--token", token.trim(), &manager])?;
        }
        let create =
            ["network", "create", "--driver", "overlay", "--attachable", "--subnet", SUBNET, NETWORK];
        manager.docker(&create).map(drop)
    }
}
