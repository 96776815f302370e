//! What came out: one structure, written as JSON, as a table and as a page.

pub mod gates;
pub mod html;
pub mod table;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use overlay_tests::stats::{self, Estimate};
use serde::Serialize;

use crate::{
    machine::Machine,
    peers::Peer,
    plan::Plan,
    programs::Cost,
    rounds::{self, Round},
    rows::{Better, Metric, Row, Scene},
};

use gates::Judged;

/// Whom ours is compared with.
pub const RIVALS: [Peer; 3] = [Peer::Bare, Peer::Kernel, Peer::Docker];

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    /// On what it was measured.
    pub machine: Machine,
    /// Seconds of one run.
    pub run_seconds: f64,
    /// Share by which two bare runs of a round may differ.
    pub steady: f64,
    /// What the wire's devices do, by scene.
    pub offloads: BTreeMap<Scene, BTreeMap<String, String>>,
    /// The peers that were asked for and could not be had.
    pub absent: Vec<Absent>,
    /// The rows.
    pub rows: Vec<Measured>,
    /// The bounds, judged.
    pub gates: Vec<Judged>,
    /// What our programs cost.
    pub programs: Vec<Cost>,
}

/// A peer that could not be had.
#[derive(Debug, Serialize)]
pub struct Absent {
    /// In which scene.
    pub scene: Scene,
    /// Which.
    pub peer: Peer,
    /// Why.
    pub reason: String,
}

/// A row with all its rounds.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Its name on the command line.
    pub id: &'static str,
    /// Its name.
    pub title: &'static str,
    /// Wire and data path.
    pub scene: Scene,
    /// Its figures: of the rounds that count, or of all where none does.
    pub figures: Vec<Figure>,
    /// Rounds that count.
    pub kept: usize,
    /// Rounds that do not, as the machine was not steady.
    pub dropped: usize,
    /// Every round, as it was.
    pub rounds: Vec<Round>,
}

/// One metric of a row over all steady rounds.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// What it is.
    #[serde(flatten)]
    pub metric: Metric,
    /// Median of each peer.
    pub medians: BTreeMap<Peer, f64>,
    /// Ours by each rival's: the median of the ratios within rounds.
    pub ratios: BTreeMap<Peer, Estimate>,
}

impl Report {
    /// An empty one.
    pub fn new(machine: Machine, plan: &Plan) -> Self {
        Self {
            machine,
            run_seconds: plan.duration.as_secs_f64(),
            steady: rounds::STEADY,
            offloads: BTreeMap::new(),
            absent: Vec::new(),
            rows: Vec::new(),
            gates: Vec::new(),
            programs: Vec::new(),
        }
    }

    /// Judges the bounds by the rows that are there.
    pub fn judge(&mut self) {
        self.gates = gates::judge(self);
    }

    /// Whether a peer that was asked for could not be had somewhere.
    pub fn is_without(&self, peer: Peer) -> bool {
        self.absent.iter().any(|absent| absent.peer == peer)
    }

    /// Writes `report.json` and `report.html`.
    pub fn write(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        for (name, text) in [("report.json", self.json()?), ("report.html", html::page(self)?)] {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// As JSON.
    pub fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).context("cannot write the report as JSON")
    }
}

impl Measured {
    /// Makes figures of rounds.
    pub fn new(row: &Row, rounds: Vec<Round>) -> Self {
        let steady: Vec<&Round> = rounds.iter().filter(|round| round.is_steady()).collect();
        let kept = steady.len();
        // Better than nothing: whoever prints them says what they are.
        let counted = if kept > 0 { steady } else { rounds.iter().collect() };
        let figure = |(number, metric): (usize, &Metric)| Figure::new(*metric, number, &counted);
        Self {
            id: row.id,
            title: row.title,
            scene: row.scene,
            figures: row.metrics().iter().enumerate().map(figure).collect(),
            kept,
            dropped: rounds.len() - kept,
            rounds,
        }
    }
}

impl Figure {
    fn new(metric: Metric, number: usize, rounds: &[&Round]) -> Self {
        let value = |round: &Round, peer: Peer| round.samples.get(&peer)?.get(number).copied();
        let values = |peer| -> Vec<f64> { rounds.iter().filter_map(|r| value(r, peer)).collect() };
        let ratios = |rival| -> Vec<f64> {
            let within = |round: &&Round| Some(value(round, Peer::Overlay)? / value(round, rival)?);
            rounds.iter().filter_map(within).filter(|ratio| ratio.is_finite()).collect()
        };
        let medians = Peer::ALL.into_iter().filter_map(|peer| Some((peer, stats::median(&values(peer))?)));
        let against = RIVALS
            .into_iter()
            .filter(|_| metric.better != Better::Neither)
            .filter_map(|rival| Some((rival, stats::estimate(&ratios(rival))?)));
        Self { metric, medians: medians.collect(), ratios: against.collect() }
    }
}
