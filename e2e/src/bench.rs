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

type Measure = fn(&World, &Programs, Scale, &mut Report) -> Result<()>;

/// Groups of rows.
const GROUPS: &[(&str, Measure)] = &[
    ("size", |_, programs, _, report| rows::sizes(programs, report)),
    ("load", rows::loads),
    ("load over DERP", rows::relayed),
    ("bad paths", rows::paths),
    ("load beside idle connections", rows::beside_idle),
    ("idle connections", rows::idle_connections),
    ("idle TCP connections", rows::idle_flows),
    ("stop", rows::stops),
    ("start", rows::starts),
    ("idle memory", rows::idle_memory),
    ("names in one process", rows::names),
];

/// Measures and prints.
///
/// # Errors
/// What can't be built or started, and a row whose sides didn't do the same work.
pub fn bench(lab: &Lab, steps: &mut Steps, options: &Options) -> Result<()> {
    let groups: Vec<_> = GROUPS
        .iter()
        .filter(|(name, _)| name.contains(&options.filter))
        .collect();
    ensure!(
        !groups.is_empty(),
        "no rows are named {:?}: there are {}",
        options.filter,
        GROUPS
            .iter()
            .map(|(name, _)| *name)
            .collect::<Vec<_>>()
            .join(", "),
    );
    machine::check(lab)?;
    machine::install(lab, steps)?;
    let helpers = Helpers::build(lab, steps)?;
    let programs = Programs::build(lab, &helpers, options.postern.clone(), steps)?;
    let scale = if options.quick { QUICK } else { FULL };
    let world = World::new(lab, &helpers)?;
    let mut report = Report::default();
    let mut failed = Vec::new();
    for (name, measure) in groups {
        if let Err(error) = steps.run(name, None, || measure(&world, &programs, scale, &mut report)) {
            println!("  {error:#}");
            failed.push(*name);
        }
        // After each of them, since all take an hour.
        if let Some(file) = &options.json {
            std::fs::write(file, report.json()?)?;
        }
    }

    println!("\n{report}");
    println!("Measured in {}, load {}.", shown(steps.elapsed()), world::load()?);
    println!(
        "Columns are medians; a ratio is the median of {} to the better of Go's two in each round.",
        Kind::Postern
    );
    if let Some(file) = &options.json {
        println!("All samples: {}", file.display());
    }
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}
