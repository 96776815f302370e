//! Failures as the specification numbers them.

use crate::{
    api::{client::ClientError, types::ErrorCode},
    netns::NetnsError,
};

/// A failure, as a runtime gets to see it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}: {details}")]
pub struct CniError {
    /// Its number: up to 99 the specification's, from 100 ours.
    pub code: u32,
    /// Its kind.
    pub msg: &'static str,
    /// What was wrong and what to do.
    pub details: String,
}

/// The agent failed.
const AGENT: u32 = 100;
/// What was asked for is another's: a name, an address, a port, an interface.
const TAKEN: u32 = 101;
/// The container's interface is not as it was made.
const CHANGED: u32 = 102;

impl CniError {
    fn new(code: u32, msg: &'static str, details: impl Into<String>) -> Self {
        Self { code, msg, details: details.into() }
    }

    /// 1: the version is not spoken.
    pub fn version(details: impl Into<String>) -> Self {
        Self::new(1, "incompatible CNI version", details)
    }

    /// 2: a field with a value that is not supported; the details name both.
    pub fn field(details: impl Into<String>) -> Self {
        Self::new(2, "unsupported field in the network configuration", details)
    }

    /// 3: no such container, so there is nothing to clean up.
    pub fn unknown_container(details: impl Into<String>) -> Self {
        Self::new(3, "container unknown or gone", details)
    }

    /// 4: a variable of the environment is missing or invalid; the details name it.
    pub fn environment(details: impl Into<String>) -> Self {
        Self::new(4, "invalid environment variables", details)
    }

    /// 5: reading, writing or connecting failed.
    pub fn io(details: impl Into<String>) -> Self {
        Self::new(5, "input or output failed", details)
    }

    /// 6: what was read is no JSON, or not of the shape that it must have.
    pub fn decode(details: impl Into<String>) -> Self {
        Self::new(6, "the network configuration cannot be read", details)
    }

    /// 7: the configuration makes no sense, or contradicts what is there.
    pub fn config(details: impl Into<String>) -> Self {
        Self::new(7, "invalid network configuration", details)
    }

    /// 11: to be tried again.
    pub fn try_again(details: impl Into<String>) -> Self {
        Self::new(11, "try again later", details)
    }

    /// 50: ADD would fail; what is attached is not concerned.
    pub fn unavailable(details: impl Into<String>) -> Self {
        Self::new(50, "no container can be added now", details)
    }

    /// 51: ADD would fail, and containers that are attached may lack something.
    pub fn limited(details: impl Into<String>) -> Self {
        Self::new(51, "no container can be added now, and running ones may be limited", details)
    }

    /// 102: the container's interface is not as it was made.
    pub fn changed(details: impl Into<String>) -> Self {
        Self::new(CHANGED, "the attachment is not as it was made", details)
    }

    /// Why the agent did not make the network of the configuration.
    pub fn of_network(error: &ClientError) -> Self {
        match error {
            ClientError::Api(body) if matches!(body.code, ErrorCode::Invalid | ErrorCode::Conflict) => {
                Self::config(error.to_string())
            }
            other => Self::from(other),
        }
    }
}

impl From<&ClientError> for CniError {
    fn from(error: &ClientError) -> Self {
        let code = match error {
            ClientError::NoAgent { socket } => {
                return Self::try_again(format!(
                    "no agent answers on {}: start overlay-agent, or name its socket with `socket`",
                    socket.display()
                ));
            }
            ClientError::Silent { .. } | ClientError::Protocol { .. } => {
                return Self::try_again(error.to_string());
            }
            ClientError::Denied { .. } => return Self::io(error.to_string()),
            ClientError::Api(body) => body.code,
        };
        match code {
            ErrorCode::Unavailable => Self::try_again(error.to_string()),
            ErrorCode::Invalid => Self::config(error.to_string()),
            ErrorCode::NotFound => Self::unknown_container(error.to_string()),
            ErrorCode::Forbidden => Self::io(error.to_string()),
            ErrorCode::Conflict => Self::new(TAKEN, "something asked for is another's", error.to_string()),
            ErrorCode::Internal => Self::new(AGENT, "the agent failed", error.to_string()),
        }
    }
}

impl From<ClientError> for CniError {
    fn from(error: ClientError) -> Self {
        Self::from(&error)
    }
}

impl From<NetnsError> for CniError {
    fn from(error: NetnsError) -> Self {
        match error {
            NetnsError::NotFound(_) | NetnsError::NoProcess(_) => {
                Self::unknown_container(format!("CNI_NETNS: {error}"))
            }
            other => Self::environment(format!("CNI_NETNS: {other}")),
        }
    }
}
