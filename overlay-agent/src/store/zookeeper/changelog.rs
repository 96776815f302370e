//! The changelog: one node for each commit, made in the same step as the commit's changes.
//!
//! ZooKeeper numbers these nodes without gaps, so a reader knows which comes next, and can tell one that is not
//! there yet from one that is gone. The node's zxid, which is that of everything that its commit wrote, is the
//! commit's revision. A record holds the values too, as far as they are small and text: the history is exact.
//! Of a larger value only the latest can be had, from its own node.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zookeeper_client::{Client, MultiReadResult, Stat};

use super::{
    fault::{Fault, found, found_one},
    layout::Layout,
    link::Place,
};
use crate::store::{LeaseId, Revision};

/// How many commits are kept.
pub(super) const KEPT: u32 = 1000;
/// One in so many commits removes those that are too old.
const TRIM_EVERY: u32 = 100;
/// Longest value that stands in the changelog itself.
const INLINE: usize = 4096;
/// How many records are read at a time.
pub(super) const BATCH: u32 = 64;

/// What one commit changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Tells this commit from all others: finds it again when its answer was lost.
    pub commit: String,
    /// Each key once.
    pub changes: Vec<Change>,
}

/// One change of a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Change {
    /// A key was written.
    Put {
        /// The key.
        key: String,
        /// The value, if it is small and text; otherwise the key's node has it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        value: Option<String>,
        /// The lease that it goes with.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        lease: Option<i64>,
    },
    /// A key was deleted.
    Delete {
        /// The key.
        key: String,
    },
}

impl Change {
    pub(super) fn put(key: &str, value: &[u8], lease: Option<LeaseId>) -> Self {
        let text = str::from_utf8(value).ok().filter(|text| text.len() <= INLINE);
        Self::Put { key: key.to_owned(), value: text.map(str::to_owned), lease: lease.map(LeaseId::number) }
    }

    pub(super) fn key(&self) -> &str {
        let (Self::Put { key, .. } | Self::Delete { key }) = self;
        key
    }
}

/// A commit as it is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    pub revision: Revision,
    pub record: Record,
}

/// How far the changelog goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// The number that the next commit gets.
    pub next: u32,
    /// Which changelog this is.
    pub birth: Birth,
}

/// When a changelog was made: tells one from another that was made after the store had been wiped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Birth {
    zxid: i64,
    time: i64,
}

impl Birth {
    /// The revision of a store in which nothing was written yet.
    pub(super) fn revision(self) -> Revision {
        revision(self.zxid)
    }
}

impl From<Stat> for End {
    fn from(stat: Stat) -> Self {
        // ZooKeeper shows how many children came and went together; the next number is how many came.
        let came_twice = stat.cversion.cast_unsigned().wrapping_add(stat.num_children.cast_unsigned());
        Self { next: came_twice / 2, birth: Birth { zxid: stat.czxid, time: stat.ctime } }
    }
}

/// The revision that a zxid is. Zxids are never negative.
pub(super) fn revision(zxid: i64) -> Revision {
    Revision(zxid.cast_unsigned())
}

/// The end of the changelog.
pub(super) async fn end(client: &Client, layout: &Layout) -> Result<End, Fault> {
    let stat = client.check_stat(&layout.changes()).await?;
    stat.map(End::from).ok_or(Fault::Wiped)
}

/// The revision of the latest commit before this end; `None` if it is no longer there.
pub(super) async fn revision_at(
    client: &Client,
    layout: &Layout,
    end: End,
) -> Result<Option<Revision>, Fault> {
    let Some(latest) = end.next.checked_sub(1) else { return Ok(Some(end.birth.revision())) };
    let stat = client.check_stat(&layout.change(latest)).await?;
    Ok(stat.map(|stat| revision(stat.czxid)))
}

/// The end of the changelog, and the revision there.
pub(super) async fn present(client: &Client, layout: &Layout) -> Result<(End, Revision), Fault> {
    let end = end(client, layout).await?;
    let revision = revision_at(client, layout, end).await?;
    // Only if a thousand commits came between the two questions.
    Ok((end, revision.ok_or(Fault::Raced)?))
}

/// The commits from this number on, up to the first that is not there, and so many at most.
pub(super) async fn read(
    client: &Client,
    layout: &Layout,
    from: u32,
    count: u32,
) -> Result<Vec<Commit>, Fault> {
    let mut reader = client.new_multi_reader();
    for number in from..from.saturating_add(count) {
        reader.add_get_data(&layout.change(number))?;
    }
    let mut commits = Vec::new();
    for result in reader.commit().await? {
        let Some(MultiReadResult::Data { data, stat }) = found_one(result)? else { break };
        let record = serde_json::from_slice(&data).map_err(|error| unreadable(layout, &error))?;
        commits.push(Commit { revision: revision(stat.czxid), record });
    }
    Ok(commits)
}

