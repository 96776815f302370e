//! The benchmark behind `cargo xtask bench`: this overlay beside the bare host, kernel VXLAN and real Docker,
//! all on this machine and in one run.
//!
//! * [`peers`]: what is compared, each built on an underlay of its own
//! * [`rows`]: what is measured
//! * [`probe`]: the request/response and datagram program, re-executed inside the namespaces
//! * [`flood`]: hostile packets; [`crowd`]: packets on a host that knows many containers
//! * [`place`]: where programs run
//! * [`plan`], [`rounds`], [`clock`]: what is asked for, in which order, and how long it may take
//! * [`machine`], [`report`]: on what it was measured, and what came out
//!
//! Two rules make figures from a shared machine worth something: a ratio is taken within a round, between runs that
//! follow each other, and a round whose two bare runs disagree is dropped.

mod clock;
mod crowd;
mod flood;
mod interrupt;
mod machine;
mod peers;
mod place;
mod plan;
mod probe;
mod programs;
mod report;
mod rounds;
mod rows;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(subcommand)]
    probe: Option<Program>,
    #[command(flatten)]
    options: plan::Options,
    /// `cargo bench` adds it to every benchmark's arguments
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Program {
    /// Answers in one namespace
    #[command(hide = true)]
    Serve(probe::serve::Options),
    /// Asks from another, and prints what it saw as JSON
    #[command(hide = true)]
    Measure(probe::measure::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.probe {
        None => run::run(&cli.options),
        Some(Program::Serve(options)) => probe::serve::run(options),
        Some(Program::Measure(options)) => probe::measure::run(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
