//! What is asked of the agents, one after the other.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use aya::maps::{HashMap, MapData};
use overlay_common::fdb::{FdbEntry, FdbKey};
use overlay_tests::stats;
use serde::Serialize;

use crate::{
    fleet::{Agent, Fleet},
    population::{Client, Population},
};

/// Cold starts that are measured.
const COLD_STARTS: usize = 5;
/// Pause between two looks at all maps, and the error of each time.
const LOOK: Duration = Duration::from_millis(1);
/// Pause between two attaches: the last one's work is done, and written into journals, which lie on one disk here.
const BETWEEN: Duration = Duration::from_millis(1500);
/// An attach that is not seen by then is lost.
const DEADLINE: Duration = Duration::from_secs(30);
const MB: f64 = 1e6;

type Fdb = HashMap<MapData, FdbKey, FdbEntry>;

/// How much of it.
pub struct Plan {
    /// Attaches.
    pub attaches: u32,
    /// Time in which nothing happens.
    pub idle: Duration,
}

/// What came out.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// All agents, started a few at a time: until the last was ready.
    pub all_started_s: f64,
    /// One agent without maps, the others at work: from its start until it was ready. The median.
    pub cold_resync_s: f64,
    /// The longest of them.
    pub cold_resync_worst_s: f64,
    /// Resident memory of an agent: the largest.
    pub resident_mb: f64,
    /// Memory that the kernel holds for the maps of an agent.
    pub maps_mb: f64,
    /// From before an attach is committed until it is in another agent's map: the median over agents and attaches.
    pub visible_p50_ms: f64,
    /// The 99th percentile.
    pub visible_p99_ms: f64,
    /// The worst.
    pub visible_worst_ms: f64,
    /// Processor time of an agent while nothing happens, in percent of one processor: the mean.
    pub idle_percent: f64,
    /// The busiest agent's.
    pub idle_worst_percent: f64,
}

/// Measures everything.
pub fn all(
    fleet: &Fleet,
    client: &Client,
    population: &Population,
    plan: &Plan,
    say: impl Fn(&str),
) -> Result<Figures> {
    say(&format!("idle for {:?}", plan.idle));
    let idle = idle(&fleet.agents, plan.idle)?;
    say(&format!("{} attaches", plan.attaches));
    let visible = visible(&fleet.agents, client, population, plan.attaches)?;
    say(&format!("{COLD_STARTS} cold starts"));
    let agents = fleet.agents.iter().cycle();
    let cold: Vec<f64> = agents.take(COLD_STARTS).map(|agent| agent.start_cold().as_secs_f64()).collect();
    let resident: Vec<f64> = of_each(&fleet.agents, |agent| Ok(agent.resident()? as f64 / MB))?;
    Ok(Figures {
        all_started_s: fleet.started_in.as_secs_f64(),
        cold_resync_s: quantile(&cold, 0.5),
        cold_resync_worst_s: quantile(&cold, 1.0),
        resident_mb: quantile(&resident, 1.0),
        maps_mb: fleet.agents[0].map_memory()? as f64 / MB,
        visible_p50_ms: quantile(&visible, 0.5),
        visible_p99_ms: quantile(&visible, 0.99),
        visible_worst_ms: quantile(&visible, 1.0),
        idle_percent: idle.iter().sum::<f64>() / idle.len() as f64,
        idle_worst_percent: quantile(&idle, 1.0),
    })
}

/// Percent of a processor that each agent takes.
fn idle(agents: &[Agent], time: Duration) -> Result<Vec<f64>> {
    let before = of_each(agents, Agent::cpu)?;
    let started = Instant::now();
    // The one thing that is measured here is time that passes.
    thread::sleep(time);
    let elapsed = started.elapsed().as_secs_f64();
    let after = of_each(agents, Agent::cpu)?;
    Ok(before.iter().zip(after).map(|(then, now)| (now - *then).as_secs_f64() / elapsed * 100.0).collect())
}

/// Milliseconds until each attach was in each agent's map.
fn visible(agents: &[Agent], client: &Client, population: &Population, attaches: u32) -> Result<Vec<f64>> {
    let maps = of_each(agents, Agent::fdb)?;
    let mut times = Vec::new();
    for number in population.len()..population.len() + attaches {
        thread::sleep(BETWEEN);
        let started = Instant::now();
        let key = client.attach(population, number)?;
        times.extend(arrivals(&maps, &key, started)?);
    }
    Ok(times)
}

/// Looks at every map until all have the entry; when each had it.
fn arrivals(maps: &[Fdb], key: &FdbKey, started: Instant) -> Result<Vec<f64>> {
    let (mut waiting, mut times): (Vec<&Fdb>, Vec<f64>) = (maps.iter().collect(), Vec::new());
    while !waiting.is_empty() {
        ensure!(started.elapsed() < DEADLINE, "{} agents do not learn of an attach", waiting.len());
        waiting.retain(|map| map.get(key, 0).is_err());
        times.resize(maps.len() - waiting.len(), started.elapsed().as_secs_f64() * 1e3);
        thread::sleep(LOOK);
    }
    Ok(times)
}

fn of_each<T>(agents: &[Agent], of_one: impl Fn(&Agent) -> Result<T>) -> Result<Vec<T>> {
    agents.iter().map(of_one).collect()
}

fn quantile(values: &[f64], share: f64) -> f64 {
    stats::quantile(values, share).unwrap_or(f64::NAN)
}
