//! The file: where it lies, its tables, and what is wrong with one that cannot be used.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    fcntl::AT_FDCWD,
    sys::{
        stat::{UtimensatFlags, utimensat},
        time::TimeSpec,
    },
};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::store::StoreError;

/// Version of the tables below, kept in `PRAGMA user_version`.
const SCHEMA_VERSION: i64 = 1;

/// Marks the file as ours: "ovly".
const APPLICATION_ID: i64 = 0x6f76_6c79;

/// How long a connection waits for another one's lock, in tries of [`LOCK_PAUSE`]: less than the deadline of
/// [`crate::store::Bounded`], so that the answer says who is at fault.
const LOCK_TRIES: i32 = 3000;
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// `changelog` holds each change of the last revisions; a NULL value is a deletion.
const TABLES: &str = "
    CREATE TABLE meta (only_row INTEGER PRIMARY KEY CHECK (only_row = 0), revision INTEGER NOT NULL) STRICT;
    INSERT INTO meta VALUES (0, 0);
    CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, lease INTEGER) STRICT;
    CREATE INDEX entries_of_lease ON entries (lease) WHERE lease IS NOT NULL;
    CREATE TABLE changelog (
        revision INTEGER NOT NULL, seq INTEGER NOT NULL, key TEXT NOT NULL, value BLOB, lease INTEGER,
        PRIMARY KEY (revision, seq)
    ) STRICT;
    CREATE TABLE leases (
        id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL, expires_at_boot_ms INTEGER NOT NULL, boot_id TEXT NOT NULL
    ) STRICT;
";

/// The place of a store: a path, whatever file lies there.
#[derive(Debug)]
pub(super) struct Place {
    url: String,
    path: PathBuf,
}

/// A file, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

/// Whether a missing file is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// At start.
    Create,
    /// While the agent runs: an empty store in its stead would look like a cluster without networks.
    Fail,
}

impl Place {
    pub(super) fn new(path: &Path) -> Self {
        Self { url: format!("sqlite://{}", path.display()), path: path.to_owned() }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the file: there SQLite keeps its write-ahead log too.
    pub(super) fn directory(&self) -> &Path {
        self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    pub(super) fn make_directory(&self) -> Result<(), StoreError> {
        let dir = self.directory();
        fs::create_dir_all(dir).map_err(|e| {
            self.unusable(format!("cannot make its directory {}: {e}; name another one", dir.display()))
        })
    }

    /// The file that lies there now.
    pub(super) fn file(&self) -> io::Result<FileId> {
        // Never by opening it: to close any descriptor of the file drops this process's POSIX locks on it.
        let metadata = fs::metadata(&self.path)?;
        Ok(FileId { device: metadata.dev(), inode: metadata.ino() })
    }

    /// Wakes whoever watches the file, in this and other processes, now that a commit can be seen. When it fails they
    /// see the commit at their next poll.
    pub(super) fn announce(&self) {
        let (leave, now) = (TimeSpec::UTIME_OMIT, TimeSpec::UTIME_NOW);
        let _ = utimensat(AT_FDCWD, &self.path, &leave, &now, UtimensatFlags::FollowSymlink);
    }

    /// Opens the file and makes sure of its tables.
    pub(super) fn connect(&self, missing: Missing) -> Result<Connection, StoreError> {
        let mut connection = self.open(missing).map_err(|e| self.failure("open", &e))?;
        if connection.is_readonly("main").unwrap_or(true) {
            return Err(
                self.unusable("the file is read-only: make it writable for the agent, or name another one")
            );
        }
        // Two agents that make the same file at once can meet in a way that SQLite reports without waiting.
        retry_while_busy(|| connection.pragma_update(None, "journal_mode", "wal"))
            .map_err(|e| self.failure("open", &e))?;
        self.check_journal(&connection)?;
        self.ensure_tables(&mut connection)?;
        Ok(connection)
    }

    fn open(&self, missing: Missing) -> rusqlite::Result<Connection> {
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        flags.set(OpenFlags::SQLITE_OPEN_CREATE, missing == Missing::Create);
        let mut connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_handler(Some(wait_for_lock))?;
        // Without a sync at each commit a power cut may undo the last commits, never half of one. Every
        // client of the file goes down with the machine, and what counts is written again by its owner.
        connection.pragma_update(None, "synchronous", "normal")?;
        Ok(connection)
    }

    fn check_journal(&self, connection: &Connection) -> Result<(), StoreError> {
        let mode: String = connection
            .pragma_query_value(None, "journal_mode", |row| row.get(0))
            .map_err(|e| self.failure("open", &e))?;
        if mode == "wal" {
            return Ok(());
        }
        Err(self.unusable("its file system cannot be shared between processes: name a file on a local disk"))
    }

    fn ensure_tables(&self, connection: &mut Connection) -> Result<(), StoreError> {
        let found = create_tables_if_empty(connection).map_err(|e| self.failure("open", &e))?;
        match found {
            Found { application: APPLICATION_ID, version: SCHEMA_VERSION } => Ok(()),
            Found { application: APPLICATION_ID, version } => Err(self.unusable(format!(
                "a newer agent wrote it (format {version}, this one knows {SCHEMA_VERSION}): upgrade this agent, or \
                 name another file"
            ))),
            Found { .. } => Err(self.unusable("the file is a database of another program: name another one")),
        }
    }

    pub(super) fn unusable(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Unusable { url: self.url.clone(), reason: reason.into() }
    }

    pub(super) fn unavailable(&self, operation: &'static str, reason: impl Into<String>) -> StoreError {
        StoreError::Unavailable { url: self.url.clone(), operation, reason: reason.into() }
    }

    /// SQLite's error, said in the operator's words.
    pub(super) fn failure(&self, operation: &'static str, error: &rusqlite::Error) -> StoreError {
        let dir = self.directory().display();
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => self.unusable(format!(
                "the file is damaged or no SQLite database ({error}): put back a copy, or move it away and start again"
            )),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                self.unavailable(operation, "another process keeps it locked; see who has it open with fuser")
            }
            Some(ErrorCode::DiskFull) => self.unavailable(operation, format!("no space is left in {dir}")),
            Some(ErrorCode::CannotOpen) => {
                self.unavailable(operation, format!("{error}: see that the agent may write in {dir}"))
            }
            _ => self.unavailable(operation, error.to_string()),
        }
    }
}

/// What the header of a file says.
struct Found {
    application: i64,
    version: i64,
}

fn create_tables_if_empty(connection: &mut Connection) -> rusqlite::Result<Found> {
    // In one transaction: between two, another agent may make the tables.
    let transaction = connection.transaction()?;
    let found = header(&transaction)?;
    drop(transaction);
    if found.application != 0 || found.version != 0 {
        return Ok(found);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let objects: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if objects == 0 {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    let found = header(&transaction)?;
    transaction.commit()?;
    Ok(found)
}

fn header(connection: &Connection) -> rusqlite::Result<Found> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get(0));
    Ok(Found { application: number("application_id")?, version: number("user_version")? })
}

/// Called by SQLite while another connection has the lock. Its own time-out doubles its pauses up to 100 ms,
/// far longer than a transaction takes.
fn wait_for_lock(tries: i32) -> bool {
    thread::sleep(LOCK_PAUSE);
    tries < LOCK_TRIES
}

/// Whether the error says that another connection has the lock.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn retry_while_busy(mut attempt: impl FnMut() -> rusqlite::Result<()>) -> rusqlite::Result<()> {
    let mut tries = 0;
    loop {
        match attempt() {
            Err(e) if is_busy(&e) && wait_for_lock(tries) => tries += 1,
            end => return end,
        }
    }
}
