//! What the engine tells nobody but who asks it: names. And what it cannot know: the other hosts' networks.
//!
//! The driver's protocol has neither the names of networks nor those of containers. The engine is asked for them after the
//! fact, here and never while it waits for an answer of ours. Each look is the same, whatever woke it:
//!
//! * a network of ours that has no name yet gets the one that it has in Docker;
//! * a network that an engine on another host had made becomes known to this one, under its name, as Docker's own overlay
//!   networks did; a copy of one that is gone goes too;
//! * endpoints get the name, aliases and labels of their container, for everybody who asks our resolver.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

use super::{
    api::{ApiError, Engine},
    networks::provisional_name,
    options::{COPY, NAME},
};
use crate::{
    model::{Cluster, Endpoint, EngineNetwork, ForeignId, FrontEnd, Name},
    paths,
    service::{Learned, Service, ServiceError},
};

/// Until an engine that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// Longest time between two looks.
const LOOK: Duration = Duration::from_secs(30);
/// How long a network may be in the store and not in the engine: it is there first.
const GRACE: Duration = Duration::from_secs(20);

/// A network as the engine lists it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    name: String,
    id: String,
    driver: String,
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
    /// By container; not in a list.
    #[serde(default)]
    containers: Option<BTreeMap<String, Attached>>,
}

#[derive(Debug, Deserialize)]
struct Attached {
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
}

