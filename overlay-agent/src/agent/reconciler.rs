//! Passes that make maps and devices true to the store: the one task that changes the data path.
//!
//! A pass looks at the cluster's state, at the host's devices and at what the maps hold, and carries out
//! the difference. Changes of any of them wake it; a full pass every minute repairs what nobody reported,
//! and a look every two seconds keeps our programs on their devices.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _};
use overlay_common::abi::program;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{
    collect,
    devices::Fault,
    gateway::{self, Gateway},
    host::Host,
    inspect::{self, Inspection},
    lock,
    presence::Absences,
    reclaim,
    repairs::Repairs,
    until, xdp,
};
use crate::{
    api::types::{GatewayView, XdpView},
    datapath::{
        Datapath, DatapathError,
        links::{Broken, Hook, HookKind},
    },
    dns::resolv_conf,
    model::{Cluster, EndpointId, journal::Position},
    netlink::{self, EventStream, NetlinkError},
    paths,
    reconcile::{Kept, Ledger, Local, Plan, Tables, desired::Underlay},
    service::InProgress,
    store::{Failure, Revision, Store},
    verify::{self, maps},
};

/// Less than the minute within which drift is to be repaired.
const FULL_PASS: Duration = Duration::from_secs(55);
const GUARD: Duration = Duration::from_secs(2);

/// What a reconciler works with.
pub struct Parts {
    /// The host.
    pub host: Host,
    /// The XDP mode.
    pub xdp: xdp::Choice,
    /// The way between containers and the host's stack.
    pub gateway: Gateway,
    /// The kernel side.
    pub datapath: Arc<Mutex<Datapath>>,
    /// The store, to remove endpoints whose container is gone.
    pub store: Arc<dyn Store>,
    /// The cluster's state.
    pub cluster: watch::Receiver<Arc<Cluster>>,
    /// Why that is not the store's content as it is now.
    pub stale: watch::Receiver<Option<Failure>>,
    /// Which nodes count as down.
    pub absences: watch::Receiver<Absences>,
    /// Endpoints that are being made or removed just now: none of the reconciler's business.
    pub in_progress: Arc<InProgress>,
    /// What was repaired.
    pub repairs: Arc<Repairs>,
    /// What tells named namespaces whom to ask for names.
    pub resolv_confs: resolv_conf::Files,
}

/// What the last pass found and did.
#[derive(Clone, Debug)]
pub struct Report {
    /// The first pass is done.
    pub ready: bool,
    /// Revision of the store that the maps show.
    pub revision: Revision,
    /// Why the last pass failed.
    pub error: Option<String>,
    /// The underlay device's name.
    pub underlay_ifname: String,
    /// The underlay device.
    pub underlay: Underlay,
    /// XDP mode in force.
    pub xdp: XdpView,
    /// Host veths of this node's endpoints.
    pub host_veths: BTreeMap<EndpointId, u32>,
    /// Containers that were taken off their network, since the agent started, with the reason.
    pub lost: BTreeSet<String>,
    /// Host-local addresses of this node's endpoints.
    pub host_addrs: BTreeMap<EndpointId, Ipv4Addr>,
    /// The way out of the overlay.
    pub gateway: GatewayView,
}

/// Asks the reconciler for passes; its task ends with the last handle.
pub struct Handle {
    requests: mpsc::Sender<Request>,
    errands: mpsc::Sender<Errand>,
    report: watch::Receiver<Report>,
    task: JoinHandle<()>,
}

struct Request {
    revision: Revision,
    reply: oneshot::Sender<Result<(), String>>,
}

/// What is done between two passes.
enum Errand {
    Inspect(oneshot::Sender<Result<Inspection, String>>),
    Repair(oneshot::Sender<Result<(), String>>),
}

impl Handle {
    /// Looks at everything that passes make true, and leaves it as it is.
    ///
    /// # Errors
    /// Why it cannot be looked at.
    pub async fn inspect(&self) -> Result<Inspection, String> {
        let (reply, seen) = oneshot::channel();
        self.errand(Errand::Inspect(reply), seen).await
    }

