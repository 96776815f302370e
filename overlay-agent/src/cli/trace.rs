//! `overlay trace`: what would become of a packet, and what stops it.

use clap::Args;

use super::{
    CliError, complete, drops,
    output::{Output, Style, Text},
};
use crate::{
    api::client::Client,
    model::{Name, RuleProtocol},
    trace::{Cause, End, Step, TraceRequest, TraceView},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Asks the programs of this host themselves, with the maps that are in force; sends, changes and counts nothing. On the
sender's host it shows the way out, on the receiver's host the way in. The packet opens a flow: a TCP SYN, a datagram, or an
echo request. Exit codes: 0 nothing on this host stops it, 1 something does.

Examples:
  overlay trace ov_net1 web db --proto tcp --port 5432
  overlay trace ov_net1 web 10.0.1.7 --size 1450")]
pub(super) struct Trace {
    /// Network of the sender
    #[arg(add = complete::networks())]
    network: Name,
    /// The sender
    #[arg(value_name = "SENDER", add = complete::endpoints())]
    from: Name,
    /// The receiver: the name of an endpoint, or an address
    #[arg(value_name = "RECEIVER|ADDRESS", add = complete::endpoints())]
    to: String,
    /// Protocol of the packet [default: icmp]
    #[arg(long, value_name = "PROTOCOL")]
    proto: Option<RuleProtocol>,
    /// Its destination port
    #[arg(long, value_name = "N", requires = "proto")]
    port: Option<u16>,
    /// Length of the IP packet in bytes [default: as small as can be]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..=9_000))]
    size: Option<u16>,
}

impl Trace {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        let Self { network, from, to, proto, port, size } = self;
        let seen = client.trace(&TraceRequest { network, from, to, proto, port, size }).await?;
        out.print(&seen, |style| text(&seen, style))?;
        if seen.end == End::Stopped { Err(CliError::Differences) } else { Ok(()) }
    }
}

pub(super) fn text(seen: &TraceView, style: Style) -> String {
    let row = |Step { place, found }: &Step| [Text::from(place.clone()), found.clone().into()];
    let end = conclusion(seen).map(|(what, said)| [what, said.into()]);
    let table = style.table(["AT", "FOUND"], seen.steps.iter().map(row).chain(end));
    if seen.dropped.is_empty() {
        return table;
    }
    format!(
        "{table}\nof what this sender sent, this host dropped so far:\n{}",
        drops::table(&seen.dropped, style)
    )
}

/// The last lines: where it ended, and what to do.
fn conclusion(TraceView { host, end, next, cause, .. }: &TraceView) -> impl Iterator<Item = (Text, String)> {
    let well = |said: String| vec![("ends".to_owned().into(), said)];
    let lines = match (end, next, cause) {
        (End::Stopped, _, Some(Cause { name, description, fix })) => vec![
            (Text::from("STOPPED".to_owned()).bad(), format!("{name}: {description}")),
            (Text::default(), format!("-> {fix}")),
        ],
        (End::Stopped, ..) => vec![(Text::from("STOPPED".to_owned()).bad(), String::new())],
        (End::Delivered, ..) => well(format!("delivered, on {host}")),
        (End::Answered, ..) => well("answered".to_owned()),
        (End::ToHost, ..) => {
            well(format!("with {host}'s own stack: its routes, packet filter and masquerading decide"))
        }
        (End::Sent, Some(node), _) => well(format!("sent to {node}: ask there for the rest of the way")),
        (End::Sent, None, _) => well("sent to a machine without an agent".to_owned()),
    };
    lines.into_iter()
}
