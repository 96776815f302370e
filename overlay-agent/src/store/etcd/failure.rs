//! What a failed request means: whether it was carried out, and what the operator can do.

use std::error::Error;

use etcd_client::WatchResponse;
use tonic::{Code, ConnectError, Status};

use crate::store::{Access, StoreError, Tls};

/// Why a member did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It was not reached, or took nothing on: asking again, another member or later, does no harm.
    Undone(String),
    /// The answer was lost: it may have been done.
    Unknown(String),
    /// No answer came in time: it may have been done, or be done later.
    Silent,
    /// It must know us anew before it answers, and does not say so in a way that etcd-client sees.
    StaleToken(String),
    /// There is no such lease.
    NoLease,
    /// The revision asked for was compacted away, or was never reached.
    NoHistory,
    /// The store's last word: the same request will fail again.
    Refused(String),
}

/// What helps against what etcd or TLS says, found by words in it.
const REMEDIES: &[(&str, &str)] = &[
    (
        "permission denied",
        "grant the user a role with readwrite on the prefix (etcdctl role grant-permission)",
    ),
    ("user name is empty", "the store asks who we are: use --store-user and --store-password-file"),
    ("authentication failed", "check --store-user and --store-password-file"),
    ("authentication is not enabled", "leave out --store-user, or enable it (etcdctl auth enable)"),
    ("space exceeded", "compact and defragment the store, then etcdctl alarm disarm"),
    ("too large", "start etcd with a larger --max-request-bytes"),
    ("too many operations", "start etcd with a larger --max-txn-ops"),
    ("UnknownIssuer", "name the authority that signed the store's certificate with --store-ca"),
    ("BadSignature", "name the authority that signed the store's certificate with --store-ca"),
    ("NotValidForName", "the store's certificate is for another name or address than that in --store"),
];

/// What is said of a connection that one end closed because it expected another kind.
const CLOSED: &[&str] = &["closed", "broken pipe", "reset", "eof", "fatal alert", "InvalidContentType"];

impl Failure {
    /// Whether another member, or the same one in a moment, may do better.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Undone(_) | Self::Unknown(_) | Self::Silent)
    }

    /// Whether it may have been done.
    pub fn leaves_in_doubt(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Silent)
    }

    /// Why a member ended a watch.
    pub fn of_canceled(response: &WatchResponse) -> Self {
        match (response.compact_revision(), response.cancel_reason()) {
            (0, "") => Self::Undone("the watch was ended".to_owned()),
            (0, reason) if reason.contains("permission denied") => Self::Refused(reason.to_owned()),
            (0, reason) if reason.contains("auth") => Self::StaleToken(reason.to_owned()),
            (0, reason) => Self::Undone(reason.to_owned()),
            _ => Self::NoHistory,
        }
    }

    /// Whether our user may not do this; what else he may is another matter.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Refused(reason) if reason.contains("permission denied"))
    }

    /// The same, of the first question to a store. One that closes a connection instead of answering does not like how
    /// it was opened; what TLS says about it seldom gets through.
    pub fn at_first(self, access: &Access) -> Self {
        let (Self::Undone(reason) | Self::Unknown(reason)) = &self else { return self };
        if !CLOSED.iter().any(|words| reason.contains(words)) {
            return self;
        }
        let remedy = match &access.tls {
            None => "if the store speaks TLS, use --store-tls or --store-ca",
            Some(Tls { identity: None, .. }) => {
                "if the store does not speak TLS, leave out --store-tls and --store-ca; if it asks for a certificate, \
                 use --store-cert and --store-key"
            }
            Some(_) => "if the store does not take our certificate, check --store-cert and --store-key",
        };
        Self::Unknown(format!("{reason}; {remedy}"))
    }

    /// For those who use the store.
    pub fn into_error(self, url: &str, operation: &'static str) -> StoreError {
        let unavailable =
            |reason| StoreError::Unavailable { url: url.to_owned(), operation, reason: with_remedy(reason) };
        match self {
            Self::Undone(reason) | Self::Unknown(reason) | Self::StaleToken(reason) => unavailable(reason),
            Self::Silent => unavailable("no answer in time".to_owned()),
            Self::NoLease => unavailable("no such lease".to_owned()),
            Self::NoHistory => unavailable("what was read was compacted meanwhile".to_owned()),
            Self::Refused(reason) => StoreError::Unusable {
                url: url.to_owned(),
                reason: format!("{operation}: {}", with_remedy(reason)),
            },
        }
    }
}

impl From<etcd_client::Error> for Failure {
    fn from(error: etcd_client::Error) -> Self {
        use etcd_client::Error;
        match error {
            Error::GRpcStatus(status) => Self::from(&status),
            // The client knows one reason only: an answer that says so.
            Error::LeaseKeepAliveError(_) => Self::NoLease,
            // Certificates, keys and addresses, before any connection.
            Error::TransportError(e) => Self::Refused(chain(&e)),
            Error::InvalidUri(e) => Self::Refused(chain(&e)),
            other => Self::Unknown(other.to_string()),
        }
    }
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Self {
        if was_not_connected(status) {
            return Self::Undone(reason(status));
        }
        let text = status.message();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        match status.code() {
            Code::NotFound => Self::NoLease,
            Code::OutOfRange if says(&["compacted", "future revision"]) => Self::NoHistory,
            Code::InvalidArgument if says(&["auth store is old"]) => Self::StaleToken(reason(status)),
            Code::ResourceExhausted if says(&["too many requests"]) => Self::Undone(reason(status)),
            Code::Unavailable if says(&["no leader"]) => Self::Undone(reason(status)),
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
            | Code::OutOfRange
            | Code::ResourceExhausted => Self::Refused(reason(status)),
            _ => Self::Unknown(reason(status)),
        }
    }
}

/// The connection could not be made, so nothing was sent.
fn was_not_connected(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// What the server said, or what lies behind a failed connection.
fn reason(status: &Status) -> String {
    match status.source() {
        Some(source) => chain(source),
        None => status.message().trim_start_matches("etcdserver: ").to_owned(),
    }
}

/// An error with its causes, each said once.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

fn with_remedy(reason: String) -> String {
    match REMEDIES.iter().find(|(words, _)| reason.contains(words)) {
        Some((_, remedy)) => format!("{reason}; {remedy}"),
        None => reason,
    }
}
