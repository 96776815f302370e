//! Rounds: every peer once, in an order that changes, between two runs of the bare one that say how steady the
//! machine was meanwhile.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use overlay_tests::stats;
use serde::Serialize;

use crate::{peers::Peer, rows::Sample};

/// Two bare runs of a round that are further apart than this share of their mean spoil it.
pub const STEADY: f64 = 0.05;

/// What one round gave.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// The peers in the order in which they ran.
    pub order: Vec<Peer>,
    /// What each gave; for the bare one the mean of its two runs.
    pub samples: BTreeMap<Peer, Sample>,
    /// How far the two bare runs were apart in the row's first metric; `None` without the bare peer.
    pub bare_spread: Option<f64>,
}

impl Round {
    /// Runs every peer of the order.
    pub fn run(order: Vec<Peer>, mut measure: impl FnMut(Peer) -> Result<Sample>) -> Result<Self> {
        let mut runs: BTreeMap<Peer, Vec<Sample>> = BTreeMap::new();
        for &peer in &order {
            let sample = measure(peer).with_context(|| format!("the peer {peer}"))?;
            runs.entry(peer).or_default().push(sample);
        }
        let bare_spread = runs.get(&Peer::Bare).and_then(|runs| {
            let [first, second] = &runs[..] else { return None };
            Some(stats::spread(*first.first()?, *second.first()?))
        });
        let samples = runs.iter().map(|(&peer, runs)| (peer, mean(runs))).collect();
        Ok(Self { order, samples, bare_spread })
    }

    /// Whether the machine was steady.
    pub fn is_steady(&self) -> bool {
        self.bare_spread.is_none_or(|spread| spread <= STEADY)
    }
}

fn mean(runs: &[Sample]) -> Sample {
    let metrics = runs.first().map_or(0, Vec::len);
    (0..metrics).map(|m| runs.iter().map(|run| run[m]).sum::<f64>() / runs.len() as f64).collect()
}
