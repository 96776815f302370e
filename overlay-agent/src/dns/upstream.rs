//! Other people's names: asked of the resolvers that the host uses, or of those that were named.

use std::{
    net::{AddrParseError, IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, Record, RecordType},
    },
};
use serde_with::DeserializeFromStr;

/// How long an answer is waited for, and how often a question is asked: within the five seconds that clients wait.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// A resolver's address as people write it: the port may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, DeserializeFromStr)]
pub struct ServerAddress(pub SocketAddr);

impl FromStr for ServerAddress {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        let with_port = |_| Ok(SocketAddr::new(text.parse::<IpAddr>()?, super::PORT));
        text.parse().or_else(with_port).map(Self)
    }
}

impl ServerAddress {
    /// Whether a host can have it.
    fn is_a_hosts(self) -> bool {
        let ip = self.0.ip();
        let is_nobodys = ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST;
        !is_nobodys && self.0.port() != 0
    }
}

fn name_server(ServerAddress(address): &ServerAddress) -> NameServerConfig {
    let mut config = NameServerConfig::udp_and_tcp(address.ip());
    config.connections.iter_mut().for_each(|connection| connection.port = address.port());
    config
}

/// Resolvers on the way out.
pub struct Upstream(TokioResolver);

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The host's cannot be found out.
    #[error("the host's resolvers cannot be read from /etc/resolv.conf: {0}; name others with --dns")]
    System(#[source] NetError),
    /// No host has this address.
    #[error("no resolver can be at {0}: name another with --dns")]
    NoHost(SocketAddr),
    /// Those that were named cannot be used.
    #[error("the resolvers {servers:?} cannot be used: {reason}; name others with --dns")]
    Named {
        /// What was named.
        servers: Vec<ServerAddress>,
        /// Why not.
        reason: NetError,
    },
}

impl Upstream {
    /// The resolvers named, or the host's if none is.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn new(servers: &[ServerAddress]) -> Result<Self, UpstreamError> {
        if let Some(ServerAddress(address)) = servers.iter().find(|server| !server.is_a_hosts()) {
            return Err(UpstreamError::NoHost(*address));
        }
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(UpstreamError::System)?
        } else {
            let name_servers = servers.iter().map(name_server).collect();
            let config = ResolverConfig::from_name_servers(name_servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        // The host's own files are not for containers.
        let options = builder.options_mut();
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = TIMEOUT;
        options.attempts = ATTEMPTS;
        let named = |reason| UpstreamError::Named { servers: servers.to_vec(), reason };
        builder.build().map(Self).map_err(named)
    }

    /// What is known upstream under a full name, or the code to answer with.
    pub async fn ask(&self, name: Name, kind: RecordType) -> Result<Vec<Record>, ResponseCode> {
        match self.0.lookup(name, kind).await {
            Ok(lookup) => Ok(lookup.answers().to_vec()),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
                ResponseCode::NoError => Ok(Vec::new()),
                code => Err(code),
            },
            Err(e) => {
                tracing::debug!(reason = %e, "upstream does not answer");
                Err(ResponseCode::ServFail)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0.0.0.0")]
    #[case("224.0.0.1")]
    #[case("255.255.255.255")]
    #[case("::")]
    #[case("192.0.2.53:0")]
    #[tokio::test]
    async fn an_address_that_no_host_has_is_refused_and_named(#[case] bad: &str) {
        let servers = ["192.0.2.54", bad].map(|server| server.parse().unwrap());
        let error = Upstream::new(&servers).err().map(|e| e.to_string()).unwrap();
        assert!(error.contains(bad) && error.contains("--dns"), "{error}");
    }
}
