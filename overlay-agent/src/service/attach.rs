//! Attaching a container: validate, claim, plumb, and take back what was done if a step fails.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{Ipv4Net, Ipv6Net};
use overlay_common::mac::Mac;

use super::{
    Context, Result, ServiceError,
    claim::{claim, release},
    default_route,
    endpoints::{inspect, is_in, is_local, owned, with_prefix, with_prefix_ipv6},
    nodes::open_node,
    progress::Attachment,
    publish,
};
use crate::{
    api::types::{AttachRequest, AttachResult, CniDns, CniInterface, CniIp, CniRoute, NetnsRef},
    dns::resolv_conf,
    model::{Endpoint, EndpointId, Limits, Name, Network, Owner, Publication, cluster::Versioned},
    netlink::{
        self, ContainerConfig, ContainerIpv6, ContainerLink, ContainerRoute, Link, NetlinkError, Replaces,
        sysctl,
    },
    netns::{self, NetnsHandle},
    paths,
    store::Revision,
};

/// Whether a device takes packets that are not for this host.
const FORWARDING: &str = "forwarding";

/// Version of the CNI result format that an attach answers with.
const CNI_VERSION: &str = "1.1.0";

/// Attaches a container: claims name and address, makes the veth pair, waits until the maps know it, and
/// only then lets the container send.
pub async fn attach(context: &Context, network: &Name, request: AttachRequest) -> Result<AttachResult> {
    check_mac(request.mac)?;
    open_node(&context.cluster(), &context.config.node)?;
    let ns = netns::resolve(&request.netns)?;
    let network = context.network(network)?;
    let id = EndpointId::random();
    let attachment = Attachment {
        network: network.record.name.clone(),
        netns: ns.identity(),
        owner: request.owner.clone(),
        ifname: request.ifname.clone(),
    };
    let progress = context.in_progress.begin_attach(&id, attachment);
    let _progress = progress.ok_or_else(|| already_attached(&ns, &network.record.name, "another one"))?;
    check_not_attached(context, &network.record, &ns)?;
    check_not_owned(context, &request)?;
    let is_host = request.netns == NetnsRef::Host;
    if is_host {
        check_host_routes(context, &network.record).await?;
    }
    let own_ifname = is_host.then(|| paths::host_port(network.record.vni));
    let own_name = is_host.then(|| context.config.node.clone());
    let plan = Plan {
        id,
        ifname: choose_ifname(&ns, request.ifname.as_deref().or(own_ifname.as_deref())).await?,
        name: request.name.or(own_name),
        name_may_be_taken: request.name_may_be_taken,
        aliases: request.aliases,
        labels: request.labels,
        netns: request.netns,
        ip: request.ip,
        ipv6: request.ipv6,
        reserved_on: None,
        mac: request.mac,
        published: request.publish.clone(),
        owner: request.owner,
        limits: request.limits,
    };
    // Nobody else may be given a port between the look at it and the record that holds it.
    let publishing = context.publishing.lock().await;
    publish::check(context, &network.record, &request.publish)?;
    let (endpoint, revision) =
        claim(context, &network.record.name, &plan, &ns.path().display().to_string()).await?;
    drop(publishing);
    if context.rehearses() {
        return result(context, &endpoint, &network.record, Plumbing::rehearsed(&endpoint, &network.record));
    }
    let replaces = default_route::replaces(context, &ns, &network.record, request.default_route);
    match plumb(context, &ns, &endpoint, &network.record, revision, replaces).await {
        Ok(plumbing) => {
            tracing::info!(endpoint = %endpoint.name, network = %endpoint.network, ip = %endpoint.ipv4, "attached");
            result(context, &endpoint, &network.record, plumbing)
        }
        Err(e) => {
            take_back(context, &endpoint, revision).await;
            default_route::hand_on(context, ns.path()).await;
            Err(e)
        }
    }
}

/// What is to be made.
pub(super) struct Plan {
    pub(super) id: EndpointId,
    pub(super) ifname: String,
    pub(super) name: Option<Name>,
    pub(super) name_may_be_taken: bool,
    pub(super) aliases: Vec<Name>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) netns: NetnsRef,
    pub(super) ip: Option<Ipv4Addr>,
    pub(super) ipv6: Option<Ipv6Addr>,
    /// The node on which its addresses were reserved for this endpoint, if they were.
    pub(super) reserved_on: Option<Name>,
    pub(super) mac: Option<Mac>,
    pub(super) published: Vec<Publication>,
    pub(super) owner: Option<Owner>,
    pub(super) limits: Limits,
}

