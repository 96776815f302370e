//! The client side of the API: what the command line and other front ends speak with.
//!
//! One connection for each call: on a unix socket that costs nothing worth saving, and a restarted agent
//! is simply found again.

use std::{
    fmt::Display,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
    http::response,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use super::types::{
    AddExternal, AttachRequest, AttachResult, ChangeLabels, ChangeLimits, CreateNetwork, DRY_RUN,
    DetachOwned, DetachRequest, DetachResult, DropView, EndpointView, ErrorBody, ErrorCode, MapDump, MapView,
    NetworkView, NewRule, NodeDetail, NodeView, PolicyView, PublicationView, RemoveNode, RemovedNode,
    STALE_HEADER, Status,
};
use crate::{
    agent::lock,
    model::{Name, Publication, RuleId},
    store::transfer::Exported,
    trace::{TraceRequest, TraceView},
    verify::Verification,
};

/// Longer than the server's own deadline: only an agent that hangs is cut off here.
const DEADLINE: Duration = Duration::from_secs(40);

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no agent answers on {}: start overlay-agent, or name its socket with --socket", socket.display())]
    NoAgent {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket's mode forbids it.
    #[error("no permission to use {}: run this as root or as a member of the socket's group", socket.display())]
    Denied {
        /// The socket.
        socket: PathBuf,
    },
    /// The agent refused or failed.
    #[error("{}", .0.message)]
    Api(ErrorBody),
    /// The agent hangs.
    #[error("the agent on {} gave no answer within {} s: look into its log", socket.display(), DEADLINE.as_secs())]
    Silent {
        /// The socket.
        socket: PathBuf,
    },
    /// What answers speaks another language, or stopped half-way.
    #[error("the agent on {} cannot be understood: {reason}", socket.display())]
    Protocol {
        /// The socket.
        socket: PathBuf,
        /// What was wrong.
        reason: String,
    },
}

impl ClientError {
    /// Whether the same call may succeed a moment later, with nothing done but waiting.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoAgent { .. } | Self::Silent { .. } | Self::Protocol { .. } => true,
            Self::Denied { .. } => false,
            Self::Api(body) => body.code == ErrorCode::Unavailable,
        }
    }
}

type Result<T> = std::result::Result<T, ClientError>;

/// A client of one agent.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// What the last stale answer said of itself.
    stale: Arc<Mutex<Option<String>>>,
    /// Changes are only rehearsed.
    rehearses: bool,
}

