//! What only this host knows: its devices, and the hardware addresses of the next hops to other hosts.
//!
//! **Headroom.** A container's kernel leaves little room before a UDP packet, so encapsulation would have to
//! copy each one. A bridge tells its ports to leave as much room as the neediest of them wants
//! (`netdev_set_rx_headroom`), and a veth passes that on to its other end. So the host veths are ports of a
//! bridge together with the tunnel device. The bridge stays down, and our programs take every packet before
//! it could.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use overlay_common::mac::Mac;

use super::underlay::{self, UnderlayError};
use crate::{
    config::Config,
    model::{Cluster, EndpointId, Name},
    netlink::{Link, NetEvent, Netlink, NetlinkError},
    paths,
    reconcile::{Local, desired::Underlay},
};

/// The host, as it was last looked at.
pub struct Host {
    node: Name,
    vxlan_port: u16,
    advertise: Option<Ipv4Addr>,
    netlink: Netlink,
    link: Link,
    underlay: Underlay,
    tunnel_ifindex: u32,
    links: Vec<Link>,
    next_hops: BTreeMap<Ipv4Addr, NextHop>,
}

/// The way to a VTEP: the neighbour that its packets go to, and that neighbour's address if it is known.
#[derive(Clone, Copy, Debug)]
struct NextHop {
    neighbour: Ipv4Addr,
    mac: Option<Mac>,
}

impl Host {
    /// A host that has not been looked at yet.
    #[must_use]
    pub fn new(
        config: &Config,
        netlink: Netlink,
        (link, underlay): (Link, Underlay),
        tunnel_ifindex: u32,
    ) -> Self {
        Self {
            node: config.node.clone(),
            vxlan_port: config.vxlan_port,
            advertise: config.advertise,
            netlink,
            link,
            underlay,
            tunnel_ifindex,
            links: Vec::new(),
            next_hops: BTreeMap::new(),
        }
    }

    /// This node's name.
    #[must_use]
    pub fn node(&self) -> &Name {
        &self.node
    }

    /// The underlay device.
    #[must_use]
    pub fn underlay(&self) -> (&Link, &Underlay) {
        (&self.link, &self.underlay)
    }

    /// The kernel's devices.
    #[must_use]
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Looks at the devices: the tunnel device (made anew if somebody removed it) and the host veths.
    ///
    /// # Errors
    /// If the kernel does not say, or the tunnel device cannot be made.
    pub async fn look(&mut self) -> Result<(), NetlinkError> {
        self.links = self.netlink.links().await?;
        if !self.links.iter().any(|l| l.ifindex == self.tunnel_ifindex) {
            self.tunnel_ifindex = self.netlink.create_tunnel(paths::TUNNEL_IFNAME, self.vxlan_port).await?;
        }
        if let Err(e) = self.give_headroom().await {
            // It costs speed alone, and a device may vanish at any moment.
            tracing::debug!(reason = %e, "containers send without headroom");
        }
        Ok(())
    }

