//! `overlay manuals`: the manual pages of the programs, from what they say of themselves.
//!
//! They are what `--help` says: one home for each sentence. Each command of `overlay` has a page, as
//! `man overlay-network-create`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, Command, CommandFactory as _};
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

use super::{Cli, CliError};
use crate::{cni, config};

/// Sections of the manual: what users run, and what administrators and machines do.
const USER: &str = "1";
const ADMINISTRATOR: &str = "8";

/// For who makes a package: see `cargo xtask manuals`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  overlay manuals target/manuals")]
pub(super) struct Manuals {
    /// Directory to write the pages into
    dir: PathBuf,
}

impl Manuals {
    pub(super) fn run(self) -> Result<(), CliError> {
        let written = write_all(&self.dir);
        written.map_err(|source| CliError::File { path: self.dir, source })
    }
}

fn write_all(dir: &Path) -> io::Result<()> {
    write(Cli::command().disable_help_subcommand(true), USER, dir)?;
    write(config::command(), ADMINISTRATOR, dir)?;
    write(cni_plugin(), ADMINISTRATOR, dir)
}

/// The CNI plugin has no arguments: a runtime talks to it.
fn cni_plugin() -> Command {
    let command = Command::new("overlay-cni").version(env!("CARGO_PKG_VERSION"));
    command.about("Joins containers to overlay networks, for container runtimes").after_help(cni::ABOUT)
}

/// A command's page, and those of its subcommands.
fn write(mut command: Command, section: &str, dir: &Path) -> io::Result<()> {
    command.build();
    write_built(&command, section, dir)
}

fn write_built(command: &Command, section: &str, dir: &Path) -> io::Result<()> {
    let shown = || command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    shown().try_for_each(|subcommand| write_built(subcommand, section, dir))?;
    let man = Man::new(command.clone()).section(section).manual("Overlay networks");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if shown().next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    render_notes(command, &mut page)?;
    fs::write(dir.join(man.get_filename()), page)
}

/// What stands behind the options in `--help`, as it stands there: examples are lines.
fn render_notes(command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let Some(notes) = command.get_after_help() else { return Ok(()) };
    let notes = notes.to_string();
    let mut roff = Roff::new();
    roff.control("SH", ["NOTES"]).control("nf", []);
    for line in notes.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff.to_writer(page)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn every_program_and_command_that_is_shown_has_a_page() {
        let dir = TempDir::new().unwrap();
        write_all(dir.path()).unwrap();
        let page = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
        let of_create = page("overlay-network-create.1");
        for part in [
            ".SH NAME\noverlay\\-network\\-create \\- ",
            ".SH SYNOPSIS",
            "\\-\\-subnet",
            ".SH NOTES\n.nf\nExamples:",
        ] {
            assert!(of_create.contains(part), "no {part} in {of_create}");
        }
        assert!(page("overlay-agent.8").contains("\\-\\-underlay"));
        assert!(page("overlay-cni.8").contains("conflist"));
        assert!(page("overlay.1").contains("overlay\\-network(1)"));
        assert_eq!(page("overlay-manuals.1"), "");
    }
}
