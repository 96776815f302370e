//! What a developer runs as `cargo xtask …`: each subcommand is a file of its own and installs what it lacks.

mod bench;
mod build;
mod build_ebpf;
mod check;
mod clean;
mod deb;
mod demo;
mod manuals;
mod next_layout;
mod phases;
mod setup;
mod test;
mod toolchain;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::{layout, packages, process, progress, servers, unpacked};

const EXAMPLES: &str = "\
Examples:
  cargo xtask demo                        see it work, step by step
  cargo xtask test                        everything, as root
  cargo xtask test -- isolation           only the tests whose name contains `isolation`
  cargo xtask bench --quick               how fast it is, in five minutes
  cargo xtask build --release             object and binaries, optimised
  cargo xtask check                       what CI looks at before the tests";

/// Set up, build, check and test the overlay; each subcommand installs what it lacks
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what building and testing need and this machine lacks
    ///
    /// Debian packages (as root) and bpf-linker, which is built into target/tools. A nightly of rustup with
    /// rust-src is used where there is one, Debian's rustc-web elsewhere.
    Setup,
    /// Build the BPF object, target/bpf/overlay-ebpf.o
    BuildEbpf(build_ebpf::Options),
    /// Build the BPF object and the agent's binaries
    Build(build::Options),
    /// Write the manual pages, target/manuals
    Manuals,
    /// Make the Debian package, in target/debian
    Deb,
    /// Format, lint and document; warnings are errors
    Check,
    /// Show the main job: two hosts, two networks, three containers, on real packets, as root
    Demo(demo::Options),
    /// Set up, build and run all tests, as root
    Test(test::Options),
    /// Measure it beside the bare host, kernel VXLAN and Docker, as root
    Bench(bench::Options),
    /// Remove what a crashed demo or test left: namespaces, processes, mounts, devices named ovl-…
    Clean(clean::Options),
}

fn main() -> ExitCode {
    dispatch(&Cli::parse().command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn dispatch(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Setup => setup::run()?,
        Command::BuildEbpf(options) => build_ebpf::run(options)?,
        Command::Build(options) => build::run(options)?,
        Command::Manuals => manuals::run()?,
        Command::Deb => deb::run()?,
        Command::Check => check::run()?,
        Command::Demo(options) => return demo::run(options),
        Command::Test(options) => return test::run(options),
        Command::Bench(options) => return bench::run(options),
        Command::Clean(options) => clean::run(options)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
