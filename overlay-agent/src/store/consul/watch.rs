//! Following: two questions wait at the server, one for the chains and one for the ends of sessions.
//!
//! What they name is read together with the chains, at one moment. A commit that shares a key with one that came
//! since waits for that one, and all after it do, so that none is ever shown in part. When the records do not reach back far enough, or
//! commits have to wait too often, everything is listed and compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{
    FutureExt as _, Stream, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tokio::time::sleep;

use super::{
    Client,
    api::Look,
    changes::{Chains, Commit, FOLDER, Fate, LEASES, Position},
    is_ours, pair,
    snapshot::{Seen, Snapshot},
    txn::{MOST_OPERATIONS, Operation, Verdict},
};
use crate::store::{Entry, Event, LeaseId, Revision, StoreError, WatchItem};

/// Pause before asking servers again that did not answer.
const RETRY: Duration = Duration::from_millis(500);
/// How often keys are read again because they came or went in between.
const ATTEMPTS: usize = 5;

/// How often commits wait for later ones before everything is listed.
const WAITS: usize = 20;

type Item = Option<WatchItem>;

/// One watch.
pub(super) struct Follower {
    /// Answers to the questions that wait.
    wakes: BoxStream<'static, Result<Wake, StoreError>>,
    view: View,
    /// The revision asked for is unknown; that is the first item.
    lost: bool,
    /// What a wake told was not read.
    missed: bool,
    /// An error item has told that the store cannot be reached.
    failed: bool,
}

/// What has been shown, and where to read what is new.
struct View {
    client: Arc<Client>,
    shown: Snapshot,
    /// Commits before the position that were not shown yet, and how often some had to wait.
    waiting: Vec<Commit>,
    waits: usize,
}

/// What was read of some keys.
#[derive(Default)]
struct Reading {
    entries: BTreeMap<String, Entry>,
    /// Keys that have changed once more.
    changed_since: BTreeSet<String>,
}

/// What an answered question tells.
enum Wake {
    /// The chains are these.
    Chains(Chains),
    /// Sessions that hold keys are these.
    Leases(BTreeSet<LeaseId>, Revision),
    /// The store has none of our keys.
    Wiped,
}

impl Follower {
    pub(super) async fn start(
        client: Arc<Client>,
        prefix: &str,
        after: Revision,
    ) -> Result<Self, StoreError> {
        let remembered = client.remembered(prefix, after);
        let shown = match remembered {
            Some(listing) => listing,
            None => client.snapshot(prefix).await?.0,
        };
        let lost = shown.revision != after;
        let wakes = stream::select(look_at_chains(&client), look_at_leases(&client)).boxed();
        Ok(Self {
            wakes,
            view: View { client, shown, waiting: Vec::new(), waits: 0 },
            lost,
            missed: false,
            failed: false,
        })
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<WatchItem, StoreError>> {
        stream::unfold(self, |mut follower| async { Some((follower.next().await, follower)) })
    }

    /// The next item. An outage is reported once, however long it lasts.
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        if std::mem::take(&mut self.lost) {
            return Ok(WatchItem::Reset);
        }
        loop {
            let item = match self.wakes.next().await {
                Some(Ok(wake)) => self.take(wake).await,
                Some(Err(error)) => Err(error),
                None => std::future::pending().await,
            };
            match item {
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
        }
    }

    async fn take(&mut self, wake: Wake) -> Result<Item, StoreError> {
        // Until all that this tells, and what was missed before, has been read.
        let missed = std::mem::replace(&mut self.missed, true);
        let view = &mut self.view;
        let item = match wake {
            Wake::Chains(chains) if !missed => {
                view.client.known().note(&chains);
                view.follow(&chains, None).await
            }
            Wake::Leases(alive, at) if !missed => view.end_leases(&alive, at).await,
            _ => view.list_again().await,
        }?;
        self.missed = false;
        Ok(item)
    }
}

impl View {
    /// Shows what the chains tell, and what is known beside.
    async fn follow(&mut self, chains: &Chains, beside: Option<Commit>) -> Result<Item, StoreError> {
        let Some(new) = chains.since(&self.shown.position) else { return self.list_again().await };
        let mut commits: Vec<Commit> = self.waiting.iter().cloned().chain(new).chain(beside).collect();
        for commit in &mut commits {
            commit.keys.retain(|key, _| key.starts_with(&self.shown.prefix) && !is_ours(key));
        }
        commits.retain(|commit| !commit.keys.is_empty());
        commits.sort_by_key(|commit| commit.revision);
        let Some(reading) = self.read(&commits, &chains.position()).await? else {
            return self.list_again().await;
        };
        let (waiting, settled) = wait(commits, reading.changed_since);
        self.waits = if waiting.is_empty() { 0 } else { self.waits + 1 };
        if self.waits > WAITS {
            return self.list_again().await;
        }
        self.waiting = waiting;
        self.shown.position = chains.position();
        self.shown.revision = self.shown.revision.max(chains.revision());
        let fates = latest(&settled);
        let events =
            fates.iter().filter_map(|(key, (at, _))| self.event(key, *at, reading.entries.get(*key)));
        let events = events.collect();
        Ok(self.show(events))
    }

