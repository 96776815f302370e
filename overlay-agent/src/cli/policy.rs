//! `overlay policy`: allow, deny, ls.

use clap::{Args, Subcommand};

use super::{
    CliError,
    output::{Output, Style},
};
use crate::{
    api::{client::Client, types::PolicyView},
    model::Name,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Let the containers of two networks talk, in both directions
    #[command(after_help = "Example:\n  overlay policy allow ov_net1 ov_net2")]
    Allow(Pair),
    /// Keep the containers of two networks apart again, as is the default
    #[command(after_help = "Example:\n  overlay policy deny ov_net1 ov_net2")]
    Deny(Pair),
    /// List which networks may talk; the others may not
    #[command(visible_alias = "list", after_help = "Example:\n  overlay policy ls")]
    Ls,
}

#[derive(Debug, Args)]
pub(super) struct Pair {
    /// Name of a network
    a: Name,
    /// Name of the other network
    b: Name,
}

impl Command {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        match self {
            Self::Allow(Pair { a, b }) => {
                let policies = client.allow(&a, &b).await?;
                out.print(&policies, |style| table(&policies, style))
            }
            Self::Deny(Pair { a, b }) => {
                client.deny(&a, &b).await?;
                out.say(&format!("{a} and {b} may not talk\n"))
            }
            Self::Ls => {
                let policies = client.policies().await?;
                out.print(&policies, |style| table(&policies, style))
            }
        }
    }
}

pub(super) fn table(policies: &[PolicyView], style: Style) -> String {
    let row = |policy: &PolicyView| [policy.from.to_string(), policy.to.to_string(), policy.action.clone()];
    style.table(["FROM", "TO", "ACTION"], policies.iter().map(row))
}
