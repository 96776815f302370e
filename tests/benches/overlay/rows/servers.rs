//! Servers that people run in containers, under the clients that come with them.

use std::{cell::RefCell, collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, Result};
use overlay_tests::{
    cpu::Busy,
    exec::Finished,
    programs::{self, nginx, postgres, redis},
    workdir::WorkDir,
};

use super::{Metric, Sample, higher, lower};
use crate::place::{Cpu, Pinned, Route};

/// What they give.
pub const METRICS: &[Metric] = &[higher("rate", "1/s"), lower("p50", "µs"), lower("CPU", "µs/request")];
/// What pgbench gives: it knows no median.
pub const MEAN_METRICS: &[Metric] = &[higher("rate", "1/s"), lower("mean", "µs"), lower("CPU", "µs/request")];

/// Connections of every client.
const CLIENTS: &str = "10";
/// Requests that redis-benchmark makes in a second of the duration: it takes a number, not a time.
const REDIS_REQUESTS: f64 = 40_000.0;
/// Transactions that each of pgbench's connections makes in a second of the duration: its own clock runs while they are
/// being made.
const POSTGRES_REQUESTS: f64 = 1_000.0;
/// Page that nginx gives.
const PAGE: (&str, usize) = ("page", 1024);

/// A server and its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// GET by redis-benchmark.
    Redis,
    /// One SELECT in each transaction, by pgbench.
    Postgres,
    /// A page of a kilobyte, by wrk, on connections that stay open.
    Nginx,
}

/// Servers of a peer that run: each is started when it is asked for and stays until its row is over.
#[derive(Debug, Default)]
pub struct Running(RefCell<BTreeMap<Server, (programs::Server, WorkDir)>>);

impl Running {
    /// Ends all of them.
    pub fn stop(&self) {
        self.0.borrow_mut().clear();
    }

    fn ensure(&self, server: Server, place: &Pinned<'_>) {
        self.0.borrow_mut().entry(server).or_insert_with(|| {
            let dir = WorkDir::new("server");
            let running = match server {
                Server::Redis => redis::start(place, dir.path()),
                Server::Postgres => start_postgres(place, &dir),
                Server::Nginx => {
                    fs::write(dir.path().join(PAGE.0), vec![b'x'; PAGE.1]).expect("write the page");
                    nginx::start(place, dir.path())
                }
            };
            (running, dir)
        });
    }
}

fn start_postgres(place: &Pinned<'_>, dir: &WorkDir) -> programs::Server {
    let server = postgres::start(place, dir.path());
    let _ = postgres::bench(place, "127.0.0.1", &["-i", "-q"]).expect_success();
    server
}

impl Server {
    /// What it gives.
    pub fn metrics(self) -> &'static [Metric] {
        if self == Self::Postgres { MEAN_METRICS } else { METRICS }
    }

    /// Measures once.
    pub fn measure(
        self,
        running: &Running,
        route: &Route,
        (server, client): (Cpu, Cpu),
        duration: Duration,
    ) -> Result<Sample> {
        running.ensure(self, &route.server.on(server));
        let client = route.client.on(client);
        let before = Busy::now();
        let finished = self.ask(&client, &route.addr.to_string(), duration);
        let cpu_seconds = Busy::now().seconds_since(before);
        let text = finished.expect_success();
        let Asked { rate, wait_us, requests } =
            self.read(&text, duration).with_context(|| format!("{self:?}'s client said {text:?}"))?;
        Ok(vec![rate, wait_us, cpu_seconds * 1e6 / requests])
    }

    fn ask(self, client: &Pinned<'_>, host: &str, duration: Duration) -> Finished {
        let seconds = duration.as_secs().max(1).to_string();
        match self {
            Self::Redis => {
                let requests = format!("{:.0}", redis_requests(duration));
                redis::benchmark(client, host, &["-t", "get", "-c", CLIENTS, "-n", &requests, "--csv"])
            }
            Self::Postgres => {
                let requests = format!("{:.0}", POSTGRES_REQUESTS * duration.as_secs_f64());
                postgres::bench(client, host, &["-S", "-n", "-c", CLIENTS, "-t", &requests])
            }
            Self::Nginx => {
                let (time, url) = (format!("{seconds}s"), format!("http://{host}/{}", PAGE.0));
                nginx::wrk(client, &["-t", "1", "-c", CLIENTS, "-d", &time, "--latency", &url])
            }
        }
    }

    fn read(self, text: &str, duration: Duration) -> Option<Asked> {
        match self {
            Self::Redis => redis_report(text, redis_requests(duration)),
            Self::Postgres => pgbench_report(text),
            Self::Nginx => wrk_report(text),
        }
    }
}

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Asked {
    rate: f64,
    wait_us: f64,
    requests: f64,
}

fn redis_requests(duration: Duration) -> f64 {
    (REDIS_REQUESTS * duration.as_secs_f64()).round()
}

/// Two lines of comma-separated, quoted values: names, then figures, the latencies in milliseconds. How many requests it
/// made it does not say, as it was told.
fn redis_report(text: &str, requests: f64) -> Option<Asked> {
    let mut lines = text.lines().map(|line| line.split(',').map(|word| word.trim_matches('"')));
    let names = lines.next()?;
    let figures: BTreeMap<&str, &str> = names.zip(lines.next()?).collect();
    let figure = |name| figures.get(name)?.parse::<f64>().ok();
    Some(Asked { rate: figure("rps")?, wait_us: figure("p50_latency_ms")? * 1e3, requests })
}

fn pgbench_report(text: &str) -> Option<Asked> {
    let number = |words: &str| -> Option<f64> {
        let rest = text.lines().find_map(|line| line.strip_prefix(words))?;
        rest.split([' ', '/']).find(|word| !word.is_empty())?.parse().ok()
    };
    Some(Asked {
        rate: number("tps =")?,
        wait_us: number("latency average =")? * 1e3,
        requests: number("number of transactions actually processed:")?,
    })
}

fn wrk_report(text: &str) -> Option<Asked> {
    let after = |word: &str| {
        let mut words = text.split_whitespace().skip_while(move |w| *w != word);
        words.nth(1)
    };
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in "))?.0;
    Some(Asked {
        rate: after("Requests/sec:")?.parse().ok()?,
        wait_us: microseconds(after("50%")?)?,
        requests: requests.parse().ok()?,
    })
}

/// wrk's time with its unit.
fn microseconds(text: &str) -> Option<f64> {
    let (number, factor) = [("us", 1.0), ("ms", 1e3), ("s", 1e6)]
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * factor)
}
