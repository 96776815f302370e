//! `overlay status`, and waiting for the agent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    CliError,
    output::{Field, Output, Style, field, or_dash},
    watch::Watch,
};
use crate::api::{
    client::{Client, ClientError},
    types,
};

/// Between two tries to find the agent.
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay status
  overlay status --wait --timeout 10")]
pub(super) struct Status {
    /// Wait until the agent is there and its first pass is done
    #[arg(long)]
    wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "wait")]
    timeout: u32,
    #[command(flatten)]
    watch: Watch,
}

impl Status {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        if self.wait {
            wait(client, Duration::from_secs(self.timeout.into())).await?;
        }
        self.watch.show(out, async || Ok(client.status().await?), detail).await
    }
}

/// The status once the agent is ready. A socket that is not there yet is waited for too.
pub(super) async fn wait(client: &Client, limit: Duration) -> Result<types::Status, CliError> {
    let deadline = Instant::now() + limit;
    let mut failure = None;
    while let Ok(answer) = timeout_at(deadline, client.ready()).await {
        match answer {
            Ok(status) => return Ok(status),
            Err(error) if error.is_transient() => failure = Some(error),
            Err(error) => return Err(error.into()),
        }
        if timeout_at(deadline, sleep(POLL)).await.is_err() {
            break;
        }
    }
    Err(CliError::NotReady { seconds: limit.as_secs(), reason: reason(failure) })
}

fn reason(failure: Option<ClientError>) -> String {
    failure.map_or_else(|| "its first pass is not done".to_owned(), |error| error.to_string())
}

pub(super) fn detail(status: &types::Status, style: Style) -> String {
    let mut fields = vec![field("node", &status.node), field("agent", &status.version), state(status)];
    fields.extend(data_path(status));
    fields.extend(store(status));
    fields.extend(troubles(status));
    style.fields(&fields)
}

fn state(status: &types::Status) -> Field {
    match status.ready {
        true => field("state", &"ready").good(),
        false => field("state", &"not ready: the first pass is not done").bad(),
    }
}

fn data_path(status: &types::Status) -> [Field; 5] {
    let types::UnderlayView { ifname, ifindex, mtu, vtep, vxlan_port } = &status.underlay;
    [
        field("underlay", &format!("{ifname} (index {ifindex}), MTU {mtu}")),
        field("VTEP", &format!("{vtep}, UDP port {vxlan_port}")),
        field("XDP", &format!("{} ({})", status.xdp.mode, status.xdp.reason)),
        gateway(&status.gateway),
        field("pins", &status.pin_dir.display()),
    ]
}

fn gateway(gateway: &types::GatewayView) -> Field {
    match &gateway.error {
        Some(error) => field("gateway", error).bad(),
        None => field("gateway", &or_dash(gateway.range)),
    }
}

fn store(status: &types::Status) -> [Field; 5] {
    let types::Counts { networks, endpoints, local_endpoints, nodes } = status.counts;
    [
        field("store", &format!("{}, revision {}", status.store, status.revision)),
        field("nodes", &nodes),
        field("networks", &networks),
        field("endpoints", &format!("{endpoints}, of them {local_endpoints} here")),
        field("repaired", &status.repaired),
    ]
}

fn troubles(status: &types::Status) -> Vec<Field> {
    let stale = status.stale.iter().map(|stale| field("stale", &format!("for {} s", age(stale))));
    let store = status.store_error.iter().map(|error| field("store error", &error));
    let reconcile = status.reconcile_error.iter().map(|error| field("last pass failed", &error));
    let quarantined =
        status.quarantined.iter().map(|(key, reason)| field("quarantined", &format!("{key}: {reason}")));
    let warnings = status.warnings.iter().map(|warning| field("warning", &warning));
    stale.chain(store).chain(reconcile).chain(quarantined).chain(warnings).map(Field::bad).collect()
}

/// How many seconds ago it began.
fn age(stale: &types::StaleView) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs().saturating_sub(stale.since_unix_s)
}
