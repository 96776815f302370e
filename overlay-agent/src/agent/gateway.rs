//! The gateway device of this host: there, addressed, up, with the host's stack forwarding and translating behind it.
//!
//! What of the host's it changes is little and taken back by `--cleanup`: forwarding on the devices that lead to the
//! world, not on all of them, and two rules in each chain whose policy would drop what is forwarded. A device that
//! forwards only for us is closed to everybody else, so the host becomes nobody's router.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
};

use ipnet::Ipv4Net;

use crate::{
    config::Config,
    datapath::bpffs::gone_is_success,
    model::{Cluster, Endpoint, EndpointId, HostRange, Name},
    nat::{self, Found, Nat, NatError, Published, Rules},
    netlink::{Netlink, NetlinkError, sysctl},
    paths,
    reconcile::desired::{GatewayDevice, Underlay},
    verify::{Concerns, Difference, Layer},
};

const FORWARDING: &str = "forwarding";

/// Why there is no way out of the overlay.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The range that was asked for is in use.
    #[error(
        "the range {0} of host-local addresses overlaps the host's route to {1}: choose another with --host-range"
    )]
    RangeTaken(Ipv4Net, Ipv4Net),
    /// So is every range that we know.
    #[error(
        "the host has routes to every range that host-local addresses could be from: choose one with --host-range"
    )]
    NoRange,
    /// Devices.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Rules.
    #[error(transparent)]
    Nat(#[from] NatError),
    /// The list of devices that we opened.
    #[error("{}: {source}", .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The gateway device and what belongs to it.
pub struct Gateway {
    netlink: Netlink,
    wanted: Option<Ipv4Net>,
    opened: Opened,
    nat: Nat,
    error: Option<String>,
}

impl Gateway {
    /// One that has not been looked at yet.
    #[must_use]
    pub fn new(config: &Config, netlink: Netlink) -> Self {
        Self {
            netlink,
            wanted: config.host_range.map(HostRange::net),
            opened: Opened::new(&config.paths.opened_devices()),
            nat: Nat::default(),
            error: None,
        }
    }

    /// Makes sure of the device, before programs are attached. Without one, packets to the world are dropped, and
    /// everything else goes on. `last` is what it was when it was last looked at.
    pub async fn look(&mut self, underlay: &Underlay, last: Option<&GatewayDevice>) -> Option<GatewayDevice> {
        let (device, error) = match self.device(underlay).await {
            Ok(device) => (Some(device), None),
            // That the kernel did not answer says nothing of the device: what is attached to it stays.
            Err(e @ GatewayError::Netlink(_)) => (last.cloned(), Some(e)),
            Err(e) => (None, Some(e)),
        };
        self.note(error);
        device
    }

    /// Opens the way, once programs are attached. Returns whether somebody had changed our rules.
    pub async fn open(&mut self, device: &GatewayDevice, underlay: &str, published: Vec<Published>) -> bool {
        let opened = self.try_open(device, underlay, published).await;
        let (found, error) = opened.map_or_else(|e| (Found::InOrder, Some(e)), |found| (found, None));
        self.note(error);
        found == Found::Changed
    }

    /// Has the next [`open`](Self::open) look at all rules anew.
    pub fn distrust(&mut self) {
        self.nat.distrust();
    }

    /// Why there is no way out, if there is none.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Says what is wrong once, not at every pass.
    fn note(&mut self, error: Option<GatewayError>) {
        let error = error.map(|e| e.to_string());
        if let Some(reason) = error.as_ref().filter(|_| error != self.error) {
            tracing::warn!(reason, "no way out of the overlay");
        }
        self.error = error;
    }

    async fn device(&self, underlay: &Underlay) -> Result<GatewayDevice, GatewayError> {
        let pair = self.netlink.create_gateway(paths::GATEWAY_IFNAME, paths::GATEWAY_INNER_IFNAME).await?;
        let range = self.range(pair.outer.ifindex).await?;
        let mtu = underlay.overlay_mtu().into();
        if pair.outer.mtu != mtu {
            self.netlink.set_mtu(pair.outer.ifindex, mtu).await?;
        }
        Ok(GatewayDevice {
            ifindex: pair.outer.ifindex,
            inner_ifindex: pair.inner.ifindex,
            mac: pair.outer.mac,
            range,
        })
    }

    /// The range that the device has, if it is what we want, else a free one, which the device gets.
    async fn range(&self, ifindex: u32) -> Result<Ipv4Net, GatewayError> {
        let has = self.netlink.ipv4_addresses(ifindex).await?;
        let kept =
            has.iter().map(Ipv4Net::trunc).find(|range| self.wanted.is_none_or(|wanted| wanted == *range));
        if let Some(range) = kept {
            return Ok(range);
        }
        let routes = self.netlink.ipv4_routes().await?;
        let others: Vec<Ipv4Net> = routes
            .into_iter()
            .filter(|route| route.oif != Some(ifindex))
            .map(|route| route.destination)
            .collect();
        let range = choose_range(self.wanted, &others)?;
        let agent = Ipv4Net::new(GatewayDevice::agent_in(range), range.prefix_len()).unwrap_or(range);
        for address in has {
            self.netlink.remove_ipv4_address(ifindex, address).await?;
        }
        self.netlink.add_ipv4_address(ifindex, agent).await?;
        tracing::info!(%range, "host-local addresses");
        Ok(range)
    }

    async fn try_open(
        &mut self,
        device: &GatewayDevice,
        underlay: &str,
        published: Vec<Published>,
    ) -> Result<Found, GatewayError> {
        for ifindex in [device.inner_ifindex, device.ifindex] {
            self.netlink.set_up(ifindex).await?;
        }
        sysctl::set_ipv4(paths::GATEWAY_IFNAME, FORWARDING, true)?;
        // Our own device alone: the host may reach published ports at 127.0.0.1. That containers cannot send there is
        // the program's business.
        sysctl::set_ipv4(paths::GATEWAY_IFNAME, "route_localnet", true)?;
        let mut ways_out = BTreeSet::from([underlay.to_owned()]);
        if let Some(ifindex) = self.netlink.default_route_device().await? {
            ways_out.extend(self.netlink.link_by_index(ifindex).await?.map(|link| link.name));
        }
        let rules = Rules {
            device: paths::GATEWAY_IFNAME.to_owned(),
            range: device.range,
            closed: self.opened.open(&ways_out)?,
            published,
        };
        Ok(self.nat.ensure(&rules).await?)
    }
}

/// The devices that forward because we told them to, in a file: a later agent is to take that back.
struct Opened {
    path: PathBuf,
}

impl Opened {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Has these devices forward. Returns those, of all that we ever opened, that forward for us alone: if the host
    /// forwards anyhow, that is none.
    fn open(&self, devices: &BTreeSet<String>) -> Result<Vec<String>, GatewayError> {
        if sysctl::ipv4_is_on(sysctl::ALL, FORWARDING)? {
            return Ok(Vec::new());
        }
        let mut ours = self.read()?;
        for device in devices {
            // First written down: an agent that dies in between must not leave it open for good.
            let is_new = !sysctl::ipv4_is_on(device, FORWARDING)? && ours.insert(device.clone());
            if is_new {
                self.write(&ours)?;
            }
            sysctl::set_ipv4(device, FORWARDING, true)?;
        }
        Ok(ours.into_iter().collect())
    }

    fn close(&self) -> Result<(), GatewayError> {
        if !sysctl::ipv4_is_on(sysctl::ALL, FORWARDING)? {
            for device in self.read()? {
                sysctl::set_ipv4(&device, FORWARDING, false)?;
            }
        }
        gone_is_success(fs::remove_file(&self.path)).map_err(self.error())
    }

    fn read(&self) -> Result<BTreeSet<String>, GatewayError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(e) => Err(self.error()(e)),
        }
    }

    fn write(&self, devices: &BTreeSet<String>) -> Result<(), GatewayError> {
        let lines: String = devices.iter().flat_map(|device| [device.as_str(), "\n"]).collect();
        fs::write(&self.path, lines).map_err(self.error())
    }

    fn error(&self) -> impl Fn(io::Error) -> GatewayError {
        |source| GatewayError::Record { path: self.path.clone(), source }
    }
}

