//! The daemon's settings: flags, environment and file become one typed result before anything starts.
//!
//! The order is flag, environment, file, default. `Settings` is the one table of names: clap reads flags
//! and environment from it, serde the file.

mod access;

use std::{
    ffi::OsString,
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::{Args, Command, CommandFactory as _, Parser, ValueEnum};
use serde::Deserialize;
use serde_with::DeserializeFromStr;
use tracing::level_filters::LevelFilter;

use crate::{
    dns::ServerAddress,
    model::{HostRange, InvalidName, Name},
    paths::{self, Paths},
    store::Target,
};

pub use access::{AccessError, AccessSettings};

/// UDP port of VXLAN (RFC 7348 section 5).
pub const VXLAN_PORT: u16 = 4789;
/// Default of [`Config::lease`].
const LEASE: Duration = Duration::from_secs(15);
/// Shortest lease: its holder must get the chance to renew it more than once.
const MIN_LEASE: Duration = Duration::from_secs(3);
/// Default of [`Config::collect_after`].
const COLLECT_AFTER: Duration = Duration::from_hours(1);
/// Default of [`Config::address_rest`].
const ADDRESS_REST: Duration = Duration::from_mins(1);
/// Where the kernel shows the host name of this UTS namespace.
const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";

/// The daemon's settings, complete and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of this node.
    pub node: Name,
    /// Device that carries VXLAN packets; the one of the default route if absent.
    pub underlay: Option<String>,
    /// VTEP address that other nodes send to; the underlay's address if absent.
    pub advertise: Option<Ipv4Addr>,
    /// Range of host-local addresses; one without a route on this host if absent.
    pub host_range: Option<HostRange>,
    /// The store, and how it knows us.
    pub store: Target,
    /// Directories of this agent.
    pub paths: Paths,
    /// What XDP does on the underlay.
    pub xdp: XdpMode,
    /// UDP port on which this node receives VXLAN packets.
    pub vxlan_port: u16,
    /// Resolvers for names that are no container's; the host's own if there are none.
    pub dns: Vec<ServerAddress>,
    /// Socket of the Docker driver; none unless one is set, or systemd opened one.
    pub docker_socket: Option<PathBuf>,
    /// Socket of Docker's engine, which is asked for names if its driver is served.
    pub docker_api: PathBuf,
    /// What the BPF programs log.
    pub bpf_log: BpfLog,
    /// Time after which a node without a sign of life counts as silent.
    pub lease: Duration,
    /// Time after which the endpoints of a node that is away are collected.
    pub collect_after: Duration,
    /// Time for which a released address is not used again while there are others.
    pub address_rest: Duration,
    /// Where metrics are served over TCP; nowhere if absent.
    pub metrics_listen: Option<SocketAddr>,
    /// The BPF object; looked for in [`paths::bpf_object_candidates`] if absent.
    pub bpf_object: Option<PathBuf>,
    /// What the agent logs.
    pub log: LogLevel,
    /// Remove everything of this agent's from the host, then exit.
    pub cleanup: bool,
    /// Keys of the file that mean nothing, to be warned about once logging is up.
    pub unknown_keys: Vec<String>,
}

/// What XDP does on the underlay device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// What the device's driver supports.
    #[default]
    Auto,
    /// Nothing.
    Off,
    /// Drops what is hostile.
    Filter,
    /// Drops what is hostile, decapsulates and delivers.
    Decap,
}

/// What the BPF programs log, on slow and drop paths only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BpfLog {
    /// Nothing; costs nothing.
    #[default]
    Off,
    /// Each dropped packet.
    Info,
    /// Packets that take the slow path too.
    Debug,
}

/// What the agent logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures.
    Error,
    /// What needs a look.
    Warn,
    /// Life events.
    #[default]
    Info,
    /// Changes.
    Debug,
    /// Everything.
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// A length of time, written as `15s`, `5min` or `1h 30min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, DeserializeFromStr)]
struct Span(Duration);

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |e| format!("{text:?} is no time such as 15s, 5min or 1h: {e}");
        humantime::parse_duration(text).map(Self).map_err(wrong)
    }
}

/// A [`Span`] that a lease may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, DeserializeFromStr)]
struct Lease(Duration);

