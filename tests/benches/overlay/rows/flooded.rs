//! What a stream keeps of its speed while its server's host is flooded with hostile packets.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Metric, Sample, aside, higher, stream::Stream};
use crate::{flood::Target, peers::Stage, place::Cpu};

/// What it gives.
pub const METRICS: &[Metric] = &[
    higher("speed past the flood", "Gb/s"),
    higher("speed under it", "Gb/s"),
    higher("kept", "%"),
    aside("flood", "kpps"),
];
/// The legitimate traffic.
const STREAM: Stream = Stream { streams: 1, reverse: false };

/// Measures a stream twice: with the flood at a bystander and with the flood at the server's host.
pub fn measure(stage: &Stage, cpus: (Cpu, Cpu), duration: Duration) -> Result<Sample> {
    let (past, _) = speed(stage, Target::Bystander, cpus, duration)?;
    let (under, rate) = speed(stage, Target::Victim, cpus, duration)?;
    Ok(vec![past, under, 100.0 * under / past, rate / 1e3])
}

/// Speed of the stream and rate of the flood.
fn speed(stage: &Stage, target: Target, cpus: (Cpu, Cpu), duration: Duration) -> Result<(f64, f64)> {
    let hostile = stage.hostile.as_ref().context("nobody on this underlay is hostile")?;
    let flood = hostile.flood(target)?;
    let sample = STREAM.measure(&stage.across, cpus, duration)?;
    let rate = flood.stop()?;
    Ok((sample.first().copied().context("the stream has no speed")?, rate))
}
