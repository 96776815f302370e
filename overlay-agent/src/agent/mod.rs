//! The daemon: read settings, take locks, load the data path, register, follow the store, serve.
//!
//! * [`privileges`]: what the agent may do; [`notify`], [`reload`]: what the service manager is told, and tells
//! * [`locks`]: one agent for a namespace, a run directory and a pin directory
//! * [`underlay`]: which device and address carry the tunnels
//! * [`xdp`]: which XDP mode the device gets
//! * [`membership`]: this node's record and its sign of life
//! * [`record`]: changing a node's record
//! * [`presence`]: which nodes count as down
//! * [`grace`]: collecting nodes that do not come back
//! * [`mirror`]: the store's content, as it is now or was last known
//! * [`follower`]: listing and watching the store
//! * [`known`]: what of a listing to believe; [`writeback`]: what the store has lost and gets back
//! * [`snapshot`], [`outbox`], [`durable`]: what is kept in files for when the store cannot be reached
//! * [`devices`], [`containers`]: how our devices must be
//! * [`gateway`]: the way between containers and the host's own stack
//! * [`names`]: the resolver at the gateway
//! * [`host`]: what only this host knows: links, next hops
//! * [`reconciler`]: passes that make the maps true
//! * [`inspect`]: a look that changes nothing
//! * [`repairs`]: what was broken and put right
//! * [`collect`]: what has lost its other half
//! * [`reclaim`]: what was collected while this node was away
//! * [`cleanup`]: removing everything of ours

pub mod cleanup;
pub mod collect;
pub mod containers;
pub mod devices;
pub mod durable;
mod follower;
pub mod gateway;
pub mod grace;
pub mod host;
pub mod inspect;
pub mod known;
pub mod locks;
pub mod membership;
pub mod mirror;
pub mod names;
mod notify;
pub mod outbox;
mod path_mtu;
pub mod presence;
pub mod privileges;
pub mod reclaim;
pub mod reconciler;
pub mod record;
mod reload;
pub mod repairs;
pub mod snapshot;
pub mod underlay;
pub mod writeback;
pub mod xdp;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};

use self::{membership::MembershipError, outbox::Outbox};
use crate::{
    activation::{self, Sockets},
    api,
    config::Config,
    datapath::{Datapath, DatapathError, bpffs},
    dns::{Upstream, resolv_conf},
    docker,
    model::{Cluster, keys::ROOT},
    netlink::{Link, Netlink, NetlinkError},
    paths,
    reconcile::desired::Underlay,
    service::{Context, InProgress, Service},
    store::{self, Store, StoreError},
};

/// How long a start waits for the store before it goes on with what it has.
const FIRST_LISTING: Duration = Duration::from_secs(3);

/// Runs the agent until it is told to stop. The data path stays when it does.
///
/// # Errors
/// If something that it cannot do without is missing; the error says what.
pub async fn run(config: Config) -> anyhow::Result<()> {
    privileges::check()?;
    let node = config.node.clone();
    let socket = config.paths.socket();
    let engine = config.docker_api.clone();
    let _locks = locks::take(&config.paths)?;
    let mut opened = Sockets::of_this_process();
    let docker = listen_for_docker(&config, &mut opened)?;
    let ground = Ground::survey(&config).await?;
    let metrics = metrics_listener(&config).await?;
    let (service, mut membership) = start(config.clone(), ground).await?;
    let listener = listener(&socket, &mut opened)?;
    tracing::info!(%node, socket = %socket.display(), "serving");
    let service = Arc::new(service);
    docker.iter().for_each(|plugin| plugin.ready(&service, &engine));
    if let Some(listener) = metrics {
        tokio::spawn(api::server::metrics::serve(listener, Arc::clone(&service)));
    }
    tokio::spawn(notify::follow(service.reports()));
    tokio::spawn(reload::on_hangup(Arc::clone(&service), config));
    let stopping = async {
        stopped().await;
        notify::stopping();
    };
    tokio::select! {
        served = api::server::serve(listener, Arc::clone(&service), stopping) => served.context("serve the API")?,
        lost = membership.kept() => return Err(lost.into()),
    }
    membership.leave().await;
    service.save().await;
    tracing::info!(%node, "stopped; the data path stays");
    Ok(())
}

