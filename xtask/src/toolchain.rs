//! Finds what builds BPF programs: a compiler that has the sources of `core`, and a linker that reads its
//! bitcode.
//!
//! Two compilers will do. A rustup nightly with `rust-src` is what most people have. Debian 12 packages a
//! compiler with its sources (`rustc-web`, `rust-web-src`), which works where no nightly can be had.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{layout, process};

/// Debian's LLVM that goes with its compiler.
pub const DEBIAN_LLVM: u32 = 22;
/// LLVM versions that bpf-linker has a feature for.
const LINKER_LLVMS: std::ops::RangeInclusive<u32> = 21..=23;
/// Debian's compiler and its sources.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_SYSROOT: &str = "/usr";
/// `core` in a compiler's sysroot.
const CORE_SOURCE: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";
/// The oldest linker whose BTF the loader takes.
const OLDEST_LINKER: (u32, u32) = (0, 13);
/// The smallest crate: linking it shows that a linker reads a compiler's bitcode.
const PROBE: &str = "#![feature(no_core)]\n#![no_core]\n#![crate_type = \"lib\"]\n";

/// A compiler with the sources of its `core`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// The nightly of rustup.
    Nightly {
        /// Major version of its LLVM.
        llvm: u32,
    },
    /// Debian's `rustc-web`, told to accept unstable features.
    Debian,
}

impl Compiler {
    /// The nightly, where rustup has one with `rust-src`.
    #[must_use]
    pub fn nightly() -> Option<Self> {
        let mut sysroot = in_nightly("rustc");
        let sysroot = process::output(sysroot.args(["--print", "sysroot"])).ok()?;
        if !Path::new(sysroot.trim()).join(CORE_SOURCE).exists() {
            return None;
        }
        let version = process::output(in_nightly("rustc").arg("-vV")).ok()?;
        Some(Self::Nightly { llvm: Version::parse(&version)?.llvm })
    }

    /// Debian's compiler, where it is installed with sources of the same version.
    #[must_use]
    pub fn debian() -> Option<Self> {
        let version = process::output(process::clean_command(DEBIAN_RUSTC).arg("-vV")).ok()?;
        let version = Version::parse(&version)?;
        let sources = fs::canonicalize(Path::new(DEBIAN_SYSROOT).join(CORE_SOURCE)).ok()?;
        let same = sources
            .components()
            .any(|part| part.as_os_str() == format!("rustc-{}", version.release).as_str());
        (same && version.llvm == DEBIAN_LLVM).then_some(Self::Debian)
    }

    /// Major version of its LLVM: what a linker for it must be built with.
    #[must_use]
    pub fn llvm(&self) -> u32 {
        match self {
            Self::Nightly { llvm } => *llvm,
            Self::Debian => DEBIAN_LLVM,
        }
    }

    /// Whether a linker for it can be built here: LLVM's library is there, or Debian has it.
    #[must_use]
    pub fn can_have_linker(&self) -> bool {
        let llvm = self.llvm();
        LINKER_LLVMS.contains(&llvm)
            && (llvm == DEBIAN_LLVM || llvm_prefix(llvm).join("lib/libLLVM.so").exists())
    }

    fn rustc(&self) -> Command {
        match self {
            Self::Nightly { .. } => in_nightly("rustc"),
            Self::Debian => with_unstable(process::clean_command(DEBIAN_RUSTC)),
        }
    }

    fn cargo(&self) -> Command {
        match self {
            Self::Nightly { .. } => in_nightly("cargo"),
            Self::Debian => {
                let mut cargo = with_unstable(process::clean_command(process::cargo_program()));
                cargo.env("RUSTC", DEBIAN_RUSTC);
                cargo
            }
        }
    }
}

/// A compiler and the linker that fits it.
#[derive(Clone, Debug)]
pub struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

impl Toolchain {
    /// The first complete one on this machine; a nightly goes first.
    #[must_use]
    pub fn find() -> Option<Self> {
        let linkers = linkers();
        [Compiler::nightly, Compiler::debian].into_iter().filter_map(|compiler| compiler()).find_map(
            |compiler| {
                let linker =
                    linkers.iter().find(|linker| reads_bitcode(linker, &compiler).unwrap_or(false))?.clone();
                Some(Self { compiler, linker })
            },
        )
    }

