//! Processes with a deadline.

use std::{
    ffi::OsStr,
    fmt,
    io::Write as _,
    process::{Command, Output, Stdio},
    time::Duration,
};

/// Longest time that any single tool may take.
pub const DEADLINE: Duration = Duration::from_secs(40);

/// Exit code of `timeout` when it had to kill the command.
const TIMED_OUT: i32 = 137;

/// What a process left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Whether it exited with 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }

    /// Its standard output, if it exited with 0.
    ///
    /// # Panics
    /// If it did not.
    #[must_use]
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert!(self.is_success(), "{self}");
        self.stdout
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
        write!(f, "`{}` ended with {code}", self.command)?;
        if self.code == Some(TIMED_OUT) {
            write!(f, " (deadline of {DEADLINE:?} passed)")?;
        }
        write!(f, "\n  stdout: {}\n  stderr: {}", self.stdout.trim_end(), self.stderr.trim_end())
    }
}

/// A command that `timeout` kills at the [`DEADLINE`].
#[must_use]
pub fn command<S: AsRef<OsStr>>(argv: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", &DEADLINE.as_secs().to_string()]).args(argv);
    command
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started.
#[track_caller]
pub fn finish(command: &mut Command) -> Finished {
    let text = describe(command);
    let output = command.output();
    finished(
        text.clone(),
        output.unwrap_or_else(|e| panic!("cannot run `{text}`: {e}; install the tool and try again")),
    )
}

/// Runs a command to its end that reads this on standard input.
///
/// # Panics
/// If it cannot be started.
#[track_caller]
pub fn finish_with(command: &mut Command, input: &[u8]) -> Finished {
    let text = describe(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = || {
        let mut child = command.spawn()?;
        // Who ends without reading all of it has said why.
        drop(child.stdin.take().map(|mut stdin| stdin.write_all(input)));
        child.wait_with_output()
    };
    finished(text.clone(), run().unwrap_or_else(|e| panic!("cannot run `{text}`: {e}")))
}

fn finished(command: String, Output { status, stdout, stderr }: Output) -> Finished {
    let text_of = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Finished { command, code: status.code(), stdout: text_of(stdout), stderr: text_of(stderr) }
}

/// Runs a tool to its end, whatever its exit code.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(argv: impl IntoIterator<Item = S>) -> Finished {
    finish(&mut command(argv))
}

/// Runs a tool that has to succeed; its standard output.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn must<S: AsRef<OsStr>>(argv: impl IntoIterator<Item = S>) -> String {
    run(argv).expect_success()
}

/// The command line without the `timeout` before it.
fn describe(command: &Command) -> String {
    let own = if command.get_program() == "timeout" { 2 } else { 0 };
    let program = (own == 0).then(|| command.get_program());
    let words = program.into_iter().chain(command.get_args().skip(own));
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_exit_code_come_back_with_the_command_that_made_them() {
        let finished = run(["sh", "-c", "echo out; echo err >&2; exit 3"]);
        assert_eq!(
            (finished.code, finished.stdout.as_str(), finished.stderr.as_str()),
            (Some(3), "out\n", "err\n")
        );
        assert!(finished.command.starts_with("sh -c echo out"), "{}", finished.command);
    }
}
