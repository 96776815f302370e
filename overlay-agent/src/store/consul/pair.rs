//! Consul's pairs as entries, and its sessions as leases.

use consulrs::api::kv::common::KVPair;

use crate::store::{Entry, LeaseId, Revision, address::Servers};

/// A pair's value; `None` if Consul's answer is garbled.
pub(super) fn value(pair: &KVPair) -> Option<Vec<u8>> {
    pair.value.clone().map_or(Some(Vec::new()), |value| value.try_into().ok())
}

/// A pair as an entry; `None` if it lies elsewhere.
pub(super) fn entry(servers: &Servers, pair: &KVPair) -> Option<Entry> {
    Some(Entry {
        key: servers.inner(&pair.key)?.to_owned(),
        value: value(pair)?,
        revision: Revision(pair.modify_index),
        lease: pair.session.as_deref().and_then(lease),
    })
}

/// The lease that a session is: the same 128 bits.
pub(super) fn lease(session: &str) -> Option<LeaseId> {
    u128::from_str_radix(&session.replace('-', ""), 16).ok().map(LeaseId)
}

/// The session that a lease is.
pub(super) fn session(lease: LeaseId) -> String {
    let hex = format!("{:032x}", lease.0);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_a_lease_and_back() {
        for id in ["944c5e5a-d5ac-d8de-1822-5c4ac7f2d60e", "00000000-0000-0000-0000-00000000000a"] {
            assert_eq!(session(lease(id).unwrap()), id);
        }
        assert_eq!(lease("not a session"), None);
    }
}
