//! Docker's programs, unpacked from their packages and not installed: nothing runs but what is started here.

use std::{
    env,
    ffi::OsString,
    fs,
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
    /// Those of the project's own tree, unpacked where they are not there yet.
    ///
    /// # Errors
    /// If they cannot be had.
    pub fn unpacked() -> Result<Self> {
        Self::at(&xtask::unpacked::DOCKER.ensure()?)
    }

    /// Those at a path.
    ///
    /// # Errors
    /// If one is missing.
    pub fn at(root: &Path) -> Result<Self> {
        let packages = Self { root: root.to_owned() };
        for program in ["dockerd", "docker", "containerd", "runc", "busybox", "iptables"] {
            packages.program(program)?;
        }
        Ok(packages)
    }

    /// Path of a program.
    ///
    /// # Errors
    /// If it is not among them.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let found = self.program_dirs().map(|dir| dir.join(name)).find(|path| path.exists());
        found.with_context(|| format!("there is no {name} below {}", self.root.display()))
    }

    /// Has a command find these programs and their libraries before others, and netfilter's legacy tables: the
    /// engine of this version knows no others.
    ///
    /// # Errors
    /// If their libraries are not there.
    pub fn prepare<'a>(&self, command: &'a mut Command) -> Result<&'a mut Command> {
        Ok(command.envs(self.environment()?))
    }

    /// The same as variables: an agent beside an engine finds on its host what the engine finds there.
    ///
    /// # Errors
    /// If their libraries are not there.
    pub fn environment(&self) -> Result<[(&'static str, OsString); 3]> {
        let system = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(self.program_dirs().chain(env::split_paths(&system)))?;
        let libraries = self.root.join("usr/lib").join(format!("{}-linux-gnu", env::consts::ARCH));
        ensure!(libraries.is_dir(), "there is no {}", libraries.display());
        let tables = libraries.join("xtables").into_os_string();
        Ok([("PATH", path), ("XTABLES_LIBDIR", tables), ("LD_LIBRARY_PATH", libraries.into_os_string())])
    }

    /// Whether a process, by its directory in `/proc`, runs one of these programs.
    pub(super) fn own(&self, process: &Path) -> bool {
        fs::read_link(process.join("exe")).is_ok_and(|exe| exe.starts_with(&self.root))
    }

    fn program_dirs(&self) -> impl Iterator<Item = PathBuf> {
        // The packages' alternatives, which only an installation would set.
        let legacy = self.root.join("legacy-iptables");
        [legacy].into_iter().chain(PROGRAM_DIRS.map(|dir| self.root.join(dir)))
    }
}
