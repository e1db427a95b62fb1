//! `cargo lab test`: everything that CI checks, cheapest first, and one closing line.
//!
//! Everything is built first. Unit tests mostly wait (one for two minutes), so the lab and its tests run beside them.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cluster;
use crate::command;
use crate::lab::Lab;
use crate::machine;
use crate::relying_party::RelyingParty;
use crate::step::{Steps, shown};
use crate::tailnet;
use crate::up;

/// Release of cargo-deny; another one may read `deny.toml` differently.
const CARGO_DENY: &str = "0.20.2";

/// Many times what unit tests take: whoever hangs is named and ended, and the rest of the run still says what it found.
const UNIT_TESTS_LIMIT: &str = "30m";
/// How `timeout` ends when its time was up.
const TIMED_OUT: i32 = 124;

/// How many checks a phase did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    passed: usize,
    failed: usize,
}

impl Count {
    const PASSED: Self = Self { passed: 1, failed: 0 };
}

/// Runs all of it, or with a filter only the end-to-end tests whose names contain it.
pub fn run(lab: &Lab, steps: &mut Steps, filter: Option<&str>) -> Result<ExitCode> {
    machine::check(lab)?;
    let report = Report::default();
    if filter.is_none() {
        machine::install(lab, steps)?;
        source(lab, &report);
    }
    report.phase("relying parties", || {
        RelyingParty::install(lab, steps).map(|_| Count::PASSED)
    });
    let mut built = None;
    report.phase("programs and images", || {
        tailnet::build_headscale(lab, steps)?;
        built = Some(up::build(lab, steps)?);
        Ok(Count::PASSED)
    });
    thread::scope(|scope| {
        if filter.is_none() {
            scope.spawn(|| report.phase("unit and property tests", || unit_tests(lab)));
        }
        let up = built
            .is_some_and(|built| report.phase("lab", || up::start(lab, built, steps).map(|_| Count::PASSED)));
        if up {
            report.phase("end to end", || end_to_end(lab, filter));
        }
    });
    Ok(report.close())
}

/// What needs no lab and runs nothing of ours.
fn source(lab: &Lab, report: &Report) {
    report.phase("format", || quiet(cargo(lab).args(["fmt", "--all", "--check"])));
    report.phase("lints", || {
        quiet(cargo(lab).args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ]))
    });
    report.phase("licences, bans, sources", || deny(lab));
    report.phase("docs", || {
        quiet(
            cargo(lab)
                .args(["doc", "--workspace", "--no-deps"])
                .env("RUSTDOCFLAGS", "--deny warnings"),
        )
    });
    report.phase("Go helpers", || {
        let unformatted = command::output(Command::new("gofmt").arg("-l").arg(lab.go_helpers()))?;
        if !unformatted.is_empty() {
            bail!("gofmt would change {unformatted}");
        }
        quiet(Command::new("go").current_dir(lab.go_helpers()).args([
            "vet",
            "./labcontrol",
            "./peer",
            "./backend",
        ]))
    });
    report.phase("chart", || chart(lab));
    report.phase("build of the tests", || {
        quiet(cargo(lab).args(["build", "--package", "postern-e2e", "--bin", "e2e"]))?;
        quiet(cargo(lab).args(["test", "--workspace", "--no-run"]))
    });
}

/// What the phases found, also those that run side by side.
#[derive(Debug, Default)]
struct Report(Mutex<Findings>);

#[derive(Debug, Default)]
struct Findings {
    total: Count,
    failed_phases: Vec<&'static str>,
}

impl Report {
    /// Does a phase and says how it ended; whether all of it passed.
    fn phase(&self, name: &'static str, work: impl FnOnce() -> Result<Count>) -> bool {
        println!("{name} …");
        let start = Instant::now();
        let count = work().unwrap_or_else(|error| {
            println!("{error:#}");
            Count { passed: 0, failed: 1 }
        });
        let verdict = if count.failed == 0 { "passed" } else { "FAILED" };
        println!(
            "{name}: {verdict} ({}) in {}",
            count.passed + count.failed,
            shown(start.elapsed())
        );
        let mut findings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        findings.total.passed += count.passed;
        findings.total.failed += count.failed;
        if count.failed > 0 {
            findings.failed_phases.push(name);
        }
        count.failed == 0
    }

    fn close(self) -> ExitCode {
        let Findings { total, failed_phases } = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !failed_phases.is_empty() {
            println!("failed: {}", failed_phases.join(", "));
        }
        println!("{} passed, {} failed", total.passed, total.failed);
        if total.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

fn cargo(lab: &Lab) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&lab.tree);
    cargo
}

fn quiet(command: &mut Command) -> Result<Count> {
    command::output(command).map(|_| Count::PASSED)
}