    /// Makes a full pass now: one that reads everything anew.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn repair(&self) -> Result<(), String> {
        let (reply, done) = oneshot::channel();
        self.errand(Errand::Repair(reply), done).await
    }

    async fn errand<T>(
        &self,
        errand: Errand,
        answer: oneshot::Receiver<Result<T, String>>,
    ) -> Result<T, String> {
        let stopped = || "the agent is stopping".to_owned();
        self.errands.send(errand).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Waits for a pass that saw at least this revision of the store and all devices as they are now.
    ///
    /// # Errors
    /// Why that pass failed.
    pub async fn sync(&self, revision: Revision) -> Result<(), String> {
        let (reply, done) = oneshot::channel();
        let stopped = || "the agent is stopping".to_owned();
        self.requests.send(Request { revision, reply }).await.map_err(|_| stopped())?;
        done.await.map_err(|_| stopped())?
    }

    /// What the last pass found and did.
    #[must_use]
    pub fn report(&self) -> Report {
        self.report.borrow().clone()
    }

    /// The reports of all passes to come.
    #[must_use]
    pub fn reports(&self) -> watch::Receiver<Report> {
        self.report.clone()
    }

    /// Waits until the first pass is done.
    pub async fn ready(&self) {
        until(self.report.clone(), |report| report.ready).await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts the task.
///
/// # Errors
/// If the kernel's events cannot be listened to.
pub fn spawn(parts: Parts) -> Result<Handle, NetlinkError> {
    let events = netlink::monitor()?;
    let (requests, receiver) = mpsc::channel(64);
    let (errands, errand_receiver) = mpsc::channel(8);
    let (link, underlay) = parts.host.underlay();
    let (report, report_receiver) = watch::channel(Report {
        ready: false,
        revision: Revision::default(),
        error: None,
        underlay_ifname: link.name.clone(),
        underlay: underlay.clone(),
        xdp: XdpView { mode: "off".to_owned(), reason: "not yet decided".to_owned() },
        host_veths: BTreeMap::new(),
        lost: BTreeSet::new(),
        host_addrs: BTreeMap::new(),
        gateway: GatewayView::default(),
    });
    let reconciler = Reconciler {
        parts,
        known: Known::Nothing,
        distrust: true,
        look: true,
        pending: Vec::new(),
        waiting: collect::Waiting::default(),
        report,
    };
    let task = tokio::spawn(reconciler.run(receiver, errand_receiver, events));
    Ok(Handle { requests, errands, report: report_receiver, task })
}

/// The one that makes passes.
pub(super) struct Reconciler {
    parts: Parts,
    known: Known,
    /// The next pass is to read the maps, whatever we wrote.
    distrust: bool,
    /// The next pass is to look at devices and programs, not only at the store.
    look: bool,
    pending: Vec<Request>,
    /// Containers' ends that nobody has moved yet.
    waiting: collect::Waiting,
    report: watch::Sender<Report>,
}

/// What we know of the maps' content, as we last wrote it.
#[derive(Default)]
enum Known {
    /// Nothing: before the first pass, and after one that failed.
    #[default]
    Nothing,
    /// The content.
    Tables(Box<Tables>),
    /// The content, and where it comes from: the cluster's state at a place in its journal.
    Ledger(Box<Ledger>, Position),
}

impl Known {
    fn tables(&self) -> Option<&Tables> {
        match self {
            Self::Nothing => None,
            Self::Tables(tables) => Some(tables),
            Self::Ledger(ledger, _) => Some(ledger.tables()),
        }
    }

    fn into_tables(self) -> Option<Tables> {
        match self {
            Self::Nothing => None,
            Self::Tables(tables) => Some(*tables),
            Self::Ledger(ledger, _) => Some(ledger.into_tables()),
        }
    }
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PassError {
    #[error(transparent)]
    Underlay(#[from] super::underlay::UnderlayError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
}

impl Reconciler {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut errands: mpsc::Receiver<Errand>,
        mut events: EventStream,
    ) {
        let mut full = interval(FULL_PASS);
        let mut guard = interval(GUARD);
        full.set_missed_tick_behavior(MissedTickBehavior::Delay);
        guard.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wanted = tokio::select! {
                changed = self.parts.cluster.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                changed = self.parts.absences.changed() => match changed {
                    Ok(()) => self.look_too(),
                    Err(_) => return,
                },
                request = requests.recv() => match request {
                    Some(request) => { self.pending.push(request); self.look_too() }
                    None => return,
                },
                Some(errand) = errands.recv() => { self.run_errand(errand).await; false }
                Some(event) = events.next() => self.parts.host.note(&event).await && self.look_too(),
                _ = full.tick() => { self.forget(); self.look_too() }
                _ = guard.tick() => self.look_too(),
            };
            if self.drain(&mut requests, &mut events).await || wanted {
                // A failure stands in the report, and the next pass tries again.
                let _ = self.pass_and_report().await;
            }
        }
    }

    /// Takes up all that has come in meanwhile, so that one pass answers it together.
    async fn drain(&mut self, requests: &mut mpsc::Receiver<Request>, events: &mut EventStream) -> bool {
        let mut wanted = false;
        while let Ok(request) = requests.try_recv() {
            self.pending.push(request);
            wanted = self.look_too();
        }
        while let Some(Some(event)) = events.next().now_or_never() {
            wanted |= self.parts.host.note(&event).await && self.look_too();
        }
        wanted
    }

    /// Has the next pass look at devices too, and is a reason for one.
    fn look_too(&mut self) -> bool {
        self.look = true;
        true
    }

    async fn run_errand(&mut self, errand: Errand) {
        // Nobody waits if the caller was cancelled.
        match errand {
            Errand::Inspect(reply) => {
                let _ = reply.send(self.inspect().await.map_err(|e| e.to_string()));
            }
            Errand::Repair(reply) => {
                self.forget();
                self.look_too();
                let _ = reply.send(self.pass_and_report().await);
            }
        }
    }

    /// Makes the next pass read everything anew.
    fn forget(&mut self) {
        self.distrust = true;
        self.parts.resolv_confs.distrust();
        self.parts.host.forget_next_hops();
        self.parts.gateway.distrust();
    }

    async fn pass_and_report(&mut self) -> Result<(), String> {
        let cluster = Arc::clone(&self.parts.cluster.borrow_and_update());
        let result = self.pass(&cluster).await.map_err(|e| e.to_string());
        if let Err(reason) = &result {
            tracing::warn!(reason, "pass failed");
            self.look_too();
        }
        self.update_report(&cluster, &result);
        let (done, waiting) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition::<Vec<_>, _>(|r: &Request| r.revision <= cluster.revision);
        // Nobody waits any more for what a store has taken back with it.
        self.pending = waiting.into_iter().filter(|request| !request.reply.is_closed()).collect();
        for request in done {
            // Nobody waits if the caller was cancelled.
            let _ = request.reply.send(result.clone());
        }
        result
    }

    async fn pass(&mut self, cluster: &Cluster) -> Result<(), PassError> {
        if !std::mem::take(&mut self.look)
            && let Some((ledger, plan)) = self.endpoints_alone(cluster)
        {
            return Ok(self.write(cluster, ledger, &plan)?);
        }
        let in_force = self.in_force(cluster);
        let faults = self.parts.host.look(&in_force).await?;
        self.note_drift(cluster, &faults);
        let underlay = self.parts.host.look_at_underlay().await;
        self.parts.host.set_down(self.parts.absences.borrow_and_update().down());
        self.parts.host.resolve(cluster).await;
        let host = &self.parts.host;
        let gateway = self.parts.gateway.look(host.underlay().1, host.gateway()).await;
        self.parts.host.set_gateway(gateway);
        let hook = self.parts.xdp.hook(self.parts.host.underlay().0);
        let (ledger, plan) = self.plan(cluster)?;
        let local = ledger.local().clone();
        self.write(cluster, ledger, &plan)?;
        let attached = self.attach(cluster, &local, hook);
        let lost = reclaim::all(&self.parts, cluster).await;
        self.report.send_modify(|report| report.lost.extend(lost));
        collect::halves(&self.parts, cluster, &local).await;
        self.waiting.collect(&self.parts, cluster).await;
        if let Err(e) = self.parts.resolv_confs.settle(resolv_conf::wanted(cluster, &local.node)) {
            tracing::warn!(reason = %e, "resolv.conf of named namespaces not as it should be");
        }
        attached?;
        self.parts.host.start(&faults).await?;
        self.open_gateway(cluster, &local).await;
        Ok(underlay?)
    }

    /// What the maps should hold, and what leads there from what they hold.
    fn plan(&mut self, cluster: &Cluster) -> Result<(Ledger, Plan), DatapathError> {
        if let Known::Ledger(ledger, _) = &self.known
            && !self.distrust
        {
            let local = self.local(cluster, ledger.local().kept.clone());
            if let Some(found) = self.shortcut(cluster, Some(local)) {
                return Ok(found);
            }
        }
        let Observed { tables, kept } = self.observe(cluster)?;
        let ledger = Ledger::new(cluster, self.local(cluster, kept));
        let plan = Plan::between(&tables, ledger.tables());
        Ok((ledger, plan))
    }

    fn local(&self, cluster: &Cluster, kept: Kept) -> Local {
        self.parts.host.local(cluster, self.parts.xdp.decapsulates(), kept)
    }

    /// The same, without a look at the host, where since the last pass only containers on other hosts came and went.
    fn endpoints_alone(&mut self, cluster: &Cluster) -> Option<(Ledger, Plan)> {
        let Known::Ledger(_, seen) = &self.known else { return None };
        let same_ground = !cluster.journal.ground_changed_since(*seen);
        same_ground.then(|| self.shortcut(cluster, None)).flatten()
    }

    fn shortcut(&mut self, cluster: &Cluster, local: Option<Local>) -> Option<(Ledger, Plan)> {
        let Known::Ledger(_, seen) = &self.known else { return None };
        let changed = cluster.journal.endpoints_since(*seen)?;
        let Known::Ledger(ledger, _) = std::mem::take(&mut self.known) else { return None };
        ledger.follow(cluster, local, &changed).map_err(|tables| self.known = Known::Tables(tables)).ok()
    }

    fn write(&mut self, cluster: &Cluster, ledger: Ledger, plan: &Plan) -> Result<(), DatapathError> {
        if !plan.is_empty() {
            tracing::debug!(changes = plan.len(), "writing maps");
            lock(&self.parts.datapath).apply(plan)?;
        }
        self.known = Known::Ledger(Box::new(ledger), cluster.journal.position());
        Ok(())
    }

    /// Opens the way between containers and the host's stack. That it cannot be opened stands in the report and fails
    /// no pass: the overlay itself does without.
    async fn open_gateway(&mut self, cluster: &Cluster, local: &Local) {
        let Some(device) = &local.gateway else { return };
        let addrs = self.host_addrs(cluster);
        let underlay = self.parts.host.underlay().0.name.clone();
        let published = gateway::published(cluster, &addrs);
        if self.parts.gateway.open(device, &underlay, published).await {
            self.parts.repairs.note([gateway::changed_rules(self.parts.host.node())]);
        }
    }

    /// Host-local addresses of this node's endpoints.
    fn host_addrs(&self, cluster: &Cluster) -> BTreeMap<EndpointId, Ipv4Addr> {
        let kept = self.known.tables().map(Kept::of).unwrap_or_default();
        let addr = |(id, ifindex)| Some((id, *kept.host_addrs.get(&ifindex)?));
        self.parts.host.host_veths(cluster).into_iter().filter_map(addr).collect()
    }

    /// Host veths that must be up: those with a record that no operation is at work on.
    pub(super) fn in_force(&self, cluster: &Cluster) -> BTreeSet<String> {
        let endpoints = cluster.endpoints.values().map(|e| &e.record);
        let here = endpoints.filter(|e| e.node == *self.parts.host.node());
        here.filter(|e| !self.parts.in_progress.contains(&e.id)).map(|e| paths::host_veth(&e.id)).collect()
    }

    /// Writes down what is wrong with devices and neighbours that were in order before: this pass repairs it.
    fn note_drift(&mut self, cluster: &Cluster, faults: &[Fault]) {
        let drift = self.parts.host.drift(faults);
        self.parts.repairs.note(drift.iter().map(|fault| fault.difference(cluster)));
        let host = &self.parts.host;
        self.parts.repairs.note(host.lost_neighbours().map(|addr| inspect::neighbour(host, cluster, addr)));
        self.parts.host.forget_lost_neighbours();
    }

    /// What the maps hold: what we wrote, or, where that is not known or not to be trusted, what the
    /// kernel says. What then differs from what we wrote is drift: somebody else changed it.
    fn observe(&mut self, cluster: &Cluster) -> Result<Observed, DatapathError> {
        let written = match std::mem::take(&mut self.known).into_tables() {
            Some(tables) if !self.distrust => {
                return Ok(Observed { kept: Kept::of(&tables), tables });
            }
            written => written,
        };
        let tables = lock(&self.parts.datapath).observe()?;
        self.distrust = false;
        let Some(written) = written else {
            return Ok(Observed { kept: Kept::of(&tables), tables });
        };
        let kept = Kept::of(&written);
        let local = self.parts.host.local(cluster, self.parts.xdp.decapsulates(), kept.clone());
        self.parts.repairs.note(maps::differences(cluster, &local, &tables, &written));
        Ok(Observed { tables, kept })
    }

    fn attach(
        &mut self,
        cluster: &Cluster,
        local: &Local,
        xdp: Option<HookKind>,
    ) -> Result<(), DatapathError> {
        let host = &self.parts.host;
        let programs = &host.underlay().0.xdp_programs;
        let attached = lock(&self.parts.datapath).attach(&hooks(host, local, xdp), programs);
        match attached {
            Ok(broken) => {
                let repaired = broken.iter().map(|broken: &Broken| verify::broken(cluster, broken));
                self.parts.repairs.note(repaired);
                Ok(())
            }
            Err(DatapathError::Attach { program: program::XDP_UNDERLAY, reason, .. }) => {
                tracing::warn!(reason, "XDP refused, trying without");
                self.parts.xdp.refused(&reason);
                let host = &self.parts.host;
                let (underlay, _) = host.underlay();
                let hooks = hooks(host, local, self.parts.xdp.hook(underlay));
                lock(&self.parts.datapath).attach(&hooks, &underlay.xdp_programs).map(drop)
            }
            Err(e) => Err(e),
        }
    }

    pub(super) fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.parts.cluster.borrow())
    }

    pub(super) fn host(&self) -> &Host {
        &self.parts.host
    }

    pub(super) fn datapath(&self) -> &Mutex<Datapath> {
        &self.parts.datapath
    }

    pub(super) fn written(&self) -> Option<&Tables> {
        self.known.tables()
    }

    /// The XDP hook on this host's underlay, and whether it delivers.
    pub(super) fn xdp(&mut self, host: &Host) -> (Option<HookKind>, bool) {
        (self.parts.xdp.hook(host.underlay().0), self.parts.xdp.decapsulates())
    }

    fn update_report(&self, cluster: &Cluster, result: &Result<(), String>) {
        let (link, underlay) = self.parts.host.underlay();
        let (mode, reason) = self.parts.xdp.describe();
        self.report.send_modify(|report| {
            if result.is_ok() && !report.ready {
                tracing::info!("ready: the maps are true to the store");
            }
            report.ready |= result.is_ok();
            report.error = result.as_ref().err().cloned();
            report.revision = if result.is_ok() { cluster.revision } else { report.revision };
            report.underlay_ifname.clone_from(&link.name);
            report.underlay = underlay.clone();
            report.xdp = XdpView { mode: mode.to_owned(), reason: reason.to_owned() };
            report.host_veths = self.parts.host.host_veths(cluster);
            report.host_addrs = self.host_addrs(cluster);
            report.gateway = GatewayView {
                range: self.parts.host.gateway().map(|gateway| gateway.range),
                error: self.parts.gateway.error().map(str::to_owned),
            };
        });
    }
}

