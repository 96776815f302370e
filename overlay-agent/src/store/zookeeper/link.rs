//! The connection to whichever server answers.
//!
//! A task keeps one session up. When its connection breaks, a new session is made, on the next server that
//! answers, and first brought up to date with the leader: nothing hangs on the old one, as leases have sessions
//! of their own. A session that came back by itself would bring its watches back only in part.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};
use zookeeper_client::{
    Acls, Client, Connector, CreateMode, CreateOptions, Error, SessionState, StateWatcher,
};

use super::{
    fault::Fault,
    layout::{GRAVES, Layout},
    tls,
};
use crate::store::{Access, StoreError, address::Servers};

/// How long an answer may take.
pub(super) const REQUEST: Duration = Duration::from_secs(3);
/// A connection on which nothing comes for this long is given up; idle ones are pinged more often.
const SILENCE: Duration = Duration::from_secs(3);
/// How long the server keeps a session whose client it does not hear.
const SESSION: Duration = Duration::from_secs(10);
/// How long to wait before all servers are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What may be wrong where a server takes a connection, but no session comes of it.
const PLAIN_FAILED: &str =
    "does not answer as ZooKeeper: it may hang, serve nobody just now, or want TLS (--store-tls)";
/// The same with TLS.
const TLS_FAILED: &str = "no session over TLS: it may hang or speak no TLS, or its certificate or ours is not \
                          accepted (--store-ca, --store-cert, --store-key)";

/// What the store's own root says to those who look at it.
const LAYOUT: &[u8] = b"records of the overlay's store, layout 1: see docs/stores.md";

/// Which store this is and how to get at it.
pub(super) struct Place {
    /// Its address, as it is shown.
    pub url: String,
    /// Where things lie in it.
    pub layout: Layout,
    hosts: Vec<String>,
    connector: Connector,
    /// Connections are encrypted.
    tls: bool,
    /// Its nodes belong to us alone, since we have a user.
    owned: bool,
}

impl Place {
    /// Takes in an address and what opens it; connects to nothing.
    pub(super) fn new(servers: &Servers, access: &Access) -> Result<Self, StoreError> {
        let url = servers.to_string();
        let unusable = |reason| StoreError::Unusable { url: url.clone(), reason };
        if access.token.is_some() {
            return Err(unusable(
                "ZooKeeper knows no tokens: use --store-user and --store-password-file".into(),
            ));
        }
        let connector = connector(access).map_err(unusable)?;
        let (tls, owned) = (access.tls.is_some(), access.user.is_some());
        Ok(Self { layout: Layout::new(servers), hosts: servers.hosts.clone(), connector, tls, owned, url })
    }

