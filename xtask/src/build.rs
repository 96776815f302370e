//! `cargo xtask build`: the object and the binaries, where the agent finds the first beside the second.

use anyhow::Result;
use clap::Args;

use crate::{build_ebpf, layout, process, setup};

/// Options of `cargo xtask build`.
#[derive(Args, Debug, Default)]
pub struct Options {
    /// Optimise the binaries (the BPF object always is)
    #[arg(long, short)]
    release: bool,
}

/// Builds the object, then the agent's binaries.
pub fn run(options: &Options) -> Result<()> {
    build_ebpf::run(&build_ebpf::Options::default())?;
    setup::ensure_build_tools()?;
    let mut cargo = process::cargo();
    cargo.args(["build", "--package", "overlay-agent"]);
    if options.release {
        cargo.arg("--release");
    }
    process::run(&mut cargo)?;
    println!("build: binaries in {}", layout::shown(&layout::bin_dir(options.release)));
    Ok(())
}
