//! SIGHUP: the settings are read again. What can be changed at once is; the rest is named, for a restart.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use super::notify;
use crate::{config::Config, logging, service::Service};

/// Reads the settings again whenever it is asked to, and makes a full pass. Never ends.
pub async fn on_hangup(service: Arc<Service>, config: Config) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return std::future::pending().await };
    let mut config = config;
    while hangups.recv().await.is_some() {
        notify::reloading();
        match Config::load(std::env::args_os()) {
            Ok(read) => config = apply(config, &read),
            Err(e) => tracing::warn!(reason = %e, "the settings cannot be read again: all stays as it is"),
        }
        if let Err(e) = service.repair().await {
            tracing::warn!(reason = %e, "no full pass");
        }
        notify::reloaded();
    }
    std::future::pending::<()>().await;
}

/// Takes over what can be changed while the agent runs.
fn apply(config: Config, read: &Config) -> Config {
    let config = Config { log: read.log, ..config };
    logging::set_level(config.log);
    if config == *read {
        tracing::info!("settings read again");
    } else {
        tracing::warn!(
            "settings were changed that need a restart: `systemctl restart overlay-agent`; the data path goes on meanwhile"
        );
    }
    config
}
