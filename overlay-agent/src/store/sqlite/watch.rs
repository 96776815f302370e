//! Following the changelog: who wakes a follower, and what it reads then.
//!
//! SQLite does not tell one process of another's commit. Each client watches the store's file with inotify: whoever
//! has committed touches it ([`Place::announce`]), and a follower then reads what is new. The log beside it is not
//! watched: it is written several times before a commit can be seen, and a hundred agents would wake each time.
//! Should an event be missed, or somebody else commit who does not announce it, the next poll finds the change.

use std::{io, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, stream::BoxStream};
use inotify::{EventMask, EventStream, Inotify, WatchMask, Watches};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Interval, MissedTickBehavior, interval, timeout},
};

use super::{
    Client,
    lease::{self, Clock},
    schema::Place,
    tables::{self, Changes, KeyRange, Position},
    worker::Worker,
};
use crate::store::{Revision, StoreError, WatchItem};

/// How long a change can go unseen if inotify fails, and a lease outlive its time.
const POLL: Duration = Duration::from_millis(500);

type Events = EventStream<[u8; 4096]>;

/// The task that notices what other processes do. It ends when this is dropped.
pub(super) struct Pulse {
    beats: watch::Receiver<()>,
    task: JoinHandle<()>,
}

impl Pulse {
    pub(super) fn start(
        place: &Arc<Place>,
        clock: &Clock,
        reader: &Arc<Worker>,
        writer: &Arc<Worker>,
    ) -> Self {
        let (beat, beats) = watch::channel(());
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (place, clock) = (Arc::clone(place), clock.clone());
        let (reader, writer) = (Arc::clone(reader), Arc::clone(writer));
        let heart = Heart { events: watch_place(&place), place, clock, reader, writer, ticks, beat };
        Self { beats, task: tokio::spawn(heart.run()) }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Heart {
    place: Arc<Place>,
    clock: Clock,
    reader: Arc<Worker>,
    writer: Arc<Worker>,
    events: Option<Events>,
    ticks: Interval,
    beat: watch::Sender<()>,
}

/// What happened in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    /// A file was written.
    Written,
    /// A file came or went, or nothing happened for a while.
    Look,
    /// The directory itself is gone, or cannot be watched.
    Blind,
}

impl Heart {
    async fn run(mut self) {
        loop {
            let wake = tokio::select! {
                wake = next_wake(&mut self.events) => wake,
                _ = self.ticks.tick() => Wake::Look,
            };
            if wake == Wake::Blind {
                self.events = None;
            }
            if wake != Wake::Written {
                self.look().await;
            }
            self.beat.send_replace(());
        }
    }

    /// Lets both connections see whether the file is still theirs, and ends leases. What fails here fails for
    /// whoever uses the store too, and is reported there.
    async fn look(&mut self) {
        match &self.events {
            None => self.events = watch_place(&self.place),
            // Another file may be there by now; one that is watched already stays so.
            Some(events) => watch_file(&mut events.watches(), &self.place).unwrap_or_else(|error| {
                tracing::debug!(%error, store = self.place.url(), "file not watched; polling");
            }),
        }
        let clock = self.clock.clone();
        let place = Arc::clone(&self.place);
        let sweep = move |open: &mut super::worker::Open| {
            if lease::sweep(&mut open.connection, &clock)? {
                place.announce();
            }
            Ok(())
        };
        let swept = self.writer.run("end leases", sweep).await;
        let seen = self.reader.run("look at the file", |_| Ok(())).await;
        if let Err(error) = swept.and(seen) {
            tracing::debug!(%error, "store not usable");
        }
    }
}

fn watch_place(place: &Place) -> Option<Events> {
    let mask = WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MOVE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF;
    let watched = || {
        let inotify = Inotify::init()?;
        inotify.watches().add(place.directory(), mask)?;
        watch_file(&mut inotify.watches(), place)?;
        inotify.into_event_stream([0; 4096])
    };
    watched().inspect_err(|error| tracing::debug!(%error, store = place.url(), "no inotify; polling")).ok()
}

fn watch_file(watches: &mut Watches, place: &Place) -> io::Result<()> {
    watches.add(place.path(), WatchMask::MODIFY).map(drop)
}

/// Waits for the next events and takes all that are there.
async fn next_wake(events: &mut Option<Events>) -> Wake {
    let Some(events) = events else { return std::future::pending().await };
    let mut wake = wake_of(events.next().await);
    while let Some(more) = events.next().now_or_never() {
        wake = match (wake, wake_of(more)) {
            (Wake::Blind, _) | (_, Wake::Blind) => return Wake::Blind,
            (Wake::Written, Wake::Written) => Wake::Written,
            _ => Wake::Look,
        };
    }
    wake
}

fn wake_of<T>(event: Option<io::Result<inotify::Event<T>>>) -> Wake {
    let Some(Ok(event)) = event else { return Wake::Blind };
    if event.mask.intersects(EventMask::IGNORED | EventMask::DELETE_SELF | EventMask::MOVE_SELF) {
        Wake::Blind
    } else if event.mask == EventMask::MODIFY {
        Wake::Written
    } else {
        Wake::Look
    }
}

/// One watch: reads the changelog from where it stands.
pub(super) struct Follower {
    client: Arc<Client>,
    range: Arc<KeyRange>,
    beats: watch::Receiver<()>,
    at: Position,
    failed: bool,
}

impl Follower {
    /// Fails if the store cannot be read now.
    pub(super) async fn start(
        client: Arc<Client>,
        range: KeyRange,
        after: Revision,
    ) -> Result<Self, StoreError> {
        let generation = client.reader.run("watch", |open| Ok(open.generation)).await?;
        let beats = client.pulse.beats.clone();
        let at = Position { generation, revision: after };
        Ok(Self { client, range: Arc::new(range), beats, at, failed: false })
    }

    pub(super) fn into_stream(self) -> BoxStream<'static, Result<WatchItem, StoreError>> {
        futures::stream::unfold(self, |mut follower| async { Some((follower.next().await, follower)) })
            .boxed()
    }

    /// The next item. An outage is reported once, however long it lasts.
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            // Before the reading: a commit during it beats again.
            self.beats.mark_unchanged();
            match self.read().await {
                Ok(item) => {
                    self.failed = false;
                    if let Some(item) = item {
                        return Ok(item);
                    }
                }
                Err(error) if !self.failed => {
                    self.failed = true;
                    return Err(error);
                }
                Err(_) => {}
            }
            // A poll too: where inotify fails, nothing beats but the clock.
            let _ = timeout(POLL, self.beats.changed()).await;
        }
    }

    async fn read(&mut self) -> Result<Option<WatchItem>, StoreError> {
        let (range, at) = (Arc::clone(&self.range), self.at);
        let read = move |open: &mut super::worker::Open| {
            // Another file may have the same revisions for other changes.
            let after = if open.generation == at.generation { at.revision } else { Revision(u64::MAX) };
            Ok((tables::changes(&mut open.connection, &range, after)?, open.generation))
        };
        let (changes, generation) = self.client.reader.run("watch", read).await?;
        let (item, revision) = match changes {
            Changes::Unknown(newest) => (Some(WatchItem::Reset), newest),
            Changes::Since(events, upto) => ((!events.is_empty()).then_some(WatchItem::Events(events)), upto),
        };
        self.at = Position { generation, revision };
        Ok(item)
    }
}
