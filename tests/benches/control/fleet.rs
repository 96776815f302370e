//! The agents: each in a namespace on the underlay, with directories and pins of its own.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use nix::unistd::{SysconfVar, sysconf};
use overlay_common::{
    abi,
    fdb::{FdbEntry, FdbKey},
};
use overlay_tests::{
    exec,
    host::Host,
    underlay::{MTU, Machine, Underlay},
    wait,
    workdir::WorkDir,
};

/// Agents that start together: as many as a machine that they share can serve.
const AT_A_TIME: usize = 4;
/// Longest time until all agents know everything.
const DEADLINE: Duration = Duration::from_secs(300);

/// Where the agents are, and the machine from which they are watched.
pub struct Place {
    /// The machine of the benchmark's own client.
    pub bench: Machine,
    underlay: Underlay,
    pins: PathBuf,
    /// Files and pins. Dropped last.
    pub dir: WorkDir,
}

impl Place {
    /// An underlay with one machine on it.
    pub fn new() -> Self {
        let (underlay, dir) = (crate::underlay(), WorkDir::new("control"));
        let (bench, pins) = (underlay.add_host("bench", MTU), dir.mount_bpffs("bpf"));
        Self { bench, underlay, pins, dir }
    }
}

/// Agents that know everything that is in the store.
pub struct Fleet {
    /// The agents.
    pub agents: Vec<Agent>,
    /// From the first start until all were ready.
    pub started_in: Duration,
}

/// One agent.
pub struct Agent {
    host: Host,
    maps: PathBuf,
}

impl Fleet {
    /// Starts so many, some at a time, and waits until each has the endpoint `last` in its map.
    pub fn start(place: &Place, url: &str, agents: u8, last: Result<FdbKey>) -> Result<Self> {
        let agents: Vec<Agent> = (1..=agents).map(|number| Agent::new(place, url, number)).collect();
        let (started, last) = (Instant::now(), last?);
        for some in agents.chunks(AT_A_TIME) {
            some.iter().for_each(|agent| agent.host.spawn());
            some.iter().for_each(|agent| agent.host.wait_ready());
        }
        let knows = |agent: &Agent| agent.fdb().is_ok_and(|fdb| fdb.get(&last, 0).is_ok());
        wait::until("all agents know all endpoints", DEADLINE, || agents.iter().all(knows));
        Ok(Self { agents, started_in: started.elapsed() })
    }
}

impl Agent {
    fn new(place: &Place, url: &str, number: u8) -> Self {
        let label = format!("host{number}");
        let machine = place.underlay.add_host(&label, MTU);
        let pins = place.pins.join(&label);
        let host = Host::new(machine, &label, place.dir.make(&label), pins.clone(), place.dir.path());
        Self { host: host.with_flag("--store", url), maps: pins.join(format!("maps-v{}", abi::VERSION)) }
    }

    /// Its forwarding database, as the kernel has it.
    pub fn fdb(&self) -> Result<HashMap<MapData, FdbKey, FdbEntry>> {
        let map = MapData::from_pin(self.maps.join(abi::map::FDB))?;
        Ok(Map::HashMap(map).try_into()?)
    }

    /// Ends it, removes everything of its own from the host, and starts it; how long until it was ready.
    pub fn start_cold(&self) -> Duration {
        assert!(self.host.terminate().success(), "{}", self.host.log_tail());
        let cleaned = self.host.cleanup();
        assert!(cleaned.is_success(), "{cleaned}");
        let started = Instant::now();
        self.host.start();
        started.elapsed()
    }

    /// Memory that is its own or that it shares, in bytes.
    pub fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.host.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.context("no VmRSS in its status")? * 1024)
    }

    /// Memory that the kernel holds for its maps, in bytes.
    pub fn map_memory(&self) -> Result<u64> {
        let mut bytes = 0;
        for pin in fs::read_dir(&self.maps)? {
            let text =
                exec::must(["bpftool", "-j", "map", "show", "pinned", &pin?.path().display().to_string()]);
            let map: serde_json::Value = serde_json::from_str(&text)?;
            bytes += map["bytes_memlock"].as_u64().context("bpftool tells no memory")?;
        }
        Ok(bytes)
    }

    /// Processor time since its start.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.host.pid()))?;
        // Its name, in brackets, may hold anything.
        let (_, fields) = stat.rsplit_once(')').context("no name in its stat")?;
        let ticks: Vec<u64> =
            fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
        ensure!(ticks.len() == 2, "no times in its stat");
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the kernel's clock tick")?;
        Ok(Duration::from_secs_f64(ticks.iter().sum::<u64>() as f64 / per_second as f64))
    }
}