/// Takes rules, settings and devices away. Goes on past failures and returns the first.
///
/// # Errors
/// If something cannot be taken back.
pub async fn remove(config: &Config, netlink: &Netlink) -> Result<(), GatewayError> {
    let rules = nat::remove(paths::GATEWAY_IFNAME).await.map_err(GatewayError::from);
    let settings = Opened::new(&config.paths.opened_devices()).close();
    let device = netlink.delete_by_name(paths::GATEWAY_IFNAME).await.map_err(GatewayError::from);
    rules.and(settings).and(device)
}

/// What the endpoints of this node publish, and where it leads. Internal networks have no way out or in.
#[must_use]
pub fn published(cluster: &Cluster, addrs: &BTreeMap<EndpointId, Ipv4Addr>) -> Vec<Published> {
    let is_open =
        |e: &Endpoint| cluster.networks.get(&e.network).is_some_and(|network| !network.record.internal);
    let endpoints = addrs.iter().filter_map(|(id, addr)| Some((&cluster.endpoints.get(id)?.record, *addr)));
    let targets = endpoints.filter(|(endpoint, _)| is_open(endpoint)).flat_map(|(endpoint, addr)| {
        endpoint.published.iter().map(move |publication| Published {
            publication: *publication,
            target: SocketAddrV4::new(addr, publication.port.get()),
        })
    });
    targets.collect()
}

