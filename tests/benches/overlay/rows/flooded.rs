//! What a stream keeps of its speed while its server's host is flooded with hostile packets.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};

use super::{Metric, Sample, aside, higher, lower, stream::Stream};
use crate::{
    flood::{Hostile, Pace, Target},
    peers::Stage,
    place::Cpu,
};

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

/// What a flood alone gives.
pub const DROP_METRICS: &[Metric] =
    &[higher("dropped", "kpps"), lower("a drop", "ns"), aside("sent past it", "kpps")];

/// Measures how fast hostile packets can be dropped when nothing else happens. All that is done to a packet is done on
/// one processor, so what it takes longer than past the victim is what the victim does with it.
pub fn drops(stage: &Stage, duration: Duration) -> Result<Sample> {
    let past = rate(hostile(stage)?, Target::Bystander, duration)?;
    let under = rate(hostile(stage)?, Target::Victim, duration)?;
    Ok(vec![under / 1e3, 1e9 / under - 1e9 / past, past / 1e3])
}

fn rate(hostile: &Hostile, target: Target, duration: Duration) -> Result<f64> {
    let flood = hostile.flood(target, Pace::Most)?;
    // The flood is the load.
    thread::sleep(duration);
    flood.stop()
}

fn hostile(stage: &Stage) -> Result<&Hostile> {
    stage.hostile.as_ref().context("nobody on this underlay is hostile")
}

/// Speed of the stream and rate of the flood.
fn speed(stage: &Stage, target: Target, cpus: (Cpu, Cpu), duration: Duration) -> Result<(f64, f64)> {
    let flood = hostile(stage)?.flood(target, Pace::Steady)?;
    let sample = STREAM.measure(&stage.across, cpus, duration)?;
    let rate = flood.stop()?;
    Ok((sample.first().copied().context("the stream has no speed")?, rate))
}
