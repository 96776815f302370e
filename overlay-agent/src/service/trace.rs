//! `overlay trace`: what would become of a packet, and what stops it.
//!
//! On the sender's host the packet goes the container's way: ARP, then `from_endpoint`, then the wire. On the receiver's
//! host it comes as the sender's host would send it, to `from_underlay`. Where both are on one host, the first way is all.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use overlay_common::mac::Mac;

use super::{Context, Result, ServiceError, endpoints::is_local, nodes, views};
use crate::{
    agent::{lock, underlay},
    api::types::{DropView, NodeState},
    datapath::trial::{Outcome, Trial},
    model::{Cluster, Endpoint, Name, Network, RuleProtocol},
    trace::{
        Cause, End, Step, TraceRequest, TraceView,
        packet::{self, Made, Traffic},
    },
};

/// Hardware address of the machine that a packet came from last; nobody looks at it.
const ANY_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// Asks this host: the sender's, or the receiver's.
pub async fn trace(context: &Context, request: &TraceRequest) -> Result<TraceView> {
    let cluster = context.cluster();
    let from = sender(&cluster, request)?;
    let to = receiver(&cluster, request)?;
    let here = |endpoint: &Endpoint| is_local(context, endpoint);
    let receiver_here = to.endpoint.as_ref().filter(|to| here(to)).cloned();
    if !here(&from) && receiver_here.is_none() {
        return Err(elsewhere(&from, &to));
    }
    let traffic = Traffic {
        protocol: request.proto.unwrap_or(RuleProtocol::Icmp),
        port: request.port.unwrap_or_default(),
        size: request.size,
    };
    let load = lock(&context.datapath).trial();
    let loaded = tokio::task::spawn_blocking(load).await;
    let trial = loaded.map_err(|e| ServiceError::Internal(format!("ask the programs: {e}")))??;
    let mut walk = Walk { context, cluster: &cluster, trial, traffic, steps: Vec::new(), next: None };
    let ended = match receiver_here {
        Some(to) if !here(&from) => walk.ingress(&from, &to).await?,
        _ => walk.egress(&from, &to).await?,
    };
    let (end, cause) = match ended {
        Ok(end) => (end, None),
        Err(cause) => (End::Stopped, Some(cause)),
    };
    let Walk { steps, next, .. } = walk;
    let dropped = dropped(context, &from)?;
    Ok(TraceView { host: context.config.node.clone(), to: to.addr, steps, end, next, cause, dropped })
}

/// Where the packet is to go.
struct Receiver {
    addr: Ipv4Addr,
    endpoint: Option<Endpoint>,
}

fn sender(cluster: &Cluster, TraceRequest { network, from, .. }: &TraceRequest) -> Result<Endpoint> {
    let mut all = cluster.endpoints.values().map(|endpoint| &endpoint.record);
    let found = all.find(|e| e.network == *network && e.name == *from).cloned();
    found.ok_or_else(|| {
        ServiceError::NotFound(format!("there is no endpoint {from} in {network}: see `overlay endpoint ls`"))
    })
}

/// An address, or the name of an endpoint: of the sender's network first, else of the only one that has it.
fn receiver(cluster: &Cluster, TraceRequest { network, to, .. }: &TraceRequest) -> Result<Receiver> {
    if to.parse::<Ipv6Addr>().is_ok() {
        return Err(ServiceError::Invalid(format!(
            "{to}: packets are traced with IPv4: name the endpoint instead"
        )));
    }
    let addr: Option<Ipv4Addr> = to.parse().ok();
    let is_meant = |e: &&Endpoint| addr.map_or_else(|| e.name.as_str() == to, |addr| e.ipv4 == addr);
    let all = cluster.endpoints.values().map(|endpoint| &endpoint.record);
    let meant: Vec<&Endpoint> = all.filter(is_meant).collect();
    let own = meant.iter().find(|endpoint| endpoint.network == *network);
    let only = meant.first().filter(|_| meant.len() == 1);
    if let Some(&found) = own.or(only) {
        return Ok(Receiver { addr: found.ipv4, endpoint: Some(found.clone()) });
    }
    match addr {
        Some(addr) => Ok(Receiver { addr, endpoint: None }),
        None if meant.is_empty() => Err(ServiceError::NotFound(format!(
            "there is no endpoint {to}: name one, or an address; see `overlay endpoint ls`"
        ))),
        None => Err(ServiceError::Conflict(format!(
            "several networks have an endpoint {to}: give its address instead"
        ))),
    }
}

