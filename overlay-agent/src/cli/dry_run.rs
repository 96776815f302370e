//! `--dry-run`: a change, checked as if it were made, and not made.

use clap::Args;

use crate::api::client::Client;

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct DryRun {
    /// Check it as if it were done and say what would come of it; change nothing
    #[arg(long)]
    dry_run: bool,
}

impl DryRun {
    /// Whether nothing is to be changed. Says so, since what is printed looks as if something were.
    pub(super) fn is_asked_for(self) -> bool {
        if self.dry_run {
            eprintln!("overlay: dry run, nothing is changed; this is what would come of it:");
        }
        self.dry_run
    }

    /// The client that does as asked.
    pub(super) fn of(self, client: &Client) -> Client {
        if self.is_asked_for() { client.rehearsing() } else { client.clone() }
    }
}
