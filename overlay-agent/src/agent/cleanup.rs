//! Removing everything of ours from this host, and nothing else: `overlay-agent --cleanup`.

use std::{fs, io};

use anyhow::Context as _;

use super::{locks, underlay};
use crate::{config::Config, datapath::bpffs, netlink::Netlink, paths};

/// Takes programs, maps, devices and files of this agent away. Goes on past failures and reports the first.
///
/// The store stays: other hosts use it. Endpoints of this node leave it when an agent of this name next
/// starts and finds their devices gone.
///
/// # Errors
/// If an agent still runs here, or something cannot be removed.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "overlay-agent --cleanup needs root");
    let _locks = locks::take(&config.paths).context("cleanup needs the agent stopped")?;
    let netlink = Netlink::open()?;
    let neighbours = forget_neighbours(&netlink, config).await;
    let devices = remove_devices(&netlink).await;
    let pins = bpffs::remove(&config.paths.bpffs_dir).map_err(anyhow::Error::from);
    let socket = match fs::remove_file(config.paths.socket()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).context("remove the socket"),
        _ => Ok(()),
    };
    neighbours.and(devices).and(pins).and(socket)
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