/// A container, as far as it has names.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    /// With a slash before it.
    name: String,
    config: ContainerConfig,
    network_settings: NetworkSettings,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerConfig {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    networks: BTreeMap<String, NetworkOfContainer>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkOfContainer {
    #[serde(default)]
    aliases: Option<Vec<String>>,
}

/// Why a look was broken off.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Who looks.
pub(super) struct Follower {
    /// What the engine calls our driver.
    driver: String,
    engine: Engine,
    service: Arc<Service>,
    /// Networks that the store says the engine has, and since when it does not.
    missing: BTreeMap<ForeignId, Instant>,
    /// What was said of networks that cannot be as they should.
    said: BTreeSet<String>,
}

impl Follower {
    /// One that has not looked yet.
    #[must_use]
    pub fn new(driver: String, engine: Engine, service: Arc<Service>) -> Self {
        Self { driver, engine, service, missing: BTreeMap::new(), said: BTreeSet::new() }
    }

    /// Looks whenever engine or cluster change, for as long as the agent runs.
    pub async fn run(mut self) {
        loop {
            if let Err(error) = self.follow().await {
                tracing::debug!(%error, "Docker's engine cannot be followed");
            }
            sleep(RETRY).await;
        }
    }

    async fn follow(&mut self) -> Result<(), LookError> {
        let mut events = self.engine.events().await?;
        let mut cluster = self.service.follow_cluster();
        loop {
            let seen = concerns(&cluster.borrow_and_update(), self.service.node_name());
            self.look().await?;
            let concerned = |now: &Arc<Cluster>| concerns(now, self.service.node_name()) != seen;
            tokio::select! {
                there = events.next() => if !there { return Ok(()) },
                changed = async { cluster.wait_for(concerned).await.is_ok() } => if !changed { return Ok(()) },
                () = sleep(LOOK) => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(), LookError> {
        let listed: Vec<Listed> = self.engine.get("/networks").await?;
        let listed: Vec<Listed> =
            listed.into_iter().filter(|network| network.driver == self.driver).collect();
        self.drop_missing(&listed).await?;
        for network in &listed {
            self.settle_network(network).await?;
        }
        self.make_copies(&listed).await;
        for network in &listed {
            self.name_endpoints(network).await?;
        }
        Ok(())
    }

    /// The engine forgot a network while nobody heard of it.
    async fn drop_missing(&mut self, listed: &[Listed]) -> Result<(), LookError> {
        let cluster = self.service.cluster();
        let here = self.service.node_name();
        let known = cluster.networks.values().filter_map(|n| n.record.engines.get(here)?.network.clone());
        let missing: BTreeSet<ForeignId> =
            known.filter(|id| listed.iter().all(|network| network.id != id.as_str())).collect();
        self.missing.retain(|id, _| missing.contains(id));
        for id in missing {
            let since = self.missing.entry(id.clone()).or_insert_with(Instant::now);
            if since.elapsed() > GRACE {
                tracing::info!(network = %id, "Docker's engine has lost it");
                self.service.leave_network(&id).await?;
            }
        }
        Ok(())
    }

    /// Gives a network its name, or removes the copy of one that is gone.
    async fn settle_network(&mut self, network: &Listed) -> Result<(), LookError> {
        let is_meant =
            |engine: &EngineNetwork| engine.network.as_ref().is_some_and(|id| id.as_str() == network.id);
        let Some(record) = self.service.network_of_engine(is_meant) else {
            if is_copy(network) {
                let removed = self.engine.delete(&format!("/networks/{}", network.id)).await;
                self.say(
                    network,
                    removed.err().map(|e| format!("the copy of a network that is gone stays: {e}")),
                );
            }
            return Ok(());
        };
        if provisional_name(&network.id).ok().as_ref() == Some(&record.name) {
            let renamed = match network.name.parse::<Name>() {
                Ok(name) => self.service.rename_network(&record.name, &name).await.map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            };
            let stays = |reason| format!("it stays {} in the cluster: {reason}", record.name);
            self.say(network, renamed.err().map(stays));
        }
        Ok(())
    }

    /// Says once what is wrong with a network.
    fn say(&mut self, network: &Listed, sentence: Option<String>) {
        if let Some(reason) = sentence.filter(|reason| self.said.insert(format!("{} {reason}", network.id))) {
            tracing::warn!(network = network.name, reason, "Docker's network is not as it should be");
        }
    }

    /// Makes the engine know networks that engines on other hosts had made.
    async fn make_copies(&mut self, listed: &[Listed]) {
        let cluster = self.service.cluster();
        for network in cluster.networks.values().map(|network| &network.record) {
            let is_known = network.engines.contains_key(self.service.node_name());
            let ids = network.engines.values().filter_map(|engine| engine.network.as_ref());
            let is_nameless =
                ids.filter_map(|id| provisional_name(id.as_str()).ok()).any(|name| name == network.name);
            if is_known || is_nameless || !network.made_by_engine {
                continue;
            }
            let subnets: Vec<_> = network.subnets().map(|subnet| json!({"Subnet": subnet})).collect();
            let wanted = json!({
                "Name": network.name, "Driver": self.driver, "CheckDuplicate": true, "Internal": network.internal,
                "EnableIPv6": network.ipv6.is_some(), "Options": {NAME: network.name, COPY: "true"},
                "IPAM": {"Driver": self.driver, "Options": {NAME: network.name}, "Config": subnets},
            });
            let made = self.engine.post("/networks/create", &wanted).await;
            if let Err(e) = made
                && self.said.insert(format!("{} {e}", network.name))
            {
                let is_taken = listed.iter().any(|other| network.name.as_str() == other.name);
                let advice = if is_taken { "remove Docker's network of that name on this host" } else { "" };
                tracing::warn!(network = %network.name, reason = %e, advice, "not known to Docker's engine here");
            }
        }
    }

    /// Gives the endpoints of a network their containers' names.
    async fn name_endpoints(&self, network: &Listed) -> Result<(), LookError> {
        let cluster = self.service.cluster();
        let here = self.service.node_name();
        let is_ours = |e: &&Endpoint| {
            e.owner
                .as_ref()
                .is_some_and(|o| o.front_end == FrontEnd::Docker && o.network.as_str() == network.id)
        };
        let endpoints: Vec<&Endpoint> =
            cluster.endpoints_on(here).map(|e| &e.record).filter(is_ours).collect();
        if endpoints.is_empty() {
            return Ok(());
        }
        let attached: Listed = self.engine.get(&format!("/networks/{}", network.id)).await?;
        for (container, Attached { endpoint_id }) in attached.containers.unwrap_or_default() {
            let is_its =
                |e: &&&Endpoint| e.owner.as_ref().is_some_and(|owner| owner.id.as_str() == endpoint_id);
            // An endpoint without a container yet is listed under its own name.
            let Some(endpoint) = endpoints.iter().find(is_its).filter(|_| !container.starts_with("ep-"))
            else {
                continue;
            };
            let Ok(container) = self.engine.get::<Container>(&format!("/containers/{container}/json")).await
            else {
                // Gone by now.
                continue;
            };
            self.learn(endpoint, &network.name, container).await?;
        }
        Ok(())
    }

    async fn learn(&self, endpoint: &Endpoint, network: &str, container: Container) -> Result<(), LookError> {
        let name = container.name.trim_start_matches('/').parse::<Name>().ok();
        let of_network = container.network_settings.networks.get(network);
        let aliases = of_network.and_then(|n| n.aliases.as_ref()).into_iter().flatten();
        let aliases: Vec<Name> = aliases.filter_map(|alias| alias.parse().ok()).collect();
        let waits = endpoint.ifname == paths::container_end(&endpoint.id);
        let ifname = if waits { self.service.interface_of(endpoint).await } else { None };
        let known = |name: &Name| *name == endpoint.name || endpoint.aliases.contains(name);
        let is_news = ifname.is_some()
            || !name.iter().chain(&aliases).all(known)
            || !endpoint.aliases.iter().all(|alias| aliases.contains(alias) || Some(alias) == name.as_ref());
        if !is_news {
            return Ok(());
        }
        let labels = container.config.labels.unwrap_or_default();
        let learned = Learned { name, aliases: Some(aliases), labels, netns: None, ifname };
        match self.service.learn(&endpoint.id, learned).await {
            // It was detached meanwhile.
            Err(ServiceError::NotFound(_)) => Ok(()),
            other => Ok(other?),
        }
    }
}

fn is_copy(network: &Listed) -> bool {
    network.options.as_ref().is_some_and(|options| options.get(COPY).is_some_and(|value| value == "true"))
}

/// What of the cluster a look depends on.
fn concerns(cluster: &Cluster, here: &Name) -> (Vec<(Name, Option<EngineNetwork>)>, Vec<String>) {
    let networks = cluster.networks.values().map(|n| &n.record);
    let networks =
        networks.filter(|n| n.made_by_engine).map(|n| (n.name.clone(), n.engines.get(here).cloned()));
    let endpoints = cluster.endpoints_on(here).map(|e| &e.record);
    let endpoints = endpoints.filter(|e| e.owner.as_ref().is_some_and(|o| o.front_end == FrontEnd::Docker));
    (networks.collect(), endpoints.map(|e| format!("{} {}", e.id, e.netns)).collect())
}