fn deny(lab: &Lab) -> Result<Count> {
    let root = lab.cache.join("tools").join(format!("cargo-deny-{CARGO_DENY}"));
    let program = root.join("bin/cargo-deny");
    if !program.exists() {
        println!("  cargo-deny {CARGO_DENY} is built once (about 6 min on two cores) …");
        let mut install = Command::new("cargo");
        install
            .args([
                "install",
                "--quiet",
                "--locked",
                "--version",
                CARGO_DENY,
                "--root",
            ])
            .arg(&root)
            .arg("cargo-deny");
        command::output(&mut install)?;
    }
    // Advisories are fetched from the network: a matter for the scheduled run, not for this one.
    quiet(Command::new(program).current_dir(&lab.tree).args([
        "--workspace",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))
}

/// More of them at a time than there are processors, and behind the end-to-end tests.
fn unit_tests(lab: &Lab) -> Result<Count> {
    let mut tests = Command::new("timeout");
    tests
        .current_dir(&lab.tree)
        .args([
            "--kill-after=10s",
            UNIT_TESTS_LIMIT,
            "nice",
            "cargo",
            "test",
            "--workspace",
            "--no-fail-fast",
            "--",
            "--test-threads=6",
        ])
        .stdin(Stdio::null());
    let out = tests.output().context("cannot run cargo")?;
    let said = String::from_utf8_lossy(&out.stdout);
    let mut count = sum(&said);
    if !out.status.success() {
        println!("{}", failures(&said));
        if out.status.code() == Some(TIMED_OUT) {
            println!(
                "ended after {UNIT_TESTS_LIMIT}, having said:\n{}",
                command::tail(&said, 15)
            );
        }
        println!("{}", command::tail(&String::from_utf8_lossy(&out.stderr), 15));
        count.failed = count.failed.max(1);
    }
    Ok(count)
}

/// What the failed tests said.
fn failures(said: &str) -> String {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in said.lines() {
        inside |= line == "failures:";
        if inside {
            lines.push(line);
        }
        inside &= !line.starts_with("test result:");
    }
    lines.join("\n")
}

/// Adds up cargo's `test result: ok. 12 passed; 0 failed; …` lines.
fn sum(said: &str) -> Count {
    let mut total = Count::default();
    for line in said.lines().filter(|line| line.starts_with("test result:")) {
        let number = |what: &str| -> usize {
            let before = line.split(what).next().unwrap_or_default();
            before
                .split_whitespace()
                .last()
                .and_then(|number| number.parse().ok())
                .unwrap_or(0)
        };
        total.passed += number(" passed");
        total.failed += number(" failed");
    }
    total
}

fn chart(lab: &Lab) -> Result<Count> {
    let chart = lab.tree.join("charts/postern");
    command::output(cluster::script(lab).args(["build", "helm"]))?;
    let helm = command::output(cluster::script(lab).args(["path", "helm"]))?;
    command::output(Command::new(helm.trim()).args(["lint", "--strict"]).arg(&chart))?;
    command::output(
        Command::new(helm.trim())
            .args(["template", "postern"])
            .arg(&chart),
    )?;
    Ok(Count { passed: 2, failed: 0 })
}

/// Runs the `e2e` binary, shows what it says, and takes its closing line.
fn end_to_end(lab: &Lab, filter: Option<&str>) -> Result<Count> {
    let mut tests = cargo(lab);
    tests
        .args(["run", "--quiet", "--package", "postern-e2e", "--bin", "e2e", "--"])
        .args(filter);
    let mut child = tests
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run the tests")?;
    let mut last = String::new();
    for line in BufReader::new(child.stdout.take().context("no standard output")?).lines() {
        last = line?;
        println!("  {last}");
    }
    child.wait()?;
    closing(&last).with_context(|| format!("the end-to-end tests ended with {last:?} instead of a count"))
}

fn closing(line: &str) -> Option<Count> {
    let (passed, failed) = line.split_once(" passed, ")?;
    Some(Count {
        passed: passed.parse().ok()?,
        failed: failed.strip_suffix(" failed")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_test_binaries_are_added() {
        let said = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured\nnoise\ntest result: FAILED. 3 passed; 2 failed; 0 ignored";
        assert_eq!(
            sum(said),
            Count {
                passed: 15,
                failed: 2
            }
        );
    }

    #[test]
    fn what_failed_tests_said_is_shown_and_nothing_else() {
        let said = "running 2 tests\ntest a ... ok\n\nfailures:\n---- b ----\nboom\ntest result: FAILED. 1 passed; 1 failed;\n\nrunning 1 test\ntest result: ok. 1 passed; 0 failed;";
        assert_eq!(
            failures(said),
            "failures:\n---- b ----\nboom\ntest result: FAILED. 1 passed; 1 failed;"
        );
    }

    #[test]
    fn the_closing_line_is_read() {
        assert_eq!(
            closing("31 passed, 2 failed"),
            Some(Count {
                passed: 31,
                failed: 2
            })
        );
        assert_eq!(closing("panicked"), None);
    }
}
