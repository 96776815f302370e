//! Removing everything of ours from this host, and nothing else: `overlay-agent --cleanup`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{gateway, locks, privileges, snapshot::journal, underlay};
use crate::{
    config::Config,
    datapath::bpffs::{self, gone_is_success},
    dns::resolv_conf,
    netlink::Netlink,
    paths::{self, NETNS_CONFIG_DIR},
};

/// Takes programs, maps, devices and files of this agent away. Goes on past failures and reports the first.
///
/// The store stays: other hosts use it. Endpoints of this node leave it when an agent of this name next
/// starts and finds their devices gone.
///
/// # Errors
/// If an agent still runs here, or something cannot be removed.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    privileges::check()?;
    let _locks = locks::take(&config.paths).context("cleanup needs the agent stopped")?;
    let netlink = Netlink::open()?;
    let neighbours = forget_neighbours(&netlink, config).await;
    let gateway = gateway::remove(config, &netlink).await.map_err(anyhow::Error::from);
    let devices = remove_devices(&netlink).await;
    let pins = bpffs::remove(&config.paths.bpffs_dir).map_err(anyhow::Error::from);
    let files = remove_files(config);
    neighbours.and(gateway).and(devices).and(pins).and(files)
}

/// What tells containers whom to ask for names, socket, verifier logs, locks (ours while we hold them), what was known
/// of the cluster, and the run directory if that was all in it. The state directory keeps the node's identity.
fn remove_files(config: &Config) -> anyhow::Result<()> {
    let paths = &config.paths;
    let mut resolv_confs = resolv_conf::Files::new(Path::new(NETNS_CONFIG_DIR), &paths.run_dir);
    resolv_confs.settle(resolv_conf::Resolvers::new()).context("remove resolv.conf of named namespaces")?;
    let logs = fs::read_dir(&paths.run_dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_log = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
    let verifier_logs = logs.filter(is_log).filter(|path| path.to_string_lossy().contains("/verifier-"));
    let locks = [paths.lock(), paths.state_lock(), paths.pin_lock()];
    let journal = journal::path(&paths.snapshot());
    let ours = [paths.socket(), paths.snapshot(), journal, paths.outbox()].into_iter().chain(locks);
    let ours = ours.chain(config.docker_socket.clone());
    for path in verifier_logs.chain(ours) {
        gone_is_success(fs::remove_file(&path)).with_context(|| format!("remove {}", path.display()))?;
    }
    // Other people's files in it keep it.
    let _ = fs::remove_dir(&paths.run_dir);
    Ok(())
}

/// Takes the neighbours back that the kernel keeps resolved for us; others stay.
async fn forget_neighbours(netlink: &Netlink, config: &Config) -> anyhow::Result<()> {
    let Ok((underlay, _)) = underlay::find(netlink, config).await else {
        // Without its device no neighbour is left either.
        return Ok(());
    };
    for (address, _) in netlink.neighbours(underlay.ifindex).await? {
        netlink.forget_neighbour(underlay.ifindex, address).await?;
    }
    Ok(())
}

/// The links of programs on the underlay go with their pins; host veths, the tunnel device and the headroom bridge are ours.
async fn remove_devices(netlink: &Netlink) -> anyhow::Result<()> {
    let ours = |name: &str| {
        paths::is_host_veth(name) || [paths::TUNNEL_IFNAME, paths::HEADROOM_IFNAME].contains(&name)
    };
    let mut result = Ok(());
    for link in netlink.links().await?.into_iter().filter(|link| ours(&link.name)) {
        let removed = netlink.delete(link.ifindex).await.map_err(anyhow::Error::from);
        tracing::info!(device = link.name, ok = removed.is_ok(), "removing");
        result = result.and(removed);
    }
    result
}
