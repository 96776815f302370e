//! Headings of a subcommand that does several things: what comes now and how long it took to get here.

use std::{
    io::{self, Write as _},
    time::Instant,
};

/// The clock of one subcommand.
#[derive(Debug)]
pub struct Phases {
    started: Instant,
}

impl Phases {
    /// Starts the clock.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Prints the heading of the next phase. Goes out before what the phase's programs write.
    pub fn next(&self, name: &str) {
        println!("== {name} [{:.1} s]", self.started.elapsed().as_secs_f32());
        // A closed standard output shows up at the next print; there is nothing to do about it here.
        let _ = io::stdout().flush();
    }
}
