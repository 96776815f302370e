//! What was last known of the cluster, kept in a file: an agent whose store cannot be reached starts from it.
//!
//! The file is a line of JSON about the whole, then for each entry a line with revision and lengths, its key and
//! its value, then a checksum. Values are kept as they are in the store, also those that this agent cannot read: an
//! owner writes them back unchanged if the store loses them.
//!
//! What has changed since then is in a [`journal`] beside it.

pub mod journal;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use self::journal::Journal;
use super::durable;
use crate::store::{Entry, Event, LeaseId, Revision};

/// Everything of the store's, by key.
pub type Entries = BTreeMap<String, Entry>;

/// First word of the file, with the version of its layout.
const MAGIC: &str = "overlay-snapshot-1";

/// The cluster as it was once known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The store's address, without secrets.
    pub store: String,
    /// When it was written, in whole seconds.
    pub written: SystemTime,
    /// Revision up to which it is complete.
    pub revision: Revision,
    /// The store's content.
    pub entries: Arc<Entries>,
}

/// Why there is no snapshot to start from.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file cannot be read.
    #[error("snapshot {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not as it was written.
    #[error("snapshot {}: {damage}: it is ignored", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
}

/// What is wrong with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It does not begin like one.
    #[error("it is no snapshot of this version")]
    Format,
    /// Its bytes are others than those written.
    #[error("its checksum is wrong")]
    Checksum,
}

/// The line about the whole.
#[derive(Serialize, Deserialize)]
struct Header {
    store: String,
    written_unix_s: u64,
    revision: Revision,
}

/// The line about an entry.
#[derive(Serialize, Deserialize)]
struct Line(u64, usize, usize, Option<u128>);

/// The snapshot in a file, with what its journal adds, if there is one.
///
/// # Errors
/// If a file cannot be read or the snapshot is damaged.
pub fn load(path: &Path) -> Result<Option<Snapshot>, SnapshotError> {
    let unreadable = |source| SnapshotError::Io { path: path.to_owned(), source };
    let Some(bytes) = durable::read(path).map_err(unreadable)? else { return Ok(None) };
    let damaged = |damage| SnapshotError::Damaged { path: path.to_owned(), damage };
    let (mut snapshot, checksum) = decode(&bytes).map_err(damaged)?;
    journal::replay(path, checksum, &mut snapshot).map_err(unreadable)?;
    Ok(Some(snapshot))
}

/// Writes a snapshot and what follows it.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    journal: Option<Journal>,
}

impl Writer {
    /// One that begins with a snapshot.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, journal: None }
    }

    /// Whether a whole snapshot is to be written next.
    #[must_use]
    pub fn wants_whole(&self) -> bool {
        self.journal.as_ref().is_none_or(Journal::is_large)
    }

    /// Replaces the snapshot. Blocks.
    ///
    /// # Errors
    /// If it cannot be written; the old one stays, with its journal.
    pub fn save(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let (bytes, checksum) = encode(snapshot)?;
        durable::write(&self.path, &bytes)?;
        self.journal = Some(Journal::create(&self.path, checksum, bytes.len() as u64)?);
        Ok(())
    }

    /// Adds what has changed since. Blocks.
    ///
    /// # Errors
    /// If it cannot be written, or there is nothing to add it to; the next must be a whole one.
    pub fn append(&mut self, events: &[Event], revision: Revision) -> io::Result<()> {
        let Some(journal) = &mut self.journal else { return Err(io::ErrorKind::NotFound.into()) };
        let appended = journal.append(events, revision, SystemTime::now());
        if appended.is_err() {
            self.journal = None;
        }
        appended
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn time(unix_s: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(unix_s))
}

fn push_entry(bytes: &mut Vec<u8>, Entry { key, value, revision, lease }: &Entry) -> io::Result<()> {
    serde_json::to_writer(&mut *bytes, &Line(revision.0, key.len(), value.len(), lease.map(|l| l.0)))?;
    for field in [b"".as_slice(), key.as_bytes(), value] {
        bytes.extend_from_slice(field);
        bytes.push(b'\n');
    }
    Ok(())
}

