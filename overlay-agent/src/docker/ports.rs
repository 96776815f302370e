//! Published ports: Docker's bindings as publications of this host.

use std::{net::IpAddr, num::NonZeroU16, ops::RangeInclusive};

use super::{Answer, Refusal, protocol::PortBinding};
use crate::{
    model::{Endpoint, EndpointId, Protocol, Publication},
    service::{Service, ServiceError},
};

/// Numbers of protocols (RFC 5237).
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where a port is looked for if any will do: the dynamic ports (RFC 6335).
const DYNAMIC: RangeInclusive<u16> = 49152..=65535;

/// A port to publish, on the first of these of the host's that is free.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    protocol: Protocol,
    port: NonZeroU16,
    host_ports: RangeInclusive<u16>,
}

/// Publishes ports of an endpoint: all of them or none.
pub(super) async fn publish(service: &Service, id: &EndpointId, bindings: Vec<PortBinding>) -> Answer<()> {
    let wanted = bindings.iter().map(Wanted::of).collect::<Answer<Vec<_>>>()?;
    for wanted in &wanted {
        if let Err(refusal) = publish_one(service, id, wanted).await {
            if let Err(e) = unpublish(service, id).await {
                tracing::warn!(endpoint = %id, reason = %e, "ports not taken back");
            }
            return Err(refusal);
        }
    }
    Ok(())
}

/// Takes all ports of an endpoint back.
pub(super) async fn unpublish(service: &Service, id: &EndpointId) -> Answer<()> {
    let published = endpoint(service, id).map(|endpoint| endpoint.published).unwrap_or_default();
    for publication in published {
        let Endpoint { network, name, .. } = endpoint(service, id)?;
        service.unpublish(&network, &name, publication).await?;
    }
    Ok(())
}

/// What an endpoint publishes, in Docker's words.
pub(super) fn bindings(endpoint: &Endpoint) -> Vec<PortBinding> {
    let binding = |publication: &Publication| PortBinding {
        proto: match publication.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        },
        port: publication.port.get(),
        host_ip: "0.0.0.0".to_owned(),
        host_port: publication.host_port.get(),
        host_port_end: publication.host_port.get(),
    };
    endpoint.published.iter().map(binding).collect()
}

async fn publish_one(service: &Service, id: &EndpointId, wanted: &Wanted) -> Answer<()> {
    let mut refusal = Refusal(format!("no port from {:?} can be had", wanted.host_ports));
    for host_port in wanted.host_ports.clone().filter_map(NonZeroU16::new) {
        let Endpoint { network, name, .. } = endpoint(service, id)?;
        let publication = Publication { host_port, port: wanted.port, protocol: wanted.protocol };
        match service.publish(&network, &name, publication).await {
            Ok(_) => return Ok(()),
            // Somebody has it: perhaps the next is free.
            Err(e @ ServiceError::Conflict(_)) => refusal = e.into(),
            Err(e) => return Err(e.into()),
        }
    }
    Err(refusal)
}

fn endpoint(service: &Service, id: &EndpointId) -> Answer<Endpoint> {
    let cluster = service.cluster();
    let endpoint = cluster.endpoints.get(id).map(|endpoint| endpoint.record.clone());
    endpoint.ok_or_else(|| "the endpoint was detached meanwhile".into())
}

impl Wanted {
    fn of(binding: &PortBinding) -> Answer<Self> {
        let PortBinding { proto, port, host_ip, host_port, host_port_end } = binding;
        let protocol = match *proto {
            TCP => Protocol::Tcp,
            UDP => Protocol::Udp,
            other => return Err(format!("protocol {other} cannot be published: only tcp and udp can").into()),
        };
        let is_everywhere = host_ip.is_empty() || host_ip.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
        if !is_everywhere {
            return Err(format!(
                "a port cannot be published on {host_ip} alone: it is on every address of this host; leave {host_ip}: out"
            )
            .into());
        }
        let host_ports = match *host_port {
            0 => DYNAMIC,
            first => first..=first.max(*host_port_end),
        };
        let port = NonZeroU16::new(*port).ok_or("port 0 cannot be published")?;
        Ok(Self { protocol, port, host_ports })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn binding(proto: u8, port: u16, host_ip: &str, host_port: u16, host_port_end: u16) -> PortBinding {
        PortBinding { proto, port, host_ip: host_ip.to_owned(), host_port, host_port_end }
    }

    #[rstest]
    #[case(binding(6, 80, "", 8080, 8080), Protocol::Tcp, 8080..=8080)]
    #[case(binding(17, 53, "0.0.0.0", 5353, 0), Protocol::Udp, 5353..=5353)]
    #[case(binding(6, 80, "::", 8000, 8010), Protocol::Tcp, 8000..=8010)]
    #[case(binding(6, 80, "", 0, 0), Protocol::Tcp, DYNAMIC)]
    fn bindings_are_understood(
        #[case] binding: PortBinding,
        #[case] protocol: Protocol,
        #[case] host_ports: RangeInclusive<u16>,
    ) {
        let port = NonZeroU16::new(binding.port).unwrap();
        assert_eq!(Wanted::of(&binding), Ok(Wanted { protocol, port, host_ports }));
    }

    #[rstest]
    #[case(binding(132, 80, "", 80, 80), "only tcp and udp")]
    #[case(binding(6, 80, "127.0.0.1", 80, 80), "leave 127.0.0.1: out")]
    #[case(binding(6, 0, "", 80, 80), "port 0")]
    fn what_cannot_be_published_is_refused_with_the_reason(#[case] binding: PortBinding, #[case] part: &str) {
        let Refusal(sentence) = Wanted::of(&binding).unwrap_err();
        assert!(sentence.contains(part), "{sentence}");
    }
}
