//! The Go client: what it is told and what it says.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::subject::{Kind, Programs, Subject};
use super::world::Tailnet;
use crate::command;
use crate::wait;

/// What a client does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    /// 1 KiB responses on connections that stay.
    Requests { connections: u32 },
    /// So many of them each second, whether or not the ones before are answered.
    Offered { connections: u32, rate: u32 },
    /// As many as can be had, beside connections that do nothing.
    Beside { connections: u32, idle: u32 },
    /// A connection for each request.
    New { connections: u32 },
    /// Large response bodies.
    Down { streams: u32 },
    /// Large request bodies.
    Up { streams: u32 },
}

/// Processor and memory of a process during a window.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Usage {
    pub(super) us_per_req: f64,
    pub(super) s_per_gib: f64,
    /// Processors kept busy.
    pub(super) cores: f64,
    /// The most memory that it had, in MiB.
    pub(super) peak: f64,
}

/// What a window showed.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Loaded {
    pub(super) req_s: f64,
    pub(super) p99_ms: f64,
    pub(super) mib_s: f64,
    pub(super) cpu_server: Usage,
    pub(super) cpu_client: Usage,
    /// Processors that the machine kept busy, backend, kernel and neighbours included.
    pub(super) cores: f64,
    /// Version, cipher, group and ALPN that were negotiated.
    pub(super) tls: String,
    errors: u64,
    stalled: u64,
    last_error: String,
    path: String,
    /// Whom the backend took the client for.
    login: String,
}

impl Loaded {
    /// What went wrong with some of the requests.
    pub(super) fn trouble(&self) -> Option<String> {
        let Self {
            errors,
            stalled,
            last_error,
            ..
        } = self;
        (errors + stalled > 0).then(|| format!("{errors} errors, {stalled} stalled: {last_error}"))
    }
}

/// How the idle connections came about.
#[derive(Debug, Deserialize)]
struct Opened {
    open: u32,
    failed: u32,
}

/// How many of them still answer after the load, of a sample: `100/100`.
#[derive(Debug, Deserialize)]
struct Alive {
    alive: String,
}

/// What idle connections cost.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Idle {
    proc: String,
    alive: String,
    path: String,
    pub(super) kib_per_conn: f64,
}

#[derive(Debug, Deserialize)]
struct First {
    first200_ms: f64,
}

const BULK: &str = "268435456";
/// Whose key the client has.
const LOGIN: &str = "bob@example.com";

/// Loads `subject` for a window.
pub(super) fn load(
    subject: &Subject,
    work: Work,
    window: Duration,
    tailnet: &Tailnet<'_>,
    programs: &Programs,
    relayed: bool,
) -> Result<Loaded> {
    let mut options = BTreeMap::from([
        ("-warm", "1s".to_owned()),
        ("-dur", format!("{}s", window.as_secs())),
    ]);
    let mut flags = Vec::new();
    let mut url = format!("{}/bytes", subject.url);
    let connections = match work {
        Work::Requests { connections } => connections,
        Work::Offered { connections, rate } => {
            options.insert("-rate", rate.to_string());
            connections
        }
        Work::Beside { connections, idle } => {
            options.insert("-idle", idle.to_string());
            connections
        }
        Work::New { connections } => {
            flags.push("-new");
            connections
        }
        Work::Down { streams } => {
            url = format!("{url}?n={BULK}");
            streams
        }
        Work::Up { streams } => {
            url = format!("{}/sink", subject.url);
            options.insert("-up", BULK.to_owned());
            streams
        }
    };
    options.insert("-conns", connections.to_string());
    let said = run(
        "load", subject, &url, &options, &flags, tailnet, programs, relayed,
    )?;
    let loaded: Loaded = only(events(&said, "load")?)?;
    if let Work::Beside { idle, .. } = work {
        opened(&said, idle, subject)?;
        let Alive { alive } = only(events(&said, "idle-alive")?)?;
        all_alive(&alive, subject)?;
    }
    travels(&loaded.path, if relayed { "derp" } else { "direct" }, subject)?;
    ensure!(
        loaded.login == LOGIN,
        "the backend of {} takes the client for {:?}",
        subject.kind,
        loaded.login
    );
    // Go refuses connections when many come at once; what it did serve still counts.
    if let Some(trouble) = loaded.trouble() {
        ensure!(subject.kind != Kind::Postern, "{}: {trouble}", subject.kind);
    }
    Ok(loaded)
}

