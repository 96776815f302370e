//! A directory for the files of one test, gone with its mounts when the test ends.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::netns::unique_name;

/// A directory below `/run`, of which a part can be a BPF file system.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
}

impl WorkDir {
    /// Makes an empty directory.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    #[track_caller]
    pub fn new(label: &str) -> Self {
        let path = Path::new("/run").join(unique_name(label));
        fs::create_dir(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
        Self { path }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory in it.
    ///
    /// # Panics
    /// If it cannot be made.
    #[track_caller]
    pub fn make(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
        path
    }

    /// Makes a directory in it and mounts a BPF file system there: a machine of its own for pins.
    ///
    /// # Panics
    /// If it cannot be mounted.
    #[track_caller]
    pub fn mount_bpffs(&self, name: &str) -> PathBuf {
        let path = self.make(name);
        let mounted = mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>);
        mounted.unwrap_or_else(|e| panic!("cannot mount a BPF file system at {}: {e}", path.display()));
        path
    }

    /// Mount points at or below it, the deepest first.
    #[must_use]
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
        let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(&self.path)).collect();
        points.reverse();
        points
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        for point in self.mounts() {
            if let Err(e) = umount2(&point, MntFlags::MNT_DETACH) {
                eprintln!("cannot unmount {}: {e}", point.display());
            }
        }
        if let Err(e) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {e}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_a_bpffs_vanishes_with_its_mount() {
        let dir = WorkDir::new("unit");
        let pins = dir.mount_bpffs("bpf");
        fs::create_dir(pins.join("sub")).unwrap();
        assert_eq!(dir.mounts(), [pins]);
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!path.exists());
    }
}
