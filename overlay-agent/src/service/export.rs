//! `overlay store export` as the agent answers it: also while its store does not.

use super::{Context, Result, ServiceError};
use crate::{
    model::keys,
    store::{
        StoreError,
        transfer::{Document, Exported, TransferError},
    },
};

/// What the store holds, or, while it cannot be reached, what the mirror knows of it.
pub async fn export(context: &Context) -> Result<Exported> {
    let url = context.store.url();
    match context.store.list(keys::ROOT).await {
        Ok(listing) => Ok(Exported { document: Document::of(url, &listing.entries)?, stale: None }),
        Err(e @ (StoreError::Unavailable { .. } | StoreError::Unusable { .. })) => {
            let entries = context.mirror.entries();
            Ok(Exported { document: Document::of(url, entries.values())?, stale: Some(e.to_string()) })
        }
        Err(e) => Err(e.into()),
    }
}

impl From<TransferError> for ServiceError {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Store(e) => e.into(),
            other => Self::Conflict(other.to_string()),
        }
    }
}
