//! The daemon: read settings, take locks, load the data path, register, follow the store, serve.
//!
//! * [`locks`]: one agent for a namespace, a run directory and a pin directory
//! * [`underlay`]: which device and address carry the tunnels
//! * [`xdp`]: which XDP mode the device gets
//! * [`membership`]: this node's record and its sign of life
//! * [`mirror`]: the store's content, as it is now
//! * [`devices`], [`containers`]: how our devices must be
//! * [`host`]: what only this host knows: links, next hops
//! * [`reconciler`]: passes that make the maps true
//! * [`inspect`]: a look that changes nothing
//! * [`repairs`]: what was broken and put right
//! * [`collect`]: what has lost its other half
//! * [`cleanup`]: removing everything of ours

pub mod cleanup;
pub mod collect;
pub mod containers;
pub mod devices;
pub mod host;
pub mod inspect;
pub mod locks;
pub mod membership;
pub mod mirror;
pub mod reconciler;
pub mod repairs;
pub mod underlay;
pub mod xdp;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    api,
    config::Config,
    datapath::{Datapath, DatapathError, bpffs},
    netlink::{Link, Netlink, NetlinkError},
    paths,
    reconcile::desired::Underlay,
    service::{Context, InProgress, Service},
    store::{self, Store},
};

/// Runs the agent until it is told to stop. The data path stays when it does.
///
/// # Errors
/// If something that it cannot do without is missing; the error says what.
pub async fn run(config: Config) -> anyhow::Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "overlay-agent needs root: it loads BPF programs and makes devices"
    );
    let node = config.node.clone();
    let socket = config.paths.socket();
    let _locks = locks::take(&config.paths)?;
    let ground = Ground::survey(&config).await?;
    let (service, membership) = start(config, ground).await?;
    let listener = api::server::bind(&socket).with_context(|| format!("bind {}", socket.display()))?;
    tracing::info!(%node, socket = %socket.display(), "serving");
    tokio::select! {
        served = api::server::serve(listener, Arc::new(service), stopped()) => served.context("serve the API")?,
        lost = membership.kept() => return Err(lost.into()),
    }
    tracing::info!(%node, "stopped; the data path stays");
    Ok(())
}

/// What the agent stands on, found fit before anything on the host is changed.
struct Ground {
    netlink: Netlink,
    underlay: (Link, Underlay),
    store: Arc<dyn Store>,
    mirror: mirror::Mirror,
    identity: membership::Identity,
    object: PathBuf,
}

impl Ground {
    /// Asks everything that may refuse.
    async fn survey(config: &Config) -> anyhow::Result<Self> {
        let netlink = Netlink::open()?;
        let underlay = underlay::find(&netlink, config).await?;
        let store = store::open(&config.store).await?;
        let mirror = mirror::follow(Arc::clone(&store)).await?;
        let identity = membership::Identity::load(config, &underlay)?;
        let veths = netlink.links().await?.iter().filter(|link| paths::is_host_veth(&link.name)).count();
        membership::check(store.as_ref(), &mirror.now(), &identity, veths).await?;
        check_port(&netlink, config.vxlan_port).await?;
        let object = find_object(config)?;
        Ok(Self { netlink, underlay, store, mirror, identity, object })
    }
}

/// Loads the data path, joins the cluster and starts the reconciler.
async fn start(config: Config, ground: Ground) -> anyhow::Result<(Service, membership::Membership)> {
    let Ground { netlink, underlay, store, mirror, identity, object } = ground;
    let warnings: Vec<String> = bpffs::prepare(&config.paths.bpffs_dir)?.into_iter().collect();
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let mut datapath = Datapath::load(&config.paths, &object, config.bpf_log)?;
    if let Some(log) = datapath.take_log() {
        tokio::spawn(log.run());
    }
    let datapath = Arc::new(Mutex::new(datapath));
    let membership = membership::join(Arc::clone(&store), identity.clone()).await?;
    // The first pass must find this node in the cluster: a store without it counts as wiped.
    let joined = until(mirror.cluster(), |cluster| cluster.nodes.contains_key(&config.node));
    joined.await.context("the store went away")?;
    let tunnel_ifindex = netlink.create_tunnel(paths::TUNNEL_IFNAME, config.vxlan_port).await?;
    let in_progress = Arc::new(InProgress::default());
    let repairs = Arc::new(repairs::Repairs::default());
    let reconciler = reconciler::spawn(reconciler::Parts {
        host: host::Host::new(&config, netlink.clone(), underlay, tunnel_ifindex),
        xdp: xdp::Choice::new(config.xdp),
        datapath: Arc::clone(&datapath),
        store: Arc::clone(&store),
        cluster: mirror.cluster(),
        in_progress: Arc::clone(&in_progress),
        repairs: Arc::clone(&repairs),
    })?;
    tokio::spawn(containers::guard(mirror.cluster(), reconciler.reports(), Arc::clone(&repairs)));
    tokio::spawn(membership::announce(Arc::clone(&store), identity, reconciler.reports()));
    let sign_of_life = membership.errors();
    let service = Service::new(Context {
        config,
        store,
        mirror,
        sign_of_life,
        netlink,
        datapath,
        reconciler,
        in_progress,
        repairs,
        warnings,
    });
    Ok((service, membership))
}

/// Whether the VXLAN port is free: a device of our own has it rightly.
async fn check_port(netlink: &Netlink, port: u16) -> anyhow::Result<()> {
    if netlink.link_by_name(paths::TUNNEL_IFNAME).await?.is_some() {
        return Ok(());
    }
    std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, port))
        .map(drop)
        .map_err(|_| NetlinkError::PortTaken(port).into())
}

/// A signal that asks the agent to end.
async fn stopped() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            // Without the handler the signal's default action ends the agent all the same.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
    }
}

fn find_object(config: &Config) -> Result<PathBuf, DatapathError> {
    let candidates = match (&config.bpf_object, std::env::current_exe()) {
        (Some(path), _) => vec![path.clone()],
        (None, Ok(executable)) => paths::bpf_object_candidates(&executable),
        (None, Err(_)) => Vec::new(),
    };
    candidates.iter().find(|path| path.exists()).cloned().ok_or(DatapathError::NoObject(candidates))
}

/// Locks what another task may have panicked over: the value itself is kept consistent by the kernel.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until a watched value satisfies `wanted`; `None` if its sender is gone.
pub(crate) async fn until<T: Clone>(
    mut watched: watch::Receiver<T>,
    wanted: impl FnMut(&T) -> bool,
) -> Option<T> {
    watched.wait_for(wanted).await.ok().map(|value| value.clone())
}
