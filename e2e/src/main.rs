//! `cargo lab`: the lab's command line.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use postern_e2e::cluster::Cluster;
use postern_e2e::lab::Lab;
use postern_e2e::step::{Steps, shown};
use postern_e2e::{bench, checks, demo, down, status, tailnet, up};

/// A real Kubernetes and a real tailnet on this machine, with Postern between them.
///
/// Nothing leaves the machine: cluster, coordination server, relay, certificate authority and Go tailnet clients run
/// in namespaces of their own. Needs root, Go 1.26 and Debian's package manager; everything else is installed or built.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", after_help = AFTER, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Lifecycle,
}

const AFTER: &str = "\
Start here:
  cargo lab demo                              see Postern do its main job; stays up
  cargo lab curl https://hello.lab-tailnet.ts.net/text
                                              the same by hand, as alice; `--as bob`, `--as tagged`
  cargo lab kubectl get pods -A               any kubectl command, as cluster-admin
  cargo lab logs proxy                        what a part says
  cargo lab down                              and nothing is left

Users: alice, bob, carol (…@example.com), and `tagged`, a device with tag:k8s that belongs to nobody.
A changed source is built and rolled out by the next `cargo lab up`.
LAB_NAME=other and LAB_CACHE=/folder give a second lab beside the first.";

#[derive(Debug, Subcommand)]
enum Lifecycle {
    /// Bring the lab up to date with this tree: cluster, coordination server, Postern
    Up {
        /// Cluster and coordination server alone, to install Postern by hand
        #[arg(long)]
        bare: bool,
    },
    /// `up`, then a sample app on the tailnet and a client that fetches it
    Demo,
    /// End the lab and check that nothing is left of it
    Down,
    /// What runs, which devices and objects there are
    Status,
    /// kubectl as cluster-admin
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// curl through a Go tailnet client, logged in as a user of the lab
    Curl {
        /// alice, bob, carol or tagged
        #[arg(long = "as", default_value = "alice")]
        user: String,
        /// For curl; a URL at least
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<String>,
    },
    /// The log of a part: operator, proxy, control, acme, dns, clients, kubelet, kube-apiserver, …
    Logs {
        /// Without one: which there are
        part: Option<String>,
        /// Go on as it grows
        #[arg(short, long)]
        follow: bool,
    },
    /// Everything that CI checks: format, lints, licences, docs, unit tests, chart, and the end-to-end tests
    Test {
        /// Only the end-to-end tests whose name contains this
        filter: Option<String>,
    },
    /// Postern beside Go's `tsnet` and `tailscale serve`, in one run: CPU, throughput, memory, size (an hour; --quick: ten minutes)
    Bench {
        /// One short round of each
        #[arg(long)]
        quick: bool,
        /// Only the groups whose name contains this: size, load, load over DERP, …
        #[arg(default_value = "")]
        filter: String,
        /// Write all samples there
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Measure this postern-proxy, such as that of an earlier release, instead of building one
        #[arg(long, value_name = "FILE")]
        postern: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    end_with_the_reader();
    let arguments = Arguments::parse();
    match run(&arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cargo lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `println!` panics when nobody reads any more, as in `cargo lab status | head`: an end, not a fault. The status is
/// that of a program which SIGPIPE ended.
fn end_with_the_reader() {
    const ENDED_BY_SIGPIPE: i32 = 128 + 13;
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload_as_str().unwrap_or_default();
        if said.starts_with("failed printing to stdout") && said.contains("Broken pipe") {
            std::process::exit(ENDED_BY_SIGPIPE);
        }
        usual(panic);
    }));
}

fn run(command: &Lifecycle) -> Result<ExitCode> {
    let lab = Lab::from_env()?;
    let mut steps = Steps::default();
    match command {
        Lifecycle::Up { bare } => {
            if *bare {
                up::bare(&lab, &mut steps)?;
            } else {
                up::up(&lab, &mut steps)?;
            }
            println!(
                "The lab is up after {}. Next: `cargo lab demo`, `cargo lab status`, `cargo lab --help`.",
                shown(steps.elapsed())
            );
        }
        Lifecycle::Demo => demo::demo(&lab, &mut steps)?,
        Lifecycle::Down => down::down(&lab, &mut steps)?,
        Lifecycle::Status => status::status(&lab)?,
        Lifecycle::Kubectl { arguments } => {
            let cluster = Cluster::of(&lab)?;
            cluster.enter()?;
            return Err(cluster.kubectl().args(arguments).exec()).context("cannot run kubectl");
        }
        Lifecycle::Curl { user, arguments } => return curl(&lab, user, arguments),
        Lifecycle::Logs { part, follow } => return logs(&lab, part.as_deref(), *follow),
        Lifecycle::Bench {
            quick,
            filter,
            json,
            postern,
        } => {
            let options = bench::Options {
                quick: *quick,
                filter: filter.clone(),
                json: json.clone(),
                postern: postern.clone(),
            };
            bench::bench(&lab, &mut steps, &options)?;
        }
        Lifecycle::Test { filter } => return checks::run(&lab, &mut steps, filter.as_deref()),
    }
    Ok(ExitCode::SUCCESS)
}

fn curl(lab: &Lab, user: &str, arguments: &[String]) -> Result<ExitCode> {
    Cluster::of(lab)?.enter()?;
    let mut curl = Command::new("curl");
    curl.args([
        "--proxy",
        &format!("http://{user}:@{}", tailnet::CLIENTS),
        "--proxytunnel",
        "--cacert",
    ]);
    Err(curl.arg(tailnet::issuing_root(lab)).args(arguments).exec()).context("cannot run curl")
}

fn logs(lab: &Lab, part: Option<&str>, follow: bool) -> Result<ExitCode> {
    let selector = match part {
        Some("operator") => "app.kubernetes.io/component=operator",
        Some("proxy") => "postern.dev/proxy-group",
        Some(part) => {
            let log = lab.log(part);
            if !log.exists() {
                bail!("no part has that name; there are: {}", parts(lab).join(" "));
            }
            let mut tail = Command::new("tail");
            tail.args(["--lines", "200"])
                .args(follow.then_some("--follow"))
                .arg(log);
            return Err(tail.exec()).context("cannot run tail");
        }
        None => {
            println!("{}", parts(lab).join("\n"));
            return Ok(ExitCode::SUCCESS);
        }
    };
    let cluster = Cluster::of(lab)?;
    cluster.enter()?;
    let mut kubectl = cluster.kubectl();
    kubectl.args([
        "logs",
        "--all-containers",
        "--prefix",
        "--tail=200",
        "--max-log-requests=20",
        "--namespace",
        postern_e2e::product::NAMESPACE,
    ]);
    Err(kubectl
        .args(["--selector", selector])
        .args(follow.then_some("--follow"))
        .exec())
    .context("cannot run kubectl")
}

fn parts(lab: &Lab) -> Vec<String> {
    let files = std::fs::read_dir(lab.logs()).into_iter().flatten().flatten();
    let mut parts: Vec<String> = files
        .filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".log")?.to_owned()))
        .chain(["operator".to_owned(), "proxy".to_owned()])
        .collect();
    parts.sort();
    parts
}
