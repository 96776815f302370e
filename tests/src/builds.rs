//! Builds of the agent: what a host runs, and what it is upgraded to.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::host::{AGENT, binary};

/// The object's file name, beside an agent.
const OBJECT: &str = "overlay-ebpf.o";

/// An agent, and the object that it loads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// The executable.
    pub agent: PathBuf,
    /// The object; where the agent itself finds it if absent.
    pub object: Option<PathBuf>,
}

impl Build {
    /// What the tests were built with.
    ///
    /// # Panics
    /// If it is not there.
    #[must_use]
    pub fn current() -> Self {
        Self { agent: binary(AGENT), object: env::var_os("OVERLAY_BPF_OBJECT").map(PathBuf::from) }
    }

    /// The same agent with another layout of the maps.
    ///
    /// # Panics
    /// If it has not been built.
    #[must_use]
    pub fn next_layout() -> Self {
        let dir = env::var_os("OVERLAY_NEXT_LAYOUT_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
        let (agent, object) = (dir.join(AGENT), dir.join(OBJECT));
        assert!(
            agent.exists() && object.exists(),
            "no agent with another layout in {}: `cargo xtask build --tests` makes it in target/next-layout/debug, \
             OVERLAY_NEXT_LAYOUT_DIR names it",
            dir.display()
        );
        Self { agent, object: Some(object) }
    }

    /// The same build as other files, as a package of the next version would bring them.
    ///
    /// # Panics
    /// If they cannot be copied.
    #[must_use]
    pub fn copied_to(&self, dir: &Path) -> Self {
        let copy = |file: &Path| {
            let to = dir.join(file.file_name().expect("a file's name"));
            fs::copy(file, &to).unwrap_or_else(|e| panic!("cannot copy {}: {e}", file.display()));
            to
        };
        Self { agent: copy(&self.agent), object: self.object.as_deref().map(copy) }
    }
}
