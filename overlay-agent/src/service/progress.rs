//! Endpoints that an operation works on just now.
//!
//! Between the store's commit and the veth an endpoint has one half only. The reconciler would take it for
//! the remains of an accident and collect it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use crate::{agent::lock, model::EndpointId, paths};

/// The endpoints that are being made or removed.
#[derive(Debug, Default)]
pub struct InProgress(Mutex<BTreeSet<EndpointId>>);

/// Keeps an endpoint in progress until dropped.
#[derive(Debug)]
pub struct Guard {
    endpoints: Arc<InProgress>,
    id: EndpointId,
}

impl InProgress {
    /// Marks an endpoint.
    #[must_use]
    pub fn begin(self: &Arc<Self>, id: &EndpointId) -> Guard {
        lock(&self.0).insert(id.clone());
        Guard { endpoints: Arc::clone(self), id: id.clone() }
    }

    /// Whether an endpoint is in progress.
    #[must_use]
    pub fn contains(&self, id: &EndpointId) -> bool {
        lock(&self.0).contains(id)
    }

    /// Names of the host veths that the endpoints in progress have or will have.
    #[must_use]
    pub fn host_veths(&self) -> Vec<String> {
        lock(&self.0).iter().map(paths::host_veth).collect()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        lock(&self.endpoints.0).remove(&self.id);
    }
}