/// The file's bytes, and their checksum.
fn encode(snapshot: &Snapshot) -> io::Result<(Vec<u8>, u32)> {
    let Snapshot { store, written, revision, entries } = snapshot;
    let header = Header { store: store.clone(), written_unix_s: seconds(*written), revision: *revision };
    let mut bytes = format!("{MAGIC} ").into_bytes();
    serde_json::to_writer(&mut bytes, &header)?;
    bytes.push(b'\n');
    for entry in entries.values() {
        push_entry(&mut bytes, entry)?;
    }
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    Ok((bytes, checksum))
}

/// The snapshot and its checksum.
fn decode(bytes: &[u8]) -> Result<(Snapshot, u32), Damage> {
    if !bytes.starts_with(MAGIC.as_bytes()) {
        return Err(Damage::Format);
    }
    let (body, checksum) = bytes.split_last_chunk::<4>().ok_or(Damage::Checksum)?;
    let checksum = u32::from_be_bytes(*checksum);
    if crc32fast::hash(body) != checksum {
        return Err(Damage::Checksum);
    }
    let mut reader = Reader(body);
    let header = reader.until(b'\n').and_then(|line| line.strip_prefix(format!("{MAGIC} ").as_bytes()));
    let header: Header = header.and_then(|json| serde_json::from_slice(json).ok()).ok_or(Damage::Format)?;
    let mut entries = Entries::new();
    while !reader.0.is_empty() {
        let entry = reader.entry().ok_or(Damage::Format)?;
        entries.insert(entry.key.clone(), entry);
    }
    let written = time(header.written_unix_s).unwrap_or(UNIX_EPOCH);
    let Header { store, revision, .. } = header;
    Ok((Snapshot { store, written, revision, entries: Arc::new(entries) }, checksum))
}

