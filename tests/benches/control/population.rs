//! A store full of networks, nodes and endpoints, as a cluster in use has it.

use std::{future::Future, net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, setns};
use overlay_agent::{
    model::{Address, Endpoint, EndpointId, Life, Name, Network, NetworkState, Node, NodeAlive, keys::Key},
    store::{self, LeaseId, Outcome, Revision, Store, Target, Transaction},
};
use overlay_common::{fdb::FdbKey, mac::Mac, vni::Vni};
use overlay_tests::netns::Netns;
use tokio::runtime::Runtime;

/// Networks that the endpoints are spread over.
const NETWORKS: u32 = 10;
/// Nodes that the endpoints are on.
const NODES: u32 = 100;
/// Endpoints in one transaction: stores have limits.
const BATCH: usize = 10;
const FIRST_VNI: u32 = 256;
/// The nodes' signs of life outlast a busy machine.
const LEASE: Duration = Duration::from_secs(60);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A client of the store in a namespace of its own.
pub struct Client {
    runtime: Runtime,
    store: Arc<dyn Store>,
}

/// What is in the store.
pub struct Population {
    networks: Vec<Network>,
    endpoints: u32,
}

impl Client {
    /// Opens the store.
    pub fn connect(url: &str, netns: &Netns) -> Result<Self> {
        let path = netns.path();
        let enter = move || {
            let entered = std::fs::File::open(&path).map(|file| setns(file, CloneFlags::CLONE_NEWNET));
            assert!(matches!(entered, Ok(Ok(()))), "cannot enter {}: {entered:?}", path.display());
        };
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).on_thread_start(enter).enable_all().build()?;
        let target = Target::from(url);
        let store = runtime.block_on(runtime.spawn(async move { store::open(&target).await }))??;
        Ok(Self { runtime, store })
    }

    /// Fills the store.
    pub fn populate(&self, endpoints: u32) -> Result<Population> {
        let population =
            Population { networks: (0..NETWORKS).map(network).collect::<Result<_>>()?, endpoints };
        self.run(fill(Arc::clone(&self.store), population.networks.clone(), endpoints))?;
        Ok(population)
    }

    /// Writes what an attach writes: one more endpoint of another node. Returns where to look for it in the maps.
    pub fn attach(&self, population: &Population, number: u32) -> Result<FdbKey> {
        let endpoint = population.endpoint(number)?;
        let key = population.fdb_key(number)?;
        self.run(commit(Arc::clone(&self.store), claim(Transaction::new(), &endpoint)))?;
        Ok(key)
    }

    /// Runs on the runtime's own thread, which is in the namespace.
    fn run<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        self.runtime.block_on(self.runtime.spawn(work))?
    }
}

impl Population {
    /// Where the maps hold the endpoint that was put into the store last.
    pub fn last(&self) -> Result<FdbKey> {
        self.fdb_key(self.endpoints - 1)
    }

    /// Number of endpoints.
    pub fn len(&self) -> u32 {
        self.endpoints
    }

    fn endpoint(&self, number: u32) -> Result<Endpoint> {
        endpoint(&self.networks, number)
    }

    fn fdb_key(&self, number: u32) -> Result<FdbKey> {
        let vni = self.networks[(number % NETWORKS) as usize].vni;
        Ok(FdbKey::new(vni.get(), self.endpoint(number)?.mac.0))
    }
}

