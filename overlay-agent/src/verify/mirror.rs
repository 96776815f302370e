//! The agent's copy of the store against a listing made just now.

use std::collections::{BTreeMap, BTreeSet};

use super::{Concerns, Difference, Layer};
use crate::store::Entry;

/// Every key that the mirror has otherwise than the store. Revisions do not count: a store without history tells
/// them as well as it can.
#[must_use]
pub fn differences(store: &[Entry], mirror: &BTreeMap<String, Entry>) -> Vec<Difference> {
    let listed: BTreeMap<&str, &[u8]> = store.iter().map(|e| (e.key.as_str(), e.value.as_slice())).collect();
    let known: BTreeMap<&str, &[u8]> =
        mirror.iter().map(|(key, e)| (key.as_str(), e.value.as_slice())).collect();
    let all: BTreeSet<&str> = listed.keys().chain(known.keys()).copied().collect();
    let differing = all.into_iter().filter(|key| listed.get(key) != known.get(key));
    let shown = |value: Option<&&[u8]>| value.map(|value| String::from_utf8_lossy(value).into_owned());
    let difference = |key: &str| Difference {
        layer: Layer::Mirror,
        subject: key.to_owned(),
        found: shown(known.get(key)),
        wanted: shown(listed.get(key)),
        reason: "the agent has not seen the store's last word on it".to_owned(),
        concerns: Concerns::key(key),
    };
    differing.map(difference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Revision;

    fn entry(key: &str, value: &str, revision: u64) -> Entry {
        Entry {
            key: format!("overlay/v1/{key}"),
            value: value.as_bytes().to_vec(),
            revision: Revision(revision),
            lease: None,
        }
    }

    fn by_key(entries: &[Entry]) -> BTreeMap<String, Entry> {
        entries.iter().map(|entry| (entry.key.clone(), entry.clone())).collect()
    }

    #[test]
    fn what_is_missing_foreign_or_changed_is_named_and_a_revision_is_not() {
        let store =
            [entry("networks/same", "1", 1), entry("networks/new", "1", 1), entry("networks/a", "2", 1)];
        let mirror =
            [entry("networks/same", "1", 2), entry("networks/old", "1", 1), entry("networks/a", "1", 1)];
        let named = differences(&store, &by_key(&mirror));
        let named: Vec<_> =
            named.iter().map(|d| (&d.subject[11..], d.found.as_deref(), d.wanted.as_deref())).collect();
        let wanted = [
            ("networks/a", Some("1"), Some("2")),
            ("networks/new", None, Some("1")),
            ("networks/old", Some("1"), None),
        ];
        assert_eq!(named, wanted);
    }
}
