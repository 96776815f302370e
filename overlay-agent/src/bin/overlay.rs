//! The command line.

use std::process::ExitCode;

use clap::Parser;
use overlay_agent::cli::{self, Cli};

fn main() -> ExitCode {
    cli::complete();
    run()
}

#[tokio::main(flavor = "current_thread")]
async fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::report_usage(&error),
    };
    match cli.run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::report(&error),
    }
}
