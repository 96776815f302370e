//! `overlay bugreport`: one archive for who is to find a fault.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;

use super::{CliError, doctor::AgentSettings, output::Output};
use crate::{
    api::client::Client,
    bugreport::{
        Contents, Report,
        collect::{self, Site},
    },
    doctor::{Agent, Patient},
    model::Timestamp,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Works with an agent or without one. Tokens, passwords, private keys and what looks like them are taken out; names of
networks, containers and hosts, labels, addresses and the agent's log stay in. Look it through before you give it away.

Examples:
  overlay bugreport
  overlay bugreport /tmp/report.tar.gz
  overlay bugreport - | ssh admin@10.0.0.9 'cat > report.tar.gz'")]
pub(super) struct Bugreport {
    /// File to write, `-` for standard output [default: overlay-bugreport-TIME.tar.gz here]
    file: Option<PathBuf>,
    #[command(flatten)]
    settings: AgentSettings,
}

#[derive(Serialize)]
struct Written<'a> {
    file: &'a Path,
    #[serde(flatten)]
    contents: Contents,
}

impl Bugreport {
    pub(super) async fn run(self, client: &Client, out: Output) -> Result<(), CliError> {
        let patient = Patient { config: self.settings.load(), agent: Agent::ask(client).await };
        let site = Site { client, patient: &patient, config_file: &self.settings.file() };
        let report = collect::collect(&site).await;
        let redactor = collect::redactor(patient.config.as_ref());
        let name = format!("overlay-bugreport-{}", Timestamp::now().unix());
        let file = self.file.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
        if file == Path::new("-") {
            return Ok(report.write(&name, &redactor, io::stdout().lock())?);
        }
        let error = |source| CliError::File { path: file.clone(), source };
        // Names of hosts and containers are not everybody's business.
        let opened = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file);
        let mut archive = opened.map_err(error)?;
        report.write(&name, &redactor, &mut archive).and_then(|()| archive.flush()).map_err(error)?;
        out.print(&Written { file: &file, contents: report.contents() }, |_| sentence(&file, &report))
    }
}

fn sentence(file: &Path, report: &Report) -> String {
    let Contents { parts, missing } = report.contents();
    let mut text =
        format!("{}: {} parts, without secrets as far as they are known\n", file.display(), parts.len());
    if !missing.is_empty() {
        let names: Vec<&str> = missing.keys().map(String::as_str).collect();
        text += &format!("not in it: {} (why: missing.txt)\n", names.join(", "));
    }
    text
}
