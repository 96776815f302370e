//! A container: a namespace that is attached to networks.

use std::net::{Ipv6Addr, UdpSocket};

use crate::{
    host::Host,
    netns::Netns,
    packet::{Addr, DISCARD_PORT},
    packet6::Addr6,
    tap::Tap,
    views::{Attached, Endpoint},
};

/// A container and its attachments, the first one first.
#[derive(Debug)]
pub struct Container {
    netns: Netns,
    name: String,
    endpoints: Vec<Endpoint>,
    // Bound for as long as the container lives.
    _discard: UdpSocket,
}

impl Container {
    /// One without attachments, with a socket for both families on the [`DISCARD_PORT`].
    ///
    /// # Panics
    /// If its namespace cannot be made.
    #[must_use]
    #[track_caller]
    pub fn new(name: &str) -> Self {
        let netns = Netns::new(name);
        let discard = netns
            .enter(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, DISCARD_PORT)))
            .expect("bind the discard port");
        Self { netns, name: name.to_owned(), endpoints: Vec::new(), _discard: discard }
    }

    /// One that is attached to a network.
    #[must_use]
    #[track_caller]
    pub fn attached(host: &Host, network: &str, name: &str) -> Self {
        let mut container = Self::new(name);
        container.attach(host, network, &[]);
        container
    }

    /// Attaches it to a network.
    #[track_caller]
    pub fn attach(&mut self, host: &Host, network: &str, extra: &[&str]) -> &Endpoint {
        let words = ["attach", network, "--netns", self.netns.name(), "--name", &self.name];
        let attached: Attached = host.json(&[&words[..], extra].concat());
        self.endpoints.push(attached.endpoint);
        self.endpoint()
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its name in every network.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its last attachment.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    #[track_caller]
    pub fn endpoint(&self) -> &Endpoint {
        self.endpoints.last().unwrap_or_else(|| panic!("{} is attached to no network", self.name))
    }

    /// Its attachment to a network.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    #[track_caller]
    pub fn endpoint_in(&self, network: &str) -> &Endpoint {
        let found = self.endpoints.iter().find(|endpoint| endpoint.network == network);
        found.unwrap_or_else(|| panic!("{} is not attached to {network}", self.name))
    }

    /// Its address in the last network that it was attached to.
    #[must_use]
    #[track_caller]
    pub fn addr(&self) -> Addr {
        self.endpoint().addr()
    }

    /// The same over IPv6.
    ///
    /// # Panics
    /// If it has no IPv6 address.
    #[must_use]
    #[track_caller]
    pub fn addr6(&self) -> Addr6 {
        self.endpoint().addr6()
    }

    /// A raw socket on the interface of its last attachment.
    #[must_use]
    #[track_caller]
    pub fn tap(&self) -> Tap {
        Tap::open(&self.netns, &self.endpoint().ifname)
    }
}
