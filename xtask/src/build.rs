//! `cargo xtask build`: the object and the binaries, where the agent finds the first beside the second.

use anyhow::Result;
use clap::Args;

use crate::{build_ebpf, layout, next_layout, process, setup};

/// Options of `cargo xtask build`.
#[derive(Args, Debug, Default)]
pub struct Options {
    /// Optimise the binaries (the BPF object always is)
    #[arg(long, short)]
    release: bool,

    /// Build also what the tests run: the agent's own tests, and an agent and object with the next layout of the maps
    #[arg(long)]
    tests: bool,
}

impl Options {
    /// What the package brings.
    pub fn for_package() -> Self {
        Self { release: true, tests: false }
    }

    /// Everything that the tests run.
    pub fn for_tests() -> Self {
        Self { release: false, tests: true }
    }
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
    if options.tests {
        // Together: tests turn features of dependencies on, and with others cargo builds most of them once more.
        cargo.args(["--bins", "--tests"]);
    }
    process::run(&mut cargo)?;
    println!("build: binaries in {}", layout::shown(&layout::bin_dir(options.release)));
    if options.tests { next_layout::build() } else { Ok(()) }
}
