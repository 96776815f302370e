//! `cargo xtask manuals`: the manual pages, from what the programs say of themselves.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{build, layout, process};

/// Builds the programs and has them write their pages.
pub fn run() -> Result<()> {
    build::run(&build::Options::default())?;
    write(&layout::bin_dir(false))?;
    println!("manuals: {}", layout::shown(&layout::manuals()));
    Ok(())
}

/// Has programs that are built write their pages, whatever was there.
pub fn write(bin_dir: &Path) -> Result<()> {
    let dir = layout::manuals();
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", layout::shown(&dir)))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", layout::shown(&dir)))?;
    process::run(Command::new(bin_dir.join("overlay")).arg("manuals").arg(&dir))
}
