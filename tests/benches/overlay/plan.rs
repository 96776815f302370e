//! What a run is asked to do.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::{
    peers::Peer,
    rows::{self, Row},
};

/// Options of the benchmark.
#[derive(Args, Debug)]
pub struct Options {
    /// Fewer rows and shorter runs: under five minutes
    #[arg(long)]
    pub quick: bool,
    /// Only these peers
    #[arg(long, value_delimiter = ',', value_enum)]
    pub peers: Vec<Peer>,
    /// Only these rows, by name
    #[arg(long, value_delimiter = ',')]
    pub rows: Vec<String>,
    /// Steady rounds that each row shall have
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Directory for the reports
    #[arg(long, default_value = ".")]
    pub out: PathBuf,
    /// Where Docker's packages were unpacked
    #[arg(long)]
    pub docker_root: Option<PathBuf>,
    /// Why there is no Docker
    #[arg(long)]
    pub docker_missing: Option<String>,
}

/// What is measured, and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The peers.
    pub peers: Vec<Peer>,
    /// The rows.
    pub rows: Vec<Row>,
    rounds: usize,
    /// One run, of rows without haste.
    pub duration: Duration,
    /// All of it. Rounds that would begin later are left out.
    pub limit: Duration,
}

impl Plan {
    /// What the options ask for.
    pub fn new(options: &Options) -> Result<Self> {
        let chosen = |peer: &Peer| options.peers.is_empty() || options.peers.contains(peer);
        let (rounds, seconds, limit) = if options.quick { (4, 1, 240) } else { (7, 2, 1620) };
        let rounds = options.rounds.unwrap_or(rounds);
        ensure!(rounds > 0, "--rounds 0 measures nothing: ask for one at least");
        Ok(Self {
            peers: Peer::ALL.into_iter().filter(chosen).collect(),
            rows: rows_of(options)?,
            rounds,
            duration: Duration::from_secs(seconds),
            limit: Duration::from_secs(limit),
        })
    }
}

impl Plan {
    /// Steady rounds that a row shall have.
    pub fn rounds_of(&self, row: &Row) -> usize {
        self.rounds * row.haste() as usize
    }
}

fn rows_of(options: &Options) -> Result<Vec<Row>> {
    if let Some(unknown) = options.rows.iter().find(|id| rows::ALL.iter().all(|row| row.id != **id)) {
        let known: Vec<&str> = rows::ALL.iter().map(|row| row.id).collect();
        bail!("there is no row {unknown:?}; there are {}", known.join(", "));
    }
    let chosen = |row: &&Row| match &options.rows[..] {
        [] => row.quick || !options.quick,
        ids => ids.iter().any(|id| id == row.id),
    };
    Ok(rows::ALL.iter().filter(chosen).copied().collect())
}
