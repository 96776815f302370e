//! The file that a cluster's state is moved in.
//!
//! ```json
//! {
//!   "format": "overlay-store",
//!   "version": 1,
//!   "cluster": null,
//!   "entries": {
//!     "overlay/v1/networks/web": { "json": { "name": "web", "vni": 256 } },
//!     "overlay/v1/vnis/256": { "base64": "AAE=" }
//!   }
//! }
//! ```
//!
//! * `entries` holds every key of ours, sorted, each with its value: under `json` where that gives back the very bytes
//!   when it is written without spaces, else under `base64`.
//! * `cluster` repeats the value of `overlay/v1/cluster`, to tell files apart; importing does not read it.
//! * Keys that go with a lease are signs of life and stay out. So do revisions: they are the store's own.
//!
//! Two exports of the same state are the same bytes, whatever stores they come from.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{TransferError, VERSION};
use crate::{
    model::keys::{Key, ROOT},
    store::{Entry, MAX_KEY_LEN, MAX_VALUE_LEN, Store},
};

const FORMAT: &str = "overlay-store";

/// A cluster's state, as a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    format: String,
    version: u32,
    cluster: Option<Value>,
    entries: BTreeMap<String, Content>,
}

/// A value of the store's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Content {
    Json(Value),
    Base64(String),
}

impl Content {
    fn of(bytes: &[u8]) -> Self {
        // As deep as it will lie in the document: readers of JSON bound the depth.
        let inside = [b"[[[[", bytes, b"]]]]"].concat();
        let json = serde_json::from_slice::<[[[[Value; 1]; 1]; 1]; 1]>(&inside).ok();
        let json = json.map(|[[[[value]]]]| value);
        let same = |json: &Value| serde_json::to_vec(json).is_ok_and(|written| written == bytes);
        json.filter(same).map_or_else(|| Self::Base64(STANDARD.encode(bytes)), Self::Json)
    }

    fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Json(value) => serde_json::to_vec(value).ok(),
            Self::Base64(text) => STANDARD.decode(text).ok(),
        }
    }
}

impl Document {
    /// The state that a store's entries hold.
    ///
    /// # Errors
    /// If an import into the store is not finished: it holds half of another store's state.
    pub fn of<'a>(url: &str, entries: impl IntoIterator<Item = &'a Entry>) -> Result<Self, TransferError> {
        let mut document =
            Self { format: FORMAT.to_owned(), version: VERSION, cluster: None, entries: BTreeMap::new() };
        let lasting = |entry: &&Entry| entry.lease.is_none() && entry.key.starts_with(ROOT);
        for entry in entries.into_iter().filter(lasting) {
            if entry.key == Key::Import.to_string() {
                return Err(TransferError::Unfinished { url: url.to_owned() });
            }
            document.entries.insert(entry.key.clone(), Content::of(&entry.value));
        }
        document.cluster = match document.entries.get(&format!("{ROOT}cluster")) {
            Some(Content::Json(value)) => Some(value.clone()),
            _ => None,
        };
        Ok(document)
    }

    /// The state that a store holds.
    ///
    /// # Errors
    /// As [`Document::of`], and if the store does not answer.
    pub async fn export(store: &dyn Store) -> Result<Self, TransferError> {
        Self::of(store.url(), &store.list(ROOT).await?.entries)
    }

    /// Reads a document, and checks that every store takes it.
    ///
    /// # Errors
    /// If it is none, or something in it cannot be stored.
    pub fn parse(text: &[u8]) -> Result<Self, TransferError> {
        let document: Self =
            serde_json::from_slice(text).map_err(|e| TransferError::NotOurs(e.to_string()))?;
        if document.format != FORMAT {
            return Err(TransferError::NotOurs(format!("its format is {:?}", document.format)));
        }
        if document.version != VERSION {
            return Err(TransferError::Version(document.version));
        }
        document.values().map(|_| document)
    }

    /// Its text: the same for the same state.
    #[must_use]
    pub fn text(&self) -> String {
        // Maps with text for keys always have a JSON form.
        serde_json::to_string_pretty(self).map(|text| text + "\n").unwrap_or_default()
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn values(&self) -> Result<BTreeMap<String, Vec<u8>>, TransferError> {
        let value = |(key, content): (&String, &Content)| {
            let refuse = |reason| TransferError::Entry { key: key.clone(), reason };
            if !key.starts_with(ROOT) || *key == Key::Import.to_string() {
                return Err(refuse("it is no key of a cluster's state"));
            }
            if key.len() > MAX_KEY_LEN || key.contains(char::is_control) {
                return Err(refuse("no store takes such a key"));
            }
            let bytes = content.bytes().ok_or_else(|| refuse("its value is no base64"))?;
            if bytes.len() > MAX_VALUE_LEN {
                return Err(refuse("a value has at most 512 KiB"));
            }
            Ok((key.clone(), bytes))
        };
        self.entries.iter().map(value).collect()
    }

    /// Tells this document from others: FNV-1a, since nobody has a reason to forge it.
    pub(super) fn digest(values: &BTreeMap<String, Vec<u8>>) -> String {
        let parts = values.iter().flat_map(|(key, value)| [key.as_bytes(), &[0], value.as_slice(), &[0]]);
        let hash = parts.flatten().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        format!("{hash:016x}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::Revision;

    #[test]
    fn what_no_store_takes_is_refused_before_anything_is_written() {
        let text = |key: &str, content: &str| {
            format!(
                r#"{{"format":"overlay-store","version":1,"cluster":null,"entries":{{"{key}":{content}}}}}"#
            )
        };
        for bad in [
            "{}".to_owned(),
            text("other/key", r#"{"json":1}"#),
            text("overlay/v1/import", r#"{"json":1}"#),
            text("overlay/v1/a\\u0000", r#"{"json":1}"#),
            text("overlay/v1/a", r#"{"base64":"!"}"#),
            text("overlay/v1/a", "1"),
            text("overlay/v1/a", r#"{"json":1}"#).replace("\"version\":1", "\"version\":2"),
            text("overlay/v1/a", r#"{"json":1}"#).replace("overlay-store", "other"),
        ] {
            assert!(Document::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Document::parse(text("overlay/v1/a", r#"{"json":1}"#).as_bytes()).is_ok());
    }

    #[test]
    fn a_value_too_deep_for_readers_of_json_comes_back_too() {
        let pair = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        for depth in 100..140 {
            let entry = Entry {
                key: format!("{ROOT}networks/deep"),
                value: pair(depth).into_bytes(),
                revision: Revision(1),
                lease: None,
            };
            let text = Document::of("", [&entry]).unwrap().text();
            let read = Document::parse(text.as_bytes()).unwrap().values().unwrap();
            assert_eq!(read[&entry.key], entry.value, "{depth}");
        }
    }

    proptest! {
        #[test]
        fn every_value_comes_back_as_it_was(bytes in proptest::collection::vec(any::<u8>(), 0..50), json in any::<(i64, f64, String)>()) {
            for bytes in [bytes, serde_json::to_vec(&json).unwrap()] {
                let content = Content::of(&bytes);
                let read: Content = serde_json::from_str(&serde_json::to_string_pretty(&content).unwrap()).unwrap();
                prop_assert_eq!(read.bytes(), Some(bytes));
            }
        }
    }
}
