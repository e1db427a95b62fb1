//! What is compared: programs that put the same backend on the tailnet.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::world::{Tailnet, control_url};
use crate::command;
use crate::lab::{DOMAIN, Lab};
use crate::product;
use crate::step::Steps;
use crate::tailnet::Helpers;
use crate::wait;

pub(super) const KEY: &str = "tskey-auth-alice";
pub(super) const BACKEND: &str = "127.0.0.1:9980";
/// Where connections are forwarded as they are.
const RAW_PORT: u16 = 7;

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A Go program of a page: `tsnet`, `ReverseProxy`, `WhoIs`.
    Tsnet,
    /// Userspace `tailscaled` with `tailscale serve`.
    Serve,
    Postern,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Tsnet, Self::Serve, Self::Postern];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tsnet => "Go tsnet",
            Self::Serve => "tailscale serve",
            Self::Postern => "Postern",
        })
    }
}

/// Where the programs lie.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) peer: PathBuf,
    pub(super) tailscaled: PathBuf,
    pub(super) tailscale: PathBuf,
    pub(super) postern: PathBuf,
}

impl Programs {
    /// Builds what is missing: Go's from the modules that the lab pins, Postern's as its image has it.
    pub(super) fn build(
        lab: &Lab,
        helpers: &Helpers,
        postern: Option<PathBuf>,
        steps: &mut Steps,
    ) -> Result<Self> {
        let postern = match postern {
            Some(program) => program.canonicalize().context("--postern")?,
            None => product::release(lab, "postern-proxy", steps)?,
        };
        let mut list = Command::new("go");
        list.current_dir(lab.go_helpers())
            .args(["list", "-m", "-f", "{{.Version}}", "tailscale.com"]);
        let version = command::output(&mut list)?.trim().to_owned();
        let folder = lab.cache.join("bin").join(format!("tailscale-{version}"));
        if !folder.join("tailscale").exists() {
            let estimate = Some(Duration::from_secs(300));
            steps.run(
                &format!("build tailscaled and tailscale {version}"),
                estimate,
                || {
                    let mut go = Command::new("go");
                    go.env("GOBIN", &folder).env("CGO_ENABLED", "0").args([
                        "install",
                        "-trimpath",
                        "-gcflags=all=-dwarf=false",
                        "-ldflags=-s -w",
                    ]);
                    for program in ["tailscaled", "tailscale"] {
                        go.arg(format!("tailscale.com/cmd/{program}@{version}"));
                    }
                    command::logged(&mut go, &lab.cache.join("log/build.log"))
                },
            )?;
        }
        Ok(Self {
            peer: helpers.program("peer"),
            tailscaled: folder.join("tailscaled"),
            tailscale: folder.join("tailscale"),
            postern,
        })
    }
}

/// One of them at work; ended when dropped.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) kind: Kind,
    /// Where it serves, without a path.
    pub(super) url: String,
    child: Child,
}

impl Subject {
    /// Starts it as `name`, with its state kept under that name.
    pub(super) fn start(
        kind: Kind,
        name: &str,
        tailnet: &Tailnet<'_>,
        programs: &Programs,
        relayed: bool,
    ) -> Result<Self> {
        let state = tailnet.state(name);
        fs::create_dir_all(&state)?;
        let mut command = command(kind, name, tailnet, programs)?;
        if relayed {
            command.env("TS_DEBUG_ALWAYS_USE_DERP", "1");
        }
        let log = tailnet.state(&format!("{name}.log"));
        let url = format!("https://{name}.{DOMAIN}");
        let subject = Self::spawn(kind, url, &mut command, &log)?;
        if kind == Kind::Serve {
            configure_tailscaled(name, tailnet, programs)?;
        }
        Ok(subject)
    }

