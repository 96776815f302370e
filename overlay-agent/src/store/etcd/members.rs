//! The cluster's members: whom to ask, how long to wait, and when to go on to the next.
//!
//! A client stays with the member that answers; it goes on when that one fails. etcd-client could spread requests over
//! members by itself, but it also sends them to members that are known to be down.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use futures::TryFutureExt as _;
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep, timeout},
};

use super::failure::Failure;
use crate::store::{Access, Tls};

/// A member that is there lets us connect in this time.
const CONNECT: Duration = Duration::from_secs(2);
/// A member that is well answers in this time.
const ANSWER: Duration = Duration::from_secs(3);
/// No operation takes longer, however many members are tried.
const OPERATION: Duration = Duration::from_secs(6);
/// Pause between two attempts: for an election, and not to hurry a server that is busy.
const PAUSE: Duration = Duration::from_millis(100);
/// How often to ask on an open connection whether the other end is there. A server takes offence at more than one in
/// five seconds, and at any where nothing is open.
const PING: Duration = Duration::from_secs(6);
/// How long it may take to say so.
const PONG: Duration = Duration::from_secs(3);

/// The members of a cluster, as the address names them.
pub struct Members {
    all: Vec<Member>,
    current: AtomicUsize,
    options: ConnectOptions,
}

struct Member {
    endpoint: String,
    /// Set once we were able to say who we are.
    client: OnceCell<Client>,
}

impl Members {
    /// Connects when first asked. The first to be asked is any of them, so that agents spread over the members.
    pub fn new(hosts: &[String], access: &Access) -> Self {
        let scheme = if access.tls.is_some() { "https" } else { "http" };
        let member =
            |host: &String| Member { endpoint: format!("{scheme}://{host}"), client: OnceCell::new() };
        Self {
            all: hosts.iter().map(member).collect(),
            current: AtomicUsize::new(rand::random_range(0..hosts.len())),
            options: options(access),
        }
    }

    /// Puts a question that does no harm when it is put twice, to one member after the other until one answers.
    pub async fn ask<T, F>(&self, question: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut round = self.round();
        loop {
            match round.attempt(|client| question(client).err_into()).await {
                Err(failure) if failure.may_pass() && round.goes_on(&failure).await => {}
                answer => return answer,
            }
        }
    }

    /// A new operation.
    pub fn round(&self) -> Round<'_> {
        // One more than there are: a connection that just broke may fail two requests before it is made anew.
        Round { members: self, left: self.all.len() + 1, end: Instant::now() + OPERATION }
    }

    /// Goes on to the next member, unless somebody did so already.
    fn leave(&self, member: usize) {
        let next = (member + 1) % self.all.len();
        // Whoever was first has chosen.
        let _ = self.current.compare_exchange(member, next, Relaxed, Relaxed);
    }

    async fn client(&self, member: usize) -> Result<Client, Failure> {
        let Member { endpoint, client } = &self.all[member];
        let connect = || Client::connect([endpoint], Some(self.options.clone()));
        Ok(client.get_or_try_init(connect).await?.clone())
    }
}

/// The attempts at one operation.
pub struct Round<'a> {
    members: &'a Members,
    /// How many attempts may yet be made, those during an election apart.
    left: usize,
    end: Instant,
}

impl Round<'_> {
    /// Asks the current member, a second time if it has forgotten who we are; leaves it if it fails.
    pub async fn attempt<T, F>(&mut self, question: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let member = self.members.current.load(Relaxed);
        let ask = async {
            let client = self.members.client(member).await?;
            match question(client.clone()).await {
                Err(Failure::StaleToken(_)) => {
                    client.refresh_token().await?;
                    question(client).await
                }
                answer => answer,
            }
        };
        let patience = ANSWER.min(self.end.saturating_duration_since(Instant::now()));
        let answer = timeout(patience, ask).await.unwrap_or_else(|_| Err(Failure::Silent));
        if answer.as_ref().is_err_and(Failure::may_pass) {
            self.members.leave(member);
        }
        answer
    }

    /// Whether there is time and sense for one more attempt after this failure; waits a little where that helps.
    pub async fn goes_on(&mut self, failure: &Failure) -> bool {
        match failure {
            // An election is over in a second or two, and all members say the same until then.
            Failure::Undone(reason) if reason.contains("no leader") => sleep(PAUSE).await,
            // Nobody else is there to ask.
            Failure::Silent if self.members.all.len() == 1 => return false,
            _ => self.left -= 1,
        }
        if self.left == 1 {
            sleep(PAUSE).await;
        }
        self.left > 0 && Instant::now() < self.end
    }
}

fn options(access: &Access) -> ConnectOptions {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT)
        .with_keep_alive(PING, PONG)
        .with_keep_alive_while_idle(false)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let (Some(user), Some(password)) = (&access.user, &access.password) {
        options = options.with_user(user, password.expose());
    }
    match &access.tls {
        Some(tls) => options.with_tls(tls_options(tls)),
        None => options,
    }
}

fn tls_options(tls: &Tls) -> TlsOptions {
    let options = match &tls.ca {
        Some(ca) => TlsOptions::new().ca_certificate(Certificate::from_pem(ca)),
        None => TlsOptions::new().with_native_roots(),
    };
    match &tls.identity {
        Some((certificate, key)) => options.identity(Identity::from_pem(certificate, key.expose())),
        None => options,
    }
}