/// Opens connections, lets each do one request, holds them, and says what the server needs for each.
pub(super) fn idle(
    subject: &Subject,
    url: &str,
    connections: u32,
    hold: Duration,
    tailnet: &Tailnet<'_>,
    programs: &Programs,
) -> Result<Idle> {
    let options = BTreeMap::from([
        ("-dur", format!("{}s", hold.as_secs())),
        ("-idle", connections.to_string()),
    ]);
    let url = format!("{url}/bytes");
    let said = run("idle", subject, &url, &options, &[], tailnet, programs, false)?;
    opened(&said, connections, subject)?;
    let idle = events::<Idle>(&said, "idle")?
        .into_iter()
        .find(|idle| idle.proc == "server")
        .context("the client said nothing of the server")?;
    all_alive(&idle.alive, subject)?;
    travels(&idle.path, "direct", subject)?;
    Ok(idle)
}

/// Whether packets took the path that the row is about.
fn travels(path: &str, expected: &str, subject: &Subject) -> Result<()> {
    ensure!(
        path.starts_with(expected),
        "the path to {} is {path}",
        subject.kind
    );
    Ok(())
}

fn opened(said: &str, wanted: u32, subject: &Subject) -> Result<()> {
    let Opened { open, failed } = only(events(said, "idle-open")?)?;
    ensure!(
        open == wanted,
        "{}: {open} of {wanted} connections were opened, {failed} failed",
        subject.kind
    );
    Ok(())
}

fn all_alive(sample: &str, subject: &Subject) -> Result<()> {
    let all = sample.split_once('/').is_some_and(|(alive, of)| alive == of);
    ensure!(
        all,
        "{}: {sample} of the idle connections still answer",
        subject.kind
    );
    Ok(())
}

/// A client that holds connections open; it ends when dropped.
#[derive(Debug)]
pub(super) struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Opens connections that stay.
pub(super) fn hold(
    subject: &Subject,
    connections: u32,
    tailnet: &Tailnet<'_>,
    programs: &Programs,
) -> Result<Held> {
    let log = tailnet.state("held.log");
    let mut client = tailnet.client(&programs.peer, "idle");
    client
        .args(["-url", &format!("{}/bytes", subject.url), "-dur", "500s"])
        .args(["-idle", &connections.to_string()])
        .stdin(Stdio::null())
        .stdout(File::create(&log)?);
    let mut held = Held(client.spawn().context("cannot start the client")?);
    let open = || {
        ensure!(held.0.try_wait()?.is_none(), "the client has ended");
        opened(&fs::read_to_string(&log)?, connections, subject)
    };
    wait::until("open connections", Duration::from_secs(240), open)?;
    Ok(held)
}

/// Starts `command` so many times and says, for each, how long after that a client that keeps knocking got its answer.
/// With `moved`, it finds the UDP port of its last run taken, so that its peers have to learn its new address.
pub(super) fn first_answers(
    command: &str,
    url: &str,
    runs: usize,
    moved: bool,
    tailnet: &Tailnet<'_>,
    programs: &Programs,
) -> Result<Vec<f64>> {
    let mut client = tailnet.client(&programs.peer, "firstreq");
    client
        .args(["-eager", "-url", url, "-spawn", command])
        .args(["-runs", &runs.to_string()])
        .args(moved.then_some("-moved"));
    let firsts: Vec<First> = events(&command::output(&mut client)?, "firstreq")?;
    firsts
        .into_iter()
        .map(|first| {
            ensure!(first.first200_ms > 0.0, "no answer within a minute");
            Ok(first.first200_ms)
        })
        .collect()
}

#[expect(clippy::too_many_arguments, reason = "one call for both modes of the client")]
fn run(
    mode: &str,
    subject: &Subject,
    url: &str,
    options: &BTreeMap<&str, String>,
    flags: &[&str],
    tailnet: &Tailnet<'_>,
    programs: &Programs,
    relayed: bool,
) -> Result<String> {
    let mut client = tailnet.client(&programs.peer, mode);
    if relayed {
        client.env("TS_DEBUG_ALWAYS_USE_DERP", "1");
    }
    client
        .args(["-url", url, "-abort", "240s", "-watch"])
        .arg(format!("server={}", subject.pid()))
        .args(options.iter().flat_map(|(name, value)| [*name, value]))
        .args(flags);
    command::output(&mut client).with_context(|| format!("{mode} of {}", subject.kind))
}

/// The lines of one kind.
fn events<T: for<'de> Deserialize<'de>>(said: &str, event: &str) -> Result<Vec<T>> {
    said.lines()
        .filter(|line| line.contains(&format!("\"event\":\"{event}\"")))
        .map(|line| serde_json::from_str(line).with_context(|| format!("not understood: {line}")))
        .collect()
}

fn only<T>(all: Vec<T>) -> Result<T> {
    ensure!(all.len() == 1, "the client gave {} results", all.len());
    all.into_iter().next().context("none")
}
