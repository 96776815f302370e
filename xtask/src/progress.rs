//! Long work done by other programs: one moving line on a terminal, the full output kept for when it fails.

use std::{
    io::{self, BufRead as _, BufReader, IsTerminal as _, PipeReader},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};

/// How often the moving line moves.
const TICK: Duration = Duration::from_millis(120);

/// What became of a command that ran behind a progress line.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// Standard output and standard error, in the order written.
    pub output: String,
}

/// Runs a command to its end. Says `what` is going on: as a moving line that shows the last line of output
/// where standard error is a terminal, else once.
pub fn run(what: &str, command: &mut Command) -> Result<Outcome> {
    let line = progress_line(what);
    let (reader, writer) = io::pipe().context("cannot make a pipe for a command's output")?;
    let second = writer.try_clone().context("cannot share the pipe of a command's output")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(second)
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    // The command keeps its ends of the pipe open until replaced, and reading would not come to an end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let output = follow(reader, &line).context("cannot read a command's output")?;
    let status = child.wait().context("cannot wait for a command")?;
    line.finish_and_clear();
    Ok(Outcome { status, output })
}

/// The moving line; hidden where nobody would see it move.
fn progress_line(what: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        eprintln!("{what} ...");
        return ProgressBar::hidden();
    }
    let line = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} ({elapsed}) {wide_msg:.dim}") {
        line.set_style(style);
    }
    line.set_prefix(what.to_owned());
    line.enable_steady_tick(TICK);
    line
}

/// Collects all lines, showing the latest.
fn follow(reader: PipeReader, line: &ProgressBar) -> io::Result<String> {
    let mut output = String::new();
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes)? > 0 {
        let text = String::from_utf8_lossy(&bytes);
        line.set_message(text.trim().to_owned());
        output.push_str(&text);
        bytes.clear();
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_are_kept_with_the_status() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let outcome = run("testing", &mut command).unwrap();
        assert_eq!(outcome.output, "one\ntwo\n");
        assert_eq!(outcome.status.code(), Some(3));
    }
}
