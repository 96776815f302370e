//! The benchmark behind `cargo xtask bench control`: a cluster of real agents, a namespace and a set of BPF maps each,
//! on one store that is full of endpoints.
//!
//! * [`kinds`]: the stores, and how each is started
//! * [`population`]: networks, nodes and endpoints that are in the store without agents behind them
//! * [`fleet`]: the agents
//! * [`measure`]: what is asked of them
//! * [`report`]: what came out
//!
//! The endpoints are on nodes of their own, since an agent collects records of its own node that have no container.
//! For the agents that are measured they are what most endpoints of a cluster are: another host's.

mod fleet;
mod kinds;
mod measure;
mod population;
mod report;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser;
use overlay_tests::underlay::Underlay;

use kinds::StoreChoice;
use report::Report;

#[derive(Debug, Parser)]
#[command(name = "bench control")]
struct Options {
    /// Stores: sqlite; consul, etcd or zookeeper, which are started here; or the URL of one
    #[arg(long = "store", value_delimiter = ',', default_value = "sqlite")]
    stores: Vec<StoreChoice>,
    /// Agents
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(2..=200))]
    agents: u8,
    /// Endpoints in the store
    #[arg(long, default_value_t = 10_000)]
    endpoints: u32,
    /// Attaches whose way to all agents is measured
    #[arg(long, default_value_t = 50)]
    attaches: u32,
    /// Seconds for which the agents are left alone
    #[arg(long, default_value_t = 65)]
    idle: u64,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Directory for the report
    #[arg(long, default_value = ".")]
    out: PathBuf,
    /// `cargo bench` adds it to every benchmark's arguments
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let mut report = Report::new(options.agents, options.endpoints);
    for choice in &options.stores {
        let figures = on_store(choice, options).with_context(|| format!("with store {choice}"))?;
        report.add(choice, figures);
    }
    let path = report.write(&options.out)?;
    let text = if options.json { report.json()? } else { report.to_string() };
    println!("{text}");
    eprintln!("bench: the figures are in {}", path.display());
    Ok(())
}

/// Everything with one store, on an underlay of its own.
fn on_store(choice: &StoreChoice, options: &Options) -> Result<measure::Figures> {
    let place = fleet::Place::new();
    let store = choice.start(&place)?;
    let say = |what: &str| eprintln!("bench: {choice}: {what}");
    say(&format!("{} endpoints into the store", options.endpoints));
    let client = store.connect(&place)?;
    let population = client.populate(options.endpoints)?;
    say(&format!("{} agents", options.agents));
    let fleet = fleet::Fleet::start(&place, store.url(), options.agents, population.last())?;
    let figures = measure::all(
        &fleet,
        &client,
        &population,
        &measure::Plan { attaches: options.attaches, idle: Duration::from_secs(options.idle) },
        say,
    )?;
    Ok(figures)
}

/// The wire that everything is on.
fn underlay() -> Underlay {
    Underlay::new(overlay_tests::underlay::Wire::Offload)
}
