//! CHECK: whether a container is still attached as it was.
//!
//! Compared is what this plugin made: its interface, address and routes. Plugins that came later may have added to it.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_common::mac::Mac;
use serde::Deserialize;

use super::{CniError, attachment, config::Config, environment::Environment};
use crate::{
    api::{
        client::Client,
        types::{DetachOwned, EndpointView, NetnsRef},
    },
    netlink::{self, ContainerState},
    netns,
};

/// The part of a result that is compared.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Expected {
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
    routes: Vec<Route>,
}

#[derive(Debug, Deserialize)]
struct Interface {
    name: String,
    mac: Option<String>,
    #[serde(default)]
    sandbox: String,
}

#[derive(Debug, Deserialize)]
struct Ip {
    interface: Option<usize>,
    address: IpNet,
    gateway: Option<IpAddr>,
}

#[derive(Debug, Deserialize)]
struct Route {
    dst: IpNet,
    gw: Option<IpAddr>,
}

/// Fails if the attachment is not as it was made.
pub async fn check(client: &Client, environment: &Environment, config: &Config) -> Result<(), CniError> {
    let attachment = attachment(environment, config)?;
    let expected: Expected = config
        .previous()?
        .ok_or_else(|| CniError::config("CHECK needs `prevResult`: it says what the container was given"))?;
    let ns = netns::resolve(&NetnsRef::Path(environment.netns().unwrap_or_default()))?;
    let endpoint = find(client, &attachment).await?;
    let state = netlink::container_state(&ns, &endpoint.ifname).await;
    let state = state.map_err(|e| CniError::io(format!("cannot look into the container: {e}")))?;
    compare(&expected, &endpoint, state.as_ref()).map_err(CniError::changed)
}

async fn find(client: &Client, attachment: &DetachOwned) -> Result<EndpointView, CniError> {
    let DetachOwned { owner, ifname } = attachment;
    let mut endpoints = client.endpoints().await?.into_iter();
    let is_meant = |e: &EndpointView| e.owner.as_ref() == Some(owner) && Some(&e.ifname) == ifname.as_ref();
    endpoints.find(is_meant).ok_or_else(|| {
        CniError::unknown_container(format!(
            "container {} is not attached to CNI network {} by this interface: see `overlay endpoint ls --filter owner=cni`",
            owner.id, owner.network
        ))
    })
}

/// The first thing that is not as it should be.
fn compare(
    expected: &Expected,
    endpoint: &EndpointView,
    state: Option<&ContainerState>,
) -> Result<(), String> {
    let ifname = &endpoint.ifname;
    let (position, interface) = expected
        .interfaces
        .iter()
        .enumerate()
        .find(|(_, interface)| interface.name == *ifname && !interface.sandbox.is_empty())
        .ok_or_else(|| format!("prevResult has no interface {ifname} in a container"))?;
    if endpoint.local.is_none() {
        return Err(format!("{ifname} has lost its end on the host"));
    }
    let state = state.ok_or_else(|| format!("the container has no interface {ifname} any more"))?;
    if !state.link.up {
        return Err(format!("{ifname} is down"));
    }
    compare_mac(interface, endpoint, state)?;
    let own = [Some(IpNet::V4(endpoint.ip)), endpoint.ipv6.map(IpNet::V6)].into_iter().flatten();
    let named = expected.ips.iter().filter(|ip| ip.interface == Some(position));
    for address in named.clone().map(|ip| ip.address).chain(own) {
        if !state.addresses.contains(&address) {
            return Err(format!("{ifname} has lost its address {address}"));
        }
    }
    let gateways: Vec<IpAddr> = named.filter_map(|ip| ip.gateway).collect();
    let ours = |route: &&Route| route.gw.is_some_and(|gw| gateways.contains(&gw));
    for route in expected.routes.iter().filter(ours) {
        if !state.routes.contains(&route.dst) {
            return Err(format!("the route to {} through {ifname} is gone", route.dst));
        }
    }
    Ok(())
}

