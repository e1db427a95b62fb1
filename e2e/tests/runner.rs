//! Runs tests: first side by side, then those that need the lab for themselves.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use postern_e2e::cluster::Cluster;
use postern_e2e::command::{self, tail};
use postern_e2e::lab::Lab;
use postern_e2e::product::NAMESPACE;
use postern_e2e::step::shown;
use postern_e2e::tailnet::Helpers;

use crate::space::Space;

/// Tests at a time: they mostly wait.
const WORKERS: usize = 4;

/// A promise and its proof.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Test {
    /// What is promised, as a name.
    pub(crate) name: &'static str,
    /// The proof.
    pub(crate) run: fn(&Space<'_>) -> Result<()>,
    /// Whether it disturbs what other tests use.
    pub(crate) alone: bool,
}

impl Test {
    /// A test that others may run beside.
    pub(crate) const fn beside(name: &'static str, run: fn(&Space<'_>) -> Result<()>) -> Self {
        Self {
            name,
            run,
            alone: false,
        }
    }

    /// A test that needs the lab for itself.
    pub(crate) const fn alone(name: &'static str, run: fn(&Space<'_>) -> Result<()>) -> Self {
        Self {
            name,
            run,
            alone: true,
        }
    }
}

/// What every test uses.
#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) lab: Lab,
    pub(crate) cluster: Cluster,
    pub(crate) helpers: Helpers,
    /// Image of the lab's backend, as the cluster has it.
    pub(crate) backend: String,
    /// Differs from run to run, so that names of an earlier one are in nobody's way.
    pub(crate) run: String,
}

/// Runs the tests whose name contains `filter` and prints the closing line.
pub(crate) fn run(tests: Vec<Test>, filter: &str) -> Result<ExitCode> {
    let env = Env::of_the_running_lab()?;
    let (alone, beside): (Vec<Test>, Vec<Test>) = tests
        .into_iter()
        .filter(|test| test.name.contains(filter))
        .partition(|test| test.alone);
    if alone.is_empty() && beside.is_empty() {
        bail!("no test has {filter:?} in its name");
    }
    let failed = AtomicUsize::new(0);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(beside.len()) {
            scope.spawn(|| {
                while let Some(test) = beside.get(next.fetch_add(1, Ordering::Relaxed)) {
                    failed.fetch_add(usize::from(!passes(&env, test)), Ordering::Relaxed);
                }
            });
        }
    });
    for test in &alone {
        failed.fetch_add(usize::from(!passes(&env, test)), Ordering::Relaxed);
    }
    let failed = failed.into_inner();
    println!("{} passed, {failed} failed", alone.len() + beside.len() - failed);
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Env {
    fn of_the_running_lab() -> Result<Self> {
        let lab = Lab::from_env()?;
        let cluster = Cluster::of(&lab)?;
        cluster.enter()?;
        let helpers = Helpers::of(&lab)?;
        let loaded = fs::read_dir(lab.run.join("images"))
            .into_iter()
            .flatten()
            .flatten();
        let backend = loaded
            .filter_map(|entry| {
                let name = entry.file_name().to_string_lossy().replace('_', "/");
                name.starts_with("localhost/backend:")
                    .then_some((entry.metadata().ok()?.modified().ok()?, name))
            })
            .max();
        let Some((_, backend)) = backend else {
            bail!("Postern is not installed in the lab: run `cargo lab up`");
        };
        Ok(Self {
            lab,
            cluster,
            helpers,
            backend,
            run: format!("{:x}", std::process::id() % 0x1000),
        })
    }
}

fn passes(env: &Env, test: &Test) -> bool {
    let start = Instant::now();
    let space = Space::new(env, test.name);
    let run = || space.create().and_then(|()| (test.run)(&space));
    let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        Err(anyhow!(
            "{}",
            said.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                .unwrap_or_default()
        ))
    });
    let took = shown(start.elapsed());
    match result {
        Ok(()) => {
            println!("ok    {:<64} {took:>10}  {}", test.name, space.notes().join(", "));
            space.delete();
            true
        }
        Err(error) => {
            let kept =
                keep_artifacts(env, test, &space).unwrap_or_else(|error| format!("no artifacts: {error:#}"));
            // In one piece: others print too.
            println!(
                "FAIL  {:<64} {took:>10}\n{}",
                test.name,
                indented(&format!("{error:#}\n{kept}"))
            );
            space.delete();
            false
        }
    }
}

/// What explains a failure goes to `log/e2e/TEST`; the end of it is shown.
fn keep_artifacts(env: &Env, test: &Test, space: &Space<'_>) -> Result<String> {
    let mut said = String::new();
    let folder = env.lab.logs().join("e2e").join(test.name);
    fs::create_dir_all(&folder)?;
    let of_space = ["--namespace", space.namespace.as_str()];
    let of_postern = ["--namespace", NAMESPACE];
    let group = [
        "--selector",
        "postern.dev/proxy-group",
        "--all-containers",
        "--tail=400",
        "--prefix",
    ];
    let operator = [
        "--selector",
        "app.kubernetes.io/component=operator",
        "--all-containers",
        "--tail=400",
        "--prefix",
    ];
    for (file, arguments, scope, shown) in [
        (
            "events",
            &["get", "events", "--sort-by=.lastTimestamp"][..],
            of_space,
            10,
        ),
        (
            "objects",
            &[
                "get",
                "ingress,tailnetingress,tailnetservice,identityprovider,pod,service",
                "--output",
                "yaml",
            ][..],
            of_space,
            0,
        ),
        (
            "postern",
            &[
                "get",
                "pod,configmap,statefulset,deployment,event",
                "--output",
                "wide",
            ][..],
            of_postern,
            0,
        ),
        ("proxy", &[&["logs"], &group[..]].concat()[..], of_postern, 12),
        (
            "operator",
            &[&["logs"], &operator[..]].concat()[..],
            of_postern,
            8,
        ),
    ] {
        let mut kubectl = env.cluster.kubectl();
        let output = command::output(kubectl.arg("--request-timeout=10s").args(arguments).args(scope));
        let text = output.unwrap_or_else(|error| format!("{error:#}"));
        fs::write(folder.join(file), &text)?;
        if shown > 0 {
            said += &format!("--- {file}\n{}\n", tail(&text, shown));
        }
    }
    let devices = postern_e2e::control::Control
        .devices()
        .map(|devices| serde_json::to_string_pretty(&devices));
    fs::write(
        folder.join("devices"),
        devices.map_or_else(|error| format!("{error:#}"), |text| text.unwrap_or_default()),
    )?;
    Ok(said + &format!("all of it: {}", folder.display()))
}

fn indented(text: &str) -> String {
    text.lines()
        .map(|line| format!("      {:.240}", line))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A figure that a promise names in seconds.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}
