//! What the service manager is told of the agent: sd_notify(3). Without one nobody is told.
//!
//! *Ready* is what `overlay status --wait` waits for. *Alive* is each pass of the reconciler, of which there is one every two
//! seconds: an agent that hangs, in the kernel or over a lock, makes none, and is started anew. The data path goes on.

use sd_notify::NotifyState;
use tokio::sync::watch;

use super::reconciler::Report;

/// Tells of each pass, for as long as there are any.
pub async fn follow(mut reports: watch::Receiver<Report>) {
    let mut was_ready = false;
    loop {
        let report = reports.borrow_and_update().clone();
        tell(&[NotifyState::Watchdog]);
        if report.ready && !std::mem::replace(&mut was_ready, true) {
            tell(&[NotifyState::Ready]);
        }
        tell(&[NotifyState::Status(&sentence(&report))]);
        if reports.changed().await.is_err() {
            return;
        }
    }
}

/// The settings are being read again; [`reloaded`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The settings have been read again.
pub fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// The agent ends in order.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    // A manager that does not listen is nobody's loss.
    if let Err(e) = sd_notify::notify(state) {
        tracing::debug!(reason = %e, "the service manager was not told");
    }
}

fn sentence(report: &Report) -> String {
    match (&report.error, report.ready) {
        (Some(error), _) => format!("last pass failed: {error}"),
        (None, false) => "waiting for the first pass".to_owned(),
        (None, true) => format!("revision {} of the store is in force", report.revision.0),
    }
}
