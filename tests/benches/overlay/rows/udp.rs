//! Datagrams as fast as the sender can: what arrives, and what does not.

use std::time::Duration;

use anyhow::{Context as _, Result};
use overlay_tests::cpu::Busy;

use super::{Metric, Sample, aside, higher, lower};
use crate::{
    place::{self, Cpu, Route},
    probe::{READY, Received, Sent, measure::Load, serve::Service},
};

const METRICS: &[Metric] = &[higher("arrived", "kpps"), aside("lost", "%"), lower("CPU", "µs/packet")];
const SEGMENTED_METRICS: &[Metric] = &[higher("speed", "Gb/s"), aside("lost", "%"), lower("CPU", "s/GB")];

/// Datagrams of a size, handed to the kernel one by one or many at once.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams {
    /// Bytes of each.
    pub bytes: u16,
    /// How many at once; more than one needs UDP segmentation.
    pub segments: u16,
}

impl Datagrams {
    /// What they give.
    pub fn metrics(self) -> &'static [Metric] {
        if self.segments > 1 { SEGMENTED_METRICS } else { METRICS }
    }

    /// Measures once. The rate is that of arrival.
    pub fn measure(self, route: &Route, cpus: (Cpu, Cpu), duration: Duration) -> Result<Sample> {
        let before = Busy::now();
        let (sent, received) = self.blast(route, cpus, duration)?;
        let cpu_seconds = Busy::now().seconds_since(before);
        let lost = 100.0 * (1.0 - received.datagrams as f64 / sent.datagrams as f64);
        Ok(if self.segments > 1 {
            let gigabytes = received.bytes as f64 / 1e9;
            vec![gigabytes * 8.0 / sent.seconds, lost, cpu_seconds / gigabytes]
        } else {
            let packets = received.datagrams as f64;
            vec![packets / sent.seconds / 1e3, lost, cpu_seconds * 1e6 / packets]
        })
    }

    fn blast(
        self,
        route: &Route,
        (server, client): (Cpu, Cpu),
        duration: Duration,
    ) -> Result<(Sent, Received)> {
        let program = place::this_program()?.display().to_string();
        let sink = route.server.serve(server, &[&program, "serve", Service::UdpSink.word()], READY)?;
        let (addr, millis) = (route.addr.to_string(), duration.as_millis().to_string());
        let (bytes, segments) = (self.bytes.to_string(), self.segments.to_string());
        let load = [&program, "measure", Load::Blast.word(), &addr, "--millis", &millis];
        let size = ["--bytes", &bytes, "--segments", &segments];
        let sent = route.client.run(client, &[&load[..], &size[..]].concat())?;
        let received = sink.finish()?;
        let sent = serde_json::from_str(&sent).context("the probe does not speak its JSON")?;
        Ok((sent, serde_json::from_str(&received).context("the sink does not speak its JSON")?))
    }
}
