//! Carrying out a transaction: look, plan, take all steps at once, and look again if somebody was quicker.

use std::{collections::BTreeSet, sync::Arc};

use futures::future::join_all;
use zookeeper_client::{Client, CreateMode, Error, MultiWriteResult, MultiWriter};

use super::{
    changelog::{self, End, Record},
    fault::{Fault, found},
    layout::{Layout, ancestors},
    link::{self, Link, Place},
    plan::{self, Lease, Node, Planned, Seen, Step},
};
use crate::store::{LeaseId, Operation, Outcome, Revision, Transaction};

/// What a request may hold, a little less than the server's limit (`jute.maxbuffer`).
const REQUEST_BYTES: usize = 1_000_000;
/// What a step takes beside its path and its data.
const STEP_BYTES: usize = 100;

/// Carries out a transaction.
pub(super) async fn commit(
    place: &Arc<Place>,
    link: &Link,
    transaction: &Transaction,
) -> Result<Outcome, Fault> {
    loop {
        let client = link.client().await?;
        match attempt(place, link, &client, transaction).await {
            Err(Fault::Raced) => {}
            Err(Fault::Wiped) => place.prepare(&client).await?,
            ended => return ended,
        }
    }
}

async fn attempt(
    place: &Arc<Place>,
    link: &Link,
    client: &Client,
    transaction: &Transaction,
) -> Result<Outcome, Fault> {
    let (end, seen) = match look(client, &place.layout, transaction).await {
        // Nothing was written yet: look through the next session.
        Err(Fault::Lost(_)) if !link::is_connected(client) => return Err(Fault::Raced),
        looked => looked?,
    };
    if let Some(key) = plan::conflict(&place.layout, &seen, transaction) {
        return Ok(Outcome::Conflict(key));
    }
    let planned = plan::plan(&place.layout, &seen, transaction);
    if planned.changes.is_empty() {
        return unchanged(client, &place.layout, end).await.map(Outcome::Committed);
    }
    let identity = format!("{:016x}", rand::random::<u64>());
    match carry_out(place, client, planned, &identity).await {
        Err(Fault::Lost(reason)) => {
            recover(place, link, end, &identity, reason).await.map(Outcome::Committed)
        }
        done => Ok(Outcome::Committed(done?)),
    }
}

/// The present revision, if nothing was committed since this end was read: all that was read in between then
/// held at one time.
async fn unchanged(client: &Client, layout: &Layout, end: End) -> Result<Revision, Fault> {
    let revision = changelog::revision_at(client, layout, end).await?;
    let still = changelog::end(client, layout).await? == end;
    revision.filter(|_| still).ok_or(Fault::Raced)
}

/// Finds out from the changelog whether a commit happened whose answer was lost. That it is not there yet does
/// not say that it will not be: then it stays unknown.
async fn recover(
    place: &Place,
    link: &Link,
    end: End,
    identity: &str,
    reason: String,
) -> Result<Revision, Fault> {
    let unknown = || Fault::Lost(format!("{reason}; whether it took effect is not known"));
    let client = link.client().await.map_err(|_| unknown())?;
    client.sync("/").await.map_err(|_| unknown())?;
    let found = changelog::find(&client, &place.layout, end.next, identity).await.map_err(|_| unknown())?;
    found.ok_or_else(unknown)
}

/// Reads what a transaction concerns. All questions are sent before the first is answered, and the server
/// answers them in this order: how far the changelog goes and how many deletions there were is no newer than
/// the nodes.
pub(super) async fn look(
    client: &Client,
    layout: &Layout,
    transaction: &Transaction,
) -> Result<(End, Seen), Fault> {
    let nodes = concerned(layout, transaction);
    let graves: BTreeSet<u32> = nodes.iter().map(|node| Layout::grave_of(node)).collect();
    let synced = client.sync("/");
    let end = client.check_stat(&layout.changes());
    let grave_stats: Vec<_> = graves.iter().map(|number| client.check_stat(&layout.grave(*number))).collect();
    let node_stats: Vec<_> = nodes.iter().map(|node| client.check_stat(node)).collect();
    let leases: Vec<_> = leases(transaction).map(|lease| read_lease(client, layout, lease)).collect();

    synced.await?;
    let end = end.await?.map(End::from).ok_or(Fault::Wiped)?;
    let mut seen = Seen::default();
    for (number, stat) in graves.into_iter().zip(join_all(grave_stats).await) {
        seen.graves.insert(number, stat?.ok_or(Fault::Wiped)?.version);
    }
    for (node, stat) in nodes.into_iter().zip(join_all(node_stats).await) {
        seen.nodes.extend(stat?.map(|stat| (node, Node::from(stat))));
    }
    for lease in join_all(leases).await {
        seen.leases.extend(lease?);
    }
    Ok((end, seen))
}

