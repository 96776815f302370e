//! Maps of other layouts, left by an agent of another version.
//!
//! They serve the programs that are still on the links, so they go last: when every link carries a program of ours.
//! An agent that dies before that leaves both layouts, and the next one, of either version, ends what it began.

use std::{fs, io, path::Path};

use super::{DatapathError, bpffs::gone_is_success};
use crate::paths::Paths;

/// Removes the pins of every other layout; the maps go with the last program that uses them.
pub(super) fn remove_others(paths: &Paths) -> Result<(), DatapathError> {
    let dir = &paths.bpffs_dir;
    let fail = |source| DatapathError::Bpffs { path: dir.clone(), source };
    for entry in fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if paths.is_of_another_layout(&path) {
            remove(&path).map_err(|source| DatapathError::Bpffs { path: path.clone(), source })?;
            tracing::info!(pins = %path.display(), "migrated from another layout of the maps");
        }
    }
    Ok(())
}

fn remove(dir: &Path) -> io::Result<()> {
    gone_is_success(fs::remove_dir_all(dir))
}
