//! Debian packages unpacked below `target/tools` and not installed: for servers that would otherwise be started
//! by their package, and for programs that would change the machine by being there.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{layout, process, progress};

/// Docker's engine with everything of its that it runs, and the smallest image there is. The C library and what every
/// Debian has come from the system.
pub const DOCKER: Tree = Tree {
    name: "docker",
    packages: &[
        "docker.io",
        "containerd",
        "runc",
        "iptables",
        "libip4tc2",
        "libip6tc2",
        "libxtables12",
        "libdevmapper1.02.1",
        "busybox-static",
    ],
    links: &[
        ("legacy-iptables/iptables", "../usr/sbin/xtables-legacy-multi"),
        ("legacy-iptables/ip6tables", "../usr/sbin/xtables-legacy-multi"),
    ],
};

/// Packages that are unpacked together.
#[derive(Debug)]
pub struct Tree {
    name: &'static str,
    packages: &'static [&'static str],
    /// What an installation's alternatives would set: a path in the tree, and where it leads.
    links: &'static [(&'static str, &'static str)],
}

impl Tree {
    /// The tree; downloaded and unpacked where it is not there yet.
    pub fn ensure(&self) -> Result<PathBuf> {
        let root = layout::tools().join(self.name);
        if root.is_dir() {
            return Ok(root);
        }
        let new = root.with_extension("new");
        remake(&new)?;
        self.unpack(&new)?;
        fs::rename(&new, &root)
            .with_context(|| format!("cannot put {} in its place", layout::shown(&root)))?;
        Ok(root)
    }

    fn unpack(&self, root: &Path) -> Result<()> {
        let archives = root.with_extension("archives");
        remake(&archives)?;
        self.download(&archives)?;
        for archive in fs::read_dir(&archives)? {
            process::run(Command::new("dpkg-deb").arg("--extract").arg(archive?.path()).arg(root))?;
        }
        for (path, leads_to) in self.links {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap_or(root))?;
            symlink(leads_to, &path).with_context(|| format!("cannot make {}", layout::shown(&path)))?;
        }
        fs::remove_dir_all(&archives).context("cannot remove the packages after unpacking")
    }

    fn download(&self, archives: &Path) -> Result<()> {
        ensure!(
            process::find_program("apt-get").is_some(),
            "this system has no apt-get to download {} with",
            self.packages.join(" ")
        );
        self.apt_get(archives, "reading Debian's package lists", &["update"])?;
        // Root downloads, as the unprivileged user of apt may not enter the build tree.
        let download = ["-o", "APT::Sandbox::User=root", "download"];
        let what = format!("downloading {}", self.packages.join(" "));
        self.apt_get(archives, &what, &[&download[..], self.packages].concat())
    }

    fn apt_get(&self, directory: &Path, what: &str, arguments: &[&str]) -> Result<()> {
        let outcome = progress::run(what, Command::new("apt-get").args(arguments).current_dir(directory))?;
        layout::append_to_setup_log(&outcome.output)?;
        if !outcome.status.success() {
            let reason = outcome.output.lines().rev().find(|line| line.starts_with("E:"));
            bail!("{what} failed ({})", reason.unwrap_or("no reason given"));
        }
        Ok(())
    }
}

/// An empty directory, whatever was there.
fn remake(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("cannot empty {}", layout::shown(directory)))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", layout::shown(directory)))
}
