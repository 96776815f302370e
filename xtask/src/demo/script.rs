//! A script that people read while it runs: each command as one would type it, what came back, and
//! whether that is what should have come back.

use std::{
    io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result};

use crate::process;

/// Keeps the score.
pub struct Script {
    held: usize,
    failed: usize,
    colour: bool,
}

/// What a command came back with.
pub struct Answer {
    succeeded: bool,
    text: String,
}

impl Answer {
    /// Whether it exited with 0.
    pub fn succeeded(&self) -> bool {
        self.succeeded
    }

    /// Whether it exited with something else.
    pub fn failed(&self) -> bool {
        !self.succeeded
    }

    /// Whether it succeeded and printed all of these.
    pub fn has(&self, parts: &[&str]) -> bool {
        self.succeeded && parts.iter().all(|part| self.text.contains(part))
    }
}

impl Script {
    /// Nothing checked yet. Colours only for people.
    pub fn new() -> Self {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { held: 0, failed: 0, colour }
    }

    /// Says what comes.
    pub fn heading(&self, text: &str) {
        println!("\n{}", self.paint("1", text));
    }

    /// Runs a command and shows it with what came back.
    pub fn run(&self, mut command: Command) -> Answer {
        self.show_command(&command);
        let answer = match command.stdin(Stdio::null()).output() {
            Ok(output) => Answer {
                succeeded: output.status.success(),
                text: String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
            },
            Err(e) => Answer { succeeded: false, text: format!("cannot be started: {e}") },
        };
        show_answer(&answer.text);
        answer
    }

    /// Starts a command, waits until it says that it is `ready`, and then runs another, which makes the
    /// first one end.
    pub fn run_during(&self, mut command: Command, ready: &str, other: impl FnOnce() -> Command) -> Answer {
        self.show_command(&command);
        let answer = run_both(&mut command, ready, || {
            self.run(other());
        });
        let answer = answer.unwrap_or_else(|e| Answer { succeeded: false, text: format!("{e:#}") });
        show_answer(&answer.text);
        answer
    }

    /// Judges.
    pub fn expect(&mut self, what: &str, held: bool) {
        let mark = if held { self.paint("32", "✓") } else { self.paint("31", "✗") };
        println!("  {mark} {what}");
        if held {
            self.held += 1;
        } else {
            self.failed += 1;
        }
        // A closed standard output shows up at the next print.
        let _ = io::stdout().flush();
    }

    /// Judges a result, with its reason if it failed.
    pub fn check(&mut self, what: &str, result: Result<()>) {
        let failure = result.err().map(|e| format!("{what}: {e:#}"));
        self.expect(failure.as_deref().unwrap_or(what), failure.is_none());
    }

    /// Adds up.
    pub fn conclude(&self) -> ExitCode {
        println!("\n{} of {} held", self.held, self.held + self.failed);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn show_command(&self, command: &Command) {
        println!("  {} {}", self.paint("2", "$"), self.paint("36", &process::line(command)));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn show_answer(text: &str) {
    for line in text.lines() {
        println!("    {line}");
    }
}

fn run_both(command: &mut Command, ready: &str, other: impl FnOnce()) -> Result<Answer> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot be started")?;
    let errors = child.stderr.take().context("no standard error")?;
    let mut errors = BufReader::new(errors);
    for line in errors.by_ref().lines() {
        if line?.contains(ready) {
            break;
        }
    }
    other();
    let mut text = String::new();
    child.stdout.take().context("no standard output")?.read_to_string(&mut text)?;
    // Some tools say there what they found.
    errors.read_to_string(&mut text)?;
    Ok(Answer { succeeded: child.wait()?.success(), text })
}