    /// Looks at the underlay as it is now. If it cannot be used just now, what was known of it stays: what
    /// does not need it, as policy on this host, must not wait for it.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub async fn look_at_underlay(&mut self) -> Result<(), UnderlayError> {
        let name = &self.link.name;
        let link = self.links.iter().find(|l| l.name == *name);
        let link = link.cloned().ok_or_else(|| UnderlayError::NoDevice(name.clone()))?;
        self.underlay = underlay::describe(&self.netlink, &link, self.advertise).await?;
        self.link = link;
        Ok(())
    }

    /// Brings the tunnel device up, once its program is attached.
    ///
    /// # Errors
    /// If its port is another's, or the kernel refuses.
    pub async fn start_tunnel(&self) -> Result<(), NetlinkError> {
        let is_up = self.links.iter().any(|l| l.ifindex == self.tunnel_ifindex && l.up);
        if is_up { Ok(()) } else { self.netlink.start_tunnel(self.tunnel_ifindex, self.vxlan_port).await }
    }

    /// Makes tunnel device and host veths ports of the headroom bridge, the device that needs it first.
    async fn give_headroom(&self) -> Result<(), NetlinkError> {
        let bridge = self.links.iter().find(|l| l.name == paths::HEADROOM_IFNAME);
        let bridge = match bridge {
            Some(link) => link.ifindex,
            None => self.netlink.create_bridge(paths::HEADROOM_IFNAME).await?,
        };
        let tunnel = self.links.iter().filter(|l| l.ifindex == self.tunnel_ifindex);
        let veths = self.links.iter().filter(|l| paths::is_host_veth(&l.name));
        for port in tunnel.chain(veths).filter(|l| l.controller != Some(bridge)) {
            self.netlink.set_controller(port.ifindex, bridge).await?;
        }
        Ok(())
    }

    /// Host veths that are there, by endpoint, for the endpoints of this node.
    #[must_use]
    pub fn host_veths(&self, cluster: &Cluster) -> BTreeMap<EndpointId, u32> {
        let by_name: BTreeMap<&str, u32> = self.links.iter().map(|l| (l.name.as_str(), l.ifindex)).collect();
        let local = cluster.endpoints.values().filter(|e| e.record.node == self.node);
        local
            .filter_map(|e| {
                Some((e.record.id.clone(), *by_name.get(paths::host_veth(&e.record.id).as_str())?))
            })
            .collect()
    }

    /// All devices that are host veths of ours, with a record or without.
    pub fn veths(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(|l| paths::is_host_veth(&l.name))
    }

    /// Finds the next hops of VTEPs that are new, asks the kernel to keep them resolved, and forgets those
    /// that are gone.
    pub async fn resolve(&mut self, cluster: &Cluster) {
        let others = cluster.nodes.values().map(|n| &n.record).filter(|n| n.name != self.node);
        let vteps: BTreeSet<Ipv4Addr> = others.map(|n| n.vtep).collect();
        self.next_hops.retain(|vtep, _| vteps.contains(vtep));
        for vtep in vteps {
            if self.next_hops.contains_key(&vtep) {
                continue;
            }
            match self.next_hop(vtep).await {
                Ok(next_hop) => drop(self.next_hops.insert(vtep, next_hop)),
                // Packets then go by the kernel's own look-up; the next pass tries again.
                Err(e) => tracing::debug!(%vtep, reason = %e, "no next hop"),
            }
        }
    }

    /// Takes over what the kernel reported. Returns whether it concerns us.
    pub async fn note(&mut self, event: &NetEvent) -> bool {
        match event {
            NetEvent::NeighbourChanged { oif, address } => {
                *oif == self.underlay.ifindex && self.refresh_neighbour(*address).await
            }
            NetEvent::LinkChanged { ifindex, name } | NetEvent::LinkGone { ifindex, name } => {
                let is_underlay = *ifindex == self.underlay.ifindex || *name == self.link.name;
                if is_underlay {
                    // A device that goes down loses its neighbours, those that the kernel keeps for us too.
                    self.next_hops.clear();
                }
                is_underlay || *ifindex == self.tunnel_ifindex || paths::is_host_veth(name)
            }
            NetEvent::AddressChanged { ifindex } => *ifindex == self.underlay.ifindex,
            NetEvent::Overrun => {
                self.next_hops.clear();
                true
            }
        }
    }

    /// Forgets the next hops, so that the next pass asks for routes and neighbours anew.
    pub fn forget_next_hops(&mut self) {
        self.next_hops.clear();
    }

    /// What a pass needs of it.
    #[must_use]
    pub fn local(&self, cluster: &Cluster, xdp_decap: bool, vtep_indices: BTreeMap<Ipv4Addr, u32>) -> Local {
        let known = |(vtep, hop): (&Ipv4Addr, &NextHop)| Some((*vtep, hop.mac?));
        Local {
            node: self.node.clone(),
            underlay: self.underlay.clone(),
            tunnel_ifindex: self.tunnel_ifindex,
            vxlan_port: self.vxlan_port,
            xdp_decap,
            host_veths: self.host_veths(cluster),
            next_hops: self.next_hops.iter().filter_map(known).collect(),
            vtep_indices,
        }
    }

    async fn next_hop(&self, vtep: Ipv4Addr) -> Result<NextHop, NetlinkError> {
        let route = self.netlink.next_hop(vtep).await?;
        let neighbour = route.neighbour(vtep);
        if route.oif != self.underlay.ifindex {
            // Another device leads there: only the kernel's own look-up gets it right.
            return Ok(NextHop { neighbour, mac: None });
        }
        self.netlink.manage_neighbour(route.oif, neighbour).await?;
        let mac = self.netlink.neighbour(route.oif, neighbour).await?;
        Ok(NextHop { neighbour, mac })
    }

    async fn refresh_neighbour(&mut self, addr: Ipv4Addr) -> bool {
        if !self.next_hops.values().any(|hop| hop.neighbour == addr) {
            return false;
        }
        let mac = self.netlink.neighbour(self.underlay.ifindex, addr).await.ok().flatten();
        let mut changed = false;
        for hop in self.next_hops.values_mut().filter(|hop| hop.neighbour == addr) {
            changed |= hop.mac != mac;
            hop.mac = mac;
        }
        changed
    }
}
