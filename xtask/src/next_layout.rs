//! The agent and the object of another layout of the maps, for the tests that migrate from one to the other.
//!
//! Everything but three crates is shared with the ordinary build: only what is finished has a directory of its own.

use anyhow::Result;

use crate::{build_ebpf, layout, process};

/// The feature of `overlay-common` that changes the layout.
const FEATURE: &str = "next-layout";

/// A test of the agent's: beside one, its dependencies are those of the tests, which are built.
const ANY_TEST: &str = "store_conformance";

/// Builds both, where tests look for them.
pub fn build() -> Result<()> {
    let object = layout::next_layout_bin_dir().join(format!("{}.o", layout::BPF_CRATE));
    build_ebpf::build_as(&object, &[FEATURE], &build_ebpf::Options::default(), build_ebpf::Warnings::Show)?;
    let mut cargo = process::cargo();
    cargo.args(["build", "--package", "overlay-agent", "--features", FEATURE, "--bin", "overlay-agent"]);
    cargo.args(["--test", ANY_TEST]);
    cargo.env("CARGO_BUILD_BUILD_DIR", layout::target()).env("CARGO_TARGET_DIR", layout::next_layout());
    process::run(&mut cargo)
}
