//! What goes into a report: the agent's answers, what the kernel shows, the settings, the log.

use std::{fs, path::Path, process::Stdio, time::Duration};

use serde::Serialize;
use tokio::{process::Command, time::timeout};

use super::{Report, redact::Redactor};
use crate::{
    api::client::{Client, ClientError},
    config::Config,
    doctor::{self, Patient},
    model::Name,
    nat, paths,
};

/// Longest time for one tool.
const PATIENCE: Duration = Duration::from_secs(10);
/// Lines of the log.
const LOG_LINES: &str = "5000";
/// The unit that the package installs.
const UNIT: &str = "overlay-agent.service";

/// Where the report is made.
pub struct Site<'a> {
    /// The agent.
    pub client: &'a Client,
    /// Host, settings and agent, as the doctor sees them.
    pub patient: &'a Patient,
    /// The agent's configuration file.
    pub config_file: &'a Path,
}

/// Collects everything. Takes some seconds at most for each tool that hangs.
pub async fn collect(site: &Site<'_>) -> Report {
    let mut report = Report::default();
    about(&mut report);
    settings(&mut report, site);
    answers(&mut report, site.client).await;
    report.add("doctor.json", json(&doctor::examine(site.patient).await));
    host(&mut report, site).await;
    log(&mut report).await;
    report
}

/// Knows the secrets of the settings and of this environment.
#[must_use]
pub fn redactor(config: Result<&Config, &String>) -> Redactor {
    let access = config.ok().map(|config| &config.store.access);
    let key = access.and_then(|access| Some(&access.tls.as_ref()?.identity.as_ref()?.1));
    let secrets = access.iter().flat_map(|access| [&access.token, &access.password]).flatten().chain(key);
    Redactor::new(secrets.map(|secret| secret.expose().to_owned()))
}

fn about(report: &mut Report) {
    let now = crate::model::Timestamp::now();
    report.add("about.txt", Ok(format!("overlay {}, {now}\n", env!("CARGO_PKG_VERSION"))));
    for (part, path) in [
        ("host/kernel.txt", "/proc/version"),
        ("host/os-release.txt", "/etc/os-release"),
        ("host/cpu.txt", "/proc/cpuinfo"),
        ("host/memory.txt", "/proc/meminfo"),
        ("host/modules.txt", "/proc/modules"),
    ] {
        report.add(part, file(Path::new(path)));
    }
}

fn settings(report: &mut Report, site: &Site<'_>) {
    report.add("settings/agent.toml", file(site.config_file));
    let of_us = std::env::vars_os().map(|(name, value)| format!("{}={}", name.display(), value.display()));
    let mut lines: Vec<String> = of_us.filter(|line| line.starts_with("OVERLAY_")).collect();
    lines.sort();
    report.add("settings/environment.txt", Ok(lines.iter().map(|line| format!("{line}\n")).collect()));
    let resolved = site.patient.config.as_ref().map(|config| format!("{config:#?}\n"));
    report.add("settings/resolved.txt", resolved.map_err(Clone::clone));
}

async fn answers(report: &mut Report, client: &Client) {
    report.add("agent/status.json", answer(client.status().await));
    report.add("agent/verify.json", answer(client.verify().await));
    report.add("agent/drops.json", answer(client.drops().await));
    report.add("agent/networks.json", answer(client.networks().await));
    report.add("agent/endpoints.json", answer(client.endpoints().await));
    report.add("agent/nodes.json", answer(client.nodes().await));
    report.add("agent/policies.json", answer(client.policies().await));
    report.add("agent/published.json", answer(client.publications().await));
    let maps = client.maps().await;
    let names: Vec<Name> = maps.iter().flatten().filter_map(|map| map.name.parse().ok()).collect();
    report.add("agent/maps.json", answer(maps));
    for name in names {
        report.add(&format!("agent/maps/{name}.json"), answer(client.dump_map(&name).await));
    }
}

/// What the kernel's own tools show. `/sys` and `/proc` of a host in a namespace are its neighbours' too, tools ask.
async fn host(report: &mut Report, site: &Site<'_>) {
    let underlay = site.patient.agent.as_ref().ok().map(|agent| agent.status.underlay.ifname.clone());
    let underlay = underlay.or_else(|| site.patient.config.as_ref().ok()?.underlay.clone());
    let table = ["nft", "list", "table", "ip", nat::TABLE];
    let tools: &[(&str, &[&str])] = &[
        ("host/links.txt", &["ip", "-d", "-s", "link"]),
        ("host/addresses.txt", &["ip", "address"]),
        ("host/routes.txt", &["ip", "route", "show", "table", "all"]),
        ("host/neighbours.txt", &["ip", "neighbour"]),
        ("host/nft-table.txt", &table),
        ("host/nft-chains.txt", &["nft", "list", "chains"]),
        ("host/bpf-attached.txt", &["bpftool", "net"]),
        ("host/bpf-programs.txt", &["bpftool", "prog"]),
        ("host/bpf-links.txt", &["bpftool", "link"]),
        ("host/bpf-maps.txt", &["bpftool", "map"]),
        ("host/sockets.txt", &["ss", "-lnptu"]),
        ("host/sysctl.txt", &["sysctl", "net.core", "net.ipv4.ip_forward", "net.ipv4.conf"]),
    ];
    for (part, command) in tools {
        report.add(part, output(command).await);
    }
    match underlay {
        Some(device) => report.add("host/offloads.txt", output(&["ethtool", "-k", &device]).await),
        None => report.add("host/offloads.txt", Err("the underlay device is not known".to_owned())),
    }
    let pins =
        site.patient.config.as_ref().map_or(Path::new(paths::BPFFS_DIR), |config| &config.paths.bpffs_dir);
    report.add("host/pins.txt", output(&["ls", "-lR", &pins.display().to_string()]).await);
}

async fn log(report: &mut Report) {
    report.add("log/unit.txt", output(&["systemctl", "status", "--no-pager", "--lines=0", UNIT]).await);
    let journal =
        ["journalctl", "--no-pager", "--output=short-iso-precise", "--lines", LOG_LINES, "--unit", UNIT];
    report.add("log/journal.txt", output(&journal).await);
}

fn file(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn json(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|e| e.to_string())
}

fn answer(answer: Result<impl Serialize, ClientError>) -> Result<String, String> {
    json(&answer.map_err(|e| e.to_string())?)
}

/// What a tool prints, on either output.
async fn output(command: &[&str]) -> Result<String, String> {
    let (program, arguments) = command.split_first().ok_or("no command")?;
    let running = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let ended =
        timeout(PATIENCE, running).await.map_err(|_| format!("{program}: no end within {PATIENCE:?}"))?;
    let output = ended.map_err(|e| format!("{program}: {e}"))?;
    let (shown, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.stdout.is_empty() && !output.status.success() {
        return Err(format!("{}: {}", command.join(" "), said.trim()));
    }
    Ok(format!("$ {}\n{shown}{said}", command.join(" ")))
}
