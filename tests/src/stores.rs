//! Stores under fault: what a test does to the store that its agents share, whatever kind of store it is.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A store that can be taken away, given back and emptied. It is there at first.
pub trait FaultyStore {
    /// Its address, for `--store`.
    fn url(&self) -> String;

    /// From now on nobody reaches it, also those who have it open.
    fn stop(&self);

    /// Everybody reaches it again, as it was.
    fn start(&self);

    /// Empties it while it is there.
    fn wipe(&self);
}

/// The SQLite store: a file in a directory of its own.
#[derive(Debug)]
pub struct SqliteFile {
    dir: PathBuf,
}

impl SqliteFile {
    /// A store in a directory that is made for it.
    ///
    /// # Panics
    /// If the directory cannot be made.
    #[must_use]
    #[track_caller]
    pub fn new(dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("cannot make {}: {e}", dir.display()));
        Self { dir }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join("overlay.db")
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes the file with what SQLite keeps beside it.
    ///
    /// # Panics
    /// If it is not there.
    #[track_caller]
    pub fn delete(&self) {
        fs::remove_file(self.path()).expect("remove the store's file");
        for beside in ["overlay.db-wal", "overlay.db-shm"] {
            // They come and go.
            let _ = fs::remove_file(self.dir.join(beside));
        }
    }

    /// Where the directory is while it is away.
    fn away(&self) -> PathBuf {
        self.dir.with_extension("away")
    }
}

impl FaultyStore for SqliteFile {
    fn url(&self) -> String {
        format!("sqlite://{}", self.path().display())
    }

    /// A plain file in the directory's place keeps agents from making the store anew.
    fn stop(&self) {
        fs::rename(&self.dir, self.away()).expect("move the store away");
        fs::write(&self.dir, "").expect("block the store's place");
    }

    fn start(&self) {
        fs::remove_file(&self.dir).expect("free the store's place");
        fs::rename(self.away(), &self.dir).expect("move the store back");
    }

    fn wipe(&self) {
        self.delete();
        fs::write(self.path(), "").expect("make an empty file");
    }
}
