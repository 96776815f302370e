//! What must hold and what is aimed at: bounds for ours by a rival's, on the medians within rounds.

use serde::Serialize;

use super::{Measured, Report};
use crate::{peers::Peer, rows::Better};

/// A bound on a figure.
struct Bound {
    row: &'static str,
    /// Place of the figure in its row.
    figure: usize,
    against: Against,
    gate: f64,
    goal: f64,
}

/// What the bound is on.
#[derive(Clone, Copy)]
enum Against {
    /// Ours by this peer's.
    Rival(Peer),
    /// Ours as it is.
    Nobody,
}

const fn bound(row: &'static str, figure: usize, rival: Peer, gate: f64, goal: f64) -> Bound {
    Bound { row, figure, against: Against::Rival(rival), gate, goal }
}

const BOUNDS: &[Bound] = &[
    bound("tcp", 0, Peer::Bare, 0.85, 0.97),
    bound("tcp", 0, Peer::Docker, 1.5, 1.8),
    bound("rr", 0, Peer::Bare, 1.10, 1.03),
    bound("rr", 0, Peer::Docker, 0.85, 0.72),
    bound("rr", 2, Peer::Bare, 1.15, 1.05),
    bound("rr", 2, Peer::Docker, 0.80, 0.65),
    bound("crr", 0, Peer::Bare, 0.85, 0.97),
    bound("crr", 0, Peer::Docker, 1.3, 1.6),
    bound("udp64", 0, Peer::Bare, 0.80, 0.95),
    bound("udp64", 0, Peer::Docker, 2.0, 2.7),
    bound("local-rr", 0, Peer::Bare, 1.0, 0.90),
    bound("local-rr", 0, Peer::Docker, 0.85, 0.75),
    bound("packet-tcp", 0, Peer::Bare, 0.90, 0.96),
    bound("packet-tcp", 0, Peer::Docker, 1.05, 1.2),
    Bound { row: "flood", figure: 2, against: Against::Nobody, gate: 90.0, goal: 95.0 },
    Bound { row: "crowd-100k-zipf", figure: 2, against: Against::Nobody, gate: 1.2, goal: 1.05 },
];

/// How far a bound is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The goal too.
    Goal,
    /// The gate, but not the goal.
    Gate,
    /// Not even the gate.
    Missed,
}

impl Verdict {
    /// As a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Goal => "goal",
            Self::Gate => "gate",
            Self::Missed => "MISSED",
        }
    }
}

/// A bound with what was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// What is bounded.
    pub what: String,
    /// What was measured.
    pub value: f64,
    /// What must hold.
    pub gate: f64,
    /// What is aimed at.
    pub goal: f64,
    /// Whether less is better.
    pub at_most: bool,
    /// How it stands.
    pub verdict: Verdict,
    /// Whether some round was steady; else it is judged by all of them.
    pub steady: bool,
}

/// Judges every bound whose row was measured.
pub fn judge(report: &Report) -> Vec<Judged> {
    BOUNDS.iter().filter_map(|bound| bound.judge(&report.rows)).collect()
}

impl Bound {
    fn judge(&self, rows: &[Measured]) -> Option<Judged> {
        let row = rows.iter().find(|row| row.id == self.row)?;
        let figure = row.figures.get(self.figure)?;
        let (value, by) = match self.against {
            Against::Rival(rival) => (figure.ratios.get(&rival)?.median, format!(" ÷ {rival}")),
            Against::Nobody => (*figure.medians.get(&Peer::Overlay)?, String::new()),
        };
        let at_most = figure.metric.better == Better::Lower;
        let holds = |limit| if at_most { value <= limit } else { value >= limit };
        let verdict = match (holds(self.goal), holds(self.gate)) {
            (true, _) => Verdict::Goal,
            (false, true) => Verdict::Gate,
            (false, false) => Verdict::Missed,
        };
        let what = format!("{}: {}{by}", row.title, figure.metric.name);
        Some(Judged { what, value, gate: self.gate, goal: self.goal, at_most, verdict, steady: row.kept > 0 })
    }
}
