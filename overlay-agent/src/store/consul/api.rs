//! Talking with Consul's servers through `consulrs`: which one, how long, and what their refusals mean.
//!
//! `consulrs` is given an HTTP client of our own making: the one that it makes would use the system's TLS, proxies
//! and environment, and wait without end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use consulrs::{
    api::{
        ApiResponse, Features, exec_with_result,
        features::Blocking,
        kv::{
            common::KVPair,
            requests::{ReadKeyRequest, ReadKeysRequest},
        },
        session::requests::CreateSessionRequest,
    },
    client::{ConsulClient, ConsulClientSettings},
    error::ClientError,
    kv, session,
};
use rustify::clients::reqwest::Client as HttpClient;
use tokio::time::{Instant, timeout};

use super::txn::{Answer, Operation, Request, Verdict};
use crate::store::{Access, StoreError, Tls, address::Servers};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(2);
/// How long an answer may take.
const REQUEST: Duration = Duration::from_secs(3);
/// How long a server keeps a question whose answer does not change; it adds a sixteenth, so that not all come again
/// at once.
const WAIT: Duration = Duration::from_secs(10);

/// The servers of one store.
pub(super) struct Api {
    url: String,
    servers: Vec<Arc<ConsulClient>>,
    /// TLS without a certificate of our own: a server that asks for one just closes the connection.
    is_anonymous: bool,
    /// The one that answered last.
    preferred: AtomicUsize,
}

/// Why there is no answer that is of use.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nobody answered; what was asked for may have been done.
    NoAnswer(String),
    /// The server is in no state to answer, and may have done what was asked for.
    Unable(String),
    /// It refused.
    Refused(u16, String),
}

/// What a blocking query found.
pub(super) struct Look<T> {
    /// Where the next one goes on.
    pub(super) index: u64,
    /// `None` if there is nothing there.
    pub(super) found: Option<T>,
}