impl Client {
    /// A client of the agent on this socket. Nothing is connected yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), stale: Arc::default(), rehearses: false }
    }

    /// A client whose changes are checked and answered as if they were made, and are not made.
    #[must_use]
    pub fn rehearsing(&self) -> Self {
        Self { rehearses: true, ..self.clone() }
    }

    /// The agent's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// For how long, and why, an answer given to this client was stale, if one was.
    #[must_use]
    pub fn stale(&self) -> Option<String> {
        lock(&self.stale).clone()
    }

    /// Creates a network.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn create_network(&self, request: &CreateNetwork) -> Result<NetworkView> {
        self.send(Method::POST, "/v1/networks", request).await
    }

    /// All networks by name, without their endpoints.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn networks(&self) -> Result<Vec<NetworkView>> {
        self.get("/v1/networks").await
    }

    /// One network with its endpoints.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn network(&self, network: &Name) -> Result<NetworkView> {
        self.get(&format!("/v1/networks/{network}")).await
    }

    /// Creates a network where it is not there; one that is there has to be as asked for.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn ensure_network(&self, request: &CreateNetwork) -> Result<NetworkView> {
        self.send(Method::PUT, "/v1/networks", request).await
    }

    /// Removes a network without endpoints.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn remove_network(&self, network: &Name) -> Result<NetworkView> {
        self.call(Method::DELETE, &format!("/v1/networks/{network}")).await
    }

    /// Attaches a container.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn attach(&self, network: &Name, request: &AttachRequest) -> Result<AttachResult> {
        self.send(Method::POST, &format!("/v1/networks/{network}/endpoints"), request).await
    }

    /// Detaches a container.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn detach(&self, network: &Name, request: &DetachRequest) -> Result<DetachResult> {
        self.send(Method::POST, &format!("/v1/networks/{network}/detach"), request).await
    }

    /// Detaches what a front end had attached.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn detach_owned(&self, request: &DetachOwned) -> Result<DetachResult> {
        self.send(Method::POST, "/v1/detach", request).await
    }

    /// All endpoints.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn endpoints(&self) -> Result<Vec<EndpointView>> {
        self.get("/v1/endpoints").await
    }

    /// The endpoints with this name, or the one with this id.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn endpoint(&self, name_or_id: &Name) -> Result<Vec<EndpointView>> {
        self.get(&format!("/v1/endpoints/{name_or_id}")).await
    }

    /// All nodes.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn nodes(&self) -> Result<Vec<NodeView>> {
        self.get("/v1/nodes").await
    }

    /// One node with its endpoints.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn node(&self, node: &Name) -> Result<NodeDetail> {
        self.get(&format!("/v1/nodes/{node}")).await
    }

    /// Lets a node take no new endpoints, or take them again.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn drain(&self, node: &Name, drain: bool) -> Result<NodeView> {
        let method = if drain { Method::PUT } else { Method::DELETE };
        self.call(method, &format!("/v1/nodes/{node}/drain")).await
    }

    /// Takes a node out of the cluster.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn remove_node(&self, node: &Name, request: RemoveNode) -> Result<RemovedNode> {
        self.send(Method::DELETE, &format!("/v1/nodes/{node}"), &request).await
    }

    /// All policies.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn policies(&self) -> Result<Vec<PolicyView>> {
        self.get("/v1/policies").await
    }

    /// Lets two networks talk, in both directions.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn allow(&self, a: &Name, b: &Name) -> Result<Vec<PolicyView>> {
        self.call(Method::PUT, &format!("/v1/policies/{a}/{b}")).await
    }

    /// Keeps two networks apart again.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn deny(&self, a: &Name, b: &Name) -> Result<()> {
        self.exchange(Method::DELETE, &format!("/v1/policies/{a}/{b}"), Bytes::new()).await.map(drop)
    }

    /// Adds a rule from one network to another.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn add_rule(&self, from: &Name, to: &Name, rule: &NewRule) -> Result<PolicyView> {
        self.send(Method::POST, &format!("/v1/policies/{from}/{to}/rules"), rule).await
    }

    /// Removes a rule.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn remove_rule(&self, id: RuleId) -> Result<()> {
        self.exchange(Method::DELETE, &format!("/v1/rules/{id}"), Bytes::new()).await.map(drop)
    }

    /// Leaves the decision between two networks to their rules.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn enforce(&self, a: &Name, b: &Name) -> Result<Vec<PolicyView>> {
        self.call(Method::POST, &format!("/v1/policies/{a}/{b}/enforce")).await
    }

    /// Changes the labels of an endpoint.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn change_labels(
        &self,
        network: &Name,
        endpoint: &Name,
        change: &ChangeLabels,
    ) -> Result<EndpointView> {
        self.send(Method::POST, &format!("/v1/networks/{network}/endpoints/{endpoint}/labels"), change).await
    }

    /// Changes how fast an endpoint may send and receive.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn change_limits(
        &self,
        network: &Name,
        endpoint: &Name,
        change: &ChangeLimits,
    ) -> Result<EndpointView> {
        self.send(Method::POST, &format!("/v1/networks/{network}/endpoints/{endpoint}/limits"), change).await
    }

    /// Makes a machine without an agent a member of a network.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn add_external(&self, network: &Name, request: &AddExternal) -> Result<EndpointView> {
        self.send(Method::POST, &format!("/v1/networks/{network}/external"), request).await
    }

    /// All members without an agent.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn externals(&self) -> Result<Vec<EndpointView>> {
        self.get("/v1/external").await
    }

    /// Takes a member without an agent out of its network.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn remove_external(&self, network: &Name, name: &Name) -> Result<EndpointView> {
        self.call(Method::DELETE, &format!("/v1/networks/{network}/external/{name}")).await
    }

    /// Published ports on all nodes.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn publications(&self) -> Result<Vec<PublicationView>> {
        self.get("/v1/published").await
    }

    /// Publishes a port of an endpoint.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn publish(
        &self,
        network: &Name,
        endpoint: &Name,
        publication: Publication,
    ) -> Result<Vec<PublicationView>> {
        self.send(Method::POST, &published_path(network, endpoint), &publication).await
    }

    /// Takes a published port back.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn unpublish(
        &self,
        network: &Name,
        endpoint: &Name,
        publication: Publication,
    ) -> Result<Vec<PublicationView>> {
        self.send(Method::DELETE, &published_path(network, endpoint), &publication).await
    }

    /// The agent's state.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn status(&self) -> Result<Status> {
        self.get("/v1/status").await
    }

    /// The agent's state once its first pass is done.
    ///
    /// # Errors
    /// [`ClientError`], as every call; a transient one while it is not done.
    pub async fn ready(&self) -> Result<Status> {
        self.get("/v1/ready").await
    }

    /// The cluster's state, as a document that can be imported into another store.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn export(&self) -> Result<Exported> {
        self.get("/v1/store/export").await
    }

    /// What is not as it should be on this host.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn verify(&self) -> Result<Verification> {
        self.get("/v1/verify").await
    }

    /// The same, after the agent has repaired what it can.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn repair(&self) -> Result<Verification> {
        self.call(Method::POST, "/v1/verify").await
    }

    /// What would become of a packet.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn trace(&self, request: &TraceRequest) -> Result<TraceView> {
        self.send(Method::POST, "/v1/trace", request).await
    }

    /// Drop counters that are not zero.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn drops(&self) -> Result<Vec<DropView>> {
        self.get("/v1/drops").await
    }

    /// The BPF maps.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn maps(&self) -> Result<Vec<MapView>> {
        self.get("/v1/maps").await
    }

    /// One BPF map, decoded.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn dump_map(&self, map: &Name) -> Result<MapDump> {
        self.get(&format!("/v1/maps/{map}")).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T> {
        let answer = self.exchange(method, path, Bytes::new()).await?;
        serde_json::from_slice(&answer).map_err(|error| self.protocol(&error))
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|error| self.protocol(&error))?;
        let answer = self.exchange(method, path, body.into()).await?;
        serde_json::from_slice(&answer).map_err(|error| self.protocol(&error))
    }

    /// The body of a successful answer.
    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let query = if self.rehearses { format!("?{DRY_RUN}=true") } else { String::new() };
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}{query}"))
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.protocol(&error))?;
        let answer = timeout(DEADLINE, self.answer(request)).await;
        let (status, body) = answer.map_err(|_| ClientError::Silent { socket: self.socket.clone() })??;
        if status.is_success() { Ok(body) } else { Err(self.refusal(status, &body)) }
    }

    /// A question that an agent took and did not answer before it ended is asked once more, of its successor: to ask
    /// twice changes nothing.
    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes)> {
        let mut answer = self.ask(request.clone()).await?;
        if request.method().is_safe() && answer.as_ref().is_err_and(hyper::Error::is_incomplete_message) {
            answer = self.ask(request).await?;
        }
        let (head, body) = answer.map_err(|error| self.protocol(&error))?;
        if let Some(stale) = head.headers.get(STALE_HEADER) {
            *lock(&self.stale) = Some(String::from_utf8_lossy(stale.as_bytes()).into_owned());
        }
        Ok((head.status, body))
    }

    /// One connection and what came over it.
    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<hyper::Result<(response::Parts, Bytes)>> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.no_connection(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.protocol(&error))?;
        let answer = async move { whole(sender.send_request(request).await?).await };
        Ok(tokio::join!(answer, connection).0)
    }

    fn no_connection(&self, error: &io::Error) -> ClientError {
        let socket = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoAgent { socket },
            io::ErrorKind::PermissionDenied => ClientError::Denied { socket },
            _ => self.protocol(error),
        }
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice(body) {
            Ok(body) => ClientError::Api(body),
            Err(_) => self.protocol(&format!("it answers {status} without a reason")),
        }
    }

    fn protocol(&self, reason: &dyn Display) -> ClientError {
        ClientError::Protocol { socket: self.socket.clone(), reason: reason.to_string() }
    }
}