/// What the maps hold, and what must stay of it by what we know: somebody may have changed them.
struct Observed {
    tables: Tables,
    kept: Kept,
}

/// The places of our programs.
pub(super) fn hooks(host: &Host, local: &Local, xdp: Option<HookKind>) -> Vec<Hook> {
    let underlay =
        |kind| Hook { ifname: host.underlay().0.name.clone(), ifindex: local.underlay.ifindex, kind };
    let tunnel = Hook {
        ifname: paths::TUNNEL_IFNAME.to_owned(),
        ifindex: local.tunnel_ifindex,
        kind: HookKind::Ingress(program::FROM_TUNNEL),
    };
    // Also those without a record: what they send is dropped, not handed to the host.
    let veths = host.veths().map(|veth| Hook {
        ifname: veth.name.clone(),
        ifindex: veth.ifindex,
        kind: HookKind::Ingress(program::FROM_ENDPOINT),
    });
    // The tunnel device before the underlay: nothing may come out of it unchecked.
    let fixed = [tunnel, underlay(HookKind::Ingress(program::FROM_UNDERLAY))];
    let gateway = local.gateway.as_ref().map(|gateway| Hook {
        ifname: paths::GATEWAY_INNER_IFNAME.to_owned(),
        ifindex: gateway.inner_ifindex,
        kind: HookKind::Ingress(program::FROM_HOST),
    });
    fixed.into_iter().chain(xdp.map(underlay)).chain(gateway).chain(veths).collect()
}
