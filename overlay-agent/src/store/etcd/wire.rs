//! Our terms in etcd's, and back.

use std::time::Duration;

use etcd_client::{KeyValue, ResponseHeader};

use crate::store::{Entry, LeaseId, Revision, address::Servers};

/// Answers may be as large as the server sends them: a batch of a watch holds up to a thousand commits.
pub const LARGEST_ANSWER: usize = i32::MAX as usize;

/// Keys from `start` up to and without `end`; a single zero byte as end means all that follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    pub start: Vec<u8>,
    pub end: Vec<u8>,
}

impl KeyRange {
    /// The keys that start with a prefix.
    pub fn below(prefix: &str) -> Self {
        let start = prefix.as_bytes().to_vec();
        let mut end = start.clone();
        // No byte of UTF-8 is the highest there is.
        match end.last_mut() {
            Some(last) => *last += 1,
            None => return Self { start: vec![0], end: vec![0] },
        }
        Self { start, end }
    }
}

/// The store's revision when it answered.
pub fn revision(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(Revision(0), |header| position(header.revision()))
}

/// A revision of ours; etcd counts from one upward.
pub fn position(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or_default())
}

/// A revision as etcd takes it.
pub fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// An entry of ours; `None` for what lies elsewhere or has no text as key, which no client of ours wrote.
pub fn entry(servers: &Servers, kv: KeyValue) -> Option<Entry> {
    let key = servers.inner(kv.key_str().ok()?)?.to_owned();
    let revision = position(kv.mod_revision());
    let lease = Some(kv.lease()).filter(|id| *id != 0).map(LeaseId::from);
    let (_, value) = kv.into_key_value();
    Some(Entry { key, value, revision, lease })
}

/// etcd counts the time of a lease in seconds: no less than what was asked for.
pub fn whole_seconds(ttl: Duration) -> i64 {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(seconds.max(1)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", b"\0", b"\0")]
    #[case("t/", b"t/", b"t0")]
    #[case("t/\u{10ffff}", b"t/\xf4\x8f\xbf\xbf", b"t/\xf4\x8f\xbf\xc0")]
    fn a_range_holds_what_starts_with_the_prefix(
        #[case] prefix: &str,
        #[case] start: &[u8],
        #[case] end: &[u8],
    ) {
        assert_eq!(KeyRange::below(prefix), KeyRange { start: start.to_vec(), end: end.to_vec() });
    }

    #[rstest]
    #[case(0, 1)]
    #[case(1, 1)]
    #[case(999, 1)]
    #[case(1000, 1)]
    #[case(1001, 2)]
    #[case(15_000, 15)]
    fn a_lease_lives_no_shorter_than_asked_for(#[case] milliseconds: u64, #[case] seconds: i64) {
        assert_eq!(whole_seconds(Duration::from_millis(milliseconds)), seconds);
    }
}
