//! `cargo lab bench`: Postern beside the two ways to do the same in Go, in one run on one machine.
//!
//! The same Go client, the same backend, shipped defaults on all sides but for our bound on connections of one peer.
//! Rounds are interleaved, since CPU per request falls by a fifth when the machine is busy: only ratios of one run
//! mean something. It needs no Kubernetes and no network beyond loopback and a namespace of its own.

mod client;
mod many;
mod report;
mod rows;
mod subject;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::Lab;
use crate::machine;
use crate::step::{Steps, shown};
use crate::tailnet::Helpers;
use report::Report;
use subject::{Kind, Programs};
use world::World;

/// How much to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// One short round, and less of what takes long.
    pub quick: bool,
    /// Only rows whose name contains this.
    pub filter: String,
    /// Where all samples go.
    pub json: Option<PathBuf>,
    /// A `postern-proxy` that is built already.
    pub postern: Option<PathBuf>,
}

/// What `--quick` changes.
#[derive(Debug, Clone, Copy)]
struct Scale {
    rounds: usize,
    window: Duration,
    settle: Duration,
    /// How long idle connections are held before memory is read.
    hold: Duration,
    /// Whoever takes longer to end doesn't.
    stop_limit: Duration,
    /// Tried one after the other.
    idle_connections: &'static [u32],
    names: &'static [u32],
    /// How many of the bad paths at most.
    paths: usize,
}

const FULL: Scale = Scale {
    rounds: 3,
    window: Duration::from_secs(4),
    settle: Duration::from_secs(60),
    hold: Duration::from_secs(15),
    stop_limit: Duration::from_secs(40),
    idle_connections: &[4_000, 10_000],
    names: &[10, 50],
    paths: usize::MAX,
};

const QUICK: Scale = Scale {
    rounds: 1,
    window: Duration::from_secs(2),
    settle: Duration::from_secs(10),
    hold: Duration::from_secs(5),
    stop_limit: Duration::from_secs(10),
    idle_connections: &[2_000],
    names: &[10],
    paths: 1,
};

/// Measures and prints.
///
/// # Errors
/// What can't be built or started, and a row whose sides didn't do the same work.
pub fn bench(lab: &Lab, steps: &mut Steps, options: &Options) -> Result<()> {
    machine::check(lab)?;
    machine::install(lab, steps)?;
    let helpers = Helpers::build(lab, steps)?;
    let programs = Programs::build(lab, &helpers, options.postern.clone(), steps)?;
    let scale = if options.quick { QUICK } else { FULL };
    let world = World::new(lab, &helpers)?;
    let mut report = Report::default();
    let wanted = |name: &str| name.contains(&options.filter);
    let mut failed = Vec::new();
    let mut run = |name: &str, work: &mut dyn FnMut(&mut Report) -> Result<()>| {
        if wanted(name)
            && let Err(error) = steps.run(name, None, || work(&mut report))
        {
            println!("  {error:#}");
            failed.push(name.to_owned());
        }
    };

    run("size", &mut |report| rows::sizes(&programs, report));
    run("load", &mut |report| {
        rows::loads(&world, &programs, scale, report)
    });
    run("load over DERP", &mut |report| {
        rows::relayed(&world, &programs, scale, report)
    });
    run("bad paths", &mut |report| {
        rows::paths(&world, &programs, scale, report)
    });
    run("load beside idle connections", &mut |report| {
        rows::beside_idle(&world, &programs, scale, report)
    });
    run("idle connections", &mut |report| {
        rows::idle_connections(&world, &programs, scale, report)
    });
    run("idle TCP connections", &mut |report| {
        rows::idle_flows(&world, &programs, scale, report)
    });
    run("stop", &mut |report| {
        rows::stops(&world, &programs, scale, report)
    });
    run("start", &mut |report| {
        rows::starts(&world, &programs, scale, report)
    });
    run("idle memory", &mut |report| {
        rows::idle_memory(&world, &programs, scale, report)
    });
    run("names in one process", &mut |report| {
        rows::names(&world, &programs, scale, report)
    });

    println!("\n{report}");
    println!("Measured in {}, load {}.", shown(steps.elapsed()), world::load()?);
    println!(
        "Columns are medians; the ratio is {} to the better of Go's two.",
        Kind::Postern
    );
    if let Some(file) = &options.json {
        std::fs::write(file, report.json()?)?;
        println!("All samples: {}", file.display());
    }
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}
