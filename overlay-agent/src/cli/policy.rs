//! `overlay policy`: allow, deny, rm, enforce, ls.

use std::collections::BTreeMap;

use clap::{ArgGroup, Args, Subcommand};

use super::{
    CliError, complete,
    dry_run::DryRun,
    labels::{self, label},
    output::{Output, Style, or_dash},
    watch::Watch,
};
use crate::{
    api::{
        client::Client,
        types::{NewRule, PolicyAction, PolicyView},
    },
    model::{Allowance, Name, Ports, RuleId, RuleProtocol, Traffic},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Let the containers of two networks talk: all of them in both directions, or by rules
    #[command(after_help = "\
With one of --proto, --port, --from-label, --to-label, --one-way it adds a rule: containers of A may open such flows to
containers of B, and what answers them comes back. Rules add up: what none of them allows is dropped.

Examples:
  overlay policy allow ov_net1 ov_net2
  overlay policy allow ov_net1 ov_net2 --proto tcp --port 5432 --from-label app=web --to-label app=db
  overlay policy allow ov_net1 ov_net2 --proto udp --port 5000-5010
  overlay policy allow ov_net1 ov_net2 --one-way
  overlay policy allow ov_net1 ov_net2 --proto tcp --port 80 --audit    # try it: drop nothing, count what would be")]
    Allow(Allow),
    /// Keep the containers of two networks apart again, as is the default; connections are cut
    #[command(after_help = "Example:\n  overlay policy deny ov_net1 ov_net2")]
    Deny(Pair),
    /// Remove a rule; what it allowed is cut
    #[command(visible_alias = "remove", after_help = "Example:\n  overlay policy rm 0a1b2c3d")]
    Rm {
        /// Id of the rule
        #[arg(add = complete::rules())]
        id: RuleId,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Let the rules between two networks decide alone: what was audited is enforced, and `allow A B` ends
    #[command(after_help = "Example:\n  overlay policy enforce ov_net1 ov_net2")]
    Enforce(Pair),
    /// List what may pass between networks, with what this host counted; nothing else may
    #[command(visible_alias = "list", after_help = "Example:\n  overlay policy ls")]
    Ls(Watch),
}

#[derive(Debug, Args)]
pub(super) struct Pair {
    /// Name of a network
    #[arg(add = complete::networks())]
    a: Name,
    /// Name of the other network
    #[arg(add = complete::networks())]
    b: Name,
    #[command(flatten)]
    dry_run: DryRun,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("rule").multiple(true)))]
pub(super) struct Allow {
    /// Name of a network; with a rule, where flows are opened
    #[arg(add = complete::networks())]
    a: Name,
    /// Name of the other network; with a rule, where flows are taken
    #[arg(add = complete::networks())]
    b: Name,
    /// Only this protocol
    #[arg(long, value_name = "PROTOCOL", group = "rule")]
    proto: Option<RuleProtocol>,
    /// Only to this port, or to these
    #[arg(long, value_name = "N[-M]", requires = "proto", group = "rule")]
    port: Option<Ports>,
    /// Only from containers with this label; given several times, with all of them
    #[arg(long = "from-label", value_name = "K=V", value_parser = label, group = "rule")]
    from_labels: Vec<(String, String)>,
    /// Only to containers with this label; given several times, with all of them
    #[arg(long = "to-label", value_name = "K=V", value_parser = label, group = "rule")]
    to_labels: Vec<(String, String)>,
    /// Only flows that A opens, whatever they are
    #[arg(long, group = "rule")]
    one_way: bool,
    /// Drop nothing from A to B: count what no rule allows, see `overlay policy ls` and `enforce`
    #[arg(long, requires = "rule")]
    audit: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

impl Allow {
    fn is_rule(&self) -> bool {
        let has_labels = !self.from_labels.is_empty() || !self.to_labels.is_empty();
        self.proto.is_some() || has_labels || self.one_way
    }

    async fn run(self, client: &Client) -> Result<Vec<PolicyView>, CliError> {
        let client = self.dry_run.of(client);
        if !self.is_rule() {
            return Ok(client.allow(&self.a, &self.b).await?);
        }
        let allows = Allowance {
            traffic: Traffic::new(self.proto, self.port)?,
            from_labels: self.from_labels.into_iter().collect(),
            to_labels: self.to_labels.into_iter().collect(),
        };
        Ok(vec![client.add_rule(&self.a, &self.b, &NewRule { allows, audit: self.audit }).await?])
    }
}

impl Command {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        let policies = match self {
            Self::Allow(allow) => allow.run(client).await?,
            Self::Deny(Pair { a, b, dry_run }) => {
                dry_run.of(client).deny(&a, &b).await?;
                return out.say(&format!("{a} and {b} may not talk\n"));
            }
            Self::Rm { id, dry_run } => {
                dry_run.of(client).remove_rule(id).await?;
                return out.say(&format!("rule {id} is removed\n"));
            }
            Self::Enforce(Pair { a, b, dry_run }) => dry_run.of(client).enforce(&a, &b).await?,
            Self::Ls(watch) => {
                let fetch = async || Ok(client.policies().await?);
                return watch.show(out, fetch, |policies, style| table(policies, style)).await;
            }
        };
        out.print(&policies, |style| table(&policies, style))
    }
}

pub(super) fn table(policies: &[PolicyView], style: Style) -> String {
    let header = ["FROM", "TO", "ACTION", "TRAFFIC", "FROM LABELS", "TO LABELS", "PACKETS", "FLOWS", "ID"];
    style.table(header, policies.iter().map(row))
}

fn row(policy: &PolicyView) -> [String; 9] {
    let rule = policy.allows.as_ref().filter(|_| policy.id.is_some());
    let traffic = match policy.action {
        PolicyAction::Audit => "any other".to_owned(),
        PolicyAction::Allow => rule.map_or_else(|| "all".to_owned(), |rule| rule.traffic.to_string()),
    };
    let none = BTreeMap::new();
    [
        policy.from.to_string(),
        policy.to.to_string(),
        action(policy).to_owned(),
        traffic,
        labels::shown(rule.map_or(&none, |rule| &rule.from_labels)),
        labels::shown(rule.map_or(&none, |rule| &rule.to_labels)),
        or_dash(policy.counted.map(|counted| counted.packets)),
        or_dash(policy.counted.map(|counted| counted.flows)),
        or_dash(policy.id),
    ]
}

fn action(policy: &PolicyView) -> &'static str {
    match policy.action {
        PolicyAction::Allow if policy.audit => "allow, audited",
        PolicyAction::Allow => "allow",
        PolicyAction::Audit => "would drop",
    }
}