async fn fill(store: Arc<dyn Store>, networks: Vec<Network>, endpoints: u32) -> Result<()> {
    for network in &networks {
        let transaction = Transaction::new()
            .create(Key::Network(network.name.clone()), network)
            .create(Key::Vni(network.vni), &network.name);
        commit(Arc::clone(&store), transaction).await?;
    }
    let lease = store.grant_lease(LEASE).await?;
    for number in 0..NODES {
        let node = node(number)?;
        let alive = NodeAlive { id: node.id.clone() };
        let transaction = Transaction::new().create(Key::Alive(node.name.clone()), &alive).leased(lease);
        commit(Arc::clone(&store), transaction.create(Key::Node(node.name.clone()), &node)).await?;
    }
    tokio::spawn(keep_alive(Arc::clone(&store), lease));
    let numbers: Vec<u32> = (0..endpoints).collect();
    for batch in numbers.chunks(BATCH) {
        let endpoints = batch.iter().map(|number| endpoint(&networks, *number));
        let endpoints: Vec<Endpoint> = endpoints.collect::<Result<_>>()?;
        commit(Arc::clone(&store), endpoints.iter().fold(Transaction::new(), claim)).await?;
    }
    Ok(())
}

async fn keep_alive(store: Arc<dyn Store>, lease: LeaseId) {
    loop {
        tokio::time::sleep(KEEP_ALIVE).await;
        if let Err(e) = store.keep_alive(lease).await {
            eprintln!("bench: the nodes without agents give no sign of life: {e}");
        }
    }
}

async fn commit(store: Arc<dyn Store>, transaction: Transaction) -> Result<Revision> {
    match store.commit(transaction).await? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Conflict(key) => anyhow::bail!("{key} is there already: the store has to be empty"),
    }
}

/// What an agent writes for an endpoint.
fn claim(transaction: Transaction, endpoint: &Endpoint) -> Transaction {
    let network = || endpoint.network.clone();
    transaction
        .create(Key::EndpointName(network(), endpoint.name.clone()), &endpoint.id)
        .create(Key::Mac(network(), endpoint.mac), &endpoint.id)
        .create(Key::Endpoint(network(), endpoint.id.clone()), endpoint)
        .create(
            Key::Address(network(), endpoint.ipv4.into()),
            &Address::Held { endpoint: endpoint.id.clone() },
        )
}

fn network(number: u32) -> Result<Network> {
    let subnet: Ipv4Net = format!("10.{number}.0.0/16").parse()?;
    Ok(Network {
        ipv6: None,
        name: name(&format!("net{number}"))?,
        vni: Vni::try_from(FIRST_VNI + number).context("a VNI")?,
        subnet,
        gateway: Ipv4Addr::from(u32::from(subnet.network()) + 1),
        ip_range: None,
        mtu: None,
        internal: false,
        multicast: false,
        labels: [].into(),
        state: NetworkState::Active,
        engines: [].into(),
        made_by_engine: false,
    })
}

fn node(number: u32) -> Result<Node> {
    Ok(Node {
        name: name(&format!("far{number}"))?,
        id: format!("far{number}"),
        vtep: Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 168, 77, 0)) + 1_000 + number),
        vxlan_port: 4789,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: 1,
        registered: None,
        // One that said goodbye keeps its containers; nobody gives these a sign of life.
        life: Life::Stopped,
        since: None,
        draining: None,
    })
}

fn endpoint(networks: &[Network], number: u32) -> Result<Endpoint> {
    let network = &networks[(number % NETWORKS) as usize];
    let place = 2 + number / NETWORKS;
    ensure!(place < 1 << 16, "a /16 has no room for so many endpoints: ask for fewer");
    let ipv4 = Ipv4Addr::from(u32::from(network.subnet.network()) + place);
    Ok(Endpoint {
        ipv6: None,
        id: format!("{number:012x}0000").parse::<EndpointId>()?,
        network: network.name.clone(),
        name: name(&format!("box{number}"))?,
        node: name(&format!("far{}", number / NETWORKS % NODES))?,
        vtep: None,
        ipv4,
        mac: Mac::from_ipv4(ipv4.octets()),
        ifname: "eth0".to_owned(),
        netns: format!("/run/netns/box{number}"),
        aliases: Vec::new(),
        labels: [].into(),
        published: Vec::new(),
        owner: None,
        limits: overlay_agent::model::Limits::default(),
    })
}

fn name(text: &str) -> Result<Name> {
    Ok(text.parse()?)
}
