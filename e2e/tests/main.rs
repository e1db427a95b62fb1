//! The end-to-end tests: promises, proved on the lab with real Go peers. `cargo lab test` runs them.
//!
//! A test has a namespace of its own and names of its own, and waits for conditions with a bound. Those that disturb
//! what the others use (a pod killed, the API server stopped) run alone, after them.
#![expect(clippy::print_stdout, reason = "it reports to a terminal")]

mod change;
mod chart;
mod definitions;
mod examples;
mod faults;
mod first_light;
mod funnel;
mod headscale;
mod identity;
mod image;
mod mcp;
mod provider;
mod removal;
mod resilience;
mod rights;
mod runner;
mod services;
mod sidecar;
mod space;
mod spoofing;
mod strict_control;

use std::process::ExitCode;

use runner::Test;

/// Every test, by the promise that it proves.
fn tests() -> Vec<Test> {
    [
        first_light::TESTS,
        spoofing::TESTS,
        funnel::TESTS,
        change::TESTS,
        rights::TESTS,
        definitions::TESTS,
        examples::TESTS,
        removal::TESTS,
        services::TESTS,
        sidecar::TESTS,
        identity::TESTS,
        provider::TESTS,
        mcp::TESTS,
        image::TESTS,
        headscale::TESTS,
        strict_control::TESTS,
        faults::TESTS,
        resilience::TESTS,
        chart::TESTS,
    ]
    .concat()
}

fn main() -> ExitCode {
    let filter = std::env::args().nth(1).unwrap_or_default();
    match runner::run(tests(), &filter) {
        Ok(code) => code,
        Err(error) => {
            println!("{error:#}");
            println!("0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}
