//! TCP streams by iperf3.

use std::time::Duration;

use anyhow::{Context as _, Result};
use overlay_tests::cpu::Busy;
use serde::Deserialize;

use super::{Metric, Sample, aside, higher, lower};
use crate::place::{Cpu, Route};

/// The same for every TCP socket of every peer. BBR, some machines' default, would measure its own pacing.
pub const CONGESTION_CONTROL: &str = "cubic";
/// How long a stream may take to find its window. It took half a second more often than not, at half the speed.
const OMIT_SECONDS: &str = "1";
/// What a stream gives.
pub const METRICS: &[Metric] =
    &[higher("speed", "Gb/s"), lower("CPU", "s/GB"), aside("retransmitted", "segments/GB")];

/// Some streams in one direction.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// How many.
    pub streams: u8,
    /// From the server to the client.
    pub reverse: bool,
}

impl Stream {
    /// Measures once. What the streams do while they find their window is left out of the speed, and not of the
    /// processor time, which goes with all the bytes.
    pub fn measure(self, route: &Route, (server, client): (Cpu, Cpu), duration: Duration) -> Result<Sample> {
        let serve = ["iperf3", "--server", "--one-off", "--forceflush"];
        let _server = route.server.serve(server, &serve, "Server listening")?;
        let words = self.client_words(route, duration);
        let before = Busy::now();
        let text = route.client.run(client, &words)?;
        let cpu_seconds = Busy::now().seconds_since(before);
        let Report { intervals, end } =
            serde_json::from_str(&text).context("iperf3 does not speak its JSON")?;
        let gigabytes = intervals.iter().map(|interval| interval.sum.bytes).sum::<u64>() as f64 / 1e9;
        Ok(vec![
            end.sum_received.bits_per_second / 1e9,
            cpu_seconds / gigabytes,
            end.sum_sent.retransmits as f64 / (end.sum_received.bytes as f64 / 1e9),
        ])
    }

    fn client_words(self, route: &Route, duration: Duration) -> Vec<String> {
        let seconds = duration.as_secs().max(1).to_string();
        let addr = route.addr.to_string();
        let streams = self.streams.to_string();
        let words = [
            "iperf3",
            "--json",
            "--client",
            &addr,
            "--omit",
            OMIT_SECONDS,
            "--time",
            &seconds,
            "--parallel",
            &streams,
        ];
        let words = words.into_iter().chain(["--congestion", CONGESTION_CONTROL]);
        words.chain(self.reverse.then_some("--reverse")).map(str::to_owned).collect()
    }
}

/// The part of iperf3's report that is read.
#[derive(Deserialize)]
struct Report {
    /// With those that are left out of the end.
    intervals: Vec<Interval>,
    end: End,
}

#[derive(Deserialize)]
struct Interval {
    sum: Bytes,
}

#[derive(Deserialize)]
struct Bytes {
    bytes: u64,
}

#[derive(Deserialize)]
struct End {
    sum_sent: SumSent,
    sum_received: SumReceived,
}

#[derive(Deserialize)]
struct SumSent {
    retransmits: u64,
}

#[derive(Deserialize)]
struct SumReceived {
    bytes: u64,
    bits_per_second: f64,
}
