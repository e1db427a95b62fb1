//! What is compared: programs that put the same backend on the tailnet.

use std::fmt;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::world::Tailnet;
use crate::command;
use crate::lab::{DOMAIN, Lab};
use crate::product;
use crate::step::Steps;
use crate::tailnet::Helpers;
use crate::wait;

const CONTROL: &str = "http://127.0.0.1:9911";
const KEY: &str = "tskey-auth-alice";
const BACKEND: &str = "http://127.0.0.1:9980";
/// Whoever takes longer to end doesn't.
const STOP_LIMIT: Duration = Duration::from_secs(40);

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
        let log = File::create(tailnet.state(&format!("{name}.log")))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {kind}"))?;
        let subject = Self {
            kind,
            url: format!("https://{name}.{DOMAIN}"),
            child,
        };
        if kind == Kind::Serve {
            configure_tailscaled(name, tailnet, programs)?;
        }
        Ok(subject)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
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
    /// Asks it to end; how many seconds that took. `None`: it doesn't end.
    pub(super) fn stop(&mut self) -> Result<Option<f64>> {
        let start = Instant::now();
        Ok(self
            .ends_within(STOP_LIMIT)?
            .then(|| start.elapsed().as_secs_f64()))
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
            command.args(["serve-tsnet", "-hostname", name, "-authkey", KEY, "-dir"]);
            command.arg(state);
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
                    r#"{{"TCP":{{"443":{{"HTTPS":true}}}},"Web":{{"${{TS_CERT_DOMAIN}}:443":{{"Handlers":{{"/":{{"Proxy":"{BACKEND}"}}}}}}}}}}"#
                ),
            )?;
            let mut command = tailnet.command(&programs.postern);
            command
                .args([
                    "run",
                    "--login-server",
                    CONTROL,
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
        &format!("--login-server={CONTROL}"),
        &format!("--auth-key={KEY}"),
        &format!("--hostname={name}"),
        "--accept-dns=false",
        "--timeout=30s",
    ];
    tailscale(&up)?;
    tailscale(&["serve", "--bg", "--https=443", BACKEND])
}

/// One process with many names.
#[derive(Debug)]
pub(super) struct Many {
    kind: Kind,
    process: Subject,
    log: PathBuf,
}

impl Many {
    /// Starts it; [`Kind::Serve`] knows no such thing.
    pub(super) fn start(kind: Kind, count: u32, tailnet: &Tailnet<'_>, programs: &Programs) -> Result<Self> {
        let state = tailnet.state("many");
        fs::create_dir_all(&state)?;
        let mut command = match kind {
            Kind::Tsnet => {
                let mut command = tailnet.command(&programs.peer);
                command
                    .args(["many", "-hostname", "m", "-nodes", &count.to_string(), "-dir"])
                    .arg(&state);
                command
            }
            Kind::Serve => bail!("tailscaled holds one name"),
            Kind::Postern => {
                let config = tailnet.state("many.json");
                fs::write(&config, serde_json::to_vec(&many_names(count))?)?;
                let mut command = tailnet.command(&programs.postern);
                command.args(["run", "--config"]).arg(config);
                command.arg("--state-dir").arg(&state).env("TS_AUTHKEY", KEY);
                command
            }
        };
        let log = tailnet.state("many.log");
        let file = File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {kind}"))?;
        Ok(Self {
            kind,
            process: Subject {
                kind,
                url: String::new(),
                child,
            },
            log,
        })
    }

    /// Waits until all names are online.
    pub(super) fn wait(&self, count: u32, tailnet: &Tailnet<'_>) -> Result<()> {
        wait::until(
            &format!("{count} names of {}", self.kind),
            Duration::from_secs(120),
            || {
                let mut curl = tailnet.command("curl");
                let said = command::output(curl.args(["-s", "http://127.0.0.1:9912/admin/nodes"]))?;
                let nodes: Vec<serde_json::Value> = serde_json::from_str(&said)?;
                let online = nodes.iter().filter(|node| node["online"] == true).count();
                ensure!(
                    online >= count as usize,
                    "{online} are online; see {}",
                    self.log.display()
                );
                Ok(())
            },
        )
    }

    /// Resident memory in MiB; Go's after a forced collection, since it keeps garbage as long as it likes.
    pub(super) fn rss(&self) -> Result<f64> {
        if self.kind == Kind::Tsnet {
            if let Some(pid) = i32::try_from(self.process.pid()).ok().and_then(Pid::from_raw) {
                kill_process(pid, Signal::USR1)?;
            }
            wait::until("the collection", Duration::from_secs(20), || {
                ensure!(fs::read_to_string(&self.log)?.contains("\"gc\""), "not yet");
                Ok(())
            })?;
        }
        self.process.rss()
    }
}

/// Our own configuration with so many names that answer a text on port 80.
fn many_names(count: u32) -> serde_json::Value {
    let name = |index: u32| {
        let hostname = format!("m-{index}");
        serde_json::json!({
            "owner": {"kind": "Bench", "namespace": "", "name": hostname, "uid": hostname},
            "generation": 1,
            "node": {"hostname": hostname, "state": {"name": hostname}},
            "listeners": [{"port": 80, "protocol": {"type": "http", "routes": [
                {"path": {"type": "prefix", "value": "/"}, "backend": {"type": "address", "address": "127.0.0.1:9980"}}
            ]}}],
        })
    };
    let names: serde_json::Map<String, serde_json::Value> = (0..count)
        .map(|index| (format!("m-{index}"), name(index)))
        .collect();
    serde_json::json!({"format": 1, "tailnet": {"controlUrl": CONTROL}, "names": names})
}
