//! What an operation can answer instead of a result: one sentence each that says what to do.

use crate::{
    api::types::ErrorCode,
    datapath::DatapathError,
    ipam::IpamError,
    netlink::{InvalidIfname, NetlinkError},
    netns::NetnsError,
    store::StoreError,
};

/// A failure of an operation. Nothing was changed, or what was changed was taken back.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// It conflicts with what is there.
    #[error("{0}")]
    Conflict(String),
    /// Cannot be done just now.
    #[error("{0}")]
    Unavailable(String),
    /// The agent failed.
    #[error("{0}")]
    Internal(String),
}

impl ServiceError {
    /// The kind, for programs.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_) => ErrorCode::Invalid,
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::Conflict(_) => ErrorCode::Conflict,
            Self::Unavailable(_) => ErrorCode::Unavailable,
            Self::Internal(_) => ErrorCode::Internal,
        }
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } => Self::Unavailable(error.to_string()),
            StoreError::Unusable { .. } | StoreError::TooLarge { .. } | StoreError::Invalid { .. } => {
                Self::Internal(error.to_string())
            }
        }
    }
}

impl From<DatapathError> for ServiceError {
    fn from(error: DatapathError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<InvalidIfname> for ServiceError {
    fn from(error: InvalidIfname) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<IpamError> for ServiceError {
    fn from(error: IpamError) -> Self {
        let text = error.to_string();
        match error {
            IpamError::Held { .. }
            | IpamError::Reserved { .. }
            | IpamError::Exhausted { .. }
            | IpamError::NoVni
            | IpamError::NoSubnet => Self::Conflict(text),
            _ => Self::Invalid(text),
        }
    }
}

impl From<NetnsError> for ServiceError {
    fn from(error: NetnsError) -> Self {
        let text = error.to_string();
        match error {
            NetnsError::NotFound(_) | NetnsError::NoProcess(_) => Self::NotFound(text),
            NetnsError::InvalidName(_) | NetnsError::NotANamespace(_) | NetnsError::OwnNamespace(_) => {
                Self::Invalid(text)
            }
            NetnsError::Open { .. } | NetnsError::Enter { .. } | NetnsError::Panicked(_) => {
                Self::Internal(text)
            }
        }
    }
}

impl From<NetlinkError> for ServiceError {
    fn from(error: NetlinkError) -> Self {
        match error {
            NetlinkError::Netns(e) => e.into(),
            NetlinkError::Ifname(e) => e.into(),
            NetlinkError::IfnameExists { .. } => Self::Conflict(error.to_string()),
            _ => Self::Internal(error.to_string()),
        }
    }
}
