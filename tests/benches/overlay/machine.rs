//! On what it was measured: whoever reads a figure later wants to know.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::Result;
use overlay_tests::underlay::UNDERLAY_IFNAME;
use serde::Serialize;

use crate::place::{Place, SERVER_CPU};

/// The machine and the versions.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Model of the processors.
    pub cpu: String,
    /// How many there are.
    pub cpus: usize,
    /// Load average of the last minute when the run began: other work spoils figures.
    pub load: f64,
    /// Versions by program.
    pub versions: BTreeMap<&'static str, String>,
    /// Machine-wide settings that count and that the benchmark leaves alone.
    pub settings: BTreeMap<&'static str, String>,
}

impl Machine {
    /// Looks.
    pub fn look(docker_root: Option<&Path>) -> Self {
        let mut versions = BTreeMap::from([
            ("iperf3", first_line(Command::new("iperf3").arg("--version"))),
            ("git", first_line(Command::new("git").args(["describe", "--always", "--dirty"]))),
        ]);
        if let Some(root) = docker_root {
            let dockerd = root.join("usr/sbin/dockerd");
            versions.insert("docker", first_line(Command::new(dockerd).arg("--version")));
        }
        let sysctl = |path: &str| read(&format!("/proc/sys/{path}"));
        let settings = BTreeMap::from([
            ("net.core.netdev_max_backlog", sysctl("net/core/netdev_max_backlog")),
            ("net.core.bpf_jit_enable", sysctl("net/core/bpf_jit_enable")),
        ]);
        let cpu_info = read("/proc/cpuinfo");
        let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, model)| model.to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            load: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
            versions,
            settings,
        }
    }
}

/// What a wire's device does in place of the processor, by the name that ethtool gives it.
pub fn offloads(place: &Place) -> Result<BTreeMap<String, String>> {
    const FEATURES: [&str; 6] = [
        "tx-checksumming",
        "tcp-segmentation-offload",
        "tx-udp-segmentation",
        "tx-udp_tnl-segmentation",
        "generic-segmentation-offload",
        "generic-receive-offload",
    ];
    let text = place.run(SERVER_CPU, &["ethtool", "--show-features", UNDERLAY_IFNAME])?;
    let features = text.lines().filter_map(|line| line.trim().split_once(": "));
    let known = features.filter(|(name, _)| FEATURES.contains(name));
    Ok(known.map(|(name, state)| (name.to_owned(), state.to_owned())).collect())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or("unknown").to_owned()
}
