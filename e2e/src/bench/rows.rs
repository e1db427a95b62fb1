//! What is measured. A row's sides take turns, round by round.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use super::Scale;
use super::client::{self, Work};
use super::many::Many;
use super::report::Report;
use super::subject::{self, Kind, Programs, Subject};
use super::world::{Path, Tailnet, World};
use crate::command;
use crate::wait;

const MIB: f64 = (1_u32 << 20) as f64;

/// Names of steady loads; what they show is in [`note`].
const LOADS: &[(&str, Work)] = &[
    ("HTTPS, 1 connection", Work::Requests { connections: 1 }),
    ("HTTPS, 32 connections", Work::Requests { connections: 32 }),
    ("HTTPS, 256 connections", Work::Requests { connections: 256 }),
    // A load that all of them can bear: their latencies can be compared.
    (
        "HTTPS, 1000 requests/s on 32 connections",
        Work::Offered {
            connections: 32,
            rate: 1000,
        },
    ),
    ("new HTTPS connections, 8 at once", Work::New { connections: 8 }),
    ("bulk down, 1 stream", Work::Down { streams: 1 }),
    ("bulk up, 1 stream", Work::Up { streams: 1 }),
    ("bulk up, 8 streams", Work::Up { streams: 8 }),
    ("bulk down, 8 streams", Work::Down { streams: 8 }),
];

const RELAYED: &[(&str, Work)] = &[
    (
        "DERP only: HTTPS, 32 connections",
        Work::Requests { connections: 32 },
    ),
    ("DERP only: bulk down, 1 stream", Work::Down { streams: 1 }),
];

/// Paths that TCP has trouble with; the first is the one of `--quick`.
const PATHS: &[Path] = &[
    path(10, 1.0, 0.0),
    path(10, 0.5, 0.0),
    path(10, 2.0, 0.0),
    path(10, 0.0, 1.0),
    path(50, 0.0, 0.0),
    path(50, 1.0, 0.0),
    path(150, 0.0, 0.0),
];

const fn path(ms: u64, loss: f64, early: f64) -> Path {
    Path {
        round_trip: Duration::from_millis(ms),
        loss,
        early,
    }
}

