//! The cgroup that an engine makes its containers' in.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

use crate::netns::unique_name;

/// A cgroup in every hierarchy, made by the first engine that uses it; removed when dropped.
#[derive(Debug)]
pub struct Cgroup(String);

impl Cgroup {
    /// One that nobody else uses.
    #[must_use]
    pub fn new() -> Self {
        Self(unique_name("docker"))
    }

    /// Its name below the root of each hierarchy.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        const ROOT: &str = "/sys/fs/cgroup";
        let hierarchies = fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path());
        for root in hierarchies.chain([PathBuf::from(ROOT)]) {
            remove(&root.join(&self.0));
        }
    }
}

/// Removes a cgroup with those in it: directories only, their files go with them.
fn remove(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    if path.exists()
        && let Err(e) = fs::remove_dir(path)
    {
        eprintln!("cannot remove the cgroup {} (process {}): {e}", path.display(), process::id());
    }
}
