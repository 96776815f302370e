//! `cargo xtask test`: the pure tests, then as root those that make namespaces and load BPF. The last line
//! is `N passed, N failed`, summed over everything that ran. A skip counts as a failure: what a test did not
//! look at is not known to work.

use std::{
    io::{self, Read, Write},
    ops::AddAssign,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::unistd::geteuid;

use crate::{build, deb, layout, phases::Phases, process, setup};

/// Options of `cargo xtask test`.
#[derive(Args, Debug)]
pub struct Options {
    /// Run the whole matrix, not only its quick part (sets OVERLAY_TEST_MATRIX=1)
    #[arg(long)]
    matrix: bool,

    /// Repeat faults for minutes, not seconds (sets OVERLAY_TEST_LONG=1)
    #[arg(long)]
    long: bool,

    /// Passed to the test programs: names to run, `--nocapture` …
    #[arg(last = true)]
    args: Vec<String>,
}

/// Sets up, builds, runs both kinds of tests, and sums up.
pub fn run(options: &Options) -> Result<ExitCode> {
    if !geteuid().is_root() {
        bail!(
            "the tests make network namespaces and load BPF programs: run them as root, or `cargo test` for the pure parts"
        );
    }
    let phases = Phases::start();
    phases.next("set up");
    setup::run()?;
    setup::ensure_servers()?;
    phases.next("build");
    build::run(&build::Options::for_tests())?;
    phases.next("package");
    let package = deb::for_tests()?;
    phases.next("pure tests");
    let mut tally = cargo_test(PURE, &[], options)?;
    phases.next("tests in namespaces");
    let built = [
        ("OVERLAY_BIN_DIR", layout::bin_dir(false)),
        ("OVERLAY_BPF_OBJECT", layout::bpf_object()),
        ("OVERLAY_NEXT_LAYOUT_DIR", layout::next_layout_bin_dir()),
        ("OVERLAY_DEB", package),
    ];
    tally += cargo_test(&["--package", "overlay-tests"], &built, options)?;
    phases.next("sum");
    Ok(tally.conclude())
}

/// What runs without root: with the text forms of the shared types, as the agent uses them.
const PURE: &[&str] = &[
    "--package",
    "overlay-common",
    "--features",
    "overlay-common/user",
    "--package",
    "overlay-agent",
    "--package",
    "xtask",
];

/// Runs `cargo test` on some packages, shows what it writes and counts its results.
fn cargo_test(packages: &[&str], environment: &[(&str, PathBuf)], options: &Options) -> Result<Tally> {
    let mut cargo = process::cargo();
    cargo.args(["test", "--no-fail-fast"]).args(packages).arg("--").args(&options.args);
    cargo.envs(environment.iter().cloned());
    let wanted = [("OVERLAY_TEST_MATRIX", options.matrix), ("OVERLAY_TEST_LONG", options.long)];
    cargo.envs(wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| (name, "1")));
    count(&mut cargo)
}

fn count(cargo: &mut Command) -> Result<Tally> {
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo's output is not a pipe")?;
    let mut tally = follow(output, &mut io::stdout()).context("cannot read what the tests write")?;
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() && tally.failed == 0 {
        println!("`cargo test` ended without a result of its own ({status}): that counts as one failure");
        tally.failed = 1;
    }
    Ok(tally)
}

/// Copies what the tests write at once, and counts the results in it.
fn follow(mut from: impl Read, to: &mut impl Write) -> io::Result<Tally> {
    let mut tally = Tally::default();
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let length = from.read(&mut chunk)?;
        if length == 0 {
            return Ok(tally);
        }
        to.write_all(&chunk[..length])?;
        to.flush()?;
        text.extend_from_slice(&chunk[..length]);
        while let Some(end) = text.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            tally += Tally::parse(&String::from_utf8_lossy(&line)).unwrap_or_default();
        }
    }
}

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

impl Tally {
    /// Reads a test program's last line, `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn parse(line: &str) -> Option<Self> {
        let (_verdict, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let count = |name: &str| {
            counts.split(';').find_map(|part| part.trim().strip_suffix(name)?.trim().parse().ok())
        };
        Some(Self { passed: count("passed")?, failed: count("failed")?, ignored: count("ignored")? })
    }

    /// Prints the summary; the counts are alone on the last line.
    fn conclude(self) -> ExitCode {
        if self.ignored > 0 {
            println!("{} ignored, counted as failed: a test must look at its subject", self.ignored);
        }
        let failed = self.failed + self.ignored;
        if self.passed + failed == 0 {
            println!("no test ran: nothing is shown to work");
        }
        println!("{} passed, {failed} failed", self.passed);
        if failed == 0 && self.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str =
        "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s";
    const FAILED: &str = "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";

    #[test]
    fn a_result_line_is_read() {
        assert_eq!(Tally::parse(OK), Some(Tally { passed: 3, failed: 0, ignored: 1 }));
        assert_eq!(Tally::parse(FAILED), Some(Tally { passed: 10, failed: 2, ignored: 0 }));
    }

    #[test]
    fn other_lines_are_no_results() {
        for line in
            ["", "running 3 tests", "test a::b ... ok", "test result: ok.", "note: test result: ok. 1 passed"]
        {
            assert_eq!(Tally::parse(line), None, "{line}");
        }
    }

    #[test]
    fn results_are_summed_and_the_output_passes_through_unchanged() {
        let text = format!("running 6 tests\n{OK}\n\n{FAILED}\nno newline");
        let mut shown = Vec::new();
        let tally = follow(text.as_bytes(), &mut shown).unwrap();
        assert_eq!(tally, Tally { passed: 13, failed: 2, ignored: 1 });
        assert_eq!(shown, text.as_bytes());
    }

    #[test]
    fn a_result_line_in_pieces_is_counted_once() {
        let (head, tail) = OK.split_at(20);
        let pieces = head.as_bytes().chain(tail.as_bytes()).chain(&b"\n"[..]);
        assert_eq!(follow(pieces, &mut io::sink()).unwrap().passed, 3);
    }

    #[test]
    fn only_a_run_with_passes_and_nothing_else_succeeds() {
        let all_passed = Tally { passed: 2, ..Tally::default() };
        assert_eq!(format!("{:?}", all_passed.conclude()), format!("{:?}", ExitCode::SUCCESS));
        for tally in [Tally::default(), Tally { failed: 1, ..all_passed }, Tally { ignored: 1, ..all_passed }]
        {
            assert_eq!(format!("{:?}", tally.conclude()), format!("{:?}", ExitCode::FAILURE), "{tally:?}");
        }
    }

    #[test]
    fn a_failure_without_a_result_line_counts_as_one() {
        let mut command = Command::new("sh");
        assert_eq!(count(command.args(["-c", "exit 101"])).unwrap().failed, 1);
    }
}