impl FromStr for Lease {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse()? {
            Span(time) if time < MIN_LEASE => Err(format!("a lease of {text} is too short: 3s is the least")),
            Span(time) => Ok(Self(time)),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Wrong flags or environment; also `--help` and `--version`. [`clap::Error::exit`] does what is due.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}; name another one with --config")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is to open the store cannot be read.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The file says something impossible.
    #[error("{path}, line {line}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where in it, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// No node name was given and there is no host name.
    #[error("cannot read the host name from {HOST_NAME_FILE}: {0}; name this node with --node")]
    NoHostName(#[source] io::Error),
    /// No node name was given and the host name cannot be one.
    #[error("the host name cannot be this node's name: {0}; name this node with --node")]
    HostName(#[source] InvalidName),
    /// The node name stands for machines that are no nodes.
    #[error("{0} is the name of machines without an agent: name this node otherwise with --node")]
    ReservedName(Name),
    /// A path cannot be made absolute.
    #[error("{path:?} cannot be used as a path: {source}")]
    Path {
        /// The path as given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A path cannot be part of a URL.
    #[error("the state directory {0:?} cannot be part of the store's URL: name the store with --store")]
    NotText(PathBuf),
}

impl Config {
    /// The settings that these arguments (the program's name first), the environment and the file give.
    ///
    /// # Errors
    /// [`ConfigError`] if any of them cannot be read, or says something impossible.
    pub fn load<T: Into<OsString> + Clone>(args: impl IntoIterator<Item = T>) -> Result<Self, ConfigError> {
        Self::load_with_default_file(args, Path::new(paths::CONFIG_FILE))
    }

    fn load_with_default_file<T: Into<OsString> + Clone>(
        args: impl IntoIterator<Item = T>,
        default_file: &Path,
    ) -> Result<Self, ConfigError> {
        let flags = Flags::try_parse_from(args)?;
        let file = match &flags.config {
            Some(path) => File::read(path)?,
            None => File::read_if_there(default_file)?,
        };
        let settings = flags.settings.or(file.settings);
        Ok(Self { cleanup: flags.cleanup, unknown_keys: file.unknown_keys, ..settings.complete()? })
    }
}

/// The daemon's command line, for its manual page.
#[must_use]
pub fn command() -> Command {
    Flags::command()
}

/// The agent of an eBPF overlay network: keeps this host's BPF maps true to the cluster's store.
#[derive(Parser)]
#[command(name = "overlay-agent", version)]
struct Flags {
    /// Configuration file (TOML) [default: /etc/overlay/agent.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "OVERLAY_CONFIG")]
    config: Option<PathBuf>,
    /// Remove everything of this agent's from the host (links, maps, devices), then exit
    #[arg(long)]
    cleanup: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Everything that can be set in three places; what is absent was not set.
#[derive(Args, Default, Deserialize)]
#[serde(default)]
struct Settings {
    /// Name of this node [default: host name]
    #[arg(long, value_name = "NAME", env = "OVERLAY_NODE")]
    node: Option<Name>,
    /// Device that carries VXLAN packets [default: the device of the default route]
    #[arg(long, value_name = "IFACE", env = "OVERLAY_UNDERLAY")]
    underlay: Option<String>,
    /// VTEP address that other nodes send to [default: the underlay's address]
    #[arg(long, value_name = "ADDR", env = "OVERLAY_ADVERTISE")]
    advertise: Option<Ipv4Addr>,
    /// Range that containers get their addresses on this host from [default: the first of 172.18.0.0/16 and on
    /// without a route here]
    #[arg(long, value_name = "CIDR", env = "OVERLAY_HOST_RANGE")]
    host_range: Option<HostRange>,
    /// Store of the cluster's state [default: sqlite://<state-dir>/overlay.db]
    #[arg(long, value_name = "URL", env = "OVERLAY_STORE")]
    store: Option<String>,
    #[command(flatten)]
    store_access: AccessSettings,
    /// Directory of the API socket [default: /run/overlay]
    #[arg(long, value_name = "DIR", env = "OVERLAY_RUN_DIR")]
    run_dir: Option<PathBuf>,
    /// Directory of what outlives a reboot [default: /var/lib/overlay]
    #[arg(long, value_name = "DIR", env = "OVERLAY_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Directory of the pins, on a BPF file system [default: /sys/fs/bpf/overlay]
    #[arg(long, value_name = "DIR", env = "OVERLAY_BPFFS_DIR")]
    bpffs_dir: Option<PathBuf>,
    /// What XDP does on the underlay [default: auto]
    #[arg(long, value_name = "MODE", env = "OVERLAY_XDP")]
    xdp: Option<XdpMode>,
    /// UDP port on which this node receives VXLAN packets [default: 4789]
    #[arg(long, value_name = "PORT", env = "OVERLAY_VXLAN_PORT")]
    vxlan_port: Option<NonZeroU16>,
    /// Resolvers for names that are no container's, separated by commas [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "ADDR[:PORT]", env = "OVERLAY_DNS", value_delimiter = ',')]
    dns: Option<Vec<ServerAddress>>,
    /// Socket on which Docker finds its network driver, such as /run/docker/plugins/overlay-ebpf.sock [default: none]
    #[arg(long, value_name = "FILE", env = "OVERLAY_DOCKER_SOCKET")]
    docker_socket: Option<PathBuf>,
    /// Socket of Docker's engine, which is asked for names of networks and containers [default: /run/docker.sock]
    #[arg(long, value_name = "FILE", env = "OVERLAY_DOCKER_API")]
    docker_api: Option<PathBuf>,
    /// What the BPF programs log [default: off]
    #[arg(long, value_name = "LEVEL", env = "OVERLAY_BPF_LOG")]
    bpf_log: Option<BpfLog>,
    /// Time after which a node that gives no sign of life is silent; the same on all nodes [default: 15s]
    #[arg(long, value_name = "TIME", env = "OVERLAY_LEASE")]
    lease: Option<Lease>,
    /// Time after which addresses and names of a node that is away become free [default: 1h]
    #[arg(long, value_name = "TIME", env = "OVERLAY_COLLECT_AFTER")]
    collect_after: Option<Span>,
    /// Time for which a released address rests while there are others [default: 1min]
    #[arg(long, value_name = "TIME", env = "OVERLAY_ADDRESS_REST")]
    address_rest: Option<Span>,
    /// Address to serve metrics for Prometheus on, `GET /metrics` [default: none; the API has them at /v1/metrics]
    #[arg(long, value_name = "ADDR:PORT", env = "OVERLAY_METRICS_LISTEN")]
    metrics_listen: Option<SocketAddr>,
    /// The BPF object [default: beside the executable, or as installed]
    #[arg(long, value_name = "FILE", env = "OVERLAY_BPF_OBJECT")]
    bpf_object: Option<PathBuf>,
    /// What the agent logs [default: info]
    #[arg(long, value_name = "LEVEL", env = "OVERLAY_LOG")]
    log: Option<LogLevel>,
}

impl Settings {
    /// These settings, and the other's where these have none.
    fn or(self, other: Self) -> Self {
        Self {
            node: self.node.or(other.node),
            underlay: self.underlay.or(other.underlay),
            advertise: self.advertise.or(other.advertise),
            host_range: self.host_range.or(other.host_range),
            store: self.store.or(other.store),
            store_access: self.store_access.or(other.store_access),
            run_dir: self.run_dir.or(other.run_dir),
            state_dir: self.state_dir.or(other.state_dir),
            bpffs_dir: self.bpffs_dir.or(other.bpffs_dir),
            xdp: self.xdp.or(other.xdp),
            vxlan_port: self.vxlan_port.or(other.vxlan_port),
            dns: self.dns.or(other.dns),
            docker_socket: self.docker_socket.or(other.docker_socket),
            docker_api: self.docker_api.or(other.docker_api),
            bpf_log: self.bpf_log.or(other.bpf_log),
            lease: self.lease.or(other.lease),
            collect_after: self.collect_after.or(other.collect_after),
            address_rest: self.address_rest.or(other.address_rest),
            metrics_listen: self.metrics_listen.or(other.metrics_listen),
            bpf_object: self.bpf_object.or(other.bpf_object),
            log: self.log.or(other.log),
        }
    }

    /// These settings, and the defaults where there are none.
    fn complete(self) -> Result<Config, ConfigError> {
        let paths = Paths {
            run_dir: absolute(self.run_dir.unwrap_or_else(|| paths::RUN_DIR.into()))?,
            state_dir: absolute(self.state_dir.unwrap_or_else(|| paths::STATE_DIR.into()))?,
            bpffs_dir: absolute(self.bpffs_dir.unwrap_or_else(|| paths::BPFFS_DIR.into()))?,
        };
        let access = self.store_access.read()?;
        Ok(Config {
            node: node_name(self.node)?,
            underlay: self.underlay,
            advertise: self.advertise,
            host_range: self.host_range,
            store: Target { url: self.store.map_or_else(|| default_store(&paths.state_dir), Ok)?, access },
            paths,
            xdp: self.xdp.unwrap_or_default(),
            vxlan_port: self.vxlan_port.map_or(VXLAN_PORT, NonZeroU16::get),
            dns: self.dns.unwrap_or_default(),
            docker_socket: self.docker_socket.map(absolute).transpose()?,
            docker_api: absolute(self.docker_api.unwrap_or_else(|| paths::DOCKER_API.into()))?,
            bpf_log: self.bpf_log.unwrap_or_default(),
            lease: self.lease.map_or(LEASE, |Lease(time)| time),
            collect_after: self.collect_after.map_or(COLLECT_AFTER, |Span(time)| time),
            address_rest: self.address_rest.map_or(ADDRESS_REST, |Span(time)| time),
            metrics_listen: self.metrics_listen,
            bpf_object: self.bpf_object.map(absolute).transpose()?,
            log: self.log.unwrap_or_default(),
            cleanup: false,
            unknown_keys: Vec::new(),
        })
    }
}

/// A configuration file.
#[derive(Default)]
struct File {
    settings: Settings,
    unknown_keys: Vec<String>,
}

impl File {
    fn read_if_there(path: &Path) -> Result<Self, ConfigError> {
        match Self::read(path) {
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            other => other,
        }
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            line: line_of(&text, error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })
    }

    fn parse(text: &str) -> Result<Self, toml::de::Error> {
        let mut unknown_keys = Vec::new();
        let document = toml::Deserializer::parse(text)?;
        let settings = serde_ignored::deserialize(document, |key| unknown_keys.push(key.to_string()))?;
        Ok(Self { settings, unknown_keys })
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn node_name(given: Option<Name>) -> Result<Name, ConfigError> {
    let name = given.map_or_else(host_name, Ok)?;
    if name == Name::external() { Err(ConfigError::ReservedName(name)) } else { Ok(name) }
}

fn host_name() -> Result<Name, ConfigError> {
    let text = fs::read_to_string(HOST_NAME_FILE).map_err(ConfigError::NoHostName)?;
    text.trim_end().parse().map_err(ConfigError::HostName)
}

/// The daemon's working directory must not matter later.
fn absolute(path: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&path).map_err(|source| ConfigError::Path { path, source })
}

fn default_store(state_dir: &Path) -> Result<String, ConfigError> {
    let dir = state_dir.to_str().ok_or_else(|| ConfigError::NotText(state_dir.to_owned()))?;
    Ok(format!("sqlite://{dir}/overlay.db"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::process::Command;

    const ABSENT: &str = "/nonexistent/agent.toml";

    fn load(args: &[&str]) -> Result<Config, ConfigError> {
        let args = ["overlay-agent"].iter().chain(args);
        Config::load_with_default_file(args, Path::new(ABSENT))
    }

    fn load_file(toml: &str, args: &[&str]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.toml");
        fs::write(&file, toml).unwrap();
        load(&[&["--config", file.to_str().unwrap()], args].concat())
    }

    #[test]
    fn the_flags_are_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn nothing_given_means_the_documented_defaults() {
        let expected = Config {
            node: fs::read_to_string(HOST_NAME_FILE).unwrap().trim().parse().unwrap(),
            underlay: None,
            advertise: None,
            host_range: None,
            store: "sqlite:///var/lib/overlay/overlay.db".into(),
            paths: Paths {
                run_dir: "/run/overlay".into(),
                state_dir: "/var/lib/overlay".into(),
                bpffs_dir: "/sys/fs/bpf/overlay".into(),
            },
            xdp: XdpMode::Auto,
            vxlan_port: 4789,
            dns: Vec::new(),
            docker_socket: None,
            docker_api: "/run/docker.sock".into(),
            bpf_log: BpfLog::Off,
            lease: Duration::from_secs(15),
            collect_after: Duration::from_secs(3600),
            address_rest: Duration::from_secs(60),
            metrics_listen: None,
            bpf_object: None,
            log: LogLevel::Info,
            cleanup: false,
            unknown_keys: vec![],
        };
        assert_eq!(load(&[]).unwrap(), expected);
    }

    const FILE: &str = r#"
        node = "host1"
        underlay = "eth1"
        advertise = "192.0.2.1"
        host_range = "172.20.0.0/16"
        store = "sqlite:///srv/store.db"
        run_dir = "/srv/run"
        state_dir = "/srv/state"
        bpffs_dir = "/srv/bpf"
        xdp = "filter"
        vxlan_port = 8472
        dns = ["192.0.2.53", "192.0.2.54:5353"]
        docker_socket = "/srv/overlay-ebpf.sock"
        docker_api = "/srv/docker.sock"
        bpf_log = "debug"
        lease = "6s"
        collect_after = "2h 30min"
        address_rest = "0s"
        metrics_listen = "192.0.2.1:9469"
        bpf_object = "/srv/overlay-ebpf.o"
        log = "warn"
    "#;

    fn config_of_file() -> Config {
        Config {
            node: "host1".parse().unwrap(),
            underlay: Some("eth1".into()),
            advertise: Some(Ipv4Addr::new(192, 0, 2, 1)),
            host_range: Some("172.20.0.0/16".parse().unwrap()),
            store: "sqlite:///srv/store.db".into(),
            paths: Paths {
                run_dir: "/srv/run".into(),
                state_dir: "/srv/state".into(),
                bpffs_dir: "/srv/bpf".into(),
            },
            xdp: XdpMode::Filter,
            vxlan_port: 8472,
            dns: ["192.0.2.53:53", "192.0.2.54:5353"].map(|server| server.parse().unwrap()).to_vec(),
            docker_socket: Some("/srv/overlay-ebpf.sock".into()),
            docker_api: "/srv/docker.sock".into(),
            bpf_log: BpfLog::Debug,
            lease: Duration::from_secs(6),
            collect_after: Duration::from_secs(9000),
            address_rest: Duration::ZERO,
            metrics_listen: Some("192.0.2.1:9469".parse().unwrap()),
            bpf_object: Some("/srv/overlay-ebpf.o".into()),
            log: LogLevel::Warn,
            cleanup: false,
            unknown_keys: vec![],
        }
    }

    /// The same settings as `FILE`, as flags.
    const FLAGS: [(&str, &str); 20] = [
        ("node", "host1"),
        ("underlay", "eth1"),
        ("advertise", "192.0.2.1"),
        ("host-range", "172.20.0.0/16"),
        ("store", "sqlite:///srv/store.db"),
        ("run-dir", "/srv/run"),
        ("state-dir", "/srv/state"),
        ("bpffs-dir", "/srv/bpf"),
        ("xdp", "filter"),
        ("vxlan-port", "8472"),
        ("dns", "192.0.2.53,192.0.2.54:5353"),
        ("docker-socket", "/srv/overlay-ebpf.sock"),
        ("docker-api", "/srv/docker.sock"),
        ("bpf-log", "debug"),
        ("lease", "6s"),
        ("collect-after", "2h 30min"),
        ("address-rest", "0s"),
        ("metrics-listen", "192.0.2.1:9469"),
        ("bpf-object", "/srv/overlay-ebpf.o"),
        ("log", "warn"),
    ];

    const OTHER_FILE: &str = r#"
        node = "other"
        underlay = "other"
        advertise = "203.0.113.1"
        store = "other://"
        run_dir = "/other"
        state_dir = "/other"
        bpffs_dir = "/other"
        xdp = "off"
        vxlan_port = 1
        dns = ["203.0.113.53"]
        docker_socket = "/other"
        docker_api = "/other"
        bpf_log = "info"
        lease = "1h"
        collect_after = "1s"
        address_rest = "1s"
        metrics_listen = "203.0.113.1:1"
        bpf_object = "/other"
        log = "error"
    "#;

    #[test]
    fn every_setting_can_be_in_the_file() {
        assert_eq!(load_file(FILE, &[]).unwrap(), config_of_file());
    }

    #[test]
    fn every_setting_can_be_a_flag_which_beats_the_file() {
        let flags: Vec<String> = FLAGS.iter().map(|(name, value)| format!("--{name}={value}")).collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        assert_eq!(load_file(OTHER_FILE, &flags).unwrap(), config_of_file());
    }

    /// The environment belongs to a process, so a second one of this test does the asking.
    #[test]
    fn every_setting_can_be_in_the_environment_which_beats_the_file_but_no_flag() {
        if std::env::var_os("OVERLAY_NODE").is_some() {
            assert_eq!(load_file(OTHER_FILE, &[]).unwrap(), config_of_file());
            let config = load_file(OTHER_FILE, &["--node", "flag", "--xdp", "decap"]).unwrap();
            assert_eq!((config.node.as_str(), config.xdp), ("flag", XdpMode::Decap));
            return;
        }
        let this = "config::tests::every_setting_can_be_in_the_environment_which_beats_the_file_but_no_flag";
        let variable = |name: &str| format!("OVERLAY_{}", name.replace('-', "_").to_uppercase());
        let child = Command::new(std::env::current_exe().unwrap())
            .args([this, "--exact"])
            .envs(FLAGS.iter().map(|(name, value)| (variable(name), value)))
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && report.contains("1 passed"), "{report}");
    }

    #[test]
    fn the_default_store_follows_the_state_directory() {
        let config = load(&["--state-dir", "/srv/one"]).unwrap();
        assert_eq!(config.store.url, "sqlite:///srv/one/overlay.db");
    }

    #[test]
    fn relative_directories_become_absolute() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(load(&["--run-dir", "run"]).unwrap().paths.run_dir, here.join("run"));
    }

    #[test]
    fn cleanup_is_a_flag_and_no_setting() {
        assert!(load(&["--cleanup"]).unwrap().cleanup);
        let config = load_file("cleanup = true", &[]).unwrap();
        assert!(!config.cleanup);
        assert_eq!(config.unknown_keys, ["cleanup"]);
    }

    #[test]
    fn unknown_keys_are_reported_and_the_rest_holds() {
        let config = load_file("vxlan-port = 1\nnode = \"host1\"\n[store_options]\nca = 1\n", &[]).unwrap();
        assert_eq!(config.unknown_keys, ["store_options", "vxlan-port"]);
        assert_eq!(config.node.as_str(), "host1");
    }

    #[test]
    fn a_named_file_that_is_not_there_is_an_error() {
        let error = load(&["--config", ABSENT]).unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot read the configuration file /nonexistent/agent.toml: No such file or directory (os error 2); \
             name another one with --config"
        );
    }

    #[test]
    fn a_default_file_that_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = Config::load_with_default_file(["overlay-agent"], dir.path()).unwrap_err();
        assert!(matches!(error, ConfigError::Read { .. }), "{error}");
    }

    #[rstest]
    #[case("\nnode = \"a b\"", "line 2: \"a b\" is no name")]
    #[case("vxlan_port = 0", "line 1: invalid value: integer `0`")]
    #[case("vxlan_port = 65536", "line 1: invalid value: integer `65536`")]
    #[case("advertise = \"host\"", "line 1: invalid IPv4 address syntax")]
    #[case(
        "xdp = \"native\"",
        "line 1: unknown variant `native`, expected one of `auto`, `off`, `filter`, `decap`"
    )]
    #[case("collect_after = 3600", "line 1: invalid type: integer `3600`, expected a string")]
    #[case("collect_after = \"1\"", "line 1: \"1\" is no time such as 15s, 5min or 1h: time unit needed")]
    #[case("lease = \"2s\"", "line 1: a lease of 2s is too short: 3s is the least")]
    #[case("node = \"a\"\nnode = \"b\"", "line 2: duplicate key")]
    fn a_wrong_file_is_refused_with_its_line(#[case] toml: &str, #[case] expected: &str) {
        let error = load_file(toml, &[]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[rstest]
    #[case(&["--node", "../x"])]
    #[case(&["--advertise", "::1"])]
    #[case(&["--vxlan-port", "0"])]
    #[case(&["--xdp", "native"])]
    #[case(&["--bpf-log", "trace"])]
    #[case(&["--lease", "2999ms"])]
    #[case(&["--collect-after", "soon"])]
    #[case(&["--unknown"])]
    fn wrong_flags_are_refused(#[case] args: &[&str]) {
        assert!(matches!(load(args), Err(ConfigError::Usage(error)) if error.exit_code() == 2), "{args:?}");
    }

    #[test]
    fn an_empty_directory_is_refused() {
        assert!(matches!(load(&["--run-dir", ""]), Err(ConfigError::Usage(_) | ConfigError::Path { .. })));
    }
}