    /// Looks after the keys of sessions that have ended.
    async fn end_leases(&mut self, alive: &BTreeSet<LeaseId>, at: Revision) -> Result<Item, StoreError> {
        let ended = |seen: &Seen| seen.lease.is_some_and(|lease| !alive.contains(&lease));
        let keys = self.shown.seen.iter().filter(|(_, seen)| ended(seen));
        let keys: BTreeMap<String, Fate> = keys.map(|(key, _)| (key.clone(), Fate::Deleted)).collect();
        if keys.is_empty() {
            return Ok(None);
        }
        let (chains, _) = self.client.read_with_chains("watch", Vec::new()).await?;
        let end = Commit { revision: at.max(self.shown.revision), keys };
        let item = self.follow(&chains, Some(end)).await?;
        let known = &mut self.client.known();
        known.horizon = known.horizon.max(at);
        self.shown.revision = self.shown.revision.max(at);
        Ok(item)
    }

    /// Reads what became of the keys of commits up to a position; `None` if that cannot be told from them alone.
    async fn read(&self, commits: &[Commit], upto: &Position) -> Result<Option<Reading>, StoreError> {
        let mut reading = Reading::default();
        let fates: Vec<(&str, Fate)> =
            latest(commits).into_iter().map(|(key, (_, fate))| (key, fate)).collect();
        for some in fates.chunks(MOST_OPERATIONS - 1) {
            let Some(more) = self.read_some(some, upto).await? else { return Ok(None) };
            reading.entries.extend(more.entries);
            reading.changed_since.extend(more.changed_since);
        }
        Ok(Some(reading))
    }

    async fn read_some(&self, keys: &[(&str, Fate)], upto: &Position) -> Result<Option<Reading>, StoreError> {
        let servers = &self.client.servers;
        // A key that is not there fails the reading as one that is there fails a check.
        let mut absent: Vec<bool> = keys.iter().map(|(_, fate)| *fate == Fate::Deleted).collect();
        for _ in 0..ATTEMPTS {
            let read = keys.iter().zip(&absent).map(|((key, _), absent)| {
                let key = servers.outer(key);
                if *absent { Operation::check_absent(&key) } else { Operation::get(&key) }
            });
            let chains = Operation::get_tree(&servers.outer(FOLDER));
            let operations: Vec<Operation> = read.chain([chains]).collect();
            match self.client.read("watch", &operations).await? {
                Verdict::Failed(failed) => {
                    for failed in failed {
                        absent.get_mut(failed.op_index).into_iter().for_each(|absent| *absent = !*absent);
                    }
                }
                Verdict::Done(pairs) => {
                    let chains = Chains::among(servers, &pairs);
                    let Some(since) = chains.and_then(|chains| chains.since(upto)) else { return Ok(None) };
                    let entries = pairs.iter().filter_map(|pair| pair::entry(servers, pair));
                    return Ok(Some(Reading {
                        entries: entries.map(|entry| (entry.key.clone(), entry)).collect(),
                        changed_since: since.into_iter().flat_map(|commit| commit.keys.into_keys()).collect(),
                    }));
                }
            }
        }
        Ok(None)
    }

    /// What there is to show of a key; nothing if that was shown before.
    fn event(&self, key: &str, at: Revision, entry: Option<&Entry>) -> Option<Event> {
        match (entry, self.shown.seen.get(key)) {
            (Some(entry), seen) => (seen != Some(&entry.into())).then(|| Event::Put(entry.clone())),
            (None, Some(_)) => Some(Event::Delete { key: key.to_owned(), revision: at }),
            (None, None) => None,
        }
    }

    /// Lists everything and shows what is different, if it is still the same store.
    async fn list_again(&mut self) -> Result<Item, StoreError> {
        let (snapshot, entries) = self.client.snapshot(&self.shown.prefix).await?;
        (self.waiting, self.waits) = (Vec::new(), 0);
        if !snapshot.position.follows(&self.shown.position) {
            self.shown = snapshot;
            return Ok(Some(WatchItem::Reset));
        }
        let revision = snapshot.revision.max(self.shown.revision);
        let gone = self.shown.seen.keys().filter(|key| !snapshot.seen.contains_key(*key));
        let deletes = gone.map(|key| Event::Delete { key: key.clone(), revision });
        let new = entries.into_iter().filter(|entry| self.shown.seen.get(&entry.key) != Some(&entry.into()));
        let events = deletes.chain(new.map(Event::Put)).collect();
        self.shown = Snapshot { revision, ..snapshot };
        Ok(self.show(events))
    }

