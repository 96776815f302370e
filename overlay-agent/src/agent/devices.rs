//! How our devices on the host must be, and what is wrong with them.

use std::collections::BTreeSet;

use crate::{
    model::Cluster,
    netlink::{HOST_VETH_MTU, Link, TUNNEL_MTU},
    paths,
    verify::{Concerns, Difference, Layer},
};

/// Something wrong with a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its name.
    pub device: String,
    /// Its index; meaningless if it is missing.
    pub ifindex: u32,
    /// What is wrong.
    pub kind: FaultKind,
}

/// What can be wrong with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// It is not there.
    Missing,
    /// It is down and should be up.
    Down,
    /// It is up and should be down.
    Up,
    /// It is no port of the headroom bridge.
    NotPort,
    /// Its MTU is another.
    Mtu {
        /// What it is.
        found: u32,
        /// What it should be.
        wanted: u32,
    },
}

/// What is wrong, the bridge first: the others become its ports. `in_force` are the host veths that must be up.
#[must_use]
pub fn faults(links: &[Link], tunnel_ifindex: u32, in_force: &BTreeSet<String>) -> Vec<Fault> {
    let bridge = links.iter().find(|l| l.name == paths::HEADROOM_IFNAME);
    let tunnel = links.iter().find(|l| l.ifindex == tunnel_ifindex);
    let port = |link: &Link, mtu, must_be_up| port_faults(link, bridge.map(|b| b.ifindex), mtu, must_be_up);
    let mut faults = match bridge {
        None => vec![missing(paths::HEADROOM_IFNAME)],
        Some(bridge) => bridge.up.then(|| fault(bridge, FaultKind::Up)).into_iter().collect(),
    };
    match tunnel {
        None => faults.push(missing(paths::TUNNEL_IFNAME)),
        Some(tunnel) => faults.extend(port(tunnel, TUNNEL_MTU, true)),
    }
    let veths = links.iter().filter(|l| paths::is_host_veth(&l.name));
    faults.extend(veths.flat_map(|veth| port(veth, HOST_VETH_MTU, in_force.contains(&veth.name))));
    faults
}

/// Names of our devices among these.
pub fn ours(links: &[Link], tunnel_ifindex: u32) -> impl Iterator<Item = &str> {
    let is_ours = move |l: &&Link| {
        l.ifindex == tunnel_ifindex || l.name == paths::HEADROOM_IFNAME || paths::is_host_veth(&l.name)
    };
    links.iter().filter(is_ours).map(|l| l.name.as_str())
}

fn port_faults(link: &Link, bridge: Option<u32>, mtu: u32, must_be_up: bool) -> Vec<Fault> {
    let is_port = bridge.is_some() && link.controller == bridge;
    let wrong_mtu = FaultKind::Mtu { found: link.mtu, wanted: mtu };
    [
        (!is_port).then_some(FaultKind::NotPort),
        (link.mtu != mtu).then_some(wrong_mtu),
        (must_be_up && !link.up).then_some(FaultKind::Down),
    ]
    .into_iter()
    .flatten()
    .map(|kind| fault(link, kind))
    .collect()
}

fn fault(link: &Link, kind: FaultKind) -> Fault {
    Fault { device: link.name.clone(), ifindex: link.ifindex, kind }
}

fn missing(device: &str) -> Fault {
    Fault { device: device.to_owned(), ifindex: 0, kind: FaultKind::Missing }
}

impl Fault {
    /// It as a difference.
    #[must_use]
    pub fn difference(&self, cluster: &Cluster) -> Difference {
        let text = |text: &str| Some(text.to_owned());
        let (found, wanted, reason) = match self.kind {
            FaultKind::Missing => (None, text("there"), "the device is gone"),
            FaultKind::Down => (text("down"), text("up"), "no packet passes: the device is down"),
            FaultKind::Up => (text("up"), text("down"), "it must never forward: the bridge is up"),
            FaultKind::NotPort => (
                None,
                Some(format!("port of {}", paths::HEADROOM_IFNAME)),
                "packets are copied to make room for headers: the device is no port of the headroom bridge",
            ),
            FaultKind::Mtu { found, wanted } => (
                Some(format!("MTU {found}")),
                Some(format!("MTU {wanted}")),
                "packets may be lost without an answer: the device has another MTU",
            ),
        };
        Difference {
            layer: Layer::Device,
            subject: self.device.clone(),
            found,
            wanted,
            reason: reason.to_owned(),
            concerns: Concerns::host_veth(cluster, &self.device),
        }
    }
}

#[cfg(test)]
mod tests {
    use overlay_common::mac::Mac;

    use super::*;

    const TUNNEL: u32 = 3;
    const BRIDGE: u32 = 4;
    const VETH: &str = "ovl001122334455";

    fn link(ifindex: u32, name: &str, mtu: u32, controller: Option<u32>) -> Link {
        Link {
            ifindex,
            name: name.to_owned(),
            mac: Mac::default(),
            mtu,
            up: true,
            has_carrier: true,
            kind: None,
            controller,
            xdp_programs: Vec::new(),
        }
    }

    fn in_order() -> Vec<Link> {
        let bridge = Link { up: false, ..link(BRIDGE, paths::HEADROOM_IFNAME, 1500, None) };
        let tunnel = link(TUNNEL, paths::TUNNEL_IFNAME, TUNNEL_MTU, Some(BRIDGE));
        vec![bridge, tunnel, link(5, VETH, HOST_VETH_MTU, Some(BRIDGE)), link(2, "eth0", 1500, None)]
    }

    fn found(change: impl FnOnce(&mut Vec<Link>)) -> Vec<(String, FaultKind)> {
        let mut links = in_order();
        change(&mut links);
        let in_force = BTreeSet::from([VETH.to_owned()]);
        faults(&links, TUNNEL, &in_force).into_iter().map(|f| (f.device, f.kind)).collect()
    }

    #[test]
    fn devices_in_order_have_no_fault() {
        assert_eq!(found(|_| {}), []);
    }

    #[test]
    fn each_fault_is_found_where_it_is() {
        let veth = |kind| vec![(VETH.to_owned(), kind)];
        assert_eq!(found(|links| links[2].up = false), veth(FaultKind::Down));
        assert_eq!(found(|links| links[2].controller = None), veth(FaultKind::NotPort));
        let wrong = FaultKind::Mtu { found: 1500, wanted: HOST_VETH_MTU };
        assert_eq!(found(|links| links[2].mtu = 1500), veth(wrong));
        let tunnel = |kind| vec![(paths::TUNNEL_IFNAME.to_owned(), kind)];
        assert_eq!(found(|links| links[1].up = false), tunnel(FaultKind::Down));
        assert_eq!(found(|links| drop(links.remove(1))), tunnel(FaultKind::Missing));
        let bridge = paths::HEADROOM_IFNAME.to_owned();
        assert_eq!(found(|links| links[0].up = true), [(bridge, FaultKind::Up)]);
    }

    #[test]
    fn without_the_bridge_nothing_is_its_port() {
        let kinds: Vec<FaultKind> = found(|links| drop(links.remove(0))).into_iter().map(|f| f.1).collect();
        assert_eq!(kinds, [FaultKind::Missing, FaultKind::NotPort, FaultKind::NotPort]);
    }

    #[test]
    fn a_veth_that_is_being_made_may_be_down() {
        let mut links = in_order();
        links[2].up = false;
        assert_eq!(faults(&links, TUNNEL, &BTreeSet::new()), []);
    }
}
