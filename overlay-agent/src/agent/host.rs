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

use super::{
    devices::{self, Fault, FaultKind},
    path_mtu,
    underlay::{self, UnderlayError},
};
use crate::{
    config::Config,
    model::{Cluster, EndpointId, Name},
    netlink::{self, Link, NetEvent, Netlink, NetlinkError},
    paths,
    reconcile::{
        Kept, Local,
        desired::{GatewayDevice, Underlay, other_vteps},
    },
};

/// The host, as it was last looked at.
#[derive(Clone)]
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
    /// Nodes that count as down.
    down: BTreeSet<Name>,
    gateway: Option<GatewayDevice>,
    /// Our devices that had no fault when they were last looked at: what is wrong with them now is drift.
    in_order: BTreeSet<String>,
    /// Neighbours that the kernel was to keep and has no more.
    lost_neighbours: BTreeSet<Ipv4Addr>,
    /// From where we learn that a path is narrower than its link.
    messages: path_mtu::Messages,
}

/// The way to a VTEP: the neighbour that its packets go to, and that neighbour's address if it is known.
#[derive(Clone, Copy, Debug)]
struct NextHop {
    neighbour: Ipv4Addr,
    mac: Option<Mac>,
    /// Largest IP packet on the way, in bytes, where a route or a path discovery says so.
    mtu: Option<u16>,
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
            down: BTreeSet::new(),
            gateway: None,
            in_order: BTreeSet::new(),
            lost_neighbours: BTreeSet::new(),
            messages: path_mtu::Messages::default(),
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

    /// Takes over which nodes count as down.
    pub fn set_down(&mut self, down: BTreeSet<Name>) {
        self.down = down;
    }

    /// The kernel's devices.
    #[must_use]
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Looks at our devices and repairs what can be repaired before the programs are attached. `in_force` are
    /// the host veths that must be up. Returns the faults, all of them.
    ///
    /// # Errors
    /// If the kernel does not say, or the tunnel device cannot be made.
    pub async fn look(&mut self, in_force: &BTreeSet<String>) -> Result<Vec<Fault>, NetlinkError> {
        self.links = self.netlink.links().await?;
        let faults = self.faults(in_force);
        if !self.links.iter().any(|l| l.ifindex == self.tunnel_ifindex) {
            self.tunnel_ifindex = self.netlink.create_tunnel(paths::TUNNEL_IFNAME, self.vxlan_port).await?;
        }
        for fault in &faults {
            if let Err(e) = self.repair(fault).await {
                // It costs speed alone, and a device may vanish at any moment.
                tracing::debug!(device = fault.device, reason = %e, "not repaired");
            }
        }
        Ok(faults)
    }

    /// What is wrong with our devices, as they were last looked at.
    #[must_use]
    pub fn faults(&self, in_force: &BTreeSet<String>) -> Vec<Fault> {
        devices::faults(&self.links, self.tunnel_ifindex, in_force)
    }

    /// Those of the faults that are drift: the device had been in order before.
    pub fn drift(&mut self, faults: &[Fault]) -> Vec<Fault> {
        let faulty: BTreeSet<&str> = faults.iter().map(|fault| fault.device.as_str()).collect();
        let drift = faults.iter().filter(|fault| self.in_order.contains(&fault.device)).cloned().collect();
        let ours = devices::ours(&self.links, self.tunnel_ifindex);
        self.in_order = ours.filter(|name| !faulty.contains(name)).map(str::to_owned).collect();
        drift
    }

    /// The neighbours that the kernel was to keep and has no more.
    pub fn lost_neighbours(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.lost_neighbours.iter().copied()
    }

    /// Forgets them: they are found again by the next pass.
    pub fn forget_lost_neighbours(&mut self) {
        self.lost_neighbours.clear();
    }