/// All commits from this number on.
pub(super) async fn read_all(client: &Client, layout: &Layout, from: u32) -> Result<Vec<Commit>, Fault> {
    let mut commits = Vec::new();
    let mut next = from;
    loop {
        let batch = read(client, layout, next, BATCH).await?;
        next = next.saturating_add(u32::try_from(batch.len()).unwrap_or(u32::MAX));
        let is_last = batch.len() < BATCH as usize;
        commits.extend(batch);
        if is_last {
            return Ok(commits);
        }
    }
}

/// The number of the first commit after this revision. `None` if some after it are gone, or it never was.
pub(super) async fn number_after(
    client: &Client,
    layout: &Layout,
    after: Revision,
) -> Result<(Option<u32>, End), Fault> {
    let (end, present) = present(client, layout).await?;
    if after == present {
        return Ok((Some(end.next), end));
    }
    if after > present || after < end.birth.revision() {
        return Ok((None, end));
    }
    let first = first(client, layout).await?;
    let number = search(client, layout, (first, end.next), after).await?;
    // Whatever lay before the first that is kept may have come after this revision.
    Ok((number.filter(|number| *number > first || first == 0), end))
}

/// The first number in a range whose commit came after this revision, by halving the range.
async fn search(
    client: &Client,
    layout: &Layout,
    (mut low, mut high): (u32, u32),
    after: Revision,
) -> Result<Option<u32>, Fault> {
    while low < high {
        let middle = low + (high - low) / 2;
        let Some(stat) = client.check_stat(&layout.change(middle)).await? else { return Ok(None) };
        if revision(stat.czxid) > after {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(Some(low))
}

/// The oldest number that is kept.
async fn first(client: &Client, layout: &Layout) -> Result<u32, Fault> {
    Ok(numbers(client, layout).await?.into_iter().min().unwrap_or(0))
}

async fn numbers(client: &Client, layout: &Layout) -> Result<Vec<u32>, Fault> {
    let children = found(client.list_children(&layout.changes()).await)?.ok_or(Fault::Wiped)?;
    Ok(children.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The commit with this identity, if it is among those from this number on.
pub(super) async fn find(
    client: &Client,
    layout: &Layout,
    from: u32,
    identity: &str,
) -> Result<Option<Revision>, Fault> {
    let commits = read_all(client, layout, from).await?;
    Ok(commits.into_iter().find(|commit| commit.record.commit == identity).map(|commit| commit.revision))
}

/// Removes what is too old, if it falls to the commit of this number to do so. Nothing depends on it being done
/// now: should it fail, a later one does it.
pub(super) fn trim(client: &Client, place: &Arc<Place>, number: u32) {
    if !number.is_multiple_of(TRIM_EVERY) || number < KEPT {
        return;
    }
    let (client, place) = (client.clone(), Arc::clone(place));
    tokio::spawn(async move {
        if let Err(fault) = remove_before(&client, &place.layout, number - KEPT).await {
            tracing::debug!(%fault, "the changelog was not trimmed");
        }
    });
}

async fn remove_before(client: &Client, layout: &Layout, keep_from: u32) -> Result<(), Fault> {
    let old = numbers(client, layout).await?.into_iter().filter(|number| *number < keep_from);
    let paths: Vec<String> = old.map(|number| layout.change(number)).collect();
    // All are sent before the first is answered. Others may be at the same.
    let answers: Vec<_> = paths.iter().map(|path| client.delete(path, None)).collect();
    for answer in answers {
        found(answer.await)?;
    }
    Ok(())
}

fn unreadable(layout: &Layout, error: &serde_json::Error) -> Fault {
    Fault::Refused(format!("a record below {} cannot be read: {error}", layout.changes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_well_and_comes_back() {
        let large = "x".repeat(INLINE + 1);
        let changes = vec![
            Change::put("a/b", br#"{"id":1}"#, Some(LeaseId::from(-1))),
            Change::put("a/large", large.as_bytes(), None),
            Change::put("a/bytes", b"\xff", None),
            Change::Delete { key: "a/c".to_owned() },
        ];
        let record = Record { commit: "00ff".to_owned(), changes };
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(
            json,
            r#"{"commit":"00ff","changes":[{"put":{"key":"a/b","value":"{\"id\":1}","lease":-1}},{"put":{"key":"a/large"}},{"put":{"key":"a/bytes"}},{"delete":{"key":"a/c"}}]}"#
        );
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    }
}
