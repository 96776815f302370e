//! Which Debian packages are needed and which are missing, judged by the program or file that each brings:
//! what came from elsewhere serves as well.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use crate::{layout, process, progress};

/// A Debian package and how one sees that it is not needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Package {
    name: &'static str,
    brings: Brings,
}

/// What a package is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brings {
    /// A program by its name.
    Program(&'static str),
    /// A file by its path.
    File(&'static str),
}

const fn program(name: &'static str, program: &'static str) -> Package {
    Package { name, brings: Brings::Program(program) }
}

const fn file(name: &'static str, path: &'static str) -> Package {
    Package { name, brings: Brings::File(path) }
}

/// A compiler with its sources, for where rustup has no nightly with `rust-src`.
pub const COMPILER: &[Package] = &[
    file("rustc-web", "/usr/bin/rustc"),
    file("rust-web-src", "/usr/lib/rustlib/src/rust/library/core/src/lib.rs"),
];

/// What bpf-linker is built from: LLVM's library with what `llvm-config` names beside it, and a C compiler as
/// linker.
pub const LINKER: &[Package] = &[
    file("llvm-22-dev", "/usr/lib/llvm-22/lib/libLLVM.so"),
    file("libpolly-22-dev", "/usr/lib/llvm-22/lib/libPolly.a"),
    file("zlib1g-dev", "/usr/include/zlib.h"),
    file("libzstd-dev", "/usr/include/zstd.h"),
    program("gcc", "cc"),
    file("libc6-dev", "/usr/include/stdio.h"),
];

/// What the demo and the tests call.
pub const TEST_TOOLS: &[Package] = &[
    program("iproute2", "ip"),
    program("bpftool", "bpftool"),
    program("iperf3", "iperf3"),
    program("nftables", "nft"),
    program("tcpdump", "tcpdump"),
    program("ethtool", "ethtool"),
    program("iputils-ping", "ping"),
    program("netcat-openbsd", "nc.openbsd"),
    program("util-linux", "nsenter"),
    program("curl", "curl"),
    program("bind9-dnsutils", "dig"),
    program("systemd", "systemd-analyze"),
    program("bsdutils", "script"),
    file("python3", "/usr/bin/python3"),
];

/// What building the agent needs beside Rust: etcd's protocol is compiled from its description, which refers to
/// the types that come with Protobuf.
pub const BUILD_TOOLS: &[Package] = &[
    program("protobuf-compiler", "protoc"),
    file("libprotobuf-dev", "/usr/include/google/protobuf/descriptor.proto"),
    program("gcc", "cc"),
];

/// What making the Debian package calls.
pub const PACKAGING_TOOLS: &[Package] =
    &[program("dpkg-dev", "dpkg-shlibdeps"), program("binutils", "strip")];

/// What ZooKeeper's server runs on.
pub const JAVA: &[Package] = &[program("openjdk-17-jre-headless", "java")];

/// Installs those that are missing; does nothing where none is.
pub fn ensure<'a>(packages: impl IntoIterator<Item = &'a Package>) -> Result<()> {
    let missing = missing(packages, is_there);
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if process::find_program("apt-get").is_none() {
        bail!("this system has no apt-get: install what Debian calls {names} with its own package manager");
    }
    if !geteuid().is_root() {
        bail!("missing Debian packages: install them with `sudo apt-get install {names}`");
    }
    install(&missing)
}

/// The names of the packages whose file or program is not there.
fn missing<'a>(
    packages: impl IntoIterator<Item = &'a Package>,
    is_there: impl Fn(Brings) -> bool,
) -> Vec<&'static str> {
    packages.into_iter().filter(|package| !is_there(package.brings)).map(|package| package.name).collect()
}

fn is_there(brings: Brings) -> bool {
    match brings {
        Brings::Program(name) => process::find_program(name).is_some(),
        Brings::File(path) => Path::new(path).exists(),
    }
}

fn install(names: &[&str]) -> Result<()> {
    apt_get("reading Debian's package lists", &["update"])?;
    // Rather fail than take away a package that the user chose: `rustc-web` replaces `rustc`.
    let arguments = ["install", "--yes", "--no-install-recommends", "--no-remove"];
    apt_get(&format!("installing {}", names.join(" ")), &[&arguments[..], names].concat())
}

fn apt_get(what: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=120"]).args(arguments);
    let outcome = progress::run(what, &mut command)?;
    layout::append_to_setup_log(&outcome.output)?;
    if !outcome.status.success() {
        let reason =
            outcome.output.lines().rev().find(|line| line.starts_with("E:")).unwrap_or("no reason given");
        bail!("{what} failed ({reason}); the whole output is in {}", layout::shown(&layout::setup_log()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_whose_file_or_program_is_absent_are_missing() {
        let there = [Brings::Program("ip"), Brings::File("/usr/bin/rustc")];
        let packages = [TEST_TOOLS[0], TEST_TOOLS[1], COMPILER[0], COMPILER[1]];
        let missing = missing(&packages, |brings| there.contains(&brings));
        assert_eq!(missing, ["bpftool", "rust-web-src"]);
    }

    #[test]
    fn nothing_is_missing_where_everything_is_there() {
        assert!(missing(TEST_TOOLS, |_| true).is_empty());
    }

    #[test]
    fn programs_and_files_are_found_where_they_are() {
        assert!(is_there(Brings::Program("sh")));
        assert!(!is_there(Brings::Program("no-such-program")));
        assert!(is_there(Brings::File("/proc/self/exe")));
        assert!(!is_there(Brings::File("/proc/self/no-such-file")));
    }
}
