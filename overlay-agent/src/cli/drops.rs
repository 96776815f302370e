//! `overlay drops`, and watching them grow.

use clap::Args;

use super::{
    CliError,
    output::{Output, Style, or_dash},
    watch::Watch,
};
use crate::api::{client::Client, types::DropView};

#[derive(Debug, Args)]
#[command(after_help = "\
With --watch, what changed is printed below what was there.

Examples:
  overlay drops
  overlay drops --watch")]
pub(super) struct Drops {
    #[command(flatten)]
    watch: Watch,
}

impl Drops {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        let news = |before: &Vec<DropView>, now: &Vec<DropView>| {
            Some(changes(before, now)).filter(|changed| !changed.is_empty())
        };
        let fetch = async || Ok(client.drops().await?);
        self.watch.show_news(out, fetch, news, |drops, style| table(drops, style)).await
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
