//! The engine's own API, as far as it tells what it does not tell its drivers: names.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};

/// The oldest version that says all we ask for; engines speak every version from it on.
const VERSION: &str = "v1.30";
/// Longest time until an answer begins.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Why the engine did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody is there, or it stopped half-way.
    #[error("Docker's engine on {} does not answer: {reason}", socket.display())]
    Silent {
        /// Its socket.
        socket: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It said no.
    #[error("Docker's engine refused: {0}")]
    Refused(String),
}

/// An engine by its socket.
#[derive(Clone, Debug)]
pub struct Engine {
    socket: PathBuf,
}

/// A stream of changes: what they are is looked up.
pub struct Events(Incoming);

impl Events {
    /// Waits for the next change; `false` if the engine ended.
    pub async fn next(&mut self) -> bool {
        matches!(self.0.frame().await, Some(Ok(_)))
    }
}

impl Engine {
    /// The engine on this socket. Nothing is connected yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// What there is at a path.
    ///
    /// # Errors
    /// [`ApiError`], as every call.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let body = self.collect(Method::GET, path, None).await?;
        serde_json::from_slice(&body).map_err(|e| self.silent(&e))
    }

    /// Has something made.
    ///
    /// # Errors
    /// [`ApiError`], as every call.
    pub async fn post(&self, path: &str, body: &Value) -> Result<(), ApiError> {
        self.collect(Method::POST, path, Some(body)).await.map(drop)
    }

    /// Has something removed.
    ///
    /// # Errors
    /// [`ApiError`], as every call.
    pub async fn delete(&self, path: &str) -> Result<(), ApiError> {
        self.collect(Method::DELETE, path, None).await.map(drop)
    }

    /// Changes of networks and containers, from now on.
    ///
    /// # Errors
    /// [`ApiError`], as every call.
    pub async fn events(&self) -> Result<Events, ApiError> {
        // {"type": ["network", "container"]}
        let filters = "%7B%22type%22%3A%5B%22network%22%2C%22container%22%5D%7D";
        self.send(Method::GET, &format!("/events?filters={filters}"), None).await.map(Events)
    }

    async fn collect(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes, ApiError> {
        let answer = timeout(PATIENCE, self.send(method, path, body).await?.collect()).await;
        Ok(answer.map_err(|e| self.silent(&e))?.map_err(|e| self.silent(&e))?.to_bytes())
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Incoming, ApiError> {
        let answer =
            timeout(PATIENCE, self.answer(method, path, body)).await.map_err(|e| self.silent(&e))??;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.into_body());
        }
        let text = answer.into_body().collect().await.map_err(|e| self.silent(&e))?.to_bytes();
        let message = serde_json::from_slice::<Value>(&text).ok();
        let message = message.and_then(|body| body["message"].as_str().map(str::to_owned));
        Err(ApiError::Refused(message.unwrap_or_else(|| StatusCode::to_string(&status))))
    }

    async fn answer(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<hyper::Response<Incoming>, ApiError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.silent(&e))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.silent(&e))?;
        // It ends with the answer's body, or with an error that the answer tells of too.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(format!("/{VERSION}{path}"))
            .header(HOST, "docker")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))
            .map_err(|e| self.silent(&e))?;
        sender.send_request(request).await.map_err(|e| self.silent(&e))
    }

    fn silent(&self, reason: &dyn std::fmt::Display) -> ApiError {
        ApiError::Silent { socket: self.socket.clone(), reason: reason.to_string() }
    }
}
