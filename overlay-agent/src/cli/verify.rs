//! `overlay verify`: what is not as it should be on this host.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use super::{
    CliError,
    output::{Output, Style, or_dash},
};
use crate::{
    api::client::Client,
    verify::{Concerns, Difference, Repair, Verification},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 all is as it should be, 1 something is not, 2 it could not be looked at.

Examples:
  overlay verify
  overlay verify --repair -o json")]
pub(super) struct Verify {
    /// Have the agent repair what it can, then look again
    #[arg(long)]
    repair: bool,
}

impl Verify {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        let seen = if self.repair { client.repair().await } else { client.verify().await };
        let seen = seen.map_err(CliError::NotVerified)?;
        out.print(&seen, |style| text(&seen, style))?;
        if seen.differences.is_empty() { Ok(()) } else { Err(CliError::Differences) }
    }
}

pub(super) fn text(seen: &Verification, style: Style) -> String {
    let mut text = match seen.differences.len() {
        0 => format!("all is as revision {} of the store asks for\n", seen.revision),
        _ => table(&seen.differences, style),
    };
    if !seen.repaired.is_empty() {
        text += &format!("\nrepaired now:\n{}", table(&seen.repaired, style));
    }
    if !seen.repaired_by_itself.is_empty() {
        text += &format!(
            "\nrepaired by the agent itself, the last of it:\n{}",
            log(&seen.repaired_by_itself, style)
        );
    }
    text
}

fn table(differences: &[Difference], style: Style) -> String {
    style.table(HEADER, differences.iter().map(row))
}

fn log(repairs: &[Repair], style: Style) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let row = |repair: &Repair| {
        let ago = now.saturating_sub(Duration::from_secs(repair.unix_seconds)).as_secs();
        [format!("{ago} s ago")].into_iter().chain(row(&repair.difference)).collect::<Vec<_>>()
    };
    style.table(["WHEN"].into_iter().chain(HEADER), repairs.iter().map(row))
}

const HEADER: [&str; 6] = ["LAYER", "WHAT", "CONCERNS", "IS", "SHOULD BE", "REASON"];

fn row(difference: &Difference) -> [String; 6] {
    let Difference { layer, subject, found, wanted, reason, concerns } = difference;
    [
        layer.to_string(),
        subject.clone(),
        whom(concerns),
        or_dash(found.as_ref()),
        or_dash(wanted.as_ref()),
        reason.clone(),
    ]
}

/// `box in net on host1`, as far as it is known.
fn whom(Concerns { network, endpoint, node }: &Concerns) -> String {
    let endpoint = endpoint.iter().map(ToString::to_string);
    let network = network.iter().map(|network| format!("in {network}"));
    let node = node.iter().map(|node| format!("on {node}"));
    let words: Vec<String> = endpoint.chain(network).chain(node).collect();
    or_dash((!words.is_empty()).then(|| words.join(" ")))
}
