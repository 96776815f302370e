//! `cargo xtask build-ebpf`: the object that the agent loads. The BPF crate is no member of the workspace:
//! it has its own target, its own profile and a compiler with unstable options.

use std::{fs, path::Path, process::Command, time::Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{layout, process, progress, setup};

/// Options of `cargo xtask build-ebpf`.
#[derive(Args, Debug, Default)]
pub struct Options {
    /// Show cargo's own output while it builds
    #[arg(long, short)]
    verbose: bool,
}

/// Whether a compiler warning ends the build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warnings {
    /// They are printed.
    Show,
    /// They are errors.
    Deny,
}

/// Builds the object, always optimised: the verifier refuses what an unoptimised build makes.
pub fn run(options: &Options) -> Result<()> {
    build(options, Warnings::Show)
}

/// Builds the object and puts it where the agent looks for it.
pub fn build(options: &Options, warnings: Warnings) -> Result<()> {
    build_as(&layout::bpf_object(), &[], options, warnings)
}

/// Builds the object with these features and puts it in this place.
pub fn build_as(object: &Path, features: &[&str], options: &Options, warnings: Warnings) -> Result<()> {
    let toolchain = setup::ensure_toolchain()?;
    let started = Instant::now();
    let mut cargo = toolchain.cargo("build");
    cargo.current_dir(layout::bpf_crate()).arg("--features").arg(features.join(","));
    if warnings == Warnings::Deny {
        cargo.args(["-Zwarnings", "--config", "build.warnings='deny'"]);
    }
    if options.verbose {
        process::run(cargo.arg("--verbose"))?;
    } else {
        quietly(&mut cargo)?;
    }
    let bytes = install(object)?;
    println!(
        "build-ebpf: {}, {bytes} bytes ({:.1} s)",
        layout::shown(object),
        started.elapsed().as_secs_f32()
    );
    Ok(())
}

/// Runs cargo behind a progress line; its output is shown when it has something to say.
fn quietly(cargo: &mut Command) -> Result<()> {
    let outcome = progress::run("building the BPF object", cargo)?;
    if !outcome.status.success() || outcome.output.lines().any(|line| line.starts_with("warning")) {
        eprint!("{}", outcome.output);
    }
    if !outcome.status.success() {
        bail!("the BPF object does not build: see cargo's messages above");
    }
    Ok(())
}

/// Puts the object in its place in one step, as an agent may be about to read it. Returns its size.
fn install(object: &Path) -> Result<u64> {
    let built = layout::bpf_target_dir().join(layout::BPF_TARGET).join("release").join(layout::BPF_CRATE);
    let new = object.with_extension("o.new");
    if let Some(directory) = object.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let bytes = fs::copy(&built, &new).with_context(|| format!("cannot copy {}", built.display()))?;
    fs::rename(&new, object).with_context(|| format!("cannot put {} in its place", object.display()))?;
    Ok(bytes)
}
