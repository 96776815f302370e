//! Following the changelog.
//!
//! A follower knows the number of the next commit. It asks for that node and to be woken when it comes, which
//! costs the server nothing while nothing is written. Whether a session broke in between does not matter: the
//! numbers have no gaps.

use std::sync::Arc;

use futures::{StreamExt, stream::BoxStream};
use tokio::time::timeout;
use zookeeper_client::{Client, EventType, OneshotWatcher, SessionId};

use super::{
    Shared,
    changelog::{self, BATCH, Birth, End},
    fault::Fault,
    link::REQUEST,
    read::{self, Settled},
};
use crate::store::{Revision, StoreError, WatchItem};

/// How many records to read when woken by one.
const FEW: u32 = 4;

/// One watch.
pub(super) struct Follower {
    shared: Arc<Shared>,
    prefix: String,
    /// The number of the next commit.
    next: u32,
    birth: Birth,
    /// How many records to ask for; none while the next is not there.
    reading: u32,
    /// The session that said so. Another may be one with a store that was wiped.
    session: Option<SessionId>,
    /// It has to be told that it missed something.
    lost: bool,
    /// The present outage was reported.
    failed: bool,
}

impl Follower {
    pub(super) async fn start(
        shared: Arc<Shared>,
        prefix: &str,
        after: Revision,
    ) -> Result<Self, StoreError> {
        let place = Arc::clone(&shared.place);
        let find = async |client: Client| {
            client.sync("/").await?;
            changelog::number_after(&client, &place.layout, after).await
        };
        let (number, end) = shared.read("watch", find).await?;
        let (next, lost) = (number.unwrap_or(end.next), number.is_none());
        let birth = end.birth;
        Ok(Self {
            shared,
            prefix: prefix.to_owned(),
            next,
            birth,
            reading: 0,
            session: None,
            lost,
            failed: false,
        })
    }

    pub(super) fn into_stream(self) -> BoxStream<'static, Result<WatchItem, StoreError>> {
        futures::stream::unfold(self, |mut follower| async { Some((follower.next().await, follower)) })
            .boxed()
    }

    /// The next item. An outage is reported once, however long it lasts.
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            if std::mem::take(&mut self.lost) {
                return Ok(WatchItem::Reset);
            }
            match self.step().await {
                Ok(item) => {
                    self.failed = false;
                    if let Some(item) = item {
                        return Ok(item);
                    }
                }
                Err(Fault::Raced) => {}
                Err(fault) if !self.failed => {
                    self.failed = true;
                    return Err(self.shared.place.error("watch", fault));
                }
                Err(_) => self.shared.link.settle().await,
            }
        }
    }

    /// Reads what is there, or waits for what is not.
    async fn step(&mut self) -> Result<Option<WatchItem>, Fault> {
        let client = self.shared.link.client().await?;
        if self.session != Some(client.session_id()) {
            (self.session, self.reading) = (Some(client.session_id()), 0);
        }
        if self.reading > 0 {
            let read = timeout(REQUEST, self.read(&client)).await;
            return read.unwrap_or_else(|_| Err(no_answer()));
        }
        match timeout(REQUEST, self.arm(&client)).await.unwrap_or_else(|_| Err(no_answer())) {
            Err(Fault::Wiped) => self.shared.place.prepare(&client).await?,
            armed => {
                if let Some(watcher) = armed? {
                    self.wait(watcher, &client).await;
                }
            }
        }
        Ok(None)
    }

    /// Until the next commit is there, or another session is.
    async fn wait(&mut self, watcher: OneshotWatcher, client: &Client) {
        tokio::select! {
            event = watcher.changed() => {
                self.reading = if event.event_type == EventType::NodeCreated { FEW } else { 0 };
            }
            () = self.shared.link.replaced(client) => {}
        }
    }

    async fn read(&mut self, client: &Client) -> Result<Option<WatchItem>, Fault> {
        let layout = &self.shared.place.layout;
        let commits = changelog::read(client, layout, self.next, self.reading).await?;
        let is_all = commits.len() < self.reading as usize;
        let Settled { commits, events } =
            read::settle(client, layout, self.next, commits, &self.prefix).await?;
        self.next = read::number_after(self.next, &commits);
        self.reading = if is_all { 0 } else { BATCH };
        Ok((!events.is_empty()).then_some(WatchItem::Events(events)))
    }

    /// Asks to be woken by the next commit. There is nothing to wait for if that is there already, or never will
    /// be.
    async fn arm(&mut self, client: &Client) -> Result<Option<OneshotWatcher>, Fault> {
        let layout = &self.shared.place.layout;
        let end = client.check_stat(&layout.changes());
        let next = client.check_and_watch_stat(&layout.change(self.next));
        let end = end.await?.map(End::from).ok_or(Fault::Wiped)?;
        let (next, watcher) = next.await?;
        if end.birth != self.birth || end.next < self.next || (end.next > self.next && next.is_none()) {
            (self.next, self.birth, self.lost) = (end.next, end.birth, true);
            return Ok(None);
        }
        self.reading = if next.is_some() { BATCH } else { 0 };
        Ok(next.is_none().then_some(watcher))
    }
}

fn no_answer() -> Fault {
    Fault::Lost("no answer".to_owned())
}
