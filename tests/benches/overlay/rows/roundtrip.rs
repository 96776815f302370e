//! Asking and waiting: round trips, and a connection for each request.

use std::time::Duration;

use anyhow::{Context as _, Result};
use overlay_tests::cpu::Busy;

use super::{Metric, Sample, higher, lower};
use crate::{
    place::{self, Cpu, Route},
    probe::{READY, Waited, measure::Load, serve::Service},
};

/// What round trips give.
pub const METRICS: &[Metric] = &[lower("p50", "µs"), lower("p99", "µs"), lower("CPU", "µs/transaction")];
/// What connections give.
pub const CONNECT_METRICS: &[Metric] =
    &[higher("rate", "1/s"), lower("p50", "µs"), lower("p99", "µs"), lower("CPU", "µs/transaction")];

/// Measures round trips once.
pub fn round_trips(
    route: &Route,
    cpus: (Cpu, Cpu),
    service: Service,
    load: Load,
    duration: Duration,
) -> Result<Sample> {
    let (waited, cpu_us) = timed(route, cpus, service, load, duration)?;
    Ok(vec![waited.p50_us, waited.p99_us, cpu_us])
}

/// Measures connections once.
pub fn connects(route: &Route, cpus: (Cpu, Cpu), service: Service, duration: Duration) -> Result<Sample> {
    let (waited, cpu_us) = timed(route, cpus, service, Load::Connect, duration)?;
    Ok(vec![waited.transactions as f64 / waited.seconds, waited.p50_us, waited.p99_us, cpu_us])
}

/// Asks for a while; what was seen, and the microseconds of processor time that each transaction took.
fn timed(
    route: &Route,
    cpus: (Cpu, Cpu),
    service: Service,
    load: Load,
    duration: Duration,
) -> Result<(Waited, f64)> {
    let before = Busy::now();
    let waited = wait(route, cpus, service, load, duration)?;
    let cpu_seconds = Busy::now().seconds_since(before);
    Ok((waited, cpu_seconds * 1e6 / waited.transactions as f64))
}

/// Asks for a while.
pub fn wait(
    route: &Route,
    (server, client): (Cpu, Cpu),
    service: Service,
    load: Load,
    duration: Duration,
) -> Result<Waited> {
    let program = place::this_program()?.display().to_string();
    let running = route.server.serve(server, &[&program, "serve", service.word()], READY)?;
    let (addr, millis) = (route.addr.to_string(), duration.as_millis().to_string());
    let text = route.client.run(client, &[&program, "measure", load.word(), &addr, "--millis", &millis])?;
    running.finish()?;
    serde_json::from_str(&text).context("the probe does not speak its JSON")
}
