//! `cargo xtask deb`: the Debian package, made by cargo-deb of what `overlay-agent/Cargo.toml` lists.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{build, layout, manuals, process, setup};

/// Builds everything, optimised, and packs it.
pub fn run() -> Result<()> {
    build::run(&build::Options::for_package())?;
    manuals::write(&layout::bin_dir(true))?;
    let package = pack(&layout::deb_dir(), &["--profile", "release"])?;
    println!("deb: {}", layout::shown(&package));
    Ok(())
}

/// The same of what was built for the tests: an optimised build would take minutes more.
pub fn for_tests() -> Result<PathBuf> {
    manuals::write(&layout::bin_dir(false))?;
    pack(&layout::deb_dir().join("debug"), &["--profile", "dev", "--strip", "--fast"])
}

/// Packs what is built into a directory, and leaves no older package there; returns the package.
fn pack(dir: &Path, options: &[&str]) -> Result<PathBuf> {
    let program = setup::ensure_cargo_deb()?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", layout::shown(dir)))?;
    for old in packages(dir)? {
        fs::remove_file(&old).with_context(|| format!("cannot remove {}", layout::shown(&old)))?;
    }
    let mut cargo_deb = process::clean_command(program);
    cargo_deb.current_dir(layout::root()).env("CARGO_TARGET_DIR", layout::target());
    cargo_deb
        .args(["--no-build", "--locked", "--package", "overlay-agent", "--output"])
        .arg(dir)
        .args(options);
    setup::run_logged("packing", &mut cargo_deb)?;
    packages(dir)?.pop().with_context(|| format!("cargo-deb left no package in {}", layout::shown(dir)))
}

fn packages(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", layout::shown(dir)))?;
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect())
}