fn compare_mac(interface: &Interface, endpoint: &EndpointView, state: &ContainerState) -> Result<(), String> {
    let ContainerState { link, .. } = state;
    let said = interface.mac.as_deref().and_then(|mac| mac.parse::<Mac>().ok());
    match said.filter(|said| *said != link.mac) {
        Some(said) => Err(format!("{} has the MAC {}, not {said}", link.name, link.mac)),
        // Even if a later plugin changed it knowingly: nothing that the container sends would pass.
        None if link.mac != endpoint.mac => Err(format!(
            "{} has the MAC {}, and the overlay knows it by {}",
            link.name, link.mac, endpoint.mac
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::netlink::Link;

    fn expected() -> Value {
        json!({
            "interfaces": [
                {"name": "ovl0011", "sandbox": ""},
                {"name": "eth0", "mac": "02:42:0a:09:00:02", "sandbox": "/run/netns/web"},
                {"name": "bwpifb", "mac": "02:00:00:00:00:01"}
            ],
            "ips": [{"interface": 1, "address": "10.9.0.2/24", "gateway": "10.9.0.1"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}, {"dst": "192.0.2.0/24", "gw": "10.9.0.9"}]
        })
    }

    fn endpoint() -> EndpointView {
        serde_json::from_value(json!({
            "id": "00112233445566ff", "name": "web", "network": "blue", "node": "host1", "ip": "10.9.0.2/24",
            "mac": "02:42:0a:09:00:02", "ifname": "eth0", "netns": "/run/netns/web",
            "local": {
                "host_ifname": "ovl0011", "host_ifindex": 3, "host_ip": null, "tx_packets": 0, "tx_bytes": 0,
                "rx_packets": 0, "rx_bytes": 0, "drops": []
            }
        }))
        .unwrap()
    }

    fn state() -> ContainerState {
        ContainerState {
            link: Link {
                ifindex: 2,
                name: "eth0".to_owned(),
                mac: "02:42:0a:09:00:02".parse().unwrap(),
                mtu: 1450,
                up: true,
                has_carrier: true,
                kind: Some("veth".to_owned()),
                controller: None,
                xdp_programs: Vec::new(),
            },
            addresses: vec!["10.9.0.2/24".parse().unwrap()],
            routes: vec!["0.0.0.0/0".parse().unwrap(), "10.9.0.0/24".parse().unwrap()],
        }
    }

    fn verdict(
        expected: Value,
        endpoint: &EndpointView,
        state: Option<&ContainerState>,
    ) -> Result<(), String> {
        compare(&serde_json::from_value(expected).unwrap(), endpoint, state)
    }

    #[test]
    fn what_is_as_it_was_passes_and_so_does_what_others_added() {
        assert_eq!(verdict(expected(), &endpoint(), Some(&state())), Ok(()));
        let mut more = state();
        more.link.mtu = 1400;
        more.addresses.push("192.0.2.7/24".parse().unwrap());
        more.routes.push("192.0.2.0/24".parse().unwrap());
        let mut added = expected();
        let other = json!({"interface": 2, "address": "192.0.2.9/24"});
        added["ips"].as_array_mut().unwrap().push(other);
        assert_eq!(verdict(added, &endpoint(), Some(&more)), Ok(()));
    }

    type Change = fn(&mut Value, &mut EndpointView, &mut ContainerState);

    #[test]
    fn what_is_not_as_it_was_is_named() {
        let other = Mac([2; 6]);
        let changes: [(Change, &str); 8] = [
            (|_, e, _| e.local = None, "eth0 has lost its end on the host"),
            (|_, _, s| s.link.up = false, "eth0 is down"),
            (|_, _, s| s.link.mac = Mac([2; 6]), "eth0 has the MAC 02:02:02:02:02:02, not 02:42:0a:09:00:02"),
            (|_, _, s| s.addresses.clear(), "eth0 has lost its address 10.9.0.2/24"),
            (
                |x, _, _| x["ips"][0]["address"] = "10.9.0.3/24".into(),
                "eth0 has lost its address 10.9.0.3/24",
            ),
            (|_, _, s| s.routes.clear(), "the route to 0.0.0.0/0 through eth0 is gone"),
            (|x, _, _| x["interfaces"] = json!([]), "prevResult has no interface eth0 in a container"),
            (
                |x, _, _| x["interfaces"][1]["sandbox"] = "".into(),
                "prevResult has no interface eth0 in a container",
            ),
        ];
        for (change, sentence) in changes {
            let (mut expected, mut endpoint, mut state) = (expected(), endpoint(), state());
            change(&mut expected, &mut endpoint, &mut state);
            assert_eq!(verdict(expected, &endpoint, Some(&state)), Err(sentence.to_owned()));
        }
        let gone = verdict(expected(), &endpoint(), None).unwrap_err();
        assert_eq!(gone, "the container has no interface eth0 any more");
        // A later plugin changed it knowingly, and all the same nothing that the container sends passes.
        let (mut knowing, mut state) = (expected(), state());
        (knowing["interfaces"][1]["mac"], state.link.mac) = (other.to_string().into(), other);
        let sentence = verdict(knowing, &endpoint(), Some(&state)).unwrap_err();
        assert_eq!(
            sentence,
            "eth0 has the MAC 02:02:02:02:02:02, and the overlay knows it by 02:42:0a:09:00:02"
        );
    }
}
