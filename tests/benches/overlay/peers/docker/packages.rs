//! Docker's programs, unpacked from their packages and not installed: nothing runs but what is started here.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// Programs in this order: the engine's own, then its shims and runtime.
const PROGRAM_DIRS: [&str; 3] = ["usr/sbin", "usr/bin", "bin"];

/// A tree of unpacked packages.
#[derive(Clone, Debug)]
pub struct Packages {
    root: PathBuf,
}

impl Packages {
    /// Those at a path.
    pub fn at(root: &Path) -> Result<Self> {
        let packages = Self { root: root.to_owned() };
        for program in ["dockerd", "docker", "containerd", "runc", "busybox", "iptables"] {
            packages.program(program)?;
        }
        Ok(packages)
    }

    /// Path of a program.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let found = self.program_dirs().map(|dir| dir.join(name)).find(|path| path.exists());
        found.with_context(|| format!("there is no {name} below {}", self.root.display()))
    }

    /// Has a command find these programs and their libraries before others, and netfilter's legacy tables: the
    /// engine of this version knows no others.
    pub fn prepare<'a>(&self, command: &'a mut Command) -> Result<&'a mut Command> {
        let system = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(self.program_dirs().chain(env::split_paths(&system)))?;
        let libraries = self.root.join("usr/lib").join(format!("{}-linux-gnu", env::consts::ARCH));
        ensure!(libraries.is_dir(), "there is no {}", libraries.display());
        Ok(command
            .env("PATH", path)
            .env("XTABLES_LIBDIR", libraries.join("xtables"))
            .env("LD_LIBRARY_PATH", libraries))
    }

    fn program_dirs(&self) -> impl Iterator<Item = PathBuf> {
        // The packages' alternatives, which only an installation would set.
        let legacy = self.root.join("legacy-iptables");
        [legacy].into_iter().chain(PROGRAM_DIRS.map(|dir| self.root.join(dir)))
    }
}