/// Where metrics are asked for over TCP, if anywhere.
async fn metrics_listener(config: &Config) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = config.metrics_listen else { return Ok(None) };
    let bound = api::server::metrics::bind(address).await;
    Ok(Some(
        bound.with_context(|| format!("listen for metrics on {address}: choose another --metrics-listen"))?,
    ))
}

/// The API's socket: the service manager's, if it holds one, else one of our own.
fn listener(path: &Path, opened: &mut Sockets) -> anyhow::Result<UnixListener> {
    let given = opened.take(activation::API).context("use the API's socket that systemd opened")?;
    match given {
        Some(listener) => Ok(listener),
        None => api::server::bind(path).with_context(|| format!("bind {}", path.display())),
    }
}

/// Answers Docker, if it is to be answered, from before there is anything to answer with.
fn listen_for_docker(config: &Config, opened: &mut Sockets) -> anyhow::Result<Option<docker::Plugin>> {
    let given = opened.take(activation::DOCKER).context("use Docker's socket that systemd opened")?;
    let listener = match (given, &config.docker_socket) {
        (Some(listener), _) => listener,
        (None, None) => return Ok(None),
        (None, Some(path)) => {
            let bound =
                path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| api::server::bind(path));
            bound.with_context(|| format!("bind {}", path.display()))?
        }
    };
    let plugin = docker::Plugin::serve(listener).context("serve Docker")?;
    tracing::info!("Docker is served");
    Ok(Some(plugin))
}

/// What the agent stands on, found fit before anything on the host is changed.
struct Ground {
    netlink: Netlink,
    underlay: (Link, Underlay),
    store: Arc<store::Bounded>,
    start: mirror::Start,
    identity: membership::Identity,
    object: PathBuf,
    upstream: Option<Upstream>,
}

impl Ground {
    /// Asks everything that may refuse.
    async fn survey(config: &Config) -> anyhow::Result<Self> {
        let upstream = names::upstream(&config.dns)?;
        let netlink = Netlink::open()?;
        let underlay = underlay::find(&netlink, config).await?;
        let identity = membership::Identity::load(config, &underlay)?;
        let veths = netlink.links().await?.iter().filter(|link| paths::is_host_veth(&link.name)).count();
        let store = Arc::new(store::bounded(&config.store)?);
        let start = first_look(config, store.as_ref(), veths).await?;
        if let Some(cluster) = start.cluster() {
            let unexplained = if start.snapshot.is_some() { 0 } else { veths };
            match membership::check(store.as_ref(), &cluster, &identity, unexplained).await {
                // The same is asked again when it joins.
                Err(MembershipError::Store(error)) if start.snapshot.is_some() => {
                    tracing::warn!(%error, "the store went away again");
                }
                checked => checked?,
            }
        }
        check_port(&netlink, config.vxlan_port).await?;
        let object = find_object(config)?;
        Ok(Self { netlink, underlay, store, start, identity, object, upstream })
    }
}

/// What there is to start from: the store's content, a snapshot of it, or both.
async fn first_look(config: &Config, store: &dyn Store, veths: usize) -> anyhow::Result<mirror::Start> {
    let snapshot = snapshot::load(&config.paths.snapshot()).unwrap_or_else(|error| {
        tracing::warn!(%error, "no snapshot to start from");
        None
    });
    let patience = if snapshot.is_some() { FIRST_LISTING } else { Duration::MAX };
    let listing = timeout(patience, store.list(ROOT)).await.unwrap_or_else(|_| {
        let (url, operation) = (store.url().to_owned(), "list");
        Err(StoreError::Unavailable { url, operation, reason: format!("no answer within {patience:?}") })
    });
    match (snapshot, listing) {
        (None, Err(error)) => Err(error.into()),
        (snapshot, listing) => {
            let start = mirror::Start { snapshot, listing };
            // Without containers there is nothing here that would tie this node to the cluster that it was in.
            Ok(if veths == 0 { start.without_foreign_snapshot() } else { start })
        }
    }
}

