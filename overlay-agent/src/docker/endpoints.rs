//! Endpoints: the engine makes one, moves its device into the container, publishes its ports, and takes it apart again.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use overlay_common::mac::Mac;
use serde_json::{Map, Value};

use super::{
    Answer, Driver, Refusal,
    networks::{self, parse_id, short},
    pools::parse_address,
    ports,
    protocol::{
        CreateEndpoint, CreatedEndpoint, CreatedInterface, Empty, InterfaceName, Join, Joined, OfEndpoint,
        OperInfo, PORT_MAP, ProgramExternalConnectivity,
    },
};
use crate::{
    api::types::DetachOwned,
    model::{Endpoint, EndpointId, FrontEnd, Owner},
    paths,
    service::{HandOver, Learned, Service},
};

/// Digits of our ids; Docker's have 64, as random.
const ID_DIGITS: usize = 16;
/// Start of the name of an interface in a container.
const PREFIX: &str = "eth";
/// An endpoint's hardware address, in what is told of it.
const MAC_ADDRESS: &str = "com.docker.network.endpoint.macaddress";

/// Claims what an endpoint needs and makes its devices. What Docker has decided is taken as it is.
pub(super) async fn create(driver: Arc<Driver>, request: CreateEndpoint) -> Answer<CreatedEndpoint> {
    let given = request.interface.unwrap_or_default();
    let ip = parse_address::<Ipv4Addr>(&given.address)?;
    let ipv6 = parse_address::<Ipv6Addr>(&given.address_ipv6)?;
    let mac = parse_mac(&given.mac_address)?;
    let id = endpoint_id(&request.endpoint_id)?;
    let service = driver.service().await?;
    let network = networks::find(&service, &request.network_id)?;
    let is_meant = |e: &Endpoint| ip.is_none_or(|ip| ip == e.ipv4) && (ipv6.is_none() || ipv6 == e.ipv6);
    let there = find(&service, &request.endpoint_id).ok().filter(is_meant);
    let endpoint = match there {
        Some(endpoint) => endpoint,
        None => {
            let name =
                short(&request.endpoint_id).parse().map_err(|e: crate::model::InvalidName| e.to_string())?;
            let owner = owner(&request.network_id, &request.endpoint_id)?;
            service.hand_over(&network.name, HandOver { id, owner, name, ip, ipv6, mac }).await?
        }
    };
    let with_prefix = |chosen: IpAddr| network.with_prefix(chosen).to_string();
    let chosen_ipv6 = endpoint.ipv6.filter(|_| ipv6.is_none());
    let interface = CreatedInterface {
        address: ip.is_none().then(|| with_prefix(endpoint.ipv4.into())),
        address_ipv6: chosen_ipv6.map(|chosen| with_prefix(chosen.into())),
        mac_address: mac.is_none().then(|| endpoint.mac.to_string()),
    };
    Ok(CreatedEndpoint { interface })
}

/// Takes an endpoint apart, in the store and here. That it is gone already is no error.
pub(super) async fn delete(driver: Arc<Driver>, request: OfEndpoint) -> Answer<Empty> {
    let owner = owner(&request.network_id, &request.endpoint_id)?;
    driver.service().await?.detach_owned(DetachOwned { owner, ifname: None }).await?;
    Ok(Empty {})
}

/// Says what there is to say of an endpoint.
pub(super) async fn info(driver: Arc<Driver>, request: OfEndpoint) -> Answer<OperInfo> {
    let endpoint = find(&*driver.service().await?, &request.endpoint_id)?;
    let published = serde_json::to_value(ports::bindings(&endpoint)).unwrap_or_default();
    let value = [(MAC_ADDRESS, Value::from(endpoint.mac.to_string())), (PORT_MAP, published)];
    Ok(OperInfo { value: value.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() })
}

/// Tells Docker which device to move into the container, and learns where that is.
pub(super) async fn join(driver: Arc<Driver>, request: Join) -> Answer<Joined> {
    let service = driver.service().await?;
    let network = networks::find(&service, &request.network_id)?;
    let endpoint = find(&service, &request.endpoint_id)?;
    let netns = Some(request.sandbox_key).filter(|path| !path.is_empty());
    service.learn(&endpoint.id, Learned { netns, ..Learned::default() }).await?;
    let gateway_ipv6 = network.ipv6.filter(|_| endpoint.ipv6.is_some() && !network.internal);
    Ok(Joined {
        interface_name: InterfaceName { src_name: paths::container_end(&endpoint.id), dst_prefix: PREFIX },
        gateway: (!network.internal).then(|| network.gateway.to_string()),
        gateway_ipv6: gateway_ipv6.map(|ipv6| ipv6.gateway.to_string()),
    })
}

/// Docker moves the device back by itself; what is left is done when it removes the endpoint.
pub(super) async fn leave(_: Arc<Driver>, _: OfEndpoint) -> Answer<Empty> {
    Ok(Empty {})
}

/// Publishes the container's ports: its way to the outside is by this endpoint.
pub(super) async fn publish(driver: Arc<Driver>, request: ProgramExternalConnectivity) -> Answer<Empty> {
    let service = driver.service().await?;
    let endpoint = find(&service, &request.endpoint_id)?;
    ports::publish(&service, &endpoint.id, wanted_ports(&request.options)?).await?;
    Ok(Empty {})
}

/// Takes the ports back.
pub(super) async fn unpublish(driver: Arc<Driver>, request: OfEndpoint) -> Answer<Empty> {
    let service = driver.service().await?;
    if let Ok(endpoint) = find(&service, &request.endpoint_id) {
        ports::unpublish(&service, &endpoint.id).await?;
    }
    Ok(Empty {})
}

fn wanted_ports(options: &Map<String, Value>) -> Answer<Vec<super::protocol::PortBinding>> {
    let ports = options.get(PORT_MAP).cloned().unwrap_or_default();
    let ports: Option<Vec<_>> = serde_json::from_value(ports)
        .map_err(|e| format!("the ports to publish cannot be understood: {e}"))?;
    Ok(ports.unwrap_or_default())
}

/// The endpoint that Docker calls so, on this host.
fn find(service: &Service, id: &str) -> Answer<Endpoint> {
    let cluster = service.cluster();
    let endpoint = endpoint_id(id).ok().and_then(|id| cluster.endpoints.get(&id).map(|e| e.record.clone()));
    let is_meant = |e: &Endpoint| {
        e.node == *service.node_name() && e.owner.as_ref().is_some_and(|owner| owner.id.as_str() == id)
    };
    endpoint.filter(is_meant).ok_or_else(|| {
        Refusal(format!(
            "endpoint {} is not there: it was detached or collected; start the container again",
            short(id)
        ))
    })
}

/// Our id of an endpoint: the first digits of Docker's.
fn endpoint_id(id: &str) -> Answer<EndpointId> {
    let digits = id.get(..ID_DIGITS).unwrap_or(id);
    digits
        .parse()
        .map_err(|_| Refusal(format!("{id:?} is no id of an endpoint: Docker's have 64 hexadecimal digits")))
}

fn owner(network: &str, endpoint: &str) -> Answer<Owner> {
    Ok(Owner { front_end: FrontEnd::Docker, network: parse_id(network)?, id: parse_id(endpoint)? })
}

fn parse_mac(text: &str) -> Answer<Option<Mac>> {
    match text.parse() {
        _ if text.is_empty() => Ok(None),
        Ok(mac) => Ok(Some(mac)),
        Err(_) => Err(format!("{text} is no MAC address such as 02:42:0a:00:00:02").into()),
    }
}
