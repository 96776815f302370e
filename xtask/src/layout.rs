//! Every path of the build tree that xtask reads or makes: their one home.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Name of the BPF crate, of its binary and, with `.o` added, of the object.
pub const BPF_CRATE: &str = "overlay-ebpf";
/// The target of the BPF crate. Both supported hosts are little-endian.
pub const BPF_TARGET: &str = "bpfel-unknown-none";

/// The repository.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Everything that is built or installed, the shared target directory of the workspace.
#[must_use]
pub fn target() -> PathBuf {
    root().join("target")
}

/// Output of the installers.
#[must_use]
pub fn setup_log() -> PathBuf {
    target().join("setup.log")
}

/// Root of the tools that setup builds (`bin/bpf-linker`).
#[must_use]
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// Sources of the BPF crate.
#[must_use]
pub fn bpf_crate() -> PathBuf {
    root().join(BPF_CRATE)
}

/// Where cargo builds the BPF crate: apart from the workspace, whose lock it would wait for.
#[must_use]
pub fn bpf_target_dir() -> PathBuf {
    target().join("ebpf")
}

/// The object that the agent loads.
#[must_use]
pub fn bpf_object() -> PathBuf {
    target().join("bpf").join(format!("{BPF_CRATE}.o"))
}

/// The agent's binaries, in the profile's directory.
#[must_use]
pub fn bin_dir(release: bool) -> PathBuf {
    target().join(if release { "release" } else { "debug" })
}

/// Manual pages.
#[must_use]
pub fn manuals() -> PathBuf {
    target().join("manuals")
}

/// Where Debian packages are made.
#[must_use]
pub fn deb_dir() -> PathBuf {
    target().join("debian")
}

/// Target directory of the build with the next layout of the maps, for what is not shared with the others.
#[must_use]
pub fn next_layout() -> PathBuf {
    target().join("next-layout")
}

/// The agent of the next layout and, beside it, its object.
#[must_use]
pub fn next_layout_bin_dir() -> PathBuf {
    next_layout().join("debug")
}

/// A path as a reader at the repository's root would type it.
#[must_use]
pub fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Keeps the output of an installer.
pub fn append_to_setup_log(output: &str) -> Result<()> {
    let path = setup_log();
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    log.write_all(output.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
