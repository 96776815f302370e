//! What goes wrong between us and ZooKeeper, by what can be done about it.

use zookeeper_client::{Error, MultiReadResult};

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The session or its connection is gone, or nothing answered in time. What was asked may have happened.
    #[error("{0}")]
    Lost(String),
    /// The nodes are not as they were when they were read: read again.
    #[error("other clients change the same keys all the time")]
    Raced,
    /// The store's own nodes are gone.
    #[error("it was wiped")]
    Wiped,
    /// It is more than ZooKeeper takes in one request.
    #[error("it is more than the megabyte that ZooKeeper takes at a time")]
    TooLarge,
    /// It will not work until somebody changes something.
    #[error("{0}")]
    Refused(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::NoNode | Error::NodeExists | Error::BadVersion | Error::NotEmpty => Self::Raced,
            Error::NoAuth | Error::AuthFailed | Error::InvalidAcl => Self::Refused(format!(
                "permission denied ({error}): give the user that its nodes belong to with --store-user and \
                 --store-password-file"
            )),
            Error::Unimplemented => {
                Self::Refused("the server is too old: ZooKeeper 3.6 or later is needed".into())
            }
            Error::NoChildrenForEphemerals => {
                Self::Refused("another program's ephemeral node stands where a key belongs".into())
            }
            Error::QuotaExceeded => {
                Self::Refused("the quota is used up: raise it with zkCli's setquota".into())
            }
            _ => Self::Lost(error.to_string()),
        }
    }
}

/// The one of several answers, or nothing where the node is not there.
pub(super) fn found_one(answer: MultiReadResult) -> Result<Option<MultiReadResult>, Fault> {
    match answer {
        MultiReadResult::Error { err } => found(Err(err)),
        answer => Ok(Some(answer)),
    }
}

/// The answer, or nothing where the node is not there.
pub(super) fn found<T>(answer: Result<T, Error>) -> Result<Option<T>, Fault> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Error::NoNode) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