    /// The host as it is now: a copy, looked at without changing anything, and whether its underlay can be used.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub async fn seen(&self, cluster: &Cluster) -> Result<(Self, Result<(), UnderlayError>), NetlinkError> {
        let mut seen = self.clone();
        seen.links = seen.netlink.links().await?;
        let underlay = seen.look_at_underlay().await;
        seen.next_hops.clear();
        seen.lost_neighbours.clear();
        for vtep in seen.other_vteps(cluster) {
            let Ok(route) = seen.netlink.next_hop(vtep).await else { continue };
            let neighbour = route.neighbour(vtep);
            let mut mac = None;
            if route.oif == seen.underlay.ifindex {
                let state = seen.netlink.neighbour_state(route.oif, neighbour).await?;
                mac = state.mac;
                seen.lost_neighbours.extend((!state.kept).then_some(neighbour));
            }
            seen.next_hops.insert(vtep, NextHop { neighbour, mac, mtu: path_mtu_of(&route) });
        }
        Ok((seen, underlay))
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

    /// The gateway device, if there is one.
    #[must_use]
    pub fn gateway(&self) -> Option<&GatewayDevice> {
        self.gateway.as_ref()
    }

    /// The gateway device, as it was last looked at.
    pub fn set_gateway(&mut self, gateway: Option<GatewayDevice>) {
        self.gateway = gateway;
    }

    /// Brings the tunnel device, and host veths that are down and should not be, up: once programs are attached.
    ///
    /// # Errors
    /// If the tunnel's port is another's, or the kernel refuses.
    pub async fn start(&self, faults: &[Fault]) -> Result<(), NetlinkError> {
        let is_down = |fault: &&Fault| fault.kind == FaultKind::Down && paths::is_host_veth(&fault.device);
        for veth in faults.iter().filter(is_down) {
            match self.netlink.set_up(veth.ifindex).await {
                Err(e) if !e.is_gone() => return Err(e),
                _ => {}
            }
        }
        let is_up = self.links.iter().any(|l| l.ifindex == self.tunnel_ifindex && l.up);
        if is_up { Ok(()) } else { self.netlink.start_tunnel(self.tunnel_ifindex, self.vxlan_port).await }
    }

    /// Repairs what does not wait for programs. Tunnel device and host veths become ports of the headroom bridge
    /// in the order of the faults: the device that needs most room first.
    async fn repair(&self, fault: &Fault) -> Result<(), NetlinkError> {
        match fault.kind {
            FaultKind::Missing if fault.device == paths::HEADROOM_IFNAME => {
                self.netlink.create_bridge(&fault.device).await.map(drop)
            }
            FaultKind::NotPort => {
                let bridge = self.netlink.create_bridge(paths::HEADROOM_IFNAME).await?;
                self.netlink.set_controller(fault.ifindex, bridge).await
            }
            FaultKind::Mtu { wanted, .. } => self.netlink.set_mtu(fault.ifindex, wanted).await,
            FaultKind::Up => self.netlink.set_down(fault.ifindex).await,
            FaultKind::Missing | FaultKind::Down => Ok(()),
        }
    }

    /// Host veths that are there, by endpoint, for the endpoints of this node.
    #[must_use]
    pub fn host_veths(&self, cluster: &Cluster) -> BTreeMap<EndpointId, u32> {
        let endpoint = |veth: &Link| {
            let mut endpoints = cluster.endpoints_from(paths::endpoint_digits(&veth.name)?);
            Some((endpoints.find(|e| e.node == self.node)?.id.clone(), veth.ifindex))
        };
        self.veths().filter_map(endpoint).collect()
    }

    /// All devices that are host veths of ours, with a record or without.
    pub fn veths(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(|l| paths::is_host_veth(&l.name))
    }

    /// Names of the containers' ends that wait here for somebody to move them.
    pub fn waiting_ends(&self) -> impl Iterator<Item = &str> {
        self.links.iter().map(|link| link.name.as_str()).filter(|name| paths::waiting_digits(name).is_some())
    }