    /// Starts it by `command`, with all that it says in `log`.
    pub(super) fn spawn(kind: Kind, url: String, command: &mut Command, log: &Path) -> Result<Self> {
        let log = File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {kind}"))?;
        Ok(Self { kind, url, child })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it forwards connections as they are, without a path.
    pub(super) fn raw_url(&self) -> String {
        format!("{}:{RAW_PORT}", self.url.replace("https", "http"))
    }

    /// Resident memory in MiB.
    pub(super) fn rss(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        Ok(kib.context("no VmRSS")? / 1024.0)
    }
}

impl Subject {
    /// Asks it to end; how many seconds that took. `None`: it doesn't end within `limit`.
    pub(super) fn stop(&mut self, limit: Duration) -> Result<Option<f64>> {
        let start = Instant::now();
        Ok(self.ends_within(limit)?.then(|| start.elapsed().as_secs_f64()))
    }

    fn ends_within(&mut self, limit: Duration) -> Result<bool> {
        if self.child.try_wait()?.is_none()
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            kill_process(pid, Signal::TERM)?;
        }
        let gone = || {
            ensure!(self.child.try_wait()?.is_some(), "it still runs");
            Ok(())
        };
        Ok(wait::until("the program to end", limit, gone).is_ok())
    }
}

impl Drop for Subject {
    /// SIGTERM, and SIGKILL after three seconds: tsnet's Close hangs when connections are open.
    fn drop(&mut self) {
        if !self.ends_within(Duration::from_secs(3)).unwrap_or(false) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The command that serves `name`, without anything that depends on how it is started.
pub(super) fn command(kind: Kind, name: &str, tailnet: &Tailnet<'_>, programs: &Programs) -> Result<Command> {
    let state = tailnet.state(name);
    Ok(match kind {
        Kind::Tsnet => {
            let mut command = tailnet.command(&programs.peer);
            command.args(["serve-tsnet", "-control", &control_url(), "-hostname", name]);
            command.args(["-authkey", KEY, "-dir"]).arg(state);
            command
        }
        Kind::Serve => {
            let mut command = tailnet.command(&programs.tailscaled);
            command
                .args(["--tun=userspace-networking", "--port=0"])
                .arg(format!("--statedir={}", state.display()))
                .arg(format!("--socket={}", socket(name, tailnet).display()));
            command
        }
        Kind::Postern => {
            let serve = tailnet.state(&format!("{name}.json"));
            fs::write(
                &serve,
                format!(
                    r#"{{"TCP":{{"443":{{"HTTPS":true}},"{RAW_PORT}":{{"TCPForward":"{BACKEND}"}}}},"Web":{{"${{TS_CERT_DOMAIN}}:443":{{"Handlers":{{"/":{{"Proxy":"http://{BACKEND}"}}}}}}}}}}"#
                ),
            )?;
            let mut command = tailnet.command(&programs.postern);
            command
                .args([
                    "run",
                    "--login-server",
                    &control_url(),
                    "--hostname",
                    name,
                    "--state-dir",
                ])
                .arg(state)
                .arg("--serve-config")
                .arg(serve)
                .args(["--max-connections-per-peer", "20000"])
                .env("TS_AUTHKEY", KEY);
            command
        }
    })
}

fn socket(name: &str, tailnet: &Tailnet<'_>) -> PathBuf {
    tailnet.state(&format!("{name}.sock"))
}

fn configure_tailscaled(name: &str, tailnet: &Tailnet<'_>, programs: &Programs) -> Result<()> {
    let socket = socket(name, tailnet);
    wait::until("tailscaled's socket", Duration::from_secs(10), || {
        ensure!(socket.exists(), "not there");
        Ok(())
    })?;
    let tailscale = |arguments: &[&str]| {
        let mut command = tailnet.command(&programs.tailscale);
        command.arg(format!("--socket={}", socket.display()));
        command::output(command.args(arguments)).map(drop)
    };
    let up = [
        "up",
        &format!("--login-server={}", control_url()),
        &format!("--auth-key={KEY}"),
        &format!("--hostname={name}"),
        "--accept-dns=false",
        "--timeout=30s",
    ];
    tailscale(&up)?;
    tailscale(&["serve", "--bg", "--https=443", &format!("http://{BACKEND}")])?;
    let port = format!("--tcp={RAW_PORT}");
    tailscale(&["serve", "--bg", &port, &format!("tcp://{BACKEND}")])
}
