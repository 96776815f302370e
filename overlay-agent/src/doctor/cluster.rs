//! The agent, its store, and the clocks of the hosts.

use std::{path::Path, time::Duration};

use super::{Agent, Finding, Patient};
use crate::{
    api::types::NodeView,
    config::Config,
    model::{Timestamp, keys::Key},
    store::{self, Store as _},
};

/// How far clocks may be apart before it is worth a line.
const SKEW: Duration = Duration::from_secs(2);

/// Looks at the agent and the store.
pub(super) async fn examine(patient: &Patient) -> Vec<Finding> {
    let settings = patient.config.as_ref().err().map(|reason| {
        Finding::wrong(
            "settings",
            reason.clone(),
            "mend the configuration file, or name another with --config",
        )
    });
    let mut findings: Vec<Finding> = settings.into_iter().collect();
    match (&patient.agent, &patient.config) {
        (Ok(agent), _) => {
            findings.push(running(agent));
            findings.push(store_of_agent(agent));
            findings.push(clock(&agent.nodes, Timestamp::now()));
        }
        (Err(e), config) => {
            findings.push(Finding::note(
                "agent",
                e.to_string(),
                "systemctl start overlay-agent, or see its log",
            ));
            if let Ok(config) = config {
                findings.push(store_of_config(config).await);
            }
        }
    }
    findings
}

fn running(agent: &Agent) -> Finding {
    let status = &agent.status;
    let trouble = status.reconcile_error.iter().map(|reason| format!("its last pass failed: {reason}"));
    let unready = (!status.ready).then(|| "its first pass is not done".to_owned());
    let keys = status.quarantined.keys().map(|key| format!("{key} in the store cannot be read"));
    let wrong: Vec<String> = trouble.chain(unready).chain(keys).collect();
    if !wrong.is_empty() {
        return Finding::wrong(
            "agent",
            wrong.join("; "),
            "see `overlay status`, `overlay verify` and its log",
        );
    }
    if !status.warnings.is_empty() {
        return Finding::note("agent", status.warnings.join("; "), "see `overlay status`");
    }
    Finding::ok("agent", format!("{} of version {} is ready", status.node, status.version))
}

fn store_of_agent(agent: &Agent) -> Finding {
    let status = &agent.status;
    let stale = status.stale.as_ref().map(|stale| stale.reason.clone());
    match stale.or_else(|| status.store_error.clone()) {
        None => Finding::ok("store", format!("{} answers, revision {}", status.store, status.revision)),
        Some(reason) => Finding::wrong("store", reason, BACK),
    }
}

const BACK: &str =
    "start the store, or mend the way to it; containers go on meanwhile, nothing can be changed";

/// Asks the store itself. A SQLite file that is not there is an agent's to make, not ours.
async fn store_of_config(config: &Config) -> Finding {
    let target = &config.store;
    if let Some(path) = target.url.strip_prefix("sqlite://").map(Path::new).filter(|path| !path.exists()) {
        return Finding::ok("store", format!("{} is not there yet: the agent makes it", path.display()));
    }
    let answer = match store::bounded(target) {
        Ok(store) => store.get(&Key::Cluster.to_string()).await.map(|entry| (store.url().to_owned(), entry)),
        Err(e) => Err(e),
    };
    match answer {
        Ok((url, Some(_))) => Finding::ok("store", format!("{url} answers")),
        Ok((url, None)) => Finding::ok("store", format!("{url} answers; it holds no cluster yet")),
        Err(e) => Finding::wrong(
            "store",
            e.to_string(),
            "start the store, or mend its address and credentials: docs/stores.md",
        ),
    }
}

/// No node can have written anything later than now, unless its clock or ours is wrong. Nothing that could do harm goes
/// by clocks, but logs of hosts are hard to read beside each other.
fn clock(nodes: &[NodeView], now: Timestamp) -> Finding {
    let ahead = nodes.iter().filter_map(|node| {
        let latest = [node.since, node.registered].into_iter().flatten().max()?;
        let by = latest.distance(now);
        (latest > now && by > SKEW).then(|| format!("{} wrote a time {} s ahead", node.name, by.as_secs()))
    });
    let ahead: Vec<String> = ahead.collect();
    if ahead.is_empty() {
        return Finding::ok("clock", "no node has written a time that is still to come");
    }
    Finding::note(
        "clock",
        ahead.join(", "),
        "synchronise the clocks of the hosts: apt-get install systemd-timesyncd",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::types::NodeState, doctor::Health};

    fn node(since: Timestamp) -> NodeView {
        NodeView {
            name: "host2".parse().unwrap(),
            state: NodeState::Up,
            drain: None,
            since: Some(since),
            registered: None,
            epoch: 1,
            id: String::new(),
            vtep: [192, 0, 2, 2].into(),
            vxlan_port: 4789,
            endpoints: 0,
            version: String::new(),
            local: false,
        }
    }

    #[test]
    fn a_node_that_wrote_a_time_to_come_has_another_clock() {
        let now = Timestamp::from_unix(1_000_000);
        let clock_of = |seconds| clock(&[node(Timestamp::from_unix(seconds))], now);
        assert_eq!(clock_of(999_000).health, Health::Ok);
        assert_eq!(clock_of(1_000_002).health, Health::Ok);
        let ahead = clock_of(1_000_090);
        assert_eq!((ahead.health, ahead.found.as_str()), (Health::Note, "host2 wrote a time 90 s ahead"));
    }
}
