//! What a packet costs on a host that knows many containers on many others.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Metric, Sample, aside, lower};
use crate::{crowd::Pick, peers::Stage, place::Cpu};

/// What it gives.
pub const METRICS: &[Metric] =
    &[lower("to one", "ns/packet"), lower("to all", "ns/packet"), lower("growth", "×"), aside("maps", "MB")];

/// How many there are, and to whom packets go.
#[derive(Clone, Copy, Debug)]
pub struct Crowded {
    /// Containers on other hosts.
    pub endpoints: u32,
    /// To which of them packets go.
    pub pick: Pick,
}

impl Crowded {
    /// Measures packets to one of them and to all of them: half of the time each, one around the other.
    pub fn measure(self, stage: &Stage, cpu: Cpu, duration: Duration) -> Result<Sample> {
        let crowd = stage.crowd.as_ref().context("this peer has no crowd")?;
        crowd.grow(self.endpoints)?;
        let (to_one, to_all) = (
            || crowd.send(1, self.pick, cpu, duration / 4),
            || crowd.send(self.endpoints, self.pick, cpu, duration / 4),
        );
        let [a, b, c, d] = [to_one()?, to_all()?, to_all()?, to_one()?];
        let (one, all) = (f64::midpoint(a, d), f64::midpoint(b, c));
        Ok(vec![one, all, all / one, crowd.megabytes()?])
    }
}
