//! Every path and interface name that the agent makes: their one home.

use std::path::{Path, PathBuf};

use overlay_common::{abi, vni::Vni};

use crate::model::EndpointId;

/// Directories of one agent. Each can be moved, so several agents run on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Socket and lock: gone after a reboot.
    pub run_dir: PathBuf,
    /// Node identity, snapshot, outbox and, by default, the SQLite store: kept.
    pub state_dir: PathBuf,
    /// Pins of links, maps and programs, on a BPF file system.
    pub bpffs_dir: PathBuf,
}

/// Default configuration file.
pub const CONFIG_FILE: &str = "/etc/overlay/agent.toml";
/// Default [`Paths::run_dir`].
pub const RUN_DIR: &str = "/run/overlay";
/// Default [`Paths::state_dir`].
pub const STATE_DIR: &str = "/var/lib/overlay";
/// Default [`Paths::bpffs_dir`].
pub const BPFFS_DIR: &str = "/sys/fs/bpf/overlay";
/// Socket in the run directory.
pub const SOCKET: &str = "overlay.sock";
/// Default socket of the command line.
pub const DEFAULT_SOCKET: &str = "/run/overlay/overlay.sock";
/// File name of the BPF object.
pub const BPF_OBJECT: &str = "overlay-ebpf.o";
/// Where a package installs the BPF object.
pub const BPF_OBJECT_DIR: &str = "/usr/lib/overlay";
/// Directory of locks that belong to no directory of ours.
pub const LOCK_DIR: &str = "/run/lock";
/// Default socket of Docker's engine.
pub const DOCKER_API: &str = "/run/docker.sock";
/// Directory of named network namespaces (`ip netns`).
pub const NETNS_DIR: &str = "/run/netns";

/// Directory of files that `ip netns exec` shows a named namespace instead of those in `/etc`.
pub const NETNS_CONFIG_DIR: &str = "/etc/netns";

/// The agent's own network namespace: of the calling thread, not of the process's first one. As the namespace of an
/// endpoint it stands for its node itself.
pub const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// The collect-metadata vxlan device of the slow path.
pub const TUNNEL_IFNAME: &str = "ovl-tunnel";
/// The bridge, never up, whose ports get headroom: see [`crate::agent::host`].
pub const HEADROOM_IFNAME: &str = "ovl-headroom";
/// The gateway device, as the host's stack knows it.
pub const GATEWAY_IFNAME: &str = "ovl-gw";
/// Its inner end, where what the host sends to containers comes out.
pub const GATEWAY_INNER_IFNAME: &str = "ovl-gw-in";
/// Start of the name of every directory of maps that the agent fills; the layout's version follows.
const MAPS_PREFIX: &str = "maps-v";
/// Start of the name of every directory of counters.
const COUNTERS_PREFIX: &str = "counters-v";

/// Start of every host veth's name.
pub const HOST_VETH_PREFIX: &str = "ovl";
/// Start of the name of every container's end that waits on the host to be moved.
const CONTAINER_END_PREFIX: &str = "ovc";

/// The host's own device in a network.
#[must_use]
pub fn host_port(vni: Vni) -> String {
    format!("ovh{vni}")
}

