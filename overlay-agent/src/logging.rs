//! The agent's log: lines on standard error, at a level that can be changed while it runs.

use std::{io::IsTerminal as _, sync::OnceLock};

use tracing_subscriber::{
    Registry,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use crate::config::LogLevel;

/// Crates whose messages nobody reads: Consul's client tells of each request, and of each conflict as an error, and the
/// DNS library of each query that some container made badly. What matters of it comes back to the agent, which tells it
/// in its own words.
const CHATTY: &[&str] = &["consulrs", "rustify", "hickory_proto", "hickory_net", "hickory_resolver"];

static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Starts the log, once. What the BPF programs log comes the same way, through the `log` crate.
pub fn start(level: LogLevel) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // A journal has the time of each line already.
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let (filter, handle) = reload::Layer::new(targets(level));
    let registry = tracing_subscriber::registry().with(filter);
    match in_journal {
        true => registry.with(lines.without_time()).init(),
        false => registry.with(lines).init(),
    }
    // Only the first start is the process's.
    let _ = FILTER.set(handle);
}

/// Changes what is logged from now on.
pub fn set_level(level: LogLevel) {
    if let Some(Err(e)) = FILTER.get().map(|filter| filter.reload(targets(level))) {
        tracing::warn!(reason = %e, "the log level stays as it is");
    }
}

fn targets(level: LogLevel) -> Targets {
    let all = Targets::new().with_default(LevelFilter::from(level));
    CHATTY.iter().fold(all, |targets, chatty| targets.with_target(*chatty, LevelFilter::OFF))
}