fn published_path(network: &Name, endpoint: &Name) -> String {
    format!("/v1/networks/{network}/endpoints/{endpoint}/published")
}

async fn whole(response: hyper::Response<Incoming>) -> hyper::Result<(response::Parts, Bytes)> {
    let (head, body) = response.into_parts();
    Ok((head, body.collect().await?.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socket};
    use std::os::fd::AsRawFd;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    /// A socket that nobody listens on. It never was a listener's: a process that another test forks
    /// just now would keep that alive for a moment.
    fn leave_stale_socket(path: &Path) {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        nix::sys::socket::bind(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    }

    /// What a client makes of an agent that reads a request and then writes these bytes.
    async fn nodes_from(answer: &'static str) -> (String, Result<Vec<NodeView>>) {
        let (mut requests, nodes) = nodes_from_each(&[answer]).await;
        (requests.remove(0), nodes)
    }

    /// The same of agents that follow each other on one socket, a connection each.
    async fn nodes_from_each(answers: &[&'static str]) -> (Vec<String>, Result<Vec<NodeView>>) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let agents = async {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let len = stream.read(&mut request).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                requests.push(String::from_utf8(request[..len].to_vec()).unwrap());
            }
            requests
        };
        let client = Client::new(&socket);
        tokio::join!(agents, client.nodes())
    }

    #[tokio::test]
    async fn a_question_that_an_agent_took_with_it_is_asked_once_more() {
        let (requests, nodes) =
            nodes_from_each(&["", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]"]).await;
        assert_eq!((requests.len(), nodes.unwrap()), (2, vec![]));
        let (_, nodes) = nodes_from_each(&["", ""]).await;
        assert!(matches!(nodes.unwrap_err(), ClientError::Protocol { .. }));
    }

    #[tokio::test]
    async fn a_call_is_one_request_and_its_answer_is_parsed() {
        let (request, nodes) = nodes_from("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").await;
        assert!(request.starts_with("GET /v1/nodes HTTP/1.1\r\n"), "{request}");
        assert_eq!(nodes.unwrap(), []);
    }

    #[tokio::test]
    async fn a_stale_answer_is_an_answer_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let client = Client::new(&socket);
        for (head, expected) in [("", None), ("overlay-stale: for 3 s: x ä\r\n", Some("for 3 s: x ä"))] {
            let answer = format!("HTTP/1.1 200 OK\r\n{head}content-length: 2\r\n\r\n[]");
            let listener = UnixListener::bind(&socket).unwrap();
            let agent = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            let ((), nodes) = tokio::join!(agent, client.nodes());
            assert_eq!((nodes.unwrap(), client.stale().as_deref()), (vec![], expected));
            std::fs::remove_file(&socket).unwrap();
        }
    }

    #[tokio::test]
    async fn an_error_body_becomes_an_api_error() {
        let (_, nodes) = nodes_from(
            "HTTP/1.1 404 Not Found\r\ncontent-length: 40\r\n\r\n{\"code\":\"not_found\",\"message\":\"no net1\"}",
        )
        .await;
        let error = nodes.unwrap_err();
        assert!(matches!(&error, ClientError::Api(body) if body.code == ErrorCode::NotFound), "{error:?}");
        assert_eq!(error.to_string(), "no net1");
        assert!(!error.is_transient());
    }

    #[tokio::test]
    async fn an_answer_that_makes_no_sense_is_a_protocol_error() {
        for answer in [
            "SSH-2.0-x\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[]",
            "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\noops",
        ] {
            let error = nodes_from(answer).await.1.unwrap_err();
            assert!(matches!(error, ClientError::Protocol { .. }), "{answer:?}: {error:?}");
        }
    }

    #[tokio::test]
    async fn without_a_listener_there_is_no_agent() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let client = Client::new(&socket);
        let expected = format!(
            "no agent answers on {}: start overlay-agent, or name its socket with --socket",
            socket.display()
        );
        assert_eq!(client.status().await.unwrap_err().to_string(), expected);
        leave_stale_socket(&socket);
        let error = client.status().await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(error.is_transient());
    }
}
