//! `overlay doctor`: what on this host keeps the overlay from working well, and what to do.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;

use super::{
    CliError,
    output::{Output, Style, Text},
};
use crate::{
    api::client::Client,
    config::{Config, ConfigError},
    doctor::{self, Agent, Finding, Health, Patient},
    paths,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Looks at this host with an agent or without one; changes nothing. Without an agent it goes by the settings that one would
be started with. Exit codes: 0 nothing is wrong, 1 something is.

Examples:
  overlay doctor
  overlay doctor -o json
  overlay doctor -- --underlay eth1 --store consul://10.1.0.1")]
pub(super) struct Doctor {
    #[command(flatten)]
    settings: AgentSettings,
}

/// What the agent is, or would be, started with.
#[derive(Debug, Args)]
pub(super) struct AgentSettings {
    /// Configuration file of the agent [default: /etc/overlay/agent.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "OVERLAY_CONFIG")]
    config: Option<PathBuf>,
    /// More options of overlay-agent, as it is or would be started
    #[arg(last = true, value_name = "AGENT OPTIONS")]
    options: Vec<String>,
}

impl AgentSettings {
    /// The settings, or why there are none.
    pub(super) fn load(&self) -> Result<Config, String> {
        let file = self.config.iter().flat_map(|path| [OsString::from("--config"), path.into()]);
        let words = [OsString::from("overlay-agent")].into_iter().chain(file);
        let options = self.options.iter().map(OsString::from);
        Config::load(words.chain(options)).map_err(|e| match e {
            ConfigError::Usage(e) => super::usage_line(&e.to_string()),
            other => other.to_string(),
        })
    }

    /// The configuration file.
    pub(super) fn file(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| paths::CONFIG_FILE.into())
    }
}

impl Doctor {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        let patient = Patient { config: self.settings.load(), agent: Agent::ask(client).await };
        let findings = doctor::examine(&patient).await;
        out.print(&findings, |style| text(&findings, style))?;
        if findings.iter().any(|finding| finding.health == Health::Wrong) {
            return Err(CliError::Differences);
        }
        Ok(())
    }
}

/// Under each line that is not well stands what to do.
pub(super) fn text(findings: &[Finding], style: Style) -> String {
    let rows = findings.iter().flat_map(|finding| {
        let advice =
            finding.fix.iter().map(|fix| [Text::default(), Text::default(), format!("-> {fix}").into()]);
        let line = [health(finding.health), finding.check.to_owned().into(), finding.found.clone().into()];
        std::iter::once(line).chain(advice)
    });
    style.table(["IS", "CHECK", "FOUND"], rows)
}

fn health(health: Health) -> Text {
    match health {
        Health::Ok => Text::from("ok".to_owned()).good(),
        Health::Note => "note".to_owned().into(),
        Health::Wrong => Text::from("WRONG".to_owned()).bad(),
    }
}