    /// What to create a node with.
    pub(super) fn create(&self, mode: CreateMode) -> CreateOptions<'static> {
        mode.with_acls(if self.owned { Acls::creator_all() } else { Acls::anyone_all() })
    }

    /// A fault as the store's users see it.
    pub(super) fn error(&self, operation: &'static str, fault: Fault) -> StoreError {
        let url = self.url.clone();
        match fault {
            Fault::Refused(reason) => StoreError::Unusable { url, reason },
            fault => StoreError::Unavailable { url, operation, reason: fault.to_string() },
        }
    }

    /// A new session, that the server ends when it has not heard from it for `patience`.
    pub(super) async fn session(&self, patience: Duration) -> Result<Client, Fault> {
        let connector = self.connector.clone().with_session_timeout(patience);
        let connector = connector.with_connection_timeout(SILENCE.min(patience / 2));
        let hosts = self.hosts.join(",");
        let connected =
            if self.tls { connector.secure_connect(&hosts).await } else { connector.connect(&hosts).await };
        match connected {
            Err(Error::NoHosts) => Err(Fault::Lost(self.diagnosis().await)),
            connected => Ok(connected?),
        }
    }

    /// Why no server took us in: the client library does not tell.
    async fn diagnosis(&self) -> String {
        let mut reasons = Vec::new();
        for host in &self.hosts {
            let reason = match timeout(SILENCE, TcpStream::connect(host)).await {
                Err(_) => "no answer".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Ok(Ok(_)) if self.tls => TLS_FAILED.to_owned(),
                Ok(Ok(_)) => PLAIN_FAILED.to_owned(),
            };
            reasons.push(format!("{host}: {reason}"));
        }
        reasons.join("; ")
    }

    /// Makes what the store's own records need, where it is not there yet.
    pub(super) async fn prepare(&self, client: &Client) -> Result<(), Fault> {
        let own = self.layout.own();
        client.sync("/").await?;
        if client.check_stat(&own).await?.is_some() {
            return Ok(());
        }
        let options = self.create(CreateMode::Persistent);
        if !self.layout.root().is_empty() {
            client.mkdir(self.layout.root(), &options).await?;
        }
        let mut writer = client.new_multi_writer();
        writer.add_create(&own, LAYOUT, &options)?;
        for below in [self.layout.changes(), self.layout.leases(), self.layout.graves()] {
            writer.add_create(&below, &[], &options)?;
        }
        for number in 0..GRAVES {
            writer.add_create(&self.layout.grave(number), &[], &options)?;
        }
        match writer.commit().await.map_err(Error::from) {
            // Another client was quicker.
            Ok(_) | Err(Error::NodeExists) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// How to connect, but for the session's time.
fn connector(access: &Access) -> Result<Connector, String> {
    let mut connector = Client::connector().with_fail_eagerly();
    if let (Some(user), Some(password)) = (&access.user, &access.password) {
        connector = connector.with_auth("digest", format!("{user}:{}", password.expose()).as_bytes());
    }
    if let Some(tls) = &access.tls {
        connector = connector.with_tls(tls::options(tls)?);
    }
    Ok(connector)
}

/// Whether there is a session.
#[derive(Clone)]
enum Status {
    Connecting,
    Up(Client),
    Down(Fault),
}

/// A store's session, one after the other.
#[derive(Clone)]
pub(super) struct Link(watch::Receiver<Status>);

impl Link {
    /// Starts to connect. It goes on until the last clone is dropped.
    pub(super) fn start(place: Arc<Place>) -> Self {
        let (status, link) = watch::channel(Status::Connecting);
        tokio::spawn(keep_up(place, status));
        Self(link)
    }

    /// The session. Waits while the connection changes; fails at once while no server takes us in.
    pub(super) async fn client(&self) -> Result<Client, Fault> {
        let mut link = self.0.clone();
        loop {
            match &*link.borrow_and_update() {
                Status::Up(client) if is_connected(client) => return Ok(client.clone()),
                Status::Down(fault) => return Err(fault.clone()),
                Status::Up(_) | Status::Connecting => {}
            }
            link.changed().await.map_err(|_| Fault::Lost("the store was closed".to_owned()))?;
        }
    }

    /// Returns when this session is no longer the one.
    pub(super) async fn replaced(&self, client: &Client) {
        let is_other = |status: &Status| match status {
            Status::Up(other) => other.session_id() != client.session_id() || !is_connected(other),
            Status::Connecting | Status::Down(_) => true,
        };
        // If the task that connects is gone, so is the session.
        let _ = self.0.clone().wait_for(is_other).await;
    }

    /// Waits a little before what failed is tried again, but no longer than it takes to get a session.
    pub(super) async fn settle(&self) {
        let is_up = |status: &Status| matches!(status, Status::Up(_));
        if is_up(&self.0.borrow()) {
            return sleep(RETRY).await;
        }
        let _ = timeout(RETRY, self.0.clone().wait_for(is_up)).await;
    }
}

/// Whether requests go out at once.
pub(super) fn is_connected(client: &Client) -> bool {
    client.state() == SessionState::SyncConnected
}

async fn keep_up(place: Arc<Place>, status: watch::Sender<Status>) {
    let keep = async {
        loop {
            match connect(&place).await {
                Ok(client) => {
                    let states = client.state_watcher();
                    status.send_replace(Status::Up(client));
                    disconnected(states).await;
                    status.send_replace(Status::Connecting);
                }
                Err(fault) => {
                    tracing::debug!(%fault, store = place.url, "no session");
                    status.send_replace(Status::Down(fault));
                    sleep(RETRY).await;
                }
            }
        }
    };
    tokio::select! {
        () = keep => {}
        () = status.closed() => {}
    }
}

async fn connect(place: &Place) -> Result<Client, Fault> {
    let client = place.session(SESSION).await?;
    let prepared = timeout(REQUEST, place.prepare(&client)).await;
    prepared.unwrap_or_else(|_| Err(Fault::Lost("it does not answer".to_owned())))?;
    Ok(client)
}

async fn disconnected(mut states: StateWatcher) {
    while states.peek_state() == SessionState::SyncConnected {
        states.changed().await;
    }
}
