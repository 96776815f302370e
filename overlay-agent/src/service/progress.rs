//! Endpoints that an operation works on just now.
//!
//! Between the store's commit and the veth an endpoint has one half only. The reconciler would take it for
//! the remains of an accident and collect it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use crate::{
    agent::lock,
    model::{EndpointId, Name},
    netns::NetnsId,
    paths,
};

/// What is attached to what.
pub type Attachment = (Name, NetnsId);

/// The endpoints that are being made or removed; those that are being made with what they attach.
#[derive(Debug, Default)]
pub struct InProgress(Mutex<BTreeMap<EndpointId, Option<Attachment>>>);

/// Keeps an endpoint in progress until dropped.
#[derive(Debug)]
pub struct Guard {
    endpoints: Arc<InProgress>,
    id: EndpointId,
}

impl InProgress {
    /// Marks an endpoint that is being made; `None` if the same namespace is just being attached to the same
    /// network.
    #[must_use]
    pub fn begin_attach(self: &Arc<Self>, id: &EndpointId, attachment: Attachment) -> Option<Guard> {
        let mut endpoints = lock(&self.0);
        if endpoints.values().flatten().any(|other| *other == attachment) {
            return None;
        }
        endpoints.insert(id.clone(), Some(attachment));
        Some(Guard { endpoints: Arc::clone(self), id: id.clone() })
    }

    /// Marks an endpoint that is being removed.
    #[must_use]
    pub fn begin_detach(self: &Arc<Self>, id: &EndpointId) -> Guard {
        lock(&self.0).insert(id.clone(), None);
        Guard { endpoints: Arc::clone(self), id: id.clone() }
    }

    /// Whether an endpoint is in progress.
    #[must_use]
    pub fn contains(&self, id: &EndpointId) -> bool {
        lock(&self.0).contains_key(id)
    }

    /// Names of the host veths that the endpoints in progress have or will have.
    #[must_use]
    pub fn host_veths(&self) -> Vec<String> {
        lock(&self.0).keys().map(paths::host_veth).collect()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        lock(&self.endpoints.0).remove(&self.id);
    }
}