impl Paths {
    /// The API socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(SOCKET)
    }

    /// Locked while an agent runs.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.run_dir.join("agent.lock")
    }

    /// Locked while an agent uses the state directory, which may be the run directory too.
    #[must_use]
    pub fn state_lock(&self) -> PathBuf {
        self.state_dir.join("node-id.lock")
    }

    /// Locked while an agent uses the pin directory: the BPF file system takes no files of ours.
    #[must_use]
    pub fn pin_lock(&self) -> PathBuf {
        let name = self.bpffs_dir.to_string_lossy().trim_matches('/').replace('/', "-");
        Path::new(LOCK_DIR).join(format!("overlay-{name}.lock"))
    }

    /// This node's random identity.
    #[must_use]
    pub fn node_id(&self) -> PathBuf {
        self.state_dir.join("node-id")
    }

    /// Devices that forward only because the agent told them to.
    #[must_use]
    pub fn opened_devices(&self) -> PathBuf {
        self.state_dir.join("opened-devices")
    }

    /// What was last known of the cluster, to start from when the store cannot be reached.
    #[must_use]
    pub fn snapshot(&self) -> PathBuf {
        self.state_dir.join("snapshot")
    }

    /// Detached endpoints that the store does not know of yet.
    #[must_use]
    pub fn outbox(&self) -> PathBuf {
        self.state_dir.join("outbox.json")
    }

    /// Pins of the maps that the agent fills: another layout has its own directory.
    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.bpffs_dir.join(format!("{MAPS_PREFIX}{}", abi::VERSION))
    }

    /// Pins of the maps that the programs count in: they outlive a change of layout.
    #[must_use]
    pub fn counters(&self) -> PathBuf {
        self.bpffs_dir.join(format!("{COUNTERS_PREFIX}{}", abi::COUNTERS_VERSION))
    }

    /// Pin of a map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        let is_counter = abi::map::COUNTERS.contains(&name);
        if is_counter { self.counters() } else { self.maps() }.join(name)
    }

    /// Whether a path is a directory of maps of another layout than ours.
    #[must_use]
    pub fn is_of_another_layout(&self, dir: &Path) -> bool {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let holds_maps = [MAPS_PREFIX, COUNTERS_PREFIX].iter().any(|prefix| name.starts_with(prefix));
        holds_maps && ![self.maps(), self.counters()].iter().any(|own| own == dir)
    }

    /// Pins of the links, the same for every layout: a new agent swaps the program on the old link.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.bpffs_dir.join("links")
    }

    /// Pins of the programs, for `bpftool prog`.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        self.bpffs_dir.join("programs")
    }

    /// Pin of the link of one program on one device.
    #[must_use]
    pub fn link(&self, program: &str, ifname: &str) -> PathBuf {
        self.links().join(format!("{program}-{ifname}"))
    }
}

/// Digits of an endpoint's identity in the name of its host veth: 15 characters at most, as the kernel wants it.
const VETH_DIGITS: usize = 12;

/// Name of the host side of an endpoint's veth pair.
#[must_use]
pub fn host_veth(endpoint: &EndpointId) -> String {
    format!("{HOST_VETH_PREFIX}{}", &endpoint.as_str()[..VETH_DIGITS])
}

/// Name of the container's side while it waits on the host for whoever moves it into the container.
#[must_use]
pub fn container_end(endpoint: &EndpointId) -> String {
    format!("{CONTAINER_END_PREFIX}{}", &endpoint.as_str()[..VETH_DIGITS])
}

/// The first digits of the endpoint whose container's end, waiting on the host, a device is, by its name.
#[must_use]
pub fn waiting_digits(ifname: &str) -> Option<&str> {
    digits_behind(CONTAINER_END_PREFIX, ifname)
}

/// The first digits of the endpoint whose host veth a device is, by its name; `None` if it is none of ours.
#[must_use]
pub fn endpoint_digits(ifname: &str) -> Option<&str> {
    digits_behind(HOST_VETH_PREFIX, ifname)
}

fn digits_behind<'a>(prefix: &str, ifname: &'a str) -> Option<&'a str> {
    let digits = ifname.strip_prefix(prefix)?;
    (digits.len() == VETH_DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit())).then_some(digits)
}

/// Whether a device is a host veth of ours, by its name.
#[must_use]
pub fn is_host_veth(ifname: &str) -> bool {
    endpoint_digits(ifname).is_some()
}

/// Where the BPF object may be, in order: beside the executable, in a build tree, installed.
#[must_use]
pub fn bpf_object_candidates(executable: &Path) -> Vec<PathBuf> {
    let dir = executable.parent().unwrap_or(Path::new("/"));
    vec![
        dir.join(BPF_OBJECT),
        dir.join("../bpf").join(BPF_OBJECT),
        Path::new(BPF_OBJECT_DIR).join(BPF_OBJECT),
    ]
}

#[cfg(test)]
mod tests {
    use super::Paths;

    #[test]
    fn one_directory_can_be_run_and_state_directory() {
        let dir = std::path::PathBuf::from("/run/one");
        let paths = Paths { run_dir: dir.clone(), state_dir: dir, bpffs_dir: "/sys/fs/bpf/one".into() };
        assert_ne!(paths.lock(), paths.state_lock());
    }

    #[test]
    fn only_maps_of_other_layouts_are_of_another_layout() {
        let dir = std::path::PathBuf::from("/sys/fs/bpf/one");
        let paths = Paths { run_dir: dir.clone(), state_dir: dir.clone(), bpffs_dir: dir.clone() };
        for other in ["maps-v0", "maps-v77", "counters-v77"] {
            assert!(paths.is_of_another_layout(&dir.join(other)), "{other}");
        }
        for own in [paths.maps(), paths.counters(), paths.links(), paths.programs(), dir.join("foreign")] {
            assert!(!paths.is_of_another_layout(&own), "{}", own.display());
        }
    }
}
