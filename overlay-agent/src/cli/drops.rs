//! `overlay drops`, and watching them grow.

use std::time::Duration;

use clap::Args;
use tokio::{
    signal,
    time::{MissedTickBehavior, interval},
};

use super::{
    CliError,
    output::{Output, Style, or_dash},
};
use crate::api::{client::Client, types::DropView};

const REFRESH: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay drops
  overlay drops --watch")]
pub(super) struct Drops {
    /// Print what changed each second, until Ctrl-C
    #[arg(long, short)]
    watch: bool,
}

impl Drops {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        let drops = client.drops().await?;
        out.print(&drops, |style| table(&drops, style))?;
        if !self.watch {
            return Ok(());
        }
        tokio::select! {
            interrupted = signal::ctrl_c() => Ok(interrupted?),
            failed = watch(client, out, drops) => failed,
        }
    }
}

async fn watch(client: &Client, out: Output, mut before: Vec<DropView>) -> Result<(), CliError> {
    let mut ticks = interval(REFRESH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = client.drops().await?;
        let changed = changes(&before, &now);
        if !changed.is_empty() {
            out.print(&changed, |style| format!("\n{}", table(&changed, style)))?;
        }
        before = now;
    }
}

/// The counters that are not as they were.
pub(super) fn changes(before: &[DropView], now: &[DropView]) -> Vec<DropView> {
    now.iter().filter(|drop| !before.contains(drop)).cloned().collect()
}

pub(super) fn table(drops: &[DropView], style: Style) -> String {
    let row = |drop: &DropView| {
        [
            drop.reason.clone(),
            drop.number.to_string(),
            network(drop),
            or_dash(drop.endpoint.as_ref()),
            drop.packets.to_string(),
            drop.bytes.to_string(),
            drop.description.clone(),
        ]
    };
    let header = ["REASON", "NUMBER", "NETWORK", "ENDPOINT", "PACKETS", "BYTES", "DESCRIPTION"];
    style.table(header, drops.iter().map(row))
}

/// A network that this agent does not know still has the VNI that the packet named.
fn network(drop: &DropView) -> String {
    match &drop.network {
        Some(name) => name.to_string(),
        None => or_dash((drop.vni != 0).then(|| format!("VNI {}", drop.vni))),
    }
}
