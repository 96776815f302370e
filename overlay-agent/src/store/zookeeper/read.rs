//! Reading keys, and the changes of many commits as one.

use std::collections::{BTreeMap, HashMap};

use zookeeper_client::{Client, MultiReadResult, Stat};

use super::{
    changelog::{self, Change, Commit},
    fault::{Fault, found, found_one},
    layout::Layout,
    value,
};
use crate::store::{Entry, Event, LeaseId, Listing, Revision};

/// How many nodes are asked for at a time. Many such requests are on their way at once.
const NODES: usize = 128;

/// The entry under a key.
pub(super) async fn get(client: &Client, layout: &Layout, key: &str) -> Result<Option<Entry>, Fault> {
    let node = found(client.get_data(&layout.node(key)).await)?;
    Ok(node.and_then(|(data, stat)| entry(key.to_owned(), &data, stat)))
}

fn entry(key: String, data: &[u8], stat: Stat) -> Option<Entry> {
    let (value, lease) = value::decode(data)?;
    Some(Entry { key, value: value.to_vec(), revision: changelog::revision(stat.mzxid), lease })
}

/// All entries below a prefix, at one revision: what changed while the tree was walked is put on top.
pub(super) async fn list(client: &Client, layout: &Layout, prefix: &str) -> Result<Listing, Fault> {
    let (start, before) = changelog::present(client, layout).await?;
    let mut entries = walk(client, layout, prefix).await?;
    let commits = changelog::read_all(client, layout, start.next).await?;
    if commits.is_empty() && changelog::end(client, layout).await? != start {
        // So much changed meanwhile that the changelog does not reach back.
        return Err(Fault::Raced);
    }
    let Settled { commits, events } = settle(client, layout, start.next, commits, prefix).await?;
    for event in events {
        match event {
            Event::Put(entry) => drop(entries.insert(entry.key.clone(), entry)),
            Event::Delete { key, .. } => drop(entries.remove(&key)),
        }
    }
    let revision = commits.last().map_or(before, |commit| commit.revision);
    Ok(Listing { entries: entries.into_values().collect(), revision })
}

/// What lies below a prefix, each key as it was at some time during the walk.
async fn walk(client: &Client, layout: &Layout, prefix: &str) -> Result<BTreeMap<String, Entry>, Fault> {
    let top = match prefix.rsplit_once('/') {
        Some((above, _)) => layout.node(above),
        None if layout.root().is_empty() => "/".to_owned(),
        None => layout.root().to_owned(),
    };
    let mut entries = BTreeMap::new();
    let mut parents = vec![top];
    while !parents.is_empty() {
        let nodes = children(client, layout, &parents, prefix).await?;
        parents = read_nodes(client, nodes, &mut entries).await?;
    }
    Ok(entries)
}

/// A node with its key.
type Node = (String, String);

/// The nodes below these whose keys are below the prefix, or are on the way to such.
async fn children(
    client: &Client,
    layout: &Layout,
    parents: &[String],
    prefix: &str,
) -> Result<Vec<Node>, Fault> {
    let mut requests = Vec::new();
    for some in parents.chunks(NODES) {
        let mut reader = client.new_multi_reader();
        for parent in some {
            reader.add_get_children(parent)?;
        }
        requests.push((some, reader.commit()));
    }
    let mut nodes = Vec::new();
    for (some, request) in requests {
        for (parent, result) in some.iter().zip(request.await?) {
            let Some(MultiReadResult::Children { children }) = found_one(result)? else { continue };
            let below = children.into_iter().map(|name| format!("{}/{name}", parent.trim_end_matches('/')));
            nodes.extend(below.filter_map(|node| {
                let key = layout.key(&node).filter(|key| key.starts_with(prefix))?;
                Some((node, key))
            }));
        }
    }
    Ok(nodes)
}

