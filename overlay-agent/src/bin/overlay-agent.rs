//! The daemon: see [`overlay_agent::agent`].

use std::{io::IsTerminal as _, process::ExitCode};

use overlay_agent::{
    agent,
    config::{Config, ConfigError, LogLevel},
};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

fn main() -> ExitCode {
    let config = match Config::load(std::env::args_os()) {
        Ok(config) => config,
        Err(ConfigError::Usage(e)) => e.exit(),
        Err(e) => return fail(&e.into()),
    };
    start_logging(config.log);
    for key in &config.unknown_keys {
        tracing::warn!(key, "unknown key in the configuration file");
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e),
    }
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    if config.cleanup { agent::cleanup::run(&config).await } else { agent::run(config).await }
}

/// Logs go to standard error; what the BPF programs log comes the same way, through the `log` crate.
fn start_logging(level: LogLevel) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let mut targets = Targets::new().with_default(LevelFilter::from(level));
    for chatty in CHATTY {
        targets = targets.with_target(*chatty, LevelFilter::OFF);
    }
    tracing_subscriber::registry().with(targets).with(lines).init();
}

/// Crates whose messages nobody reads: Consul's client tells of each request, and of each conflict as an error, and the
/// DNS library of each query that some container made badly. What matters of it comes back to the agent, which tells it
/// in its own words.
const CHATTY: &[&str] = &["consulrs", "rustify", "hickory_proto", "hickory_net", "hickory_resolver"];

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("overlay-agent: {error:#}");
    ExitCode::FAILURE
}