impl Api {
    /// Makes ready; nothing is sent.
    pub(super) fn new(servers: &Servers, access: &Access) -> Result<Self, StoreError> {
        let url = servers.to_string();
        let unusable = |reason: String| StoreError::Unusable { url: url.clone(), reason };
        if access.user.is_some() {
            return Err(unusable("Consul knows no users: use --store-token-file".to_owned()));
        }
        let token = access.token.as_ref().map(|token| token.expose().to_owned());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(unusable("the token's file holds something that is no token".to_owned()));
        }
        let http = http_client(access.tls.as_ref()).map_err(unusable)?;
        let scheme = if access.tls.is_some() { "https" } else { "http" };
        let client = |host: &String| {
            let address = format!("{scheme}://{host}");
            let http = HttpClient::new(&address, http.clone());
            Arc::new(ConsulClient { http, settings: settings(address, token.clone()) })
        };
        let servers = servers.hosts.iter().map(client).collect();
        let is_anonymous = access.tls.as_ref().is_some_and(|tls| tls.identity.is_none());
        Ok(Self { url, servers, is_anonymous, preferred: AtomicUsize::new(0) })
    }

    /// The store's address.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Carries out a transaction that only reads.
    pub(super) async fn read(
        &self,
        operation: &'static str,
        operations: &[Operation],
    ) -> Result<Verdict, StoreError> {
        let ask = move |client: Arc<ConsulClient>| async move {
            exec_with_result(&*client, Request::read(operations)).await
        };
        let verdict = verdict(self.ask(REQUEST, ask).await);
        self.explain(operation, verdict)
    }

    /// Carries out a transaction that writes, at one server and once: after a failure it may have been done.
    pub(super) async fn write(&self, operations: &[Operation]) -> Result<Verdict, Failure> {
        let server = self.preferred.load(Ordering::Relaxed);
        let client = &*self.servers[server];
        let answer = self.attempt(REQUEST, exec_with_result(client, Request::write(operations))).await;
        if matches!(answer, Err(Failure::NoAnswer(_) | Failure::Unable(_))) {
            self.preferred.store((server + 1) % self.servers.len(), Ordering::Relaxed);
        }
        verdict(answer)
    }

    /// Creates a session whose keys are deleted with it. No health check ends it before its time: it would end with
    /// the server that it was made at.
    pub(super) async fn create_session(&self, ttl_s: u64) -> Result<String, StoreError> {
        let create = move |client: Arc<ConsulClient>| async move {
            let mut request = CreateSessionRequest::builder();
            request.name("overlay").behavior("delete").lock_delay("0s").ttl(format!("{ttl_s}s"));
            session::create(&*client, Some(request.node_checks(Vec::new()))).await
        };
        let answer = self.ask(REQUEST, create).await;
        Ok(self.explain("grant a lease", answer)?.response.id)
    }

    /// Starts a session's time anew; `false` if there is no such session.
    pub(super) async fn renew_session(&self, id: &str) -> Result<bool, StoreError> {
        let renew = move |client: Arc<ConsulClient>| async move { session::renew(&*client, id, None).await };
        match self.ask(REQUEST, renew).await {
            Err(Failure::Refused(404, _)) => Ok(false),
            answer => self.explain("keep a lease alive", answer).map(|_| true),
        }
    }

    /// Ends a session.
    pub(super) async fn destroy_session(&self, id: &str) -> Result<(), StoreError> {
        let destroy =
            move |client: Arc<ConsulClient>| async move { session::delete(&*client, id, None).await };
        let answer = self.ask(REQUEST, destroy).await;
        self.explain("revoke a lease", answer).map(drop)
    }

    /// The pairs of all keys that start so, once they are others than those of an index.
    pub(super) async fn look_at_pairs(
        &self,
        prefix: &str,
        index: u64,
    ) -> Result<Look<Vec<KVPair>>, StoreError> {
        let look = move |client: Arc<ConsulClient>| async move {
            let mut request = ReadKeyRequest::builder();
            kv::read(&*client, prefix, Some(request.recurse(true).features(once_after(index)))).await
        };
        self.look(self.ask(WAIT + WAIT / 16 + REQUEST, look).await)
    }

    /// The names of all keys that start so, once they are others than those of an index.
    pub(super) async fn look_at_keys(
        &self,
        prefix: &str,
        index: u64,
    ) -> Result<Look<Vec<String>>, StoreError> {
        let look = move |client: Arc<ConsulClient>| async move {
            let mut request = ReadKeysRequest::builder();
            kv::keys(&*client, prefix, Some(request.features(once_after(index)))).await
        };
        self.look(self.ask(WAIT + WAIT / 16 + REQUEST, look).await)
    }

    fn look<T>(&self, answer: Result<ApiResponse<T>, Failure>) -> Result<Look<T>, StoreError> {
        if matches!(answer, Err(Failure::Refused(404, _))) {
            return Ok(Look { index: 0, found: None });
        }
        let ApiResponse { index, response, .. } = self.explain("watch", answer)?;
        // Zero would be answered at once, time and again.
        let index = index.and_then(|index| index.parse().ok()).unwrap_or(1).max(1);
        Ok(Look { index, found: Some(response) })
    }

    /// Asks one server after the other, beginning with the one that answered last, while there is time. A single one
    /// is asked twice: it may have closed a connection that was kept.
    async fn ask<T, F>(
        &self,
        patience: Duration,
        question: impl Fn(Arc<ConsulClient>) -> F,
    ) -> Result<ApiResponse<T>, Failure>
    where
        F: Future<Output = Result<ApiResponse<T>, ClientError>>,
    {
        let (start, first) = (Instant::now(), self.preferred.load(Ordering::Relaxed));
        let mut last = Failure::NoAnswer(String::new());
        for attempt in 0..self.servers.len().max(2) {
            let server = (first + attempt) % self.servers.len();
            match self.attempt(patience, question(Arc::clone(&self.servers[server]))).await {
                Err(failure @ (Failure::NoAnswer(_) | Failure::Unable(_))) => last = failure,
                answer => {
                    self.preferred.store(server, Ordering::Relaxed);
                    return answer;
                }
            }
            if self.servers.len() == 1 && start.elapsed() > REQUEST / 2 {
                break;
            }
        }
        Err(last)
    }

    async fn attempt<T>(
        &self,
        patience: Duration,
        answer: impl Future<Output = Result<ApiResponse<T>, ClientError>>,
    ) -> Result<ApiResponse<T>, Failure> {
        match timeout(patience, answer).await {
            Ok(answer) => answer.map_err(failure),
            Err(_) => Err(Failure::NoAnswer(format!("no answer within {} s", patience.as_secs()))),
        }
    }

    /// What a failure means to who asked.
    pub(super) fn explain<T>(
        &self,
        operation: &'static str,
        answer: Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let url = self.url.clone();
        answer.map_err(|failure| match failure {
            Failure::Refused(403, reason) => self.denied(&reason),
            Failure::Refused(413, reason) => StoreError::TooLarge {
                url,
                reason: format!("{}: let Consul's limits.txn_max_req_len be larger", reason.trim()),
            },
            Failure::Refused(code, reason) => {
                let reason = advised(format!("{operation}: HTTP {code}: {}", reason.trim()));
                StoreError::Unusable { url, reason }
            }
            Failure::NoAnswer(reason) if self.is_anonymous && reason.contains("closed") => {
                let advice = "if the server asks for a certificate, use --store-cert and --store-key";
                StoreError::Unavailable { url, operation, reason: format!("{reason}: {advice}") }
            }
            Failure::NoAnswer(reason) | Failure::Unable(reason) => {
                StoreError::Unavailable { url, operation, reason }
            }
        })
    }

    /// What to do about a token that is missing, or allows too little.
    pub(super) fn denied(&self, reason: &str) -> StoreError {
        let reason = format!(
            "permission denied ({}): --store-token-file must name a token that may write keys below this address's \
             prefix, and sessions",
            reason.trim()
        );
        StoreError::Unusable { url: self.url.clone(), reason }
    }
}

