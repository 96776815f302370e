//! Detached endpoints that the store does not know of yet: a journal of releases to be carried out.
//!
//! Detaching works whatever the store does. What it could not be told lies here, also across a restart of the agent,
//! and hides the endpoint meanwhile. A release holds only for the endpoint as it was: one that has changed since is
//! left alone.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{durable, lock};
use crate::{
    model::{Cluster, Endpoint, EndpointId, cluster::Versioned},
    store::Revision,
};

/// An endpoint to be taken out of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The revision at which it was known when it was detached.
    pub revision: Revision,
}

impl From<&Versioned<Endpoint>> for Release {
    fn from(endpoint: &Versioned<Endpoint>) -> Self {
        Self { endpoint: endpoint.record.clone(), revision: endpoint.revision }
    }
}

/// The releases still to be carried out.
#[derive(Debug)]
pub struct Outbox {
    path: PathBuf,
    releases: Mutex<BTreeMap<EndpointId, Release>>,
    /// Why the file does not hold what is here.
    unwritten: watch::Sender<Option<String>>,
    count: watch::Sender<usize>,
}

impl Outbox {
    /// The releases that a file holds. One that cannot be read is reported and counts as empty: the endpoints that it
    /// speaks of have lost their devices, and are collected.
    #[must_use]
    pub fn load(path: &Path) -> Self {
        let releases = read(path).unwrap_or_else(|reason| {
            tracing::warn!(path = %path.display(), %reason, "outbox ignored");
            Vec::new()
        });
        let releases: BTreeMap<_, _> = releases.into_iter().map(|r| (r.endpoint.id.clone(), r)).collect();
        let count = watch::Sender::new(releases.len());
        Self {
            path: path.to_owned(),
            releases: Mutex::new(releases),
            unwritten: watch::Sender::new(None),
            count,
        }
    }

    /// Notes a release. It is carried out even if it cannot be written down, unless the agent ends before.
    pub fn add(&self, release: Release) {
        let mut releases = lock(&self.releases);
        releases.insert(release.endpoint.id.clone(), release);
        self.save(&releases);
    }

    /// Forgets a release that has been carried out.
    pub fn remove(&self, id: &EndpointId) {
        let mut releases = lock(&self.releases);
        if releases.remove(id).is_some() {
            self.save(&releases);
        }
    }

    /// The releases.
    #[must_use]
    pub fn releases(&self) -> Vec<Release> {
        lock(&self.releases).values().cloned().collect()
    }

    /// How many releases there are; the receiver wakes when that changes.
    #[must_use]
    pub fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Why the releases would not outlive the agent, if they would not.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.unwritten.borrow().clone()
    }

    /// Takes the detached endpoints out of a view of the cluster.
    pub fn hide_in(&self, cluster: &mut Cluster) {
        lock(&self.releases).keys().for_each(|id| cluster.hide(id));
    }

    fn save(&self, releases: &BTreeMap<EndpointId, Release>) {
        let all: Vec<&Release> = releases.values().collect();
        let written = serde_json::to_vec_pretty(&all)
            .map_err(io::Error::from)
            .and_then(|json| durable::write(&self.path, &json));
        let trouble = written.err().map(|e| {
            format!(
                "{}: {e}: what was detached will come back if the agent ends before the store does",
                self.path.display()
            )
        });
        if let Some(trouble) = &trouble {
            tracing::warn!(trouble, "outbox not written");
        }
        self.unwritten.send_replace(trouble);
        self.count.send_replace(releases.len());
    }
}

fn read(path: &Path) -> Result<Vec<Release>, io::Error> {
    match durable::read(path)? {
        Some(json) => Ok(serde_json::from_slice(&json)?),
        None => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn release(id: &str, revision: u64) -> Release {
        let name = |text: &str| text.parse().unwrap();
        let ipv4 = Ipv4Addr::new(10, 0, 0, 2);
        let endpoint = Endpoint::sample(id.parse().unwrap(), name("net"), name("web"), name("host1"), ipv4);
        Release { endpoint, revision: Revision(revision) }
    }

    #[test]
    fn releases_outlive_the_agent_until_they_are_carried_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outbox.json");
        let outbox = Outbox::load(&path);
        let (one, two) = (release("00112233445566ff", 1), release("ff112233445566ff", 2));
        outbox.add(one.clone());
        outbox.add(two.clone());
        let again = Outbox::load(&path);
        assert_eq!(again.releases(), [one.clone(), two.clone()]);
        assert_eq!(*again.count().borrow(), 2);

        let mut cluster = Cluster::default();
        let known = Versioned { record: one.endpoint.clone(), revision: one.revision };
        cluster.endpoints.insert(one.endpoint.id.clone(), known);
        again.hide_in(&mut cluster);
        assert!(cluster.endpoints.is_empty());

        again.remove(&one.endpoint.id);
        assert_eq!(Outbox::load(&path).releases(), [two]);
    }

    #[test]
    fn an_outbox_that_cannot_be_written_still_holds_and_says_so() {
        let outbox = Outbox::load(Path::new("/proc/nosuch/outbox.json"));
        outbox.add(release("00112233445566ff", 1));
        assert_eq!(outbox.releases().len(), 1);
        assert!(outbox.trouble().unwrap().contains("/proc/nosuch/outbox.json"));
    }

    #[test]
    fn an_outbox_that_cannot_be_read_counts_as_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outbox.json");
        std::fs::write(&path, "half of it").unwrap();
        assert_eq!(Outbox::load(&path).releases(), []);
    }
}