/// Stripped programs, as they are and as a registry keeps an image's layer.
pub(super) fn sizes(programs: &Programs, report: &mut Report) -> Result<()> {
    let sides: [(Kind, &[&PathBuf]); 3] = [
        (Kind::Tsnet, &[&programs.peer]),
        (Kind::Serve, &[&programs.tailscaled, &programs.tailscale]),
        (Kind::Postern, &[&programs.postern]),
    ];
    for (kind, files) in sides {
        let (mut plain, mut compressed) = (0, 0);
        for file in files {
            plain += fs::metadata(file)?.len();
            let mut gzip = Command::new("sh");
            gzip.args(["-c", r#"gzip --stdout "$1" | wc --bytes"#, "sh"])
                .arg(file);
            compressed += command::output(&mut gzip)?.trim().parse::<u64>()?;
        }
        let mib = |bytes| bytes as f64 / MIB;
        report.add("program size", "MiB", kind, mib(plain));
        report.add("program size, compressed", "MiB", kind, mib(compressed));
    }
    Ok(())
}

/// Requests, new connections, bulk.
pub(super) fn loads(world: &World, programs: &Programs, scale: Scale, report: &mut Report) -> Result<()> {
    steady(LOADS, world, programs, scale, report, false)
}

/// The same where no UDP goes through.
pub(super) fn relayed(world: &World, programs: &Programs, scale: Scale, report: &mut Report) -> Result<()> {
    steady(RELAYED, world, programs, scale, report, true)
}

/// Large bodies over long and lossy paths. Luck decides much, so windows are long.
pub(super) fn paths(world: &World, programs: &Programs, scale: Scale, report: &mut Report) -> Result<()> {
    let works = [
        ("down", Work::Down { streams: 1 }),
        ("up", Work::Up { streams: 1 }),
    ];
    for path in PATHS.iter().take(scale.paths) {
        let tailnet = world.tailnet_behind(*path)?;
        let subjects = all(&tailnet, programs, false)?;
        let window = scale.window * if path.loss > 0.0 { 5 } else { 2 };
        for (direction, work) in works {
            for subject in &subjects {
                let loaded = client::load(subject, work, window, &tailnet, programs, false)?;
                let name = format!("bulk {direction}, {path}");
                report.add(&name, "MiB/s", subject.kind, loaded.mib_s);
            }
        }
    }
    Ok(())
}

fn steady(
    loads: &[(&str, Work)],
    world: &World,
    programs: &Programs,
    scale: Scale,
    report: &mut Report,
    relayed: bool,
) -> Result<()> {
    let tailnet = world.tailnet()?;
    let subjects = all(&tailnet, programs, relayed)?;
    for _ in 0..scale.rounds {
        for (name, work) in loads {
            for subject in &subjects {
                let loaded = client::load(subject, *work, scale.window, &tailnet, programs, relayed)?;
                note(name, *work, subject.kind, &loaded, report)?;
            }
        }
    }
    Ok(())
}

fn note(name: &str, work: Work, kind: Kind, loaded: &client::Loaded, report: &mut Report) -> Result<()> {
    report.negotiated(kind, loaded.tls.clone())?;
    if let Some(trouble) = loaded.trouble() {
        report.remark(format!("{name}, {kind}: {trouble}"));
    }
    match work {
        Work::Requests { .. } | Work::Offered { .. } | Work::Beside { .. } | Work::New { .. } => {
            report.add(name, "CPU µs/req", kind, loaded.cpu_server.us_per_req);
            report.add(name, "req/s", kind, loaded.req_s);
            report.add(name, "p99 ms", kind, loaded.p99_ms);
        }
        Work::Down { .. } | Work::Up { .. } => {
            report.add(name, "CPU s/GiB", kind, loaded.cpu_server.s_per_gib);
            report.add(name, "Gbit/s", kind, loaded.mib_s * MIB * 8.0 / 1e9);
            report.add(name, "peak RSS MiB", kind, loaded.cpu_server.peak);
        }
    }
    // Whose fault it is that a rate isn't higher.
    report.add(name, "cores, server", kind, loaded.cpu_server.cores);
    report.add(name, "cores, client", kind, loaded.cpu_client.cores);
    report.add(name, "cores, all", kind, loaded.cores);
    Ok(())
}

/// Requests alone, and beside connections that do nothing; a client that ends leaves them behind, hence fresh servers.
pub(super) fn beside_idle(
    world: &World,
    programs: &Programs,
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    for _ in 0..scale.rounds {
        for &idle in [0].iter().chain(scale.idle_connections) {
            let name = format!("HTTPS, 32 connections beside {idle} idle ones");
            let work = match idle {
                0 => Work::Requests { connections: 32 },
                _ => Work::Beside {
                    connections: 32,
                    idle,
                },
            };
            for kind in Kind::ALL {
                let tailnet = world.tailnet()?;
                let subject = Subject::start(kind, "web", &tailnet, programs, false)?;
                let loaded = client::load(&subject, work, scale.window, &tailnet, programs, false)?;
                note(&name, work, kind, &loaded, report)?;
            }
        }
    }
    Ok(())
}

/// Memory that an idle connection takes.
pub(super) fn idle_connections(
    world: &World,
    programs: &Programs,
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    for &connections in scale.idle_connections {
        let name = format!("{connections} idle HTTPS connections");
        for kind in Kind::ALL {
            let url = |subject: &Subject| subject.url.clone();
            let (each, all) = idle(kind, connections, url, world, programs, scale)?;
            report.add(&name, "KiB each", kind, each);
            report.add(&name, "RSS MiB", kind, all);
        }
    }
    Ok(())
}

/// The same of a connection that is forwarded as it is.
pub(super) fn idle_flows(
    world: &World,
    programs: &Programs,
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    let connections = scale.idle_connections.first().copied().unwrap_or_default();
    let name = format!("{connections} idle TCP connections, forwarded");
    for kind in Kind::ALL {
        let (each, _) = idle(kind, connections, Subject::raw_url, world, programs, scale)?;
        report.add(&name, "KiB each", kind, each);
    }
    Ok(())
}

/// What idle connections to a URL of a fresh server take: KiB for each, and MiB of the whole process.
fn idle(
    kind: Kind,
    connections: u32,
    url: impl Fn(&Subject) -> String,
    world: &World,
    programs: &Programs,
    scale: Scale,
) -> Result<(f64, f64)> {
    let tailnet = world.tailnet()?;
    let subject = Subject::start(kind, "web", &tailnet, programs, false)?;
    let url = url(&subject);
    let idle = client::idle(&subject, &url, connections, scale.hold, &tailnet, programs)?;
    Ok((idle.kib_per_conn, subject.rss()?))
}

/// How long a server that is told to end takes while many connections are open; one that doesn't end has no figure.
pub(super) fn stops(world: &World, programs: &Programs, scale: Scale, report: &mut Report) -> Result<()> {
    let connections = scale.idle_connections.first().copied().unwrap_or_default();
    let name = format!("stop with {connections} connections open");
    for kind in Kind::ALL {
        let tailnet = world.tailnet()?;
        let mut subject = Subject::start(kind, "web", &tailnet, programs, false)?;
        let held = client::hold(&subject, connections, &tailnet, programs)?;
        match subject.stop(scale.stop_limit)? {
            Some(seconds) => report.add(&name, "s", kind, seconds),
            None if kind == Kind::Postern => bail!("Postern does not end"),
            None => {}
        }
        drop(held);
    }
    Ok(())
}

/// A restart with state and certificate at hand, while a peer keeps knocking.
pub(super) fn starts(world: &World, programs: &Programs, scale: Scale, report: &mut Report) -> Result<()> {
    for kind in Kind::ALL {
        let tailnet = world.tailnet()?;
        let subject = Subject::start(kind, "web", &tailnet, programs, false)?;
        let work = Work::Requests { connections: 1 };
        client::load(&subject, work, scale.window, &tailnet, programs, false)?;
        let url = format!("{}/bytes", subject.url);
        drop(subject);
        let command = words(&subject::command(kind, "web", &tailnet, programs)?);
        for (name, moved) in [
            ("restart while a peer knocks, to the first 200", false),
            ("restart on a new address, to the first 200", true),
        ] {
            for took in client::first_answers(&command, &url, scale.rounds, moved, &tailnet, programs)? {
                report.add(name, "ms", kind, took);
            }
        }
    }
    Ok(())
}

/// The command as the client spawns it: it is inside already, so without the script before the program.
fn words(command: &Command) -> String {
    let arguments: Vec<_> = command
        .get_args()
        .skip(1)
        .map(|word| word.to_string_lossy())
        .collect();
    arguments.join(" ")
}

/// Memory of a process with one name and nothing to do.
pub(super) fn idle_memory(
    world: &World,
    programs: &Programs,
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    let tailnet = world.tailnet()?;
    let subjects = all(&tailnet, programs, false)?;
    for subject in &subjects {
        // Each has its certificate and has served.
        let work = Work::Requests { connections: 1 };
        client::load(subject, work, scale.window, &tailnet, programs, false)?;
    }
    wait::pause(scale.settle);
    for subject in &subjects {
        report.add(
            &format!("one name, idle for {} s", scale.settle.as_secs()),
            "RSS MiB",
            subject.kind,
            subject.rss()?,
        );
    }
    Ok(())
}

/// Memory of a process with many names, each knowing all the others.
pub(super) fn names(world: &World, programs: &Programs, scale: Scale, report: &mut Report) -> Result<()> {
    let settle = scale.settle / 2;
    for &count in scale.names {
        let what = format!("{count} names in one process, idle for {} s", settle.as_secs());
        for kind in [Kind::Tsnet, Kind::Postern] {
            let tailnet = world.tailnet()?;
            let many = Many::start(kind, count, &tailnet, programs)?;
            many.wait(count, &tailnet)?;
            wait::pause(settle);
            report.add(&what, "RSS MiB", kind, many.rss()?);
        }
    }
    Ok(())
}

fn all(tailnet: &Tailnet<'_>, programs: &Programs, relayed: bool) -> Result<Vec<Subject>> {
    Kind::ALL
        .into_iter()
        .map(|kind| {
            let name = match kind {
                Kind::Tsnet => "tsnet",
                Kind::Serve => "serve",
                Kind::Postern => "postern",
            };
            Subject::start(kind, name, tailnet, programs, relayed)
        })
        .collect()
}
