//! The driver's socket: which call is answered by what. The socket's limits, and who may connect, are the API's.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::DefaultBodyLimit,
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{MethodRouter, post},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tokio::net::UnixListener;

use super::{Answer, Driver, Refusal, endpoints, networks, pools, protocol::*};
use crate::api;

/// Bytes of a request.
const BODY: usize = 256 * 1024;

/// Where a protocol wants the sentence that says what is wrong.
#[derive(Clone, Copy)]
enum Protocol {
    Network,
    Ipam,
}

impl Protocol {
    const fn error_field(self) -> &'static str {
        match self {
            Self::Network => "Err",
            Self::Ipam => "Error",
        }
    }
}

/// Answers calls until `stopped`.
pub(super) fn spawn(
    listener: UnixListener,
    driver: Arc<Driver>,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let connections = api::server::connections(listener, router(driver), stopped)?;
    tokio::spawn(connections);
    Ok(())
}

fn router(driver: Arc<Driver>) -> Router {
    let network = Calls { driver: Arc::clone(&driver), protocol: Protocol::Network };
    let ipam = Calls { driver, protocol: Protocol::Ipam };
    Router::new()
        .route(
            "/Plugin.Activate",
            network.constant(&Activated { implements: ["NetworkDriver", "IpamDriver"] }),
        )
        .route(
            "/NetworkDriver.GetCapabilities",
            network.constant(&NetworkCapabilities { scope: "local", connectivity_scope: "global" }),
        )
        .route("/NetworkDriver.CreateNetwork", network.call(networks::create))
        .route("/NetworkDriver.DeleteNetwork", network.call(networks::delete))
        .route("/NetworkDriver.CreateEndpoint", network.call(endpoints::create))
        .route("/NetworkDriver.DeleteEndpoint", network.call(endpoints::delete))
        .route("/NetworkDriver.EndpointOperInfo", network.call(endpoints::info))
        .route("/NetworkDriver.Join", network.call(endpoints::join))
        .route("/NetworkDriver.Leave", network.call(endpoints::leave))
        // What is to be discovered, hosts and keys of Docker's swarm, we learn from our own store.
        .route("/NetworkDriver.DiscoverNew", network.constant(&Empty {}))
        .route("/NetworkDriver.DiscoverDelete", network.constant(&Empty {}))
        .route("/NetworkDriver.ProgramExternalConnectivity", network.call(endpoints::publish))
        .route("/NetworkDriver.RevokeExternalConnectivity", network.call(endpoints::unpublish))
        .route(
            "/IpamDriver.GetCapabilities",
            ipam.constant(&IpamCapabilities { requires_mac_address: false, requires_request_replay: false }),
        )
        .route(
            "/IpamDriver.GetDefaultAddressSpaces",
            ipam.constant(&AddressSpaces {
                local_default_address_space: pools::ADDRESS_SPACE,
                global_default_address_space: pools::ADDRESS_SPACE,
            }),
        )
        .route("/IpamDriver.RequestPool", ipam.call(pools::request))
        .route("/IpamDriver.ReleasePool", ipam.call(pools::release))
        .route("/IpamDriver.RequestAddress", ipam.call(pools::request_address))
        .route("/IpamDriver.ReleaseAddress", ipam.call(pools::release_address))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(BODY))
}

/// Engines of other versions may know calls that we do not: this is what tells them so.
async fn unknown(uri: Uri) -> Response {
    let sentence = format!("this driver knows no call {}", uri.path().trim_start_matches('/'));
    reply(StatusCode::NOT_FOUND, &failure(Protocol::Network, &sentence))
}

/// The calls of a protocol.
struct Calls {
    driver: Arc<Driver>,
    protocol: Protocol,
}

impl Calls {
    /// A call that has one answer, whatever it is asked.
    fn constant<A: Serialize>(&self, answer: &A) -> MethodRouter {
        let response = serde_json::to_value(answer).unwrap_or_default();
        post(move || async move { reply(StatusCode::OK, &response) })
    }

    /// A call that does something.
    fn call<Q, A, F, W>(&self, work: F) -> MethodRouter
    where
        Q: DeserializeOwned + Send,
        A: Serialize,
        F: Fn(Arc<Driver>, Q) -> W + Clone + Send + Sync + 'static,
        W: Future<Output = Answer<A>> + Send + 'static,
    {
        let (driver, protocol) = (Arc::clone(&self.driver), self.protocol);
        post(async move |uri: Uri, body: Bytes| {
            let request = match parse(&body) {
                Ok(request) => request,
                Err(sentence) => return reply(StatusCode::BAD_REQUEST, &failure(protocol, &sentence)),
            };
            match work(driver, request).await {
                Ok(answer) => reply(StatusCode::OK, &answer),
                Err(Refusal(sentence)) => {
                    tracing::warn!(call = uri.path(), reason = sentence, "Docker refused");
                    reply(StatusCode::OK, &failure(protocol, &sentence))
                }
            }
        })
    }
}

/// An empty body asks for everything by default.
fn parse<Q: DeserializeOwned>(body: &[u8]) -> Result<Q, String> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|e| format!("the request cannot be understood: {e}"))
}

fn failure(protocol: Protocol, sentence: &str) -> Map<String, Value> {
    Map::from_iter([(protocol.error_field().to_owned(), sentence.into())])
}

fn reply(status: StatusCode, answer: &impl Serialize) -> Response {
    let body = serde_json::to_string(answer).unwrap_or_default();
    (status, [(CONTENT_TYPE, MEDIA_TYPE)], body).into_response()
}