fn elsewhere(from: &Endpoint, to: &Receiver) -> ServiceError {
    let to = to.endpoint.as_ref().map(|to| format!(", or on {}, where {} is", to.node, to.name));
    ServiceError::Conflict(format!(
        "neither end is on this host: ask on {}, where {} is{}",
        from.node,
        from.name,
        to.unwrap_or_default()
    ))
}

/// What was dropped of what the sender sent, on this host.
fn dropped(context: &Context, from: &Endpoint) -> Result<Vec<DropView>> {
    let Some(ifindex) = context.reconciler.report().host_veths.get(&from.id).copied() else {
        return Ok(Vec::new());
    };
    let drops = lock(&context.datapath).maps().drops()?;
    Ok(views::drops_by_veth(context, &drops).remove(&ifindex).unwrap_or_default())
}

/// A packet on its way. What stops it is the inner error of each part.
struct Walk<'a> {
    context: &'a Context,
    cluster: &'a Cluster,
    trial: Trial,
    traffic: Traffic,
    steps: Vec<Step>,
    next: Option<Name>,
}

type Part<T> = Result<std::result::Result<T, Cause>>;

/// The value of a part of the way, unless that is where the packet stops.
macro_rules! pass {
    ($part:expr) => {
        match $part? {
            Ok(value) => value,
            Err(cause) => return Ok(Err(cause)),
        }
    };
}

