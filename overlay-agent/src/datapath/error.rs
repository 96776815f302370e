//! What can go wrong with the kernel side.

use std::{io, path::PathBuf};

/// A failure of the data path; the sentence names what was done to what, and what may help.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// There is no BPF object to load.
    #[error("no BPF object at {}: build it with `cargo xtask build-ebpf`, or name it with --bpf-object", list(.0))]
    NoObject(Vec<PathBuf>),
    /// The kernel has no type information.
    #[error(
        "this kernel has no BTF (/sys/kernel/btf/vmlinux is missing): use one built with CONFIG_DEBUG_INFO_BTF=y"
    )]
    NoBtf,
    /// The kernel is too old.
    #[error("this kernel has no tcx: Linux 6.6 or newer is needed")]
    NoTcx,
    /// The object cannot be loaded.
    #[error("load BPF object {path}: {source}", path = .path.display())]
    Load {
        /// The object.
        path: PathBuf,
        /// Why.
        source: Box<aya::EbpfError>,
    },
    /// The verifier, or the kernel's limits, refuse a program.
    #[error("load BPF program {program}: {reason} (the verifier's whole log is in {})", .log.display())]
    Program {
        /// The program.
        program: String,
        /// The end of what the kernel said.
        reason: String,
        /// Where all of it is.
        log: PathBuf,
    },
    /// The object lacks something: it is not of this version.
    #[error(
        "the BPF object has no {0}: it is not of this agent's version; rebuild it with `cargo xtask build-ebpf`"
    )]
    Missing(&'static str),
    /// A map operation failed.
    #[error("{operation} BPF map {map}: {source}")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// On which map.
        map: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// A program cannot be put on a device.
    #[error("attach {program} to {device}: {reason}")]
    Attach {
        /// The program.
        program: &'static str,
        /// The device.
        device: String,
        /// Why.
        reason: String,
    },
    /// A pin cannot be made or removed.
    #[error("pin {path}: {reason}", path = .path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The BPF file system cannot be used.
    #[error("BPF file system at {path}: {source}", path = .path.display())]
    Bpffs {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not run a program that is asked about a packet.
    #[error("ask {program} about a packet: {reason}")]
    Trial {
        /// The program.
        program: &'static str,
        /// Why.
        reason: String,
    },
    /// The log map cannot be read.
    #[error("read the programs' log: {0}")]
    Log(String),
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}