/// The bytes that are still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn entry(&mut self) -> Option<Entry> {
        let Line(revision, key_len, value_len, lease) = serde_json::from_slice(self.until(b'\n')?).ok()?;
        let key = String::from_utf8(self.field(key_len)?.to_vec()).ok()?;
        let value = self.field(value_len)?.to_vec();
        Some(Entry { key, value, revision: Revision(revision), lease: lease.map(LeaseId) })
    }

    fn until(&mut self, end: u8) -> Option<&'a [u8]> {
        let length = self.0.iter().position(|&byte| byte == end)?;
        self.field(length)
    }

    /// So many bytes, and the line's end behind them.
    fn field(&mut self, length: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(length)?;
        self.0 = rest.strip_prefix(b"\n")?;
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    fn snapshot(entries: impl IntoIterator<Item = Entry>) -> Snapshot {
        Snapshot {
            store: "sqlite:///x".to_owned(),
            written: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            revision: Revision(7),
            entries: Arc::new(entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect()),
        }
    }

    prop_compose! {
        fn any_entry()(key in "\\PC{1,20}", value: Vec<u8>, revision: u64, lease: Option<u128>) -> Entry {
            Entry { key, value, revision: Revision(revision), lease: lease.map(LeaseId) }
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_and_any_change_of_a_byte_is_noticed(
            entries in prop::collection::vec(any_entry(), 0..5),
            at: prop::sample::Index,
            change in 1..=u8::MAX,
        ) {
            let snapshot = snapshot(entries);
            let (mut bytes, checksum) = encode(&snapshot).unwrap();
            prop_assert_eq!(decode(&bytes), Ok((snapshot, checksum)));
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            prop_assert!(decode(&bytes).is_err());
            bytes.truncate(at);
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(noise: Vec<u8>, claim in 0..u64::MAX) {
            let _ = decode(&noise);
            let mut forged = format!("{MAGIC} {{\"store\":\"\",\"written_unix_s\":{claim},\"revision\":0}}\n[1,{claim},3,null]\n").into_bytes();
            forged.extend(&noise);
            forged.extend(crc32fast::hash(&forged).to_be_bytes());
            let _ = decode(&forged);
        }
    }

    #[test]
    fn ten_thousand_endpoints_are_written_in_well_under_a_second() {
        let kinds = ["endpoints", "names", "addresses", "macs"];
        let entry = |n: usize, kind: &str| Entry {
            key: format!("overlay/v1/{kind}/network-{}/{n:016x}", n % 10),
            value: vec![b'x'; if kind == "endpoints" { 250 } else { 40 }],
            revision: Revision(n as u64),
            lease: None,
        };
        let many = snapshot((0..10_000).flat_map(|n| kinds.map(|kind| entry(n, kind))));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot");
        let start = Instant::now();
        Writer::new(path.clone()).save(&many).unwrap();
        let (saved, start) = (start.elapsed(), Instant::now());
        assert_eq!(load(&path).unwrap().unwrap(), many);
        println!("40,000 entries: written in {saved:?}, read in {:?}", start.elapsed());
        assert!(saved < Duration::from_secs(1), "{saved:?}");
    }

    #[test]
    fn a_file_that_is_missing_is_none_and_one_that_is_damaged_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot");
        assert!(load(&path).unwrap().is_none());
        std::fs::write(&path, "{}").unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("snapshot {}: it is no snapshot of this version: it is ignored", path.display())
        );
    }

    fn put(key: &str, revision: u64) -> Event {
        let value = format!("value {revision}").into_bytes();
        Event::Put(Entry { key: key.to_owned(), value, revision: Revision(revision), lease: None })
    }

    fn delete(key: &str, revision: u64) -> Event {
        Event::Delete { key: key.to_owned(), revision: Revision(revision) }
    }

    fn keys(path: &Path) -> (Vec<String>, u64) {
        let Snapshot { entries, revision, .. } = load(path).unwrap().unwrap();
        (entries.keys().cloned().collect(), revision.0)
    }

    fn written(snapshot: &Snapshot) -> (tempfile::TempDir, PathBuf, Writer) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot");
        let mut writer = Writer::new(path.clone());
        assert!(writer.wants_whole());
        writer.save(snapshot).unwrap();
        assert!(!writer.wants_whole());
        (dir, path, writer)
    }

    #[test]
    fn a_journal_continues_its_snapshot_piece_by_piece() {
        let (_dir, path, mut writer) = written(&snapshot([]));
        writer.append(&[put("a", 8), put("b", 9)], Revision(9)).unwrap();
        assert_eq!(keys(&path), (vec!["a".to_owned(), "b".to_owned()], 9));
        writer.append(&[delete("a", 10), put("b", 11)], Revision(12)).unwrap();
        assert_eq!(keys(&path), (vec!["b".to_owned()], 12));
        let loaded = load(&path).unwrap().unwrap();
        assert_eq!(loaded.entries["b"].value, b"value 11");
        assert!(loaded.written > UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    }

    #[test]
    fn a_journal_of_another_snapshot_is_ignored() {
        let (_dir, path, mut writer) = written(&snapshot([]));
        writer.append(&[put("a", 8)], Revision(8)).unwrap();
        let old = std::fs::read(journal::path(&path)).unwrap();
        let Event::Put(entry) = put("c", 9) else { unreachable!() };
        writer.save(&snapshot([entry])).unwrap();
        // As after a crash between the two files.
        std::fs::write(journal::path(&path), old).unwrap();
        assert_eq!(keys(&path), (vec!["c".to_owned()], 7));
    }

    #[test]
    fn a_piece_that_is_not_whole_ends_the_journal() {
        let (_dir, path, mut writer) = written(&snapshot([]));
        writer.append(&[put("a", 8)], Revision(8)).unwrap();
        let one = std::fs::read(journal::path(&path)).unwrap();
        writer.append(&[put("b", 9)], Revision(9)).unwrap();
        let both = std::fs::read(journal::path(&path)).unwrap();
        for length in one.len()..both.len() {
            std::fs::write(journal::path(&path), &both[..length]).unwrap();
            assert_eq!(keys(&path), (vec!["a".to_owned()], 8), "{length} of {} bytes", both.len());
        }
        let mut changed = both.clone();
        *changed.last_mut().unwrap() ^= 1;
        std::fs::write(journal::path(&path), &changed).unwrap();
        assert_eq!(keys(&path), (vec!["a".to_owned()], 8));
    }

    #[test]
    fn a_journal_that_grows_large_asks_for_a_new_snapshot() {
        let (_dir, _path, mut writer) = written(&snapshot([]));
        let mut pieces = 0;
        while !writer.wants_whole() {
            let many: Vec<Event> = (0..100).map(|n| put(&format!("key-{n}"), n)).collect();
            writer.append(&many, Revision(100)).unwrap();
            pieces += 1;
        }
        assert!((100..1000).contains(&pieces), "{pieces} pieces");
    }
}
