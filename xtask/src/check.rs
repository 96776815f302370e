//! `cargo xtask check`: everything about the sources that needs no kernel. Warnings are errors.

use anyhow::Result;

use crate::{
    build_ebpf::{self, Warnings},
    layout,
    phases::Phases,
    process, setup,
    toolchain::Toolchain,
};

/// The BPF crate's manifest, from the repository's root.
const BPF_MANIFEST: &str = "overlay-ebpf/Cargo.toml";

/// Formats, lints and documents; ends at the first thing that is wrong.
pub fn run() -> Result<()> {
    let phases = Phases::start();
    phases.next("format");
    cargo(&["fmt", "--check", "--all"])?;
    cargo(&["fmt", "--check", "--manifest-path", BPF_MANIFEST])?;
    setup::ensure_build_tools()?;
    phases.next("lint");
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    phases.next("lint the BPF crate");
    lint_bpf(&setup::ensure_toolchain()?)?;
    phases.next("document");
    process::run(
        process::cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "--deny warnings"),
    )?;
    phases.next("licences and bans");
    deny()?;
    phases.next("all well");
    Ok(())
}

/// Clippy where its compiler has one, else the compiler's own warnings.
fn lint_bpf(toolchain: &Toolchain) -> Result<()> {
    if toolchain.has_clippy() {
        let mut clippy = toolchain.cargo("clippy");
        return process::run(clippy.current_dir(layout::bpf_crate()).args(["--", "-D", "warnings"]));
    }
    println!("the BPF crate's compiler has no clippy: its own warnings it is");
    build_ebpf::build(&build_ebpf::Options::default(), Warnings::Deny)
}

/// cargo-deny where it is installed: it takes minutes to build and needs the network.
fn deny() -> Result<()> {
    if process::find_program("cargo-deny").is_none() {
        println!("left out, cargo-deny is not installed: `cargo install cargo-deny --locked`");
        return Ok(());
    }
    cargo(&["deny", "check"])?;
    cargo(&["deny", "--manifest-path", BPF_MANIFEST, "check", "--config", "deny.toml"])
}

fn cargo(arguments: &[&str]) -> Result<()> {
    process::run(process::cargo().args(arguments))
}
