//! `cargo xtask bench control`: agents by the hundred on one store that is full of endpoints.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{ready, run_bench};

/// Name of the benchmark in the `overlay-tests` package.
const BENCH: &str = "control";

/// Options of `cargo xtask bench control`.
#[derive(Args, Debug)]
pub struct Options {
    /// Stores: sqlite; consul, etcd or zookeeper, which are started here; or the URL of one
    #[arg(long, value_delimiter = ',', value_name = "KIND|URL", default_value = "sqlite")]
    store: Vec<String>,

    /// Agents, each in a namespace of its own
    #[arg(long, value_name = "N", default_value_t = 100)]
    agents: u8,

    /// Endpoints in the store
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    endpoints: u32,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Sets up, builds optimised, and measures; the figures are in target/bench/control.json.
pub fn run(options: &Options) -> Result<ExitCode> {
    ready(BENCH)?;
    run_bench(BENCH, options.words())?;
    Ok(ExitCode::SUCCESS)
}

impl Options {
    /// The same options for the benchmark itself.
    fn words(&self) -> Vec<String> {
        let words = [
            format!("--store={}", self.store.join(",")),
            format!("--agents={}", self.agents),
            format!("--endpoints={}", self.endpoints),
        ];
        words.into_iter().chain(self.json.then(|| "--json".to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_passed_on() {
        let options =
            Options { store: vec!["sqlite".into(), "etcd".into()], agents: 3, endpoints: 7, json: true };
        assert_eq!(options.words(), ["--store=sqlite,etcd", "--agents=3", "--endpoints=7", "--json"]);
    }
}
