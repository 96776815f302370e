//! What each of our BPF programs costs per packet, by the kernel's own clock around it.
//!
//! In a run of its own: the clock costs as much as a small program. It is on as long as somebody holds its file
//! descriptor, so nothing is set on the machine that could stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};
use serde::{Deserialize, Serialize};

use crate::{peers::Stage, rows::Row};

/// Cost of a program under a row's load.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// The row.
    pub row: &'static str,
    /// The program.
    pub program: String,
    /// How often it ran.
    pub runs: u64,
    /// Nanoseconds of each run, on average; the clock's own are in it.
    pub ns_per_run: f64,
}

/// The programs that the kernel holds.
#[derive(Debug)]
pub struct Loaded(BTreeSet<u32>);

impl Loaded {
    /// Those of now.
    pub fn now() -> Result<Self> {
        Ok(Self(list()?.into_iter().map(|program| program.id).collect()))
    }

    /// Runs a row's load and says what each program cost that was loaded since.
    pub fn costs_since(&self, row: &Row, stage: &Stage, duration: Duration) -> Result<Vec<Cost>> {
        let _clock = enable_stats(Stats::RunTime).context("this kernel has no clock for BPF programs")?;
        let before = self.new_programs()?;
        row.measure(stage, duration)?;
        let mut by_name: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (id, after) in self.new_programs()? {
            let (runs, time_ns) = before.get(&id).map_or((0, 0), |b| (b.run_cnt, b.run_time_ns));
            let sum = by_name.entry(after.name).or_default();
            *sum = (sum.0 + after.run_cnt - runs, sum.1 + after.run_time_ns - time_ns);
        }
        let cost = |(program, (runs, time_ns)): (String, (u64, u64))| {
            (runs > 0).then(|| Cost { row: row.id, program, runs, ns_per_run: time_ns as f64 / runs as f64 })
        };
        Ok(by_name.into_iter().filter_map(cost).collect())
    }

    fn new_programs(&self) -> Result<BTreeMap<u32, Program>> {
        let new = list()?.into_iter().filter(|program| !self.0.contains(&program.id));
        Ok(new.map(|program| (program.id, program)).collect())
    }
}

#[derive(Debug, Deserialize)]
struct Program {
    id: u32,
    #[serde(default)]
    name: String,
    #[serde(default)]
    run_time_ns: u64,
    #[serde(default)]
    run_cnt: u64,
}

fn list() -> Result<Vec<Program>> {
    let output = Command::new("bpftool").args(["--json", "prog", "show"]).output();
    let output = output.context("cannot start bpftool")?;
    serde_json::from_slice(&output.stdout).context("bpftool does not speak its JSON")
}
