//! Ten agents that attach and detach all the time, while their store goes away and comes back: no address is ever given
//! twice, and none is lost.

use std::{
    collections::BTreeMap,
    env,
    net::Ipv4Addr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use overlay_tests::{
    container::Container,
    host::Host,
    netns::Netns,
    oracle::expect_agreement,
    stores::{FaultyStore, ServerStore, SqliteFile},
    topology::{Cluster, Plan},
    views::Attached,
    wait,
    workdir::WorkDir,
};
use xtask::servers::Kind;

const AGENTS: usize = 10;
/// Few enough that agents want the same ones: thirteen for ten hosts with one container each.
const SUBNET: &str = "10.3.0.0/28";
/// Longest time until an agent notices that its store is gone, or that it is back.
const NOTICE: Duration = Duration::from_secs(10);
/// An agent that was away while more than five endpoints went believes that after 30 s (docs/architecture.md, "Without the
/// store").
const BELIEVED: Duration = Duration::from_secs(30).saturating_add(NOTICE);

/// Allocations that have to succeed.
fn goal() -> usize {
    if env::var_os("OVERLAY_TEST_LONG").is_some() { 10_000 } else { 300 }
}

/// Who holds which address, as the containers see it.
#[derive(Default)]
struct Ledger {
    held: Mutex<BTreeMap<Ipv4Addr, String>>,
    given: AtomicUsize,
    refused: AtomicUsize,
}

impl Ledger {
    fn held(&self) -> MutexGuard<'_, BTreeMap<Ipv4Addr, String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an address was given to a holder.
    #[track_caller]
    fn take(&self, address: Ipv4Addr, holder: &str) {
        let before = self.held().insert(address, holder.to_owned());
        assert_eq!(before, None, "{address} was given to {holder} too");
        self.given.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that an address is about to be given back.
    fn give_back(&self, address: Ipv4Addr) {
        self.held().remove(&address);
    }

    fn is_done(&self) -> bool {
        self.given.load(Ordering::Relaxed) >= goal()
    }
}

/// Attaches and detaches one container until enough was allocated.
fn come_and_go(host: &Host, netns: &Netns, ledger: &Ledger) {
    let attach = ["attach", "net", "--netns", netns.name(), "--name", host.label(), "-o", "json"];
    while !ledger.is_done() {
        let attached = host.cli(&attach);
        if attached.is_success() {
            let Attached { endpoint, .. } = serde_json::from_str(&attached.stdout).expect("a result");
            let address = endpoint.addr().ip;
            ledger.take(address, host.label());
            ledger.give_back(address);
        } else {
            ledger.refused.fetch_add(1, Ordering::Relaxed);
        }
        host.overlay(&["detach", "net", "--netns", netns.name()]);
    }
}

/// Takes the store away and gives it back, each time when everybody has noticed and some more was allocated.
fn trouble(store: &impl FaultyStore, hosts: &[Host], ledger: &Ledger) -> usize {
    let mut outages = 0;
    while !ledger.is_done() {
        let before = ledger.given.load(Ordering::Relaxed);
        let enough = || ledger.is_done() || ledger.given.load(Ordering::Relaxed) > before + goal() / 6;
        wait::until("addresses are given", 10 * NOTICE, enough);
        store.stop();
        wait::until("an agent notices", NOTICE, || hosts.iter().any(|host| host.status().stale.is_some()));
        store.start();
        outages += 1;
    }
    outages
}

fn gives_no_address_twice_and_loses_none(store: &impl FaultyStore) {
    let cluster = Cluster::without_agents(Plan { hosts: AGENTS, ..Plan::default() }).with_store(&store.url());
    store.plug_into(&cluster.underlay);
    cluster.hosts.iter().for_each(Host::spawn);
    cluster.hosts.iter().for_each(Host::wait_ready);
    cluster.network("net", &["--subnet", SUBNET]);
    let ledger = Ledger::default();
    let namespaces: Vec<Netns> = cluster.hosts.iter().map(|host| Netns::new(host.label())).collect();
    let outages = thread::scope(|scope| {
        for (host, netns) in cluster.hosts.iter().zip(&namespaces) {
            scope.spawn(|| come_and_go(host, netns, &ledger));
        }
        trouble(store, &cluster.hosts, &ledger)
    });
    println!("{} given, {} refused, {outages} outages", goal(), ledger.refused.load(Ordering::Relaxed));
    for host in &cluster.hosts {
        wait::until("everything is given back", BELIEVED, || {
            host.status().stale.is_none() && host.endpoints().is_empty()
        });
    }
    expect_agreement(&cluster);
    expect_all_free(&cluster);
}

/// Every address of the network can be had: none is held by nobody.
fn expect_all_free(cluster: &Cluster) {
    let all = (0..13)
        .map(|number| Container::attached(&cluster.hosts[number % AGENTS], "net", &format!("last-{number}")));
    let addresses: BTreeMap<Ipv4Addr, Container> = all.map(|one| (one.addr().ip, one)).collect();
    assert_eq!(addresses.len(), 13);
}

#[test]
fn ten_agents_on_a_file_that_comes_and_goes() {
    let dir = WorkDir::new("store");
    gives_no_address_twice_and_loses_none(&SqliteFile::new(dir.path().join("store")));
}

#[test]
fn ten_agents_on_a_server_that_is_killed_again_and_again() {
    gives_no_address_twice_and_loses_none(&ServerStore::new(Kind::Etcd));
}
