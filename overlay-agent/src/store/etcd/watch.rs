//! Following a prefix.
//!
//! etcd sends the changes of one revision in one answer, unless a client asks for fragments: a commit is never split.
//! What a client must see to is the beginning of each connection. A watch from a revision that the store has not
//! reached waits in silence, and a store that was wiped counts anew; so before each watch a look at the past tells
//! whether the history there is the one that we know.

use std::{sync::Arc, time::Duration};

use etcd_client::{EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use futures::{StreamExt, stream, stream::BoxStream};

use super::{
    Client,
    failure::Failure,
    wire::{self, KeyRange, number, position, revision},
};
use crate::store::{Event, Revision, StoreError, WatchItem};

/// Pause before the second attempt to reach the store again; it doubles from one to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// A watch that outlives its connections.
pub struct Follower {
    client: Arc<Client>,
    range: KeyRange,
    /// All up to here was shown.
    after: Revision,
    /// The latest change that was shown.
    latest: Option<Mark>,
    stream: Option<WatchStream>,
    /// Pause before the next attempt.
    pause: Duration,
}

/// What a key had come to at some time, by which a history can be known again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    key: Vec<u8>,
    /// When it was last written; `None` after a deletion.
    written: Option<Revision>,
}

impl Follower {
    /// Begins to follow.
    pub async fn start(client: Arc<Client>, range: KeyRange, after: Revision) -> Result<Self, StoreError> {
        let mut follower = Self { client, range, after, latest: None, stream: None, pause: Duration::ZERO };
        // Without history the stream's first item says so.
        follower.stream = follower.open().await?;
        Ok(follower)
    }

    /// What it sees, until dropped.
    pub fn into_stream(self) -> BoxStream<'static, Result<WatchItem, StoreError>> {
        stream::unfold(self, |mut follower| async {
            let item = follower.next().await;
            Some((item, follower))
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            let Some(stream) = &mut self.stream else {
                if let Some(reset) = self.reopen().await? {
                    return Ok(reset);
                }
                continue;
            };
            // A stream that ends or breaks is opened again at once: if that fails, that is the error.
            match stream.message().await {
                Ok(Some(response)) if !response.canceled() => {
                    if let Some(events) = self.take(&response) {
                        return Ok(events);
                    }
                }
                _ => self.stream = None,
            }
        }
    }

    async fn reopen(&mut self) -> Result<Option<WatchItem>, StoreError> {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
        self.stream = self.open().await?;
        let reset = self.stream.is_none();
        if reset {
            let present = self.client.present_revision(&self.range).await;
            self.after = present.map_err(|failure| failure.into_error(&self.client.url, "watch"))?;
            self.latest = None;
        }
        Ok(reset.then_some(WatchItem::Reset))
    }

    /// The changes after what was shown last; `None` if they are not to be had.
    async fn open(&self) -> Result<Option<WatchStream>, StoreError> {
        let opened = match self.history_is_known().await {
            Ok(true) => self.open_stream().await.map(Some),
            Ok(false) => Ok(None),
            Err(failure) => Err(failure),
        };
        match opened {
            Err(Failure::NoHistory) => Ok(None),
            opened => opened.map_err(|failure| failure.into_error(&self.client.url, "watch")),
        }
    }

    /// Whether the store has reached the revision that was shown last, still knows it, and had then what was shown.
    async fn history_is_known(&self) -> Result<bool, Failure> {
        let options = GetOptions::new().with_revision(number(self.after)).with_keys_only();
        let (key, options) = match &self.latest {
            Some(mark) => (&mark.key, options),
            None => (&self.range.start, options.with_range(self.range.end.clone()).with_limit(1)),
        };
        let (key, options) = (key.as_slice(), &options);
        let ask = self
            .client
            .members
            .ask(|client| async move { client.kv_client().get(key, Some(options.clone())).await });
        let found = ask.await?;
        Ok(self
            .latest
            .as_ref()
            .is_none_or(|mark| mark.written == found.kvs().first().map(|kv| position(kv.mod_revision()))))
    }

    async fn open_stream(&self) -> Result<WatchStream, Failure> {
        let start = self.range.start.as_slice();
        let options = &WatchOptions::new()
            .with_range(self.range.end.as_slice())
            .with_start_revision(number(self.after).saturating_add(1))
            .with_progress_notify();
        let mut round = self.client.members.round();
        loop {
            let attempt = round.attempt(|client| async move {
                let mut watch = client.watch_client().max_decoding_message_size(wire::LARGEST_ANSWER);
                accepted(watch.watch(start, Some(options.clone())).await?).await
            });
            match attempt.await {
                Err(failure) if failure.may_pass() && round.goes_on(&failure).await => {}
                answer => return answer,
            }
        }
    }

    /// Whole commits, or `None` for an answer that only tells how far the store has come.
    fn take(&mut self, response: &WatchResponse) -> Option<WatchItem> {
        self.pause = Duration::ZERO;
        let Some(last) = response.events().last().and_then(|event| event.kv()) else {
            self.after = self.after.max(revision(response.header()));
            return None;
        };
        self.after = position(last.mod_revision());
        let events: Vec<Event> = response.events().iter().filter_map(|event| self.event(event)).collect();
        self.latest = mark(response);
        (!events.is_empty()).then_some(WatchItem::Events(events))
    }

    fn event(&self, event: &etcd_client::Event) -> Option<Event> {
        let entry = wire::entry(&self.client.servers, event.kv()?.clone())?;
        Some(match event.event_type() {
            EventType::Put => Event::Put(entry),
            EventType::Delete => Event::Delete { key: entry.key, revision: entry.revision },
        })
    }
}

/// What the last change of an answer left behind.
fn mark(response: &WatchResponse) -> Option<Mark> {
    let event = response.events().last()?;
    let kv = event.kv()?;
    let written = (event.event_type() == EventType::Put).then(|| position(kv.mod_revision()));
    Some(Mark { key: kv.key().to_vec(), written })
}

/// A watch that the server has taken on: its first answer says so.
async fn accepted(mut stream: WatchStream) -> Result<WatchStream, Failure> {
    match stream.message().await? {
        Some(response) if !response.canceled() => Ok(stream),
        Some(response) => Err(Failure::of_canceled(&response)),
        None => Err(Failure::Undone("the watch was ended".to_owned())),
    }
}