/// Adds the entries in these nodes, and returns the nodes that have others below them.
async fn read_nodes(
    client: &Client,
    nodes: Vec<Node>,
    entries: &mut BTreeMap<String, Entry>,
) -> Result<Vec<String>, Fault> {
    let mut requests = Vec::new();
    for some in nodes.chunks(NODES) {
        let mut reader = client.new_multi_reader();
        for (node, _) in some {
            reader.add_get_data(node)?;
        }
        requests.push(reader.commit());
    }
    let mut parents = Vec::new();
    let mut nodes = nodes.into_iter();
    for request in requests {
        for (result, (node, key)) in request.await?.into_iter().zip(&mut nodes) {
            let Some(MultiReadResult::Data { data, stat }) = found_one(result)? else { continue };
            if stat.num_children > 0 {
                parents.push(node);
            }
            entries.extend(entry(key, &data, stat).map(|entry| (entry.key.clone(), entry)));
        }
    }
    Ok(parents)
}

/// Commits whose values are all known.
pub(super) struct Settled {
    /// The commits that were asked for, and those that had to be taken in with them.
    pub commits: Vec<Commit>,
    /// Their changes below the prefix, in order.
    pub events: Vec<Event>,
}

/// Reads the values that do not stand in the changelog. Where one was overwritten since, the commits up to that
/// which did so are taken in: together, they make a state that was.
pub(super) async fn settle(
    client: &Client,
    layout: &Layout,
    first: u32,
    mut commits: Vec<Commit>,
    prefix: &str,
) -> Result<Settled, Fault> {
    loop {
        let mut values = HashMap::new();
        let mut overtaken = false;
        for (key, revision) in large_values(&commits, prefix) {
            let entry = get(client, layout, &key).await?;
            overtaken |= entry.as_ref().is_none_or(|entry| entry.revision != revision);
            values.extend(entry.map(|entry| ((key, revision), entry.value)));
        }
        let newer = match overtaken {
            true => changelog::read_all(client, layout, number_after(first, &commits)).await?,
            false => Vec::new(),
        };
        if newer.is_empty() {
            // If it was overtaken all the same, somebody wrote by hand, which no changelog shows.
            let events = commits.iter().flat_map(|commit| events(commit, prefix, &values)).collect();
            return Ok(Settled { commits, events });
        }
        commits.extend(newer);
    }
}

/// The number that follows these commits.
pub(super) fn number_after(first: u32, commits: &[Commit]) -> u32 {
    first.saturating_add(u32::try_from(commits.len()).unwrap_or(u32::MAX))
}

/// The keys whose last change is a value that is not in the changelog, with the revision of that.
fn large_values(commits: &[Commit], prefix: &str) -> Vec<(String, Revision)> {
    let mut last = BTreeMap::new();
    for commit in commits {
        for change in commit.record.changes.iter().filter(|change| change.key().starts_with(prefix)) {
            last.insert(change.key(), (change, commit.revision));
        }
    }
    let is_large = |change: &Change| matches!(change, Change::Put { value: None, .. });
    let large = last.into_iter().filter(|(_, (change, _))| is_large(change));
    large.map(|(key, (_, revision))| (key.to_owned(), revision)).collect()
}

/// A commit's changes below a prefix. A large value that was overwritten by a later one of the same batch is
/// left out.
fn events<'a>(
    commit: &'a Commit,
    prefix: &'a str,
    large: &'a HashMap<(String, Revision), Vec<u8>>,
) -> impl Iterator<Item = Event> + use<'a> {
    let revision = commit.revision;
    let changes = commit.record.changes.iter().filter(move |change| change.key().starts_with(prefix));
    changes.filter_map(move |change| match change {
        Change::Delete { key } => Some(Event::Delete { key: key.clone(), revision }),
        Change::Put { key, value, lease } => {
            let value = match value {
                Some(text) => text.clone().into_bytes(),
                None => large.get(&(key.clone(), revision))?.clone(),
            };
            let lease = lease.map(LeaseId::from);
            Some(Event::Put(Entry { key: key.clone(), value, revision, lease }))
        }
    })
}