fn once_after(index: u64) -> Features {
    let blocking = Blocking { index, wait: Some(format!("{}s", WAIT.as_secs())) };
    Features { blocking: Some(blocking), ..Features::default() }
}

/// An answer to a transaction; that it failed comes as an HTTP error with the reasons in its body.
fn verdict(answer: Result<ApiResponse<Answer>, Failure>) -> Result<Verdict, Failure> {
    match answer {
        Ok(answer) => Ok(answer.response.into()),
        Err(Failure::Refused(409, body)) => serde_json::from_str::<Answer>(&body)
            .map(Verdict::from)
            .map_err(|error| Failure::Unable(format!("an answer that cannot be read: {error}"))),
        Err(failure) => Err(failure),
    }
}

fn failure(error: ClientError) -> Failure {
    match error {
        ClientError::APIError { code: code @ (429 | 500..), message } => {
            Failure::Unable(format!("HTTP {code}: {}", message.unwrap_or_default().trim()))
        }
        ClientError::APIError { code, message } => Failure::Refused(code, message.unwrap_or_default()),
        error => Failure::NoAnswer(innermost(&error)),
    }
}

/// The cause of all: `consulrs` and what it stands on say only that something failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    advised(error.to_string())
}

/// A cause, with what may be done about it.
fn advised(cause: String) -> String {
    let has = |words: &[&str]| words.iter().any(|word| cause.contains(word));
    let advice = if has(&["certificate", "CertificateRequired", "BadCertificate"]) {
        "check --store-ca, --store-cert and --store-key"
    } else if has(&["corrupt message", "InvalidContentType"]) {
        "if the server does not speak TLS, leave --store-tls out"
    } else if has(&["to an HTTPS server"]) {
        "if the server speaks TLS, use --store-tls"
    } else {
        return cause;
    };
    format!("{cause}: {advice}")
}

fn settings(address: String, token: Option<String>) -> ConsulClientSettings {
    ConsulClientSettings {
        address,
        ca_certs: Vec::new(),
        client_cert: None,
        client_key: None,
        token,
        verify: true,
        version: 1,
    }
}

fn http_client(tls: Option<&Tls>) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder()
        .use_rustls_tls()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .tcp_keepalive(WAIT)
        .tcp_nodelay(true);
    if let Some(ca) = tls.and_then(|tls| tls.ca.as_deref()) {
        let certificates = certificates(ca).map_err(|e| format!("--store-ca: {}", innermost(&e)))?;
        if certificates.is_empty() {
            return Err("--store-ca names a file without certificates: it must hold PEM".to_owned());
        }
        builder = builder.tls_built_in_root_certs(false);
        builder = certificates.into_iter().fold(builder, reqwest::ClientBuilder::add_root_certificate);
    }
    if let Some((certificate, key)) = tls.and_then(|tls| tls.identity.as_ref()) {
        let pem = [certificate.as_slice(), b"\n", key.expose().as_bytes()].concat();
        let identity = reqwest::Identity::from_pem(&pem);
        builder =
            builder.identity(identity.map_err(|e| format!("--store-cert, --store-key: {}", innermost(&e)))?);
    }
    builder.build().map_err(|e| innermost(&e))
}

/// The certificates of a PEM file, which may hold several.
fn certificates(pem: &[u8]) -> reqwest::Result<Vec<reqwest::Certificate>> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = String::from_utf8_lossy(pem);
    let blocks = text.split_inclusive(END).filter(|block| block.contains(END));
    blocks.map(|block| reqwest::Certificate::from_pem(block.as_bytes())).collect()
}
