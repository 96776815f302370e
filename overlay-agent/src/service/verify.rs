//! `overlay verify`: looking at every layer, and having the agent repair what it can.
//!
//! A cluster is never still, so one look proves nothing: what is being changed just now differs for a moment. A
//! difference counts if it is there in two looks, the second one after the mirror has seen what the first one
//! saw in the store, and the maps what the mirror had.

use std::{collections::BTreeSet, time::Duration};

use super::{Context, Result, ServiceError};
use crate::{
    agent::{containers, until},
    model::{Cluster, keys},
    store::Revision,
    verify::{Difference, Verification, mirror, store},
};

/// How long the mirror and the maps may lag behind the store before that is a difference of its own.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at everything, and leaves it as it is.
pub async fn verify(context: &Context) -> Result<Verification> {
    context.reconciler.ready().await;
    let (revision, differences) = settled(context).await?;
    let repaired_by_itself = context.repairs.last();
    Ok(Verification { revision: revision.0, differences, repaired: Vec::new(), repaired_by_itself })
}

/// Looks, has everything repaired that the agent can repair, and looks again.
pub async fn repair(context: &Context) -> Result<Verification> {
    let before = verify(context).await?;
    // A store that does not answer fails the looks.
    let _ = tokio::time::timeout(PATIENCE, context.mirror.list_again()).await;
    context.reconciler.repair().await.map_err(|e| unavailable(&e))?;
    let faults = containers::faults(&context.cluster(), &context.reconciler.report()).await;
    context.repairs.note(containers::repair(faults).await);
    let after = verify(context).await?;
    let remaining: BTreeSet<&Difference> = after.differences.iter().collect();
    let repaired = before.differences.into_iter().filter(|d| !remaining.contains(d)).collect();
    Ok(Verification { repaired, ..after })
}

/// What two looks agree on.
async fn settled(context: &Context) -> Result<(Revision, Vec<Difference>)> {
    let first = Look::take(context).await?;
    if first.differences.is_empty() {
        return Ok((first.revision, Vec::new()));
    }
    // If they do not get there in time, the second look says so.
    let _ = tokio::time::timeout(PATIENCE, caught_up(context, first.newest)).await;
    let second = Look::take(context).await?;
    let both = second.differences.intersection(&first.differences).cloned().collect();
    Ok((second.revision, both))
}

/// Waits until mirror and maps show what was written last.
async fn caught_up(context: &Context, newest: Revision) {
    until(context.mirror.cluster(), |cluster| cluster.revision >= newest).await;
    let seen = context.cluster().revision;
    until(context.reconciler.reports(), |report| report.revision >= seen).await;
}

/// One look.
struct Look {
    /// Revision of the listing.
    revision: Revision,
    /// When the newest key in it was written.
    newest: Revision,
    differences: BTreeSet<Difference>,
}

impl Look {
    async fn take(context: &Context) -> Result<Self> {
        let listing = context.store.list(keys::ROOT).await?;
        let listed = Cluster::from_listing(&listing.entries, listing.revision);
        let mut differences = BTreeSet::new();
        differences.extend(store::differences(&listing.entries, &listed));
        differences.extend(mirror::differences(&listing.entries, &context.mirror.entries()));
        differences.extend(context.reconciler.inspect().await.map_err(|e| unavailable(&e))?.differences);
        let faults = containers::faults(&context.cluster(), &context.reconciler.report()).await;
        differences.extend(faults.iter().map(containers::difference));
        let newest = listing.entries.iter().map(|entry| entry.revision).max().unwrap_or_default();
        Ok(Self { revision: listing.revision, newest, differences })
    }
}

fn unavailable(reason: &str) -> ServiceError {
    ServiceError::Unavailable(format!("this host cannot be looked at: {reason}"))
}
