//! The stores, by kind or by URL.

use std::{fmt, str::FromStr};

use anyhow::Result;
use xtask::servers::{self, Kind, Server};

use crate::{fleet::Place, population::Client};

/// What to measure with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChoice {
    /// A file that all agents share.
    Sqlite,
    /// A server that is started on the agents' underlay.
    Server(Kind),
    /// A store that somebody else runs, where the agents' underlay leads.
    Url(String),
}

/// A text that is none of them.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no kind of store ({}) and no URL", kinds().join(", "))]
pub struct UnknownStore {
    text: String,
}

const SQLITE: &str = "sqlite";

fn kinds() -> Vec<&'static str> {
    [SQLITE].into_iter().chain(Kind::ALL.map(Kind::scheme)).collect()
}

impl FromStr for StoreChoice {
    type Err = UnknownStore;

    fn from_str(text: &str) -> Result<Self, UnknownStore> {
        let server = Kind::ALL.into_iter().find(|kind| kind.scheme() == text);
        match (text, server) {
            (_, Some(kind)) => Ok(Self::Server(kind)),
            (SQLITE, _) => Ok(Self::Sqlite),
            (url, _) if url.contains("://") => Ok(Self::Url(url.to_owned())),
            (other, _) => Err(UnknownStore { text: other.to_owned() }),
        }
    }
}

impl fmt::Display for StoreChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => SQLITE,
            Self::Server(kind) => kind.scheme(),
            Self::Url(url) => url,
        })
    }
}

/// A store that runs.
pub struct Running {
    url: String,
    // Ended when dropped.
    _server: Option<Server>,
}

impl StoreChoice {
    /// Starts it, if it is not somebody else's.
    pub fn start(&self, place: &Place) -> Result<Running> {
        let server = match self {
            Self::Server(kind) => Some(Server::start(*kind, site(place))?),
            Self::Sqlite | Self::Url(_) => None,
        };
        let url = match (self, &server) {
            (_, Some(server)) => server.url(),
            (Self::Url(url), _) => url.clone(),
            _ => format!("sqlite://{}", place.dir.path().join("overlay.db").display()),
        };
        Ok(Running { url, _server: server })
    }
}

/// The benchmark's own machine on the underlay.
fn site(place: &Place) -> servers::Place {
    servers::Place {
        dir: place.dir.path().join("store"),
        netns: Some(place.bench.netns.name().to_owned()),
        ip: place.bench.addr.ip,
        dies_with_thread: true,
    }
}

impl Running {
    /// Its URL for the agents.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A client of it, on the same machine.
    pub fn connect(&self, place: &Place) -> Result<Client> {
        Client::connect(&self.url, &place.bench.netns)
    }
}
