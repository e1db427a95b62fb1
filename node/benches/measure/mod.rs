//! How long each case takes (by divan), and then how many instructions (by valgrind), which don't depend on what else
//! the machine does.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{fmt, process::Command};

use divan::{Bencher, counter::ItemsCount};

/// Something to measure.
pub(crate) struct Case {
    name: &'static str,
    /// How many there are in a run.
    count: u64,
    prepare: fn() -> Box<dyn FnMut()>,
}

impl Case {
    pub(crate) const fn new(name: &'static str, count: u64, prepare: fn() -> Box<dyn FnMut()>) -> Self {
        Self { name, count, prepare }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

#[divan::bench(args = crate::CASES)]
fn hot_path(bencher: Bencher<'_, '_>, case: &Case) {
    let mut run = (case.prepare)();
    bencher.counter(ItemsCount::new(case.count)).bench_local(&mut run);
}

/// Measures [`crate::CASES`].
pub(crate) fn main() {
    let mut arguments = std::env::args()
        .skip_while(|argument| argument != COUNTED)
        .skip(1);
    if let (Some(name), Some(runs)) = (arguments.next(), arguments.next()) {
        return run(&name, runs.parse().expect("a number"));
    }
    divan::main();
    println!("\ninstructions");
    for case in crate::CASES {
        // What preparing takes is in both.
        let (few, many) = (instructions(case, 1), instructions(case, 11));
        println!("{:>12}  {case}", many.saturating_sub(few) / 10 / case.count);
    }
}

const COUNTED: &str = "--counted";

fn run(name: &str, runs: u32) {
    let case = crate::CASES
        .iter()
        .find(|case| case.name == name)
        .expect("a case");
    let mut run = (case.prepare)();
    (0..runs).for_each(|_| run());
}

/// What so many runs take, preparing included.
fn instructions(case: &Case, runs: u32) -> u64 {
    let program = std::env::current_exe().expect("this program has a path");
    let counted = Command::new("valgrind")
        .args([
            "--tool=cachegrind",
            "--cache-sim=no",
            "--cachegrind-out-file=/dev/null",
        ])
        .arg(program)
        .args([COUNTED, case.name, &runs.to_string()])
        .output()
        .expect("valgrind is installed");
    let said = String::from_utf8_lossy(&counted.stderr);
    let line = said.lines().find(|line| line.contains("refs:"));
    let digits = line
        .and_then(|line| line.split_once("refs:"))
        .map(|(_, count)| count.replace([',', ' '], ""));
    digits
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("valgrind said {said}"))
}