    /// Finds the next hops of VTEPs that are new, asks the kernel to keep them resolved, and forgets those
    /// that are gone, or down.
    pub async fn resolve(&mut self, cluster: &Cluster) {
        let vteps = self.other_vteps(cluster);
        self.forget_others(&vteps).await;
        self.follow_paths().await;
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

    /// Asks for the MTUs of the ways to VTEPs again, if one may have changed: if the kernel may have learned something, or may
    /// forget what it has learned.
    async fn follow_paths(&mut self) {
        let is_narrow = self.next_hops.values().any(|hop| hop.mtu.is_some());
        if !self.messages.look() && !is_narrow {
            return;
        }
        for (vtep, hop) in &mut self.next_hops {
            let Ok(route) = self.netlink.next_hop(*vtep).await else { continue };
            let mtu = path_mtu_of(&route);
            if mtu != hop.mtu {
                tracing::info!(%vtep, from = hop.mtu, to = mtu, "MTU of the path to a VTEP");
                hop.mtu = mtu;
            }
        }
    }

    /// Forgets the next hops of all VTEPs but these; the kernel need not ask for neighbours that led there.
    async fn forget_others(&mut self, vteps: &BTreeSet<Ipv4Addr>) {
        let gone: Vec<NextHop> =
            self.next_hops.extract_if(.., |vtep, _| !vteps.contains(vtep)).map(|(_, hop)| hop).collect();
        for NextHop { neighbour, .. } in gone {
            if self.next_hops.values().any(|hop| hop.neighbour == neighbour) {
                continue;
            }
            if let Err(e) = self.netlink.forget_neighbour(self.underlay.ifindex, neighbour).await {
                tracing::debug!(%neighbour, reason = %e, "not forgotten");
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
                    self.lost_neighbours.clear();
                }
                let fixed = [paths::HEADROOM_IFNAME, paths::GATEWAY_IFNAME, paths::GATEWAY_INNER_IFNAME];
                let is_ours = fixed.contains(&name.as_str()) || paths::is_host_veth(name);
                is_underlay || is_ours || *ifindex == self.tunnel_ifindex
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
    pub fn local(&self, cluster: &Cluster, xdp_decap: bool, kept: Kept) -> Local {
        let known = |(vtep, hop): (&Ipv4Addr, &NextHop)| Some((*vtep, hop.mac?));
        Local {
            node: self.node.clone(),
            down: self.down.clone(),
            underlay: self.underlay.clone(),
            tunnel_ifindex: self.tunnel_ifindex,
            vxlan_port: self.vxlan_port,
            xdp_decap,
            host_veths: self.host_veths(cluster),
            next_hops: self.next_hops.iter().filter_map(known).collect(),
            path_mtus: self.next_hops.iter().filter_map(|(vtep, hop)| Some((*vtep, hop.mtu?))).collect(),
            gateway: self.gateway.clone(),
            kept,
        }
    }

    fn other_vteps(&self, cluster: &Cluster) -> BTreeSet<Ipv4Addr> {
        other_vteps(cluster, &self.node, &self.down)
    }

    async fn next_hop(&self, vtep: Ipv4Addr) -> Result<NextHop, NetlinkError> {
        let route = self.netlink.next_hop(vtep).await?;
        let (neighbour, mtu) = (route.neighbour(vtep), path_mtu_of(&route));
        if route.oif != self.underlay.ifindex {
            // Another device leads there: only the kernel's own look-up gets it right.
            return Ok(NextHop { neighbour, mac: None, mtu });
        }
        self.netlink.manage_neighbour(route.oif, neighbour).await?;
        let mac = self.netlink.neighbour(route.oif, neighbour).await?;
        Ok(NextHop { neighbour, mac, mtu })
    }

    async fn refresh_neighbour(&mut self, addr: Ipv4Addr) -> bool {
        if !self.next_hops.values().any(|hop| hop.neighbour == addr) {
            return false;
        }
        let state = self.netlink.neighbour_state(self.underlay.ifindex, addr).await.unwrap_or_default();
        if !state.kept {
            // Somebody removed it: the pass that follows asks for it again.
            self.next_hops.retain(|_, hop| hop.neighbour != addr);
            self.lost_neighbours.insert(addr);
            return true;
        }
        let mac = state.mac;
        let mut changed = false;
        for hop in self.next_hops.values_mut().filter(|hop| hop.neighbour == addr) {
            changed |= hop.mac != mac;
            hop.mac = mac;
        }
        changed
    }
}

fn path_mtu_of(route: &netlink::NextHop) -> Option<u16> {
    route.mtu.map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX))
}