    /// Remembers what is shown.
    fn show(&mut self, mut events: Vec<Event>) -> Item {
        events.sort_by_key(Event::revision);
        for event in &events {
            match event {
                Event::Put(entry) => drop(self.shown.seen.insert(entry.key.clone(), entry.into())),
                Event::Delete { key, .. } => drop(self.shown.seen.remove(key)),
            }
        }
        (!events.is_empty()).then_some(WatchItem::Events(events))
    }
}

/// The last that happened to each key, and when.
fn latest(commits: &[Commit]) -> BTreeMap<&str, (Revision, Fate)> {
    let keys =
        commits.iter().flat_map(|commit| commit.keys.iter().map(move |(key, fate)| (key, commit, fate)));
    keys.map(|(key, commit, fate)| (key.as_str(), (commit.revision, *fate))).collect()
}

/// Parts the commits that have to wait from the rest: those that share keys with later ones, and all after them, so
/// that revisions rise. The commits come in the order of their revisions.
fn wait(mut commits: Vec<Commit>, mut keys: BTreeSet<String>) -> (Vec<Commit>, Vec<Commit>) {
    let mut waiting = Vec::new();
    while let Some(first) = commits.iter().position(|commit| commit.keys.keys().any(|key| keys.contains(key)))
    {
        let more = commits.split_off(first);
        keys.extend(more.iter().flat_map(|commit| commit.keys.keys().cloned()));
        waiting.extend(more);
    }
    (waiting, commits)
}

fn look_at_chains(client: &Arc<Client>) -> impl Stream<Item = Result<Wake, StoreError>> + use<> {
    repeat(client, |client, index| {
        async move {
            let folder = client.servers.outer(FOLDER);
            let Look { index, found } = client.api.look_at_pairs(&folder, index).await?;
            let chains = found.and_then(|pairs| Chains::among(&client.servers, &pairs));
            Ok((index, chains.map_or(Wake::Wiped, Wake::Chains)))
        }
        .boxed()
    })
}

fn look_at_leases(client: &Arc<Client>) -> impl Stream<Item = Result<Wake, StoreError>> + use<> {
    repeat(client, |client, index| {
        async move {
            let folder = client.servers.outer(LEASES);
            let Look { index, found } = client.api.look_at_keys(&folder, index).await?;
            let Some(keys) = found else { return Ok((index, Wake::Wiped)) };
            let leases = keys.iter().filter_map(|key| pair::lease(key.strip_prefix(&folder)?)).collect();
            Ok((index, Wake::Leases(leases, Revision(index))))
        }
        .boxed()
    })
}

type Question = fn(Arc<Client>, u64) -> BoxFuture<'static, Result<(u64, Wake), StoreError>>;

/// Asks a question again and again; yields what is new, and each failure after a pause.
fn repeat(client: &Arc<Client>, ask: Question) -> impl Stream<Item = Result<Wake, StoreError>> + use<> {
    stream::unfold((Arc::clone(client), 0), move |(client, mut last)| async move {
        loop {
            match ask(Arc::clone(&client), last).await {
                Ok((index, _)) if index == last && index != 0 => {}
                Ok((index, wake)) => {
                    if index == 0 {
                        sleep(RETRY).await;
                    }
                    return Some((Ok(wake), (client, index)));
                }
                Err(error) => {
                    // The first is reported at once.
                    if last == 0 {
                        sleep(RETRY).await;
                    }
                    last = 0;
                    return Some((Err(error), (client, last)));
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(revision: u64, keys: &str) -> Commit {
        let keys = keys.split_whitespace().map(|key| (key.to_owned(), Fate::Written)).collect();
        Commit { revision: Revision(revision), keys }
    }

    #[test]
    fn a_commit_waits_for_later_ones_of_the_same_keys_and_all_after_it_do() {
        let commits =
            vec![commit(1, "a"), commit(2, "b c"), commit(3, "d"), commit(4, "c e"), commit(5, "f")];
        let parted = |changed: &[&str]| {
            let changed = changed.iter().map(|key| (*key).to_owned()).collect();
            let (waiting, settled) = wait(commits.clone(), changed);
            assert_eq!(waiting.len() + settled.len(), commits.len());
            settled.last().map_or(0, |commit| commit.revision.0)
        };
        assert_eq!(parted(&[]), 5);
        assert_eq!(parted(&["other"]), 5);
        assert_eq!(parted(&["f"]), 4);
        assert_eq!(parted(&["e"]), 1, "commit 2 shares a key with 4, which waits");
        assert_eq!(parted(&["a"]), 0);
    }
}