impl Walk<'_> {
    /// The way out of the sender.
    async fn egress(&mut self, from: &Endpoint, to: &Receiver) -> Part<End> {
        let ifindex = pass!(self.device("sender", from).await);
        pass!(self.check_node(to));
        let network = self.network(&from.network)?;
        let asked = if network.subnet.contains(&to.addr) { to.addr } else { network.gateway };
        let mac = pass!(self.resolve(ifindex, from, asked));
        let frame = packet::ipv4(end(from), packet::End { mac, ip: to.addr }, self.traffic);
        let made = match self.trial.from_endpoint(ifindex, &frame)? {
            Outcome::Dropped(reason) => return Ok(Err(Cause::dropped(reason))),
            Outcome::Passed => return Ok(Err(Cause::not_ours("from_endpoint"))),
            Outcome::Redirected(frame) => packet::read(&frame),
        };
        match made {
            Some(Made::Tunnelled { vni, vtep, has_next_hop }) => self.underlay(vni, vtep, has_next_hop).await,
            Some(Made::Plain(by)) if by.ip == to.addr => {
                self.step("from_endpoint", "the gateway answers by itself");
                Ok(Ok(End::Answered))
            }
            _ => match to.endpoint.as_ref().filter(|to| is_local(self.context, to)) {
                Some(receiver) => {
                    self.step("from_endpoint", "handed to the receiver, on this host");
                    pass!(self.device("receiver", receiver).await);
                    Ok(Ok(End::Delivered))
                }
                None => {
                    self.step("from_endpoint", "no overlay network has it: handed to this host's own stack");
                    Ok(Ok(End::ToHost))
                }
            },
        }
    }

    /// The way in to the receiver, of what the sender's host sent.
    async fn ingress(&mut self, from: &Endpoint, to: &Endpoint) -> Part<End> {
        let network = self.network(&to.network)?;
        let sender_mac = if from.network == to.network { from.mac } else { network.gateway_mac() };
        let inner = packet::ipv4(packet::End { mac: sender_mac, ip: from.ipv4 }, end(to), self.traffic);
        let (link, own) = self.find_underlay().await?;
        let vtep = self.vtep_of(from)?;
        self.step("underlay", format!("from VTEP {vtep}, as VNI {}", network.vni));
        let sender = packet::End { mac: ANY_MAC, ip: vtep };
        let here = packet::End { mac: own.mac, ip: own.addr };
        let frame = packet::vxlan(sender, here, self.context.config.vxlan_port, network.vni.get(), &inner);
        match self.trial.from_underlay(link.ifindex, &frame)? {
            Outcome::Dropped(reason) => return Ok(Err(Cause::dropped(reason))),
            Outcome::Passed => return Ok(Err(Cause::not_ours("from_underlay"))),
            Outcome::Redirected(_) => self.step("from_underlay", "handed to the receiver"),
        }
        pass!(self.device("receiver", to).await);
        Ok(Ok(End::Delivered))
    }

    /// An endpoint's device on this host, if a packet can go in and out by it.
    async fn device(&mut self, place: &str, endpoint: &Endpoint) -> Part<u32> {
        let name = format!("{} of {}", endpoint.name, endpoint.network);
        let Some(ifindex) = self.context.reconciler.report().host_veths.get(&endpoint.id).copied() else {
            return Ok(Err(Cause::device_gone(&name)));
        };
        let link = self.context.netlink.link_by_index(ifindex).await?;
        let Some(link) = link else { return Ok(Err(Cause::device_gone(&name))) };
        self.step(place, format!("{name}, {}, behind {}", endpoint.ipv4, link.name));
        // The host's end of a pair has no carrier while the other end is down.
        if !link.has_carrier {
            return Ok(Err(Cause::device_down(&name, &endpoint.ifname)));
        }
        Ok(Ok(ifindex))
    }

    /// Whether the receiver's host is there.
    fn check_node(&mut self, to: &Receiver) -> Part<()> {
        let Some(to) = &to.endpoint else { return Ok(Ok(())) };
        let Some(node) = self.cluster.nodes.get(&to.node) else { return Ok(Ok(())) };
        let state = nodes::state(self.cluster, &node.record, &self.context.absences.borrow());
        match state {
            NodeState::Down | NodeState::Gone => return Ok(Err(Cause::node_down(&to.node))),
            NodeState::Silent => {
                self.step("receiver", format!("on {}, which gives no sign of life", to.node));
            }
            NodeState::Up | NodeState::Stopped => {
                self.step("receiver", format!("{}, on {}", to.ipv4, to.node));
            }
        }
        Ok(Ok(()))
    }

    /// What the container learns when it asks who has an address.
    fn resolve(&mut self, ifindex: u32, from: &Endpoint, asked: Ipv4Addr) -> Part<Mac> {
        match self.trial.from_endpoint(ifindex, &packet::arp_request(end(from), asked))? {
            Outcome::Dropped(reason) => Ok(Err(Cause::dropped(reason))),
            Outcome::Redirected(frame) => match packet::read(&frame) {
                Some(Made::Answer(mac)) => {
                    self.step("arp", format!("{asked} is at {mac}"));
                    Ok(Ok(mac))
                }
                _ => Ok(Err(Cause::not_ours("from_endpoint"))),
            },
            Outcome::Passed => Ok(Err(Cause::not_ours("from_endpoint"))),
        }
    }

    /// The way to another host.
    async fn underlay(&mut self, vni: u32, vtep: Ipv4Addr, has_next_hop: bool) -> Part<End> {
        self.step("from_endpoint", format!("encapsulated for VTEP {vtep}, as VNI {vni}"));
        let (link, _) = self.find_underlay().await?;
        if !link.has_carrier {
            return Ok(Err(Cause::underlay_down(&link.name)));
        }
        if !has_next_hop {
            return Ok(Err(Cause::next_hop_unknown(&vtep, &link.name)));
        }
        self.step("underlay", format!("{} is up and knows the next hop", link.name));
        let mut nodes = self.cluster.nodes.values();
        self.next = nodes.find(|node| node.record.vtep == vtep).map(|node| node.record.name.clone());
        Ok(Ok(End::Sent))
    }

    async fn find_underlay(&self) -> Result<(crate::netlink::Link, crate::reconcile::desired::Underlay)> {
        let found = underlay::find(&self.context.netlink, &self.context.config).await;
        found.map_err(|e| ServiceError::Unavailable(e.to_string()))
    }

    fn network(&self, name: &Name) -> Result<Network> {
        Ok(self.context.network(name)?.record)
    }

    fn vtep_of(&self, endpoint: &Endpoint) -> Result<Ipv4Addr> {
        let of_node = || self.cluster.nodes.get(&endpoint.node).map(|node| node.record.vtep);
        endpoint.vtep.or_else(of_node).ok_or_else(|| {
            ServiceError::NotFound(format!("there is no node {}: see `overlay node ls`", endpoint.node))
        })
    }

    fn step(&mut self, place: &str, found: impl fmt::Display) {
        self.steps.push(Step { place: place.to_owned(), found: found.to_string() });
    }
}

fn end(endpoint: &Endpoint) -> packet::End {
    packet::End { mac: endpoint.mac, ip: endpoint.ipv4 }
}
