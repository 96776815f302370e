//! `cargo xtask setup`: installs what building and testing need and this machine lacks. Every other
//! subcommand takes what it needs from here, so nobody has to call it first.

use std::{path::PathBuf, process::Command, time::Instant};

use anyhow::{Context as _, Result, bail};

use crate::{
    layout,
    packages::{self, BUILD_TOOLS, COMPILER, LINKER, PACKAGING_TOOLS, Package, TEST_TOOLS},
    process, progress,
    servers::Kind,
    toolchain::{self, Compiler, Toolchain},
    unpacked::{CNI_PLUGINS, DOCKER, DOCKER_COMPOSE, NGINX, PODMAN, POSTGRES, REDIS, SHELLS, TSHARK},
};

/// The linker's version: 0.13 is the first whose BTF maps the loader takes.
const LINKER_VERSION: &str = "~0.13";

/// cargo-deb's version: what a package is like hangs on it.
const CARGO_DEB_VERSION: &str = "=3.8.0";

/// Installs what is missing and says in one line what is used.
pub fn run() -> Result<()> {
    let started = Instant::now();
    let toolchain = ensure_toolchain()?;
    ensure_build_tools()?;
    ensure_test_tools()?;
    println!("setup: ready, {} ({:.1} s)", toolchain.describe(), started.elapsed().as_secs_f32());
    Ok(())
}

/// What the agent's own build calls.
pub fn ensure_build_tools() -> Result<()> {
    packages::ensure(BUILD_TOOLS)
}

/// The real servers, engines and peers that the tests run. Unpacked beforehand: tests run side by side, and would do it
/// several times at once.
pub fn ensure_servers() -> Result<()> {
    Kind::ALL.into_iter().try_for_each(Kind::ensure)?;
    ensure_container_servers()?;
    let trees = [CNI_PLUGINS, DOCKER, DOCKER_COMPOSE, PODMAN, SHELLS, TSHARK];
    trees.iter().try_for_each(|tree| tree.ensure().map(drop))
}

/// Those that people run in containers, with their clients.
pub fn ensure_container_servers() -> Result<()> {
    [REDIS, POSTGRES, NGINX].iter().try_for_each(|tree| tree.ensure().map(drop))
}

/// The programs that the demo and the tests call.
pub fn ensure_test_tools() -> Result<()> {
    packages::ensure(TEST_TOOLS)
}

/// What builds the BPF object; installed or built where it is not there.
pub fn ensure_toolchain() -> Result<Toolchain> {
    if let Some(toolchain) = Toolchain::find() {
        return Ok(toolchain);
    }
    let compiler = ensure_compiler()?;
    build_linker(&compiler)?;
    Toolchain::find().with_context(|| {
        format!("the new bpf-linker cannot read the compiler's bitcode: remove {} and try again", tools())
    })
}

/// A nightly with `rust-src` if a linker for it can be had, else Debian's compiler.
fn ensure_compiler() -> Result<Compiler> {
    if let Some(nightly) = Compiler::nightly().filter(Compiler::can_have_linker) {
        packages::ensure(linker_packages(&nightly))?;
        return Ok(nightly);
    }
    packages::ensure(COMPILER.iter().chain(LINKER))?;
    Compiler::debian().context(
        "/usr/bin/rustc is not Debian's rustc-web with the rust-web-src of the same version: install both with \
         `sudo apt-get install rustc-web rust-web-src`",
    )
}

/// Debian has one LLVM for us; whoever has a nightly of another brought that LLVM along.
fn linker_packages(compiler: &Compiler) -> &'static [Package] {
    if compiler.llvm() == toolchain::DEBIAN_LLVM { LINKER } else { &[] }
}

fn build_linker(compiler: &Compiler) -> Result<()> {
    let llvm = compiler.llvm();
    let mut cargo = cargo_install("bpf-linker", LINKER_VERSION);
    cargo
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
        .env("LLVM_PREFIX", toolchain::llvm_prefix(llvm));
    run_logged("building bpf-linker, about a minute", &mut cargo)
}

/// Builds what makes Debian packages, where it is not there yet; returns it.
pub fn ensure_cargo_deb() -> Result<PathBuf> {
    packages::ensure(PACKAGING_TOOLS)?;
    let program = layout::tools().join("bin/cargo-deb");
    if !program.is_file() {
        let mut cargo = cargo_install("cargo-deb", CARGO_DEB_VERSION);
        run_logged("building cargo-deb, about two minutes", &mut cargo)?;
    }
    Ok(program)
}

/// What builds a tool of crates.io into `target/tools`.
fn cargo_install(tool: &str, version: &str) -> Command {
    let mut cargo = process::clean_command(process::cargo_program());
    cargo.args(["install", tool, "--locked", "--force", "--version", version, "--root"]).arg(layout::tools());
    cargo
}

/// Runs what says much, which is kept and not shown.
pub fn run_logged(what: &str, command: &mut Command) -> Result<()> {
    let outcome = progress::run(what, command)?;
    layout::append_to_setup_log(&outcome.output)?;
    if !outcome.status.success() {
        bail!("{what} failed: the whole output is in {}", layout::shown(&layout::setup_log()));
    }
    Ok(())
}

fn tools() -> String {
    layout::shown(&layout::tools())
}
