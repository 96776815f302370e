//! What has changed since a snapshot was written: one piece at a time, behind each other, in a file beside it.
//!
//! A cluster of ten thousand endpoints is megabytes, an attach is a few hundred bytes: to write the whole for each would
//! keep a hundred agents busy with nothing else. The file names the snapshot that it continues by its checksum; one
//! that continues another is ignored. A piece has a checksum of its own: what a crash left half written ends the reading,
//! and what comes before it counts.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{Reader, Snapshot, durable, push_entry, seconds, time};
use crate::store::{Event, Revision};

/// First word of the file, with the version of its layout.
const MAGIC: &str = "overlay-journal-1";
/// The journal's size in bytes from which the snapshot is written anew, if the snapshot is not larger still.
const LARGE: u64 = 1 << 20;

/// The line before a piece.
#[derive(Serialize, Deserialize)]
struct Piece {
    written_unix_s: u64,
    revision: Revision,
    bytes: usize,
    checksum: u32,
}

/// A journal that is being written.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    bytes: u64,
    snapshot_bytes: u64,
}

impl Journal {
    /// An empty one that continues the snapshot with this checksum and size.
    pub(super) fn create(snapshot: &Path, base: u32, snapshot_bytes: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(path(snapshot))?;
        file.write_all(format!("{MAGIC} {base:08x}\n").as_bytes())?;
        Ok(Self { file, bytes: 0, snapshot_bytes })
    }

    /// Whether to write the whole again takes less than to read on and on.
    pub(super) fn is_large(&self) -> bool {
        self.bytes > LARGE.max(self.snapshot_bytes)
    }

    /// Adds a piece: what has changed, and the revision that this leads to. It is not forced to the disk, since only a
    /// power cut would lose it.
    pub(super) fn append(&mut self, events: &[Event], revision: Revision, now: SystemTime) -> io::Result<()> {
        let mut body = Vec::new();
        for event in events {
            push(&mut body, event)?;
        }
        let checksum = crc32fast::hash(&body);
        let piece = Piece { written_unix_s: seconds(now), revision, bytes: body.len(), checksum };
        let mut bytes = serde_json::to_vec(&piece)?;
        bytes.push(b'\n');
        bytes.extend(body);
        self.file.write_all(&bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Where the journal of a snapshot is.
#[must_use]
pub fn path(snapshot: &Path) -> PathBuf {
    snapshot.with_extension("journal")
}

/// Continues a snapshot with this checksum as far as its journal tells.
pub(super) fn replay(path: &Path, base: u32, snapshot: &mut Snapshot) -> io::Result<()> {
    let Some(bytes) = durable::read(&self::path(path))? else { return Ok(()) };
    let mut reader = Reader(&bytes);
    let head = format!("{MAGIC} {base:08x}");
    if reader.until(b'\n') == Some(head.as_bytes()) {
        while let Some((piece, events)) = next(&mut reader) {
            apply(snapshot, &piece, events);
        }
    }
    Ok(())
}

/// The next piece, if it is whole.
fn next(reader: &mut Reader<'_>) -> Option<(Piece, Vec<Event>)> {
    let piece: Piece = serde_json::from_slice(reader.until(b'\n')?).ok()?;
    let (body, rest) = reader.0.split_at_checked(piece.bytes)?;
    if crc32fast::hash(body) != piece.checksum {
        return None;
    }
    reader.0 = rest;
    let (mut body, mut events) = (Reader(body), Vec::new());
    while !body.0.is_empty() {
        events.push(event(&mut body)?);
    }
    Some((piece, events))
}

fn apply(snapshot: &mut Snapshot, piece: &Piece, events: Vec<Event>) {
    let entries = Arc::make_mut(&mut snapshot.entries);
    for event in events {
        match event {
            Event::Put(entry) => drop(entries.insert(entry.key.clone(), entry)),
            Event::Delete { key, .. } => drop(entries.remove(&key)),
        }
    }
    snapshot.revision = piece.revision;
    snapshot.written = time(piece.written_unix_s).unwrap_or(UNIX_EPOCH);
}

/// A deletion is a line with its revision and the key's length, and the key; a written entry stands as in a snapshot.
fn push(bytes: &mut Vec<u8>, event: &Event) -> io::Result<()> {
    match event {
        Event::Put(entry) => {
            bytes.push(b'+');
            push_entry(bytes, entry)
        }
        Event::Delete { key, revision } => {
            bytes.push(b'-');
            serde_json::to_writer(&mut *bytes, &(revision, key.len()))?;
            bytes.push(b'\n');
            bytes.extend_from_slice(key.as_bytes());
            bytes.push(b'\n');
            Ok(())
        }
    }
}

fn event(reader: &mut Reader<'_>) -> Option<Event> {
    let (kind, rest) = reader.0.split_first()?;
    reader.0 = rest;
    match kind {
        b'+' => reader.entry().map(Event::Put),
        b'-' => {
            let (revision, length) = serde_json::from_slice(reader.until(b'\n')?).ok()?;
            let key = String::from_utf8(reader.field(length)?.to_vec()).ok()?;
            Some(Event::Delete { key, revision })
        }
        _ => None,
    }
}