impl Plan {
    /// The name asked for, else that of the namespace, else one made from the id.
    pub(super) fn endpoint_name(&self) -> Name {
        let of_netns = || match &self.netns {
            NetnsRef::Name(name) => name.parse().ok(),
            NetnsRef::Path(path) => path.strip_prefix(paths::NETNS_DIR).ok()?.to_str()?.parse().ok(),
            NetnsRef::Pid(_) | NetnsRef::Host => None,
        };
        self.name.clone().or_else(of_netns).unwrap_or_else(|| self.name_of_id())
    }

    /// A name that nobody else has.
    pub(super) fn name_of_id(&self) -> Name {
        format!("ep-{}", &self.id.as_str()[..8]).parse().expect("hexadecimal digits make a name")
    }
}

pub(super) fn check_mac(mac: Option<Mac>) -> Result<()> {
    match mac {
        Some(mac) if mac.is_group() || mac.is_zero() => Err(ServiceError::Invalid(format!(
            "{mac} cannot be a container's MAC address: it must be a unicast address such as 02:42:0a:00:00:02"
        ))),
        _ => Ok(()),
    }
}

fn check_not_attached(context: &Context, network: &Network, ns: &NetnsHandle) -> Result<()> {
    let cluster = context.cluster();
    match cluster.endpoints_of(&network.name).find(|e| is_local(context, e) && is_in(e, ns)) {
        None => Ok(()),
        Some(there) => Err(already_attached(ns, &network.name, there.name.as_str())),
    }
}

/// What a front end calls an attachment is that one's alone.
fn check_not_owned(context: &Context, request: &AttachRequest) -> Result<()> {
    let Some(owner) = &request.owner else { return Ok(()) };
    match owned(context, owner, request.ifname.as_deref()).first() {
        None => Ok(()),
        Some(Versioned { record: there, .. }) => Err(ServiceError::Conflict(format!(
            "{} of this container ({owner}) is attached to {} already, as {}: detach it first",
            there.ifname, there.network, there.name
        ))),
    }
}

/// The host would no longer reach where it reached by these routes.
async fn check_host_routes(context: &Context, network: &Network) -> Result<()> {
    let subnet = network.subnet;
    let clashes = |route: &Ipv4Net| {
        route.prefix_len() > 0 && (route.contains(&subnet.network()) || subnet.contains(&route.network()))
    };
    let routes = context.netlink.ipv4_routes().await?;
    match routes.iter().map(|route| route.destination).find(clashes) {
        None => Ok(()),
        Some(route) => Err(ServiceError::Conflict(format!(
            "this host has a route to {route}, which overlaps with {} ({subnet}): it cannot have an address there",
            network.name
        ))),
    }
}

fn already_attached(ns: &NetnsHandle, network: &Name, name: &str) -> ServiceError {
    let ns = ns.path().display();
    ServiceError::Conflict(format!("{ns} is attached to {network} already, as {name}: detach it first"))
}

async fn choose_ifname(ns: &NetnsHandle, wanted: Option<&str>) -> Result<String> {
    let taken = netlink::interfaces(ns).await?;
    let Some(name) = wanted else {
        let free = |name: &String| !taken.contains(name);
        return Ok((0..)
            .map(|n| format!("eth{n}"))
            .find(free)
            .expect("a namespace has finitely many devices"));
    };
    netlink::check_ifname(name)?;
    if taken.iter().any(|t| t == name) {
        return Err(ServiceError::Conflict(format!(
            "{} has an interface {name} already: name another with --ifname",
            ns.path().display()
        )));
    }
    Ok(name.to_owned())
}

/// What an attach made.
struct Plumbing {
    /// The host side of the veth pair.
    host: Link,
    /// Routes set in the container.
    routes: Vec<ContainerRoute>,
}

impl Plumbing {
    /// What would be made. The host side's hardware address is the kernel's to choose.
    fn rehearsed(endpoint: &Endpoint, network: &Network) -> Self {
        let host = Link {
            ifindex: 0,
            name: paths::host_veth(&endpoint.id),
            mac: Mac::default(),
            mtu: netlink::HOST_VETH_MTU,
            up: true,
            has_carrier: true,
            kind: None,
            controller: None,
            xdp_programs: Vec::new(),
        };
        let ipv4 = ContainerRoute { destination: Ipv4Net::default().into(), gateway: network.gateway.into() };
        let ipv6 = endpoint.ipv6.and(network.ipv6).map(|ipv6| ContainerRoute {
            destination: Ipv6Net::default().into(),
            gateway: ipv6.gateway.into(),
        });
        Self { host, routes: [ipv4].into_iter().chain(ipv6).collect() }
    }
}

