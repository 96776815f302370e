//! The records of the store, read without the agent's help.

use std::{collections::BTreeMap, path::Path};

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use crate::host::{CLI, Host, binary};

const ROOT: &str = "overlay/v1/";

/// Every key below the root, without it, with its value.
pub(super) struct Records(BTreeMap<String, Value>);

impl Records {
    /// What is in the store that a host's agent uses: SQLite's table itself, or what any other store exports.
    #[track_caller]
    pub(super) fn read(host: &Host) -> Self {
        let url = host.flags().get("--store").expect("the agent has a store");
        Self(match url.strip_prefix("sqlite://") {
            Some(path) => of_sqlite(Path::new(path)),
            None => of_export(host, url),
        })
    }

    /// The records of a kind, by what follows the kind in their keys.
    pub(super) fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let part = move |(key, value): (&'a String, &'a Value)| {
            Some((key.strip_prefix(kind)?.strip_prefix('/')?, value))
        };
        self.0.iter().filter_map(part)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    pub(super) fn vni(&self, network: &str) -> u64 {
        self.get(&format!("networks/{network}")).map_or(0, |network| number(network, "vni"))
    }

    /// Claims and records that do not fit each other.
    pub(super) fn contradictions(&self) -> Vec<String> {
        let mut wanted: BTreeMap<String, Value> = BTreeMap::new();
        for (name, network) in self.of("networks") {
            wanted.insert(format!("vnis/{}", number(network, "vni")), json!(name));
        }
        for (_, endpoint) in self.of("endpoints") {
            let (network, id) = (text(endpoint, "network"), text(endpoint, "id"));
            wanted.insert(format!("names/{network}/{}", text(endpoint, "name")), json!(id));
            wanted.insert(format!("macs/{network}/{}", text(endpoint, "mac")), json!(id));
            let held = json!({ "state": "held", "endpoint": id });
            for ip in ["ipv4", "ipv6"].iter().filter_map(|family| endpoint[family].as_str()) {
                wanted.insert(format!("addresses/{network}/{ip}"), held.clone());
            }
            let node = endpoint["vtep"].is_null().then(|| format!("nodes/{}", text(endpoint, "node")));
            for parent in node.into_iter().chain([format!("networks/{network}")]) {
                wanted
                    .entry(parent.clone())
                    .or_insert_with(|| self.get(&parent).cloned().unwrap_or_default());
            }
        }
        let missing = wanted.iter().filter(|(key, value)| self.get(key) != Some(value) || value.is_null());
        let missing = missing.map(|(key, value)| format!("store: {key} should be {value}"));
        let claims = ["vnis", "names", "macs", "addresses"]
            .into_iter()
            .flat_map(|kind| self.of(kind).map(move |(rest, value)| (format!("{kind}/{rest}"), value)));
        let held = claims.filter(|(_, value)| value["state"] != "released");
        let orphans = held.filter(|(key, _)| !wanted.contains_key(key));
        let orphans = orphans.map(|(key, value)| format!("store: {key} is {value} for nobody"));
        missing.chain(orphans).collect()
    }
}

/// A field that must be text.
#[track_caller]
pub(super) fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record[field].as_str().unwrap_or_else(|| panic!("{record} has no text {field}"))
}

/// A field that must be a number.
#[track_caller]
pub(super) fn number(record: &Value, field: &str) -> u64 {
    record[field].as_u64().unwrap_or_else(|| panic!("{record} has no number {field}"))
}

#[track_caller]
fn of_sqlite(path: &Path) -> BTreeMap<String, Value> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("open the store");
    let mut statement = connection.prepare("SELECT key, value FROM entries").expect("the store's table");
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)));
    let rows = rows.expect("read the store").map(|row| row.expect("a row of the store"));
    let ours = rows.filter_map(|(key, value)| {
        let value = serde_json::from_slice(&value).unwrap_or_else(|e| panic!("{key} is no JSON: {e}"));
        Some((key.strip_prefix(ROOT)?.to_owned(), value))
    });
    ours.collect()
}

#[track_caller]
fn of_export(host: &Host, url: &str) -> BTreeMap<String, Value> {
    let cli = binary(CLI).display().to_string();
    // From where the host is: its store may be reached from nowhere else.
    let export = host.netns().must(&[&cli, "store", "export", "--store", url]);
    let document: Value = serde_json::from_str(&export).expect("an export is JSON");
    let entries = document["entries"].as_object().expect("an export has entries");
    let ours = entries.iter().filter_map(|(key, content)| Some((key.strip_prefix(ROOT)?, &content["json"])));
    ours.map(|(key, value)| (key.to_owned(), value.clone())).collect()
}
