//! `cargo xtask bench`: this overlay beside the bare host, kernel VXLAN and Docker, measured in one run on this machine.
//!
//! Sets up and builds; the measuring itself is the benchmark of the `overlay-tests` package.

mod control;

use std::{
    env, io,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use nix::unistd::geteuid;

use crate::{layout, process, progress, setup, unpacked};

/// Name of the one peer that needs more than this machine has.
const DOCKER: &str = "docker";

/// Name of the benchmark of the data path in the `overlay-tests` package.
const BENCH: &str = "overlay";

/// Options of `cargo xtask bench`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    other: Option<Other>,

    /// Fewer rows and shorter runs: under five minutes
    #[arg(long)]
    quick: bool,

    /// Only these peers, of bare, kernel, docker, overlay
    #[arg(long, value_delimiter = ',', value_name = "PEER")]
    peers: Vec<String>,

    /// Only these rows; an unknown one lists them all
    #[arg(long, value_delimiter = ',', value_name = "ROW")]
    rows: Vec<String>,

    /// Steady rounds that each row shall have
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// What else is measured.
#[derive(Debug, Subcommand)]
enum Other {
    /// Measure the control plane: many agents and endpoints on one store
    Control(control::Options),
}

/// Sets up, builds optimised, measures, and says where the reports are.
pub fn run(options: &Options) -> Result<ExitCode> {
    match &options.other {
        Some(Other::Control(options)) => control::run(options),
        None => data_path(options),
    }
}

fn data_path(options: &Options) -> Result<ExitCode> {
    ready(BENCH)?;
    setup::ensure_container_servers()?;
    let docker = options.wants(DOCKER).then(|| unpacked::DOCKER.ensure());
    run_bench(BENCH, options.words().into_iter().chain(docker_words(docker)))?;
    eprintln!("bench: report.json and report.html are in {}", layout::shown(&out_dir()));
    Ok(ExitCode::SUCCESS)
}

/// Sets up, and builds everything optimised.
fn ready(bench: &str) -> Result<()> {
    if !geteuid().is_root() {
        bail!("the benchmark makes network namespaces and loads BPF programs: run it as root");
    }
    step(&["setup"])?;
    step(&["build", "--release"])?;
    build(bench)
}

/// Runs a benchmark of the `overlay-tests` package.
fn run_bench(bench: &str, words: impl IntoIterator<Item = String>) -> Result<()> {
    let mut cargo = cargo_bench(bench);
    process::run(cargo.arg("--").args(words).arg("--out").arg(out_dir()))
}

/// Another subcommand. What it says goes to standard error: standard output is for the report.
fn step(words: &[&str]) -> Result<()> {
    let this = env::current_exe().context("cannot find the path of this program")?;
    process::run(Command::new(this).args(words).stdout(io::stderr()))
}

fn build(bench: &str) -> Result<()> {
    let mut cargo = cargo_bench(bench);
    let outcome = progress::run("building the benchmark", cargo.arg("--no-run"))?;
    if !outcome.status.success() {
        bail!("the benchmark does not build:\n{}", outcome.output);
    }
    Ok(())
}

impl Options {
    fn wants(&self, peer: &str) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|wanted| wanted == peer)
    }

    /// The same options for the benchmark itself.
    fn words(&self) -> Vec<String> {
        let flag = |name: &str, set: bool| set.then(|| name.to_owned());
        let list = |name: &str, values: &[String]| {
            (!values.is_empty()).then(|| format!("{name}={}", values.join(",")))
        };
        let rounds = self.rounds.map(|rounds| format!("--rounds={rounds}"));
        let words = [
            flag("--quick", self.quick),
            list("--peers", &self.peers),
            list("--rows", &self.rows),
            rounds,
            flag("--json", self.json),
        ];
        words.into_iter().flatten().collect()
    }
}

/// Where Docker is, or why it is not.
fn docker_words(docker: Option<Result<PathBuf>>) -> Vec<String> {
    match docker {
        None => Vec::new(),
        Some(Ok(root)) => vec![format!("--docker-root={}", root.display())],
        Some(Err(error)) => vec![format!("--docker-missing={error:#}")],
    }
}

fn cargo_bench(bench: &str) -> Command {
    let mut cargo = process::cargo();
    cargo.args(["bench", "--quiet", "--package", "overlay-tests", "--bench", bench]);
    cargo.env("OVERLAY_BIN_DIR", layout::bin_dir(true)).env("OVERLAY_BPF_OBJECT", layout::bpf_object());
    cargo
}

fn out_dir() -> PathBuf {
    layout::target().join("bench")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options { other: None, quick: false, peers: Vec::new(), rows: Vec::new(), rounds: None, json: false }
    }

    #[test]
    fn what_was_asked_for_is_passed_on_and_nothing_else() {
        assert_eq!(options().words(), Vec::<String>::new());
        let asked = Options {
            other: None,
            quick: true,
            peers: vec!["bare".into(), "overlay".into()],
            rows: vec!["tcp".into()],
            rounds: Some(2),
            json: true,
        };
        assert_eq!(asked.words(), ["--quick", "--peers=bare,overlay", "--rows=tcp", "--rounds=2", "--json"]);
    }

    #[test]
    fn docker_is_wanted_unless_other_peers_were_named() {
        assert!(options().wants(DOCKER));
        assert!(!Options { peers: vec!["bare".into()], ..options() }.wants(DOCKER));
    }

    #[test]
    fn a_docker_that_cannot_be_had_is_passed_on_as_its_reason() {
        assert_eq!(docker_words(None), Vec::<String>::new());
        assert_eq!(docker_words(Some(Ok("/d".into()))), ["--docker-root=/d"]);
        let missing = anyhow::anyhow!("no network").context("downloading");
        assert_eq!(docker_words(Some(Err(missing))), ["--docker-missing=downloading: no network"]);
    }
}
