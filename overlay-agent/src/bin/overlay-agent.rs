//! The daemon: see [`overlay_agent::agent`].

use std::process::ExitCode;

use overlay_agent::{
    agent,
    config::{Config, ConfigError},
    logging,
};

fn main() -> ExitCode {
    let config = match Config::load(std::env::args_os()) {
        Ok(config) => config,
        Err(ConfigError::Usage(e)) => e.exit(),
        Err(e) => return fail(&e.into()),
    };
    logging::start(config.log);
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

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("overlay-agent: {error:#}");
    ExitCode::FAILURE
}
