//! The wire between hosts: a bridge in a namespace of its own, and a veth pair for each host.

use std::{cell::Cell, net::Ipv4Addr};

use crate::{netns::Netns, packet::Addr};

/// The underlay device of every host.
pub const UNDERLAY_IFNAME: &str = "eth0";
/// MTU of the underlay unless a test wants another.
pub const MTU: u16 = 1500;

const BRIDGE: &str = "wire";

/// What the wire does to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// A veth as it is: segments of 64 KB cross whole, checksums stay unfinished.
    Offload,
    /// Every packet has the size of the MTU and a real checksum, as on a plain network card.
    Packet,
}

/// A namespace with a bridge that hosts are plugged into.
#[derive(Debug)]
pub struct Underlay {
    netns: Netns,
    wire: Wire,
    hosts: Cell<u8>,
}

/// A host's namespace, plugged into the underlay.
#[derive(Debug)]
pub struct Machine {
    /// Its namespace.
    pub netns: Netns,
    /// Its address on the underlay.
    pub addr: Addr,
    /// Its port on the bridge.
    pub port: String,
}

impl Underlay {
    /// An underlay without hosts.
    #[must_use]
    #[track_caller]
    pub fn new(wire: Wire) -> Self {
        let netns = Netns::new("underlay");
        netns.sysctl("net/bridge/bridge-nf-call-iptables", "0");
        netns.sysctl("net/bridge/bridge-nf-call-ip6tables", "0");
        netns.sysctl("net/bridge/bridge-nf-call-arptables", "0");
        netns.ip(&["link", "add", BRIDGE, "type", "bridge", "stp_state", "0", "mcast_snooping", "0"]);
        netns.ip(&["link", "set", BRIDGE, "mtu", "9000", "up"]);
        Self { netns, wire, hosts: Cell::new(0) }
    }

    /// The bridge's own namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Makes a device in the bridge's namespace one of its ports.
    #[track_caller]
    pub fn plug(&self, port: &str) {
        self.netns.ip(&["link", "set", port, "master", BRIDGE, "up"]);
    }

    /// A new host at 192.168.77.N, with the given MTU on its underlay device.
    #[track_caller]
    pub fn add_host(&self, label: &str, mtu: u16) -> Machine {
        let number = self.hosts.get() + 1;
        self.hosts.set(number);
        let netns = Netns::new(label);
        let (port, mtu) = (format!("port{number}"), mtu.to_string());
        let addr = Addr { mac: [0x02, 0, 0, 0, 0x77, number], ip: Ipv4Addr::new(192, 168, 77, number) };
        self.netns.ip(&[
            "link",
            "add",
            &port,
            "mtu",
            &mtu,
            "type",
            "veth",
            "peer",
            "name",
            UNDERLAY_IFNAME,
            "address",
            &addr.mac_text(),
            "mtu",
            &mtu,
            "netns",
            netns.name(),
        ]);
        self.plug(&port);
        netns.ip(&["addr", "add", &format!("{}/24", addr.ip), "dev", UNDERLAY_IFNAME]);
        netns.ip(&["link", "set", UNDERLAY_IFNAME, "up"]);
        if self.wire == Wire::Packet {
            packets_only(&self.netns, &port);
            packets_only(&netns, UNDERLAY_IFNAME);
        }
        Machine { netns, addr, port }
    }
}

/// Turns off whatever lets a packet larger than the MTU or with an unfinished checksum leave the device.
#[track_caller]
fn packets_only(netns: &Netns, ifname: &str) {
    netns.must(&["ethtool", "-K", ifname, "tx", "off", "gro", "on"]);
    let features = netns.must(&["ethtool", "-k", ifname]);
    for wanted in [
        "tx-checksumming: off",
        "tx-tcp-segmentation: off",
        "tx-udp-segmentation: off",
        "generic-receive-offload: on",
    ] {
        assert!(features.contains(wanted), "{ifname} does not say {wanted:?}:\n{features}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_on_both_wires_reach_each_other_and_nothing_else() {
        for wire in [Wire::Offload, Wire::Packet] {
            let underlay = Underlay::new(wire);
            let (a, b) = (underlay.add_host("a", MTU), underlay.add_host("b", MTU));
            a.netns.must(&["ping", "-c", "1", "-W", "2", "-M", "do", "-s", "1472", &b.addr.ip.to_string()]);
            assert!(!a.netns.run(&["ping", "-c", "1", "-W", "1", "192.0.2.1"]).is_success());
        }
    }
}