/// Makes the devices. Nothing that the container sends gets through before its packets are filtered and the
/// maps filled: until then the host's end is down, whatever the container does with its own.
async fn plumb(
    context: &Context,
    ns: &NetnsHandle,
    endpoint: &Endpoint,
    network: &Network,
    revision: Revision,
    replaces: Replaces,
) -> Result<Plumbing> {
    let mtu = network.effective_mtu(&context.reconciler.report().underlay);
    let container = ContainerLink { ifname: endpoint.ifname.clone(), mac: endpoint.mac, mtu };
    let host_name = paths::host_veth(&endpoint.id);
    let ifindex = context.netlink.create_veth(&host_name, ns, &container).await?;
    context.in_force(revision).await?;
    // Now its program is attached and its maps are filled: only now may the container be heard.
    context.netlink.set_up(ifindex).await?;
    let is_host = endpoint.is_host_port();
    if is_host {
        // Neither may the host forward what comes from the network.
        sysctl::set_ipv4(&endpoint.ifname, FORWARDING, false)?;
    }
    let config = ContainerConfig {
        ifname: endpoint.ifname.clone(),
        address: with_prefix(endpoint.ipv4, network.subnet),
        // The host's routes are its own.
        default_gateway: (!is_host).then_some(network.gateway),
        ipv6: with_prefix_ipv6(endpoint, network).zip(network.ipv6).map(|(address, ipv6)| ContainerIpv6 {
            address,
            default_gateway: (!is_host).then_some(ipv6.gateway),
        }),
        replaces,
        mtu,
    };
    let routes = netlink::configure(ns, config).await?;
    // With GRO the container's end has a poll loop of its own, without which XDP cannot deliver to it. Only once
    // that end is up does the switch make the host's end a target of XDP redirects (`veth_set_features`).
    netlink::set_gro(ns, &endpoint.ifname, true).await?;
    let host = context.netlink.link_by_name(&host_name).await?.ok_or(NetlinkError::NoSuchLink(host_name))?;
    Ok(Plumbing { host, routes })
}

/// Undoes an attach that failed. What cannot be undone now, the reconciler collects later.
pub(super) async fn take_back(context: &Context, endpoint: &Endpoint, revision: Revision) {
    if let Err(e) = context.netlink.delete_by_name(&paths::host_veth(&endpoint.id)).await {
        tracing::warn!(endpoint = %endpoint.name, reason = %e, "veth not taken back");
    }
    if let Err(e) = release(context.store.as_ref(), endpoint, revision).await {
        tracing::warn!(endpoint = %endpoint.name, reason = %e, "claim not taken back");
    }
}

fn result(context: &Context, endpoint: &Endpoint, network: &Network, made: Plumbing) -> Result<AttachResult> {
    let host = CniInterface {
        name: made.host.name,
        mac: made.host.mac,
        mtu: u16::try_from(made.host.mtu).unwrap_or(u16::MAX),
        sandbox: String::new(),
    };
    let container = CniInterface {
        name: endpoint.ifname.clone(),
        mac: endpoint.mac,
        mtu: network.effective_mtu(&context.reconciler.report().underlay),
        sandbox: endpoint.netns.clone(),
    };
    let view = inspect(context, endpoint.id.as_str())?.into_iter().next().ok_or_else(|| {
        ServiceError::Conflict(format!("{} was detached while it was being attached", endpoint.name))
    })?;
    let ipv4 = CniIp { interface: 1, address: view.ip.into(), gateway: network.gateway.into() };
    let ipv6 = view.ipv6.zip(network.ipv6);
    let ipv6 = ipv6.map(|(address, net)| CniIp {
        interface: 1,
        address: address.into(),
        gateway: net.gateway.into(),
    });
    Ok(AttachResult {
        cni_version: CNI_VERSION.to_owned(),
        interfaces: vec![host, container],
        ips: [ipv4].into_iter().chain(ipv6).collect(),
        dns: CniDns {
            nameservers: vec![network.gateway],
            options: resolv_conf::OPTIONS.map(str::to_owned).to_vec(),
        },
        routes: made.routes.iter().map(|r| CniRoute { dst: r.destination, gw: r.gateway }).collect(),
        endpoint: view,
    })
}
