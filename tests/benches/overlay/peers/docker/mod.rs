//! Two real Docker engines on this machine, one swarm, one attachable overlay network.
//!
//! * [`engine`]: one engine in a host's namespace, and how nothing of it stays
//! * [`packages`]: where its programs are

mod engine;
mod packages;

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result};
use overlay_tests::{
    netns::own_prefix,
    underlay::{MTU, Underlay},
    workdir::WorkDir,
};

use super::{Setting, Stage};
use crate::place::{Place, Route};
use engine::Engine;
use packages::Packages;

const NETWORK: &str = "bench";
/// Apart from the underlay and from what Docker takes for its own bridges.
const SUBNET: &str = "10.201.0.0/24";

/// Builds it: one container on the first host, two on the second.
pub fn build(setting: Setting, root: Option<&Path>) -> Result<Stage> {
    let packages = Packages::at(root.context("Docker's packages were not unpacked (see --docker-root)")?)?;
    let docker = Docker::start(setting, &packages)?;
    let [one, two] = &docker.engines[..] else { unreachable!("two engines were started") };
    let client = one.run_container("client", NETWORK)?;
    let server = two.run_container("server", NETWORK)?;
    let neighbour = two.run_container("neighbour", NETWORK)?;
    docker.engines.iter().try_for_each(Engine::no_bridge_filter)?;
    let from = |container: &Container| Route {
        client: container.place.clone(),
        server: server.place.clone(),
        addr: server.addr,
    };
    let hostile = setting.hostile(two.host(), &docker.underlay);
    Ok(Stage::new(from(&client), from(&neighbour), hostile, docker))
}

/// A running container.
struct Container {
    place: Place,
    addr: Ipv4Addr,
}

/// The engines; stopped in the order of the fields.
struct Docker {
    engines: Vec<Engine>,
    cgroup: Cgroup,
    underlay: Underlay,
    dir: WorkDir,
}

impl Docker {
    fn start(setting: Setting, packages: &Packages) -> Result<Self> {
        let (dir, underlay) = (WorkDir::new("docker"), Underlay::new(setting.wire));
        let cgroup = Cgroup::new();
        let mut docker = Self { engines: Vec::new(), cgroup, underlay, dir };
        for label in ["docker1", "docker2"] {
            let (machine, dir) = (docker.underlay.add_host(label, MTU), docker.dir.make(label));
            docker.engines.push(Engine::start(machine, dir, packages.clone(), &docker.cgroup.0)?);
        }
        docker.make_network()?;
        Ok(docker)
    }

    fn make_network(&self) -> Result<()> {
        let (manager, workers) = self.engines.split_first().context("there is no engine")?;
        let addr = manager.host().ip.to_string();
        manager.docker(&["swarm", "init", "--advertise-addr", &addr])?;
        let token = manager.docker(&["swarm", "join-token", "--quiet", "worker"])?;
        for worker in workers {
            let own = worker.host().ip.to_string();
            let manager = format!("{addr}:2377");
            worker.docker(&["swarm", "join", "--advertise-addr", &own, "--token", token.trim(), &manager])?;
        }
        let create =
            ["network", "create", "--driver", "overlay", "--attachable", "--subnet", SUBNET, NETWORK];
        manager.docker(&create).map(drop)
    }
}

/// The cgroup that the containers' are made in, in every hierarchy; removed when dropped.
struct Cgroup(String);

impl Cgroup {
    fn new() -> Self {
        Self(format!("{}docker", own_prefix()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        const ROOT: &str = "/sys/fs/cgroup";
        let hierarchies = fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path());
        for root in hierarchies.chain([PathBuf::from(ROOT)]) {
            remove_cgroups(&root.join(&self.0));
        }
    }
}

/// Removes a cgroup with those in it: directories only, their files go with them.
fn remove_cgroups(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    if path.exists()
        && let Err(e) = fs::remove_dir(path)
    {
        eprintln!("cannot remove the cgroup {} (process {}): {e}", path.display(), process::id());
    }
}
