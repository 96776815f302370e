//! The plugin of container runtimes: CNI's ([`overlay_agent::cni`]), and under another name netavark's
//! ([`overlay_agent::netavark`]).

use std::{path::Path, process::ExitCode};

use overlay_agent::{cni, netavark};

fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    match Path::new(&called).file_name() {
        Some(name) if name == netavark::NAME => netavark::main(),
        _ => cni::main(),
    }
}
