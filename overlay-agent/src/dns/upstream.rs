//! Other people's names: asked of the resolvers that the host uses, or of those that were named.

use std::{
    net::{AddrParseError, IpAddr, SocketAddr},
    str::FromStr,
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

/// A resolver's address as people write it: the port may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct ServerAddress(pub SocketAddr);

impl FromStr for ServerAddress {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        let with_port = |_| Ok(SocketAddr::new(text.parse::<IpAddr>()?, super::PORT));
        text.parse().or_else(with_port).map(Self)
    }
}

impl TryFrom<String> for ServerAddress {
    type Error = AddrParseError;

    fn try_from(text: String) -> Result<Self, AddrParseError> {
        text.parse()
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
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(UpstreamError::System)?
        } else {
            let name_servers = servers.iter().map(name_server).collect();
            let config = ResolverConfig::from_name_servers(name_servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        // The host's own files are not for containers.
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
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