    /// A cargo that builds for the BPF target with everything the loader wants in the object. The caller
    /// adds the working directory, and the subcommand comes first.
    #[must_use]
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut cargo = self.compiler.cargo();
        cargo.arg(subcommand).args(["--release", "-Zbuild-std=core", "--target", layout::BPF_TARGET]);
        cargo.arg("--target-dir").arg(layout::bpf_target_dir());
        cargo.env("CARGO_ENCODED_RUSTFLAGS", self.encoded_rustflags());
        cargo
    }

    /// Whether `cargo clippy` works for the BPF crate: Debian's compiler comes without it.
    #[must_use]
    pub fn has_clippy(&self) -> bool {
        match self.compiler {
            Compiler::Nightly { .. } => process::output(in_nightly("cargo-clippy").arg("--version")).is_ok(),
            Compiler::Debian => false,
        }
    }

    /// The compiler, as said to a user.
    #[must_use]
    pub fn describe(&self) -> String {
        let compiler = match self.compiler {
            Compiler::Nightly { llvm } => format!("rustup's nightly (LLVM {llvm})"),
            Compiler::Debian => format!("Debian's rustc-web (LLVM {DEBIAN_LLVM})"),
        };
        format!("{compiler} with {}", layout::shown(&self.linker))
    }

    /// Map types need BTF, which needs debug information; aya-ebpf wants the CPU whose registers probes see.
    fn encoded_rustflags(&self) -> OsString {
        let mut linker = OsString::from("-Clinker=");
        linker.push(&self.linker);
        let arch = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
        [linker, "-Clink-arg=--btf".into(), "-Cdebuginfo=2".into(), arch.into()].join("\x1f".as_ref())
    }
}

/// Where Debian installs one LLVM.
#[must_use]
pub fn llvm_prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

/// A program of rustup's nightly. Never downloads one.
fn in_nightly(program: &str) -> Command {
    let mut command = process::clean_command("rustup");
    command.args(["run", "nightly", program]).env("RUSTUP_AUTO_INSTALL", "0");
    command
}

/// A stable compiler or cargo that takes unstable options.
fn with_unstable(mut command: Command) -> Command {
    command.env("RUSTC_BOOTSTRAP", "1");
    command
}

/// Linkers that may do: ours first.
fn linkers() -> Vec<PathBuf> {
    let ours = layout::tools().join("bin/bpf-linker");
    let candidates = ours.is_file().then_some(ours).into_iter().chain(process::find_program("bpf-linker"));
    candidates.filter(|linker| is_recent(linker)).collect()
}

fn is_recent(linker: &Path) -> bool {
    process::output(process::clean_command(linker).arg("--version"))
        .ok()
        .and_then(|version| linker_version(&version))
        .is_some_and(|version| version >= OLDEST_LINKER)
}

/// `bpf-linker 0.13.0` as (0, 13).
fn linker_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split_whitespace().nth(1)?.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// Links the smallest crate: a linker whose LLVM is older than the compiler's fails here.
fn reads_bitcode(linker: &Path, compiler: &Compiler) -> Result<bool> {
    let directory = layout::target().join(format!("setup-probe-{}", std::process::id()));
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let linked = link_probe(linker, compiler, &directory);
    fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    linked
}

fn link_probe(linker: &Path, compiler: &Compiler, directory: &Path) -> Result<bool> {
    let [source, bitcode, object] = ["probe.rs", "probe.bc", "probe.o"].map(|name| directory.join(name));
    fs::write(&source, PROBE).with_context(|| format!("cannot write {}", source.display()))?;
    let mut rustc = compiler.rustc();
    rustc.args(["--emit=llvm-bc", "--target", layout::BPF_TARGET, "-Cpanic=abort", "-o"]).arg(&bitcode);
    process::output(rustc.arg(&source))?;
    let mut link = process::clean_command(linker);
    Ok(process::output(link.arg("--output").arg(&object).arg(&bitcode)).is_ok())
}

/// What `rustc -vV` says about a compiler.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    release: String,
    llvm: u32,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
        Some(Self { release: field("release:")?.to_owned(), llvm })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compilers_version_is_read() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nhost: x\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(Version::parse(text), Some(Version { release: "1.96.0".into(), llvm: 22 }));
        assert_eq!(Version::parse("release: 1.96.0\n"), None);
    }

    #[test]
    fn a_linkers_version_is_read_and_compared() {
        assert_eq!(linker_version("bpf-linker 0.13.0\n"), Some((0, 13)));
        assert!(linker_version("bpf-linker 0.9.15").is_some_and(|old| old < OLDEST_LINKER));
        assert_eq!(linker_version("bpf-linker"), None);
    }

    #[test]
    fn the_flags_carry_btf_debug_information_and_the_linker() {
        let toolchain = Toolchain { compiler: Compiler::Debian, linker: "/tools/bpf-linker".into() };
        let flags = toolchain.encoded_rustflags().into_string().unwrap();
        let flags: Vec<_> = flags.split('\x1f').collect();
        assert_eq!(flags[..3], ["-Clinker=/tools/bpf-linker", "-Clink-arg=--btf", "-Cdebuginfo=2"]);
        assert!(flags[3].starts_with("--cfg=bpf_target_arch=\""));
    }
}
