//! Bodies in, bodies and failures out: every answer that is no success carries an [`ErrorBody`].

use std::time::Duration;

use axum::{
    Json,
    extract::{
        FromRequest, FromRequestParts, Path, Request,
        path::ErrorKind,
        rejection::{JsonRejection, PathRejection},
    },
    http::{Method, StatusCode, Uri, request::Parts},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use super::Limits;
use crate::{
    api::types::{ErrorBody, ErrorCode},
    service::ServiceError,
};

/// A request's JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        Ok(Self(Json::from_request(request, state).await?.0))
    }
}

/// The variable parts of a request's path.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        Ok(Self(Path::from_request_parts(parts, state).await?.0))
    }
}

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    body: ErrorBody,
}

impl Failure {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status: status_of(code), body: ErrorBody { code, message: message.into() } }
    }

    /// The answer to a request that makes no sense.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, message)
    }

    /// The answer when the agent failed.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message)
    }

    fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The answer to a path that means nothing.
    pub(super) async fn no_such_path(uri: Uri) -> Self {
        Self::new(ErrorCode::NotFound, format!("the API has no path {}", uri.path()))
    }

    /// The answer to a method that the path does not know.
    pub(super) async fn no_such_method(method: Method, uri: Uri) -> Self {
        Self::new(ErrorCode::Invalid, format!("the API cannot {method} {}", uri.path()))
            .with_status(StatusCode::METHOD_NOT_ALLOWED)
    }

    /// The answer to somebody who may not ask.
    pub(super) async fn forbidden() -> Self {
        Self::new(ErrorCode::Forbidden, "only root and members of the socket's group may use the agent")
    }

    /// The answer when the deadline has passed.
    pub(super) fn late(limit: Duration, method: &Method) -> Self {
        let change = "; the change goes on: look at what came of it before you try again";
        let message = format!("not done within {limit:?}{}", if method.is_safe() { "" } else { change });
        Self::new(ErrorCode::Unavailable, message)
    }
}

fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::Invalid => StatusCode::BAD_REQUEST,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        let message = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                format!("the request's body is too large: {} bytes are the limit", Limits::DEFAULT.body)
            }
            _ => rejection.body_text(),
        };
        Self::new(ErrorCode::Invalid, message).with_status(rejection.status())
    }
}

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Self {
        let PathRejection::FailedToDeserializePathParams(error) = rejection else {
            return Self::new(ErrorCode::Internal, rejection.body_text());
        };
        let message = match error.kind() {
            ErrorKind::DeserializeError { message, .. } | ErrorKind::Message(message) => message.clone(),
            kind => kind.to_string(),
        };
        Self::new(ErrorCode::Invalid, message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(message = self.body.message, "API request failed");
        }
        (self.status, Json(self.body)).into_response()
    }
}