/// That somebody had changed our rules, as a difference.
#[must_use]
pub fn changed_rules(node: &Name) -> Difference {
    Difference {
        layer: Layer::Firewall,
        subject: format!("nftables table {}", nat::TABLE),
        found: Some("changed".to_owned()),
        wanted: Some("as the agent left it".to_owned()),
        reason: "connections to the world or to published ports may have failed".to_owned(),
        concerns: Concerns::node(node),
    }
}

/// Private ranges that could be free on a host, the ones that Docker gives to its own networks first.
fn known_ranges() -> impl Iterator<Item = Ipv4Net> {
    let private =
        (18..=31).map(|second| [172, second, 0, 0]).chain((64..=127).map(|second| [100, second, 0, 0]));
    private.map(|network| Ipv4Net::new_assert(network.into(), 16))
}

/// The range that is wanted, or the first that is free, beside these routes of the host.
pub(crate) fn choose_range(wanted: Option<Ipv4Net>, routes: &[Ipv4Net]) -> Result<Ipv4Net, GatewayError> {
    let overlapping = |range: &Ipv4Net| {
        let overlap = |route: &&Ipv4Net| route.contains(range) || range.contains(*route);
        routes.iter().filter(|route| route.prefix_len() > 0).find(overlap).copied()
    };
    match wanted {
        Some(range) => {
            overlapping(&range).map_or(Ok(range), |route| Err(GatewayError::RangeTaken(range, route)))
        }
        None => known_ranges().find(|range| overlapping(range).is_none()).ok_or(GatewayError::NoRange),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_range_without_a_route_is_taken() {
        let choose = |routes: &[&str]| choose_range(None, &routes.iter().map(|r| net(r)).collect::<Vec<_>>());
        assert_eq!(choose(&["0.0.0.0/0", "10.0.0.0/8"]).unwrap(), net("172.18.0.0/16"));
        assert_eq!(choose(&["172.18.5.0/24", "172.19.0.0/16"]).unwrap(), net("172.20.0.0/16"));
        assert_eq!(choose(&["172.16.0.0/12"]).unwrap(), net("100.64.0.0/16"));
        assert!(matches!(choose(&["172.16.0.0/12", "100.64.0.0/10"]), Err(GatewayError::NoRange)));
    }

    #[test]
    fn a_range_that_was_asked_for_is_not_replaced_by_another() {
        let wanted = Some(net("10.9.0.0/16"));
        assert_eq!(choose_range(wanted, &[net("10.8.0.0/16")]).unwrap(), net("10.9.0.0/16"));
        let error = choose_range(wanted, &[net("10.9.1.0/24")]).unwrap_err().to_string();
        assert!(error.contains("10.9.0.0/16") && error.contains("10.9.1.0/24"), "{error}");
    }
}