/// Loads the data path, joins the cluster and starts the reconciler.
async fn start(config: Config, ground: Ground) -> anyhow::Result<(Service, membership::Membership)> {
    let Ground { netlink, underlay, store, start, identity, object, upstream } = ground;
    let (datapath, warnings) = load(&config, &object)?;
    let changes = store.changes();
    let store: Arc<dyn Store> = store;
    let outbox = Arc::new(Outbox::load(&config.paths.outbox()));
    let mirror = follow(&config, &store, changes.clone(), &netlink, &outbox, start).await;
    let footing = membership::Footing {
        store: Arc::clone(&store),
        cluster: mirror.cluster(),
        stale: mirror.stale(),
        changes: changes.clone(),
    };
    let membership = membership::join(footing.clone(), identity.clone()).await?;
    let tunnel_ifindex = netlink.create_tunnel(paths::TUNNEL_IFNAME, config.vxlan_port).await?;
    let (in_progress, repairs) = (Arc::<InProgress>::default(), Arc::<repairs::Repairs>::default());
    let absences = presence::watch(mirror.cluster(), mirror.stale(), config.lease);
    spawn_grace(&config, &store, mirror.cluster(), absences.clone());
    let reconciler = reconciler::spawn(reconciler::Parts {
        host: host::Host::new(&config, netlink.clone(), underlay, tunnel_ifindex),
        xdp: xdp::Choice::new(config.xdp),
        gateway: gateway::Gateway::new(&config, netlink.clone()),
        datapath: Arc::clone(&datapath),
        store: Arc::clone(&store),
        cluster: mirror.cluster(),
        stale: mirror.stale(),
        absences: absences.clone(),
        in_progress: Arc::clone(&in_progress),
        repairs: Arc::clone(&repairs),
        resolv_confs: resolv_conf::Files::new(Path::new(paths::NETNS_CONFIG_DIR), &config.paths.run_dir),
    })?;
    let names = names::serve(names::Parts {
        node: config.node.clone(),
        cluster: mirror.cluster(),
        absences: absences.clone(),
        reports: reconciler.reports(),
        upstream,
    });
    tokio::spawn(containers::guard(mirror.cluster(), reconciler.reports(), Arc::clone(&repairs)));
    tokio::spawn(membership::announce(footing, identity, reconciler.reports()));
    let service = Service::new(Context {
        config,
        store,
        rehearsal: None,
        changes,
        mirror: Arc::new(mirror),
        outbox,
        sign_of_life: membership.errors(),
        names,
        absences,
        netlink,
        datapath,
        reconciler: Arc::new(reconciler),
        in_progress,
        repairs,
        warnings,
        publishing: Arc::default(),
    });
    Ok((service, membership))
}

/// Collects nodes that stay away, from here on.
fn spawn_grace(
    config: &Config,
    store: &Arc<dyn Store>,
    cluster: watch::Receiver<Arc<Cluster>>,
    absences: watch::Receiver<presence::Absences>,
) {
    let watched = grace::Watched { node: config.node.clone(), cluster, absences };
    tokio::spawn(grace::collect(Arc::clone(store), watched, config.collect_after.max(config.lease)));
}

/// Follows the store from here on.
async fn follow(
    config: &Config,
    store: &Arc<dyn Store>,
    changes: watch::Receiver<Option<store::Failure>>,
    netlink: &Netlink,
    outbox: &Arc<Outbox>,
    start: mirror::Start,
) -> mirror::Mirror {
    let parts = mirror::Parts {
        node: config.node.clone(),
        store: Arc::clone(store),
        changes,
        netlink: netlink.clone(),
        snapshot: config.paths.snapshot(),
        outbox: Arc::clone(outbox),
    };
    let mirror = mirror::follow(parts, start);
    mirror.identified(FIRST_LISTING).await;
    mirror
}

/// Loads the data path, with its log if one is asked for. Says what on the host is not as it should be.
fn load(config: &Config, object: &Path) -> anyhow::Result<(Arc<Mutex<Datapath>>, Vec<String>)> {
    let warnings: Vec<String> = bpffs::prepare(&config.paths.bpffs_dir)?.into_iter().collect();
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let mut datapath = Datapath::load(&config.paths, object, config.bpf_log)?;
    if let Some(log) = datapath.take_log() {
        tokio::spawn(log.run());
    }
    Ok((Arc::new(Mutex::new(datapath)), warnings))
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
