//! A store in consul.

use super::{Opening, StoreError, Target, address::Servers};

/// Opens `consul://`.
pub(super) fn open_target(target: Target) -> Opening {
    Box::pin(async move {
        let servers = Servers::parse(&target.url, 1)?;
        Err(StoreError::Unusable { url: servers.to_string(), reason: "not built yet".to_owned() })
    })
}