/// The nodes of all keys and those above them.
fn concerned(layout: &Layout, transaction: &Transaction) -> BTreeSet<String> {
    let conditions = transaction.conditions.iter().map(|condition| condition.key());
    let operations = transaction.operations.iter().map(Operation::key);
    let mut nodes = BTreeSet::new();
    for node in conditions.chain(operations).map(|key| layout.node(key)) {
        nodes.extend(ancestors(&node, layout.root()).map(str::to_owned));
        nodes.insert(node);
    }
    nodes
}

fn leases(transaction: &Transaction) -> impl Iterator<Item = LeaseId> {
    let leases: BTreeSet<LeaseId> = transaction
        .operations
        .iter()
        .filter_map(|operation| match operation {
            Operation::Put(_, _, lease) => *lease,
            Operation::Delete(_) => None,
        })
        .collect();
    leases.into_iter()
}

/// A lease, if it lives. Its questions are sent when this is called, not when the answer is awaited.
fn read_lease(
    client: &Client,
    layout: &Layout,
    lease: LeaseId,
) -> impl Future<Output = Result<Option<(LeaseId, Lease)>, Fault>> + use<> {
    let alive = client.check_stat(&layout.alive(lease));
    let node = client.get_data(&layout.lease(lease));
    async move {
        let (alive, node) = (alive.await?, found(node.await)?);
        Ok(alive.and(node).map(|(data, stat)| (lease, Lease { version: stat.version, keys: keys(&data) })))
    }
}

/// The keys that a lease's node names: one on each line, since no key holds a line's end.
pub(super) fn keys(data: &[u8]) -> BTreeSet<String> {
    String::from_utf8_lossy(data).lines().map(str::to_owned).collect()
}

/// Takes all steps or none, and tells the changelog. Returns the revision.
pub(super) async fn carry_out(
    place: &Arc<Place>,
    client: &Client,
    planned: Planned,
    identity: &str,
) -> Result<Revision, Fault> {
    let record = Record { commit: identity.to_owned(), changes: planned.changes };
    let record = serde_json::to_vec(&record).map_err(|error| Fault::Refused(error.to_string()))?;
    let mut writer = writer(place, client, planned.steps, record.len())?;
    let numbered = place.create(CreateMode::PersistentSequential);
    writer.add_create(&place.layout.new_change(), &record, &numbered)?;
    let results = writer.commit().await.map_err(Error::from)?;
    let (number, revision) = committed(client, results).await?;
    changelog::trim(client, place, number);
    Ok(revision)
}

/// Takes steps that change no key.
pub(super) async fn carry_out_unseen(place: &Place, client: &Client, steps: Vec<Step>) -> Result<(), Fault> {
    writer(place, client, steps, 0)?.commit().await.map_err(Error::from)?;
    Ok(())
}

/// A request with these steps, if it leaves room for so much data more.
fn writer<'a>(
    place: &Place,
    client: &'a Client,
    steps: Vec<Step>,
    room: usize,
) -> Result<MultiWriter<'a>, Fault> {
    if bytes(&steps) + room + STEP_BYTES > REQUEST_BYTES {
        return Err(Fault::TooLarge);
    }
    let created = place.create(CreateMode::Persistent);
    let mut writer = client.new_multi_writer();
    for step in steps {
        match step {
            Step::Check(path, version) => writer.add_check_version(&path, version.unwrap_or(-1))?,
            Step::Create(path, data) => writer.add_create(&path, &data, &created)?,
            Step::Write(path, data) => writer.add_set_data(&path, &data, None)?,
            Step::Delete(path) => writer.add_delete(&path, None)?,
        }
    }
    Ok(writer)
}

/// The number and the revision of a commit, from the answer to its last step.
async fn committed(client: &Client, mut results: Vec<MultiWriteResult>) -> Result<(u32, Revision), Fault> {
    let Some(MultiWriteResult::Create { path, stat }) = results.pop() else {
        return Err(Fault::Lost("an answer that does not fit".to_owned()));
    };
    let number = path.rsplit_once('/').and_then(|(_, name)| name.parse().ok()).unwrap_or_default();
    // Some servers leave the stat out.
    let stat = if stat.is_invalid() { client.check_stat(&path).await?.ok_or_else(gone)? } else { stat };
    Ok((number, changelog::revision(stat.czxid)))
}

/// The commit was made, but its record is gone before it could be read: it must not be made again.
fn gone() -> Fault {
    Fault::Lost("the commit's record is gone".to_owned())
}

fn bytes(steps: &[Step]) -> usize {
    let data = |step: &Step| match step {
        Step::Create(path, data) | Step::Write(path, data) => path.len() + data.len(),
        Step::Check(path, _) | Step::Delete(path) => path.len(),
    };
    steps.iter().map(|step| data(step) + STEP_BYTES).sum()
}
