//! The tailnet's servers and Go clients, all inside the cluster's network namespace: pods reach them directly.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command;
use crate::control::{self, ACME_PORT, ADMIN_PORT, CONTROL_PORT, HTTPS_PORT};
use crate::lab::{DOMAIN, Lab, NODE_IP};
use crate::process;
use crate::step::Steps;
use crate::wait;

/// The OAuth client of the server's API v2.
pub const OAUTH_CLIENT: (&str, &str) = ("lab-client", "lab-secret");

/// Control API and HTTP proxy of the Go clients, on loopback of the lab's namespace.
pub const CLIENTS: &str = "127.0.0.1:9920";

const ACME_MANAGEMENT_PORT: u16 = 15000;
const DNS_PORT: u16 = 8053;
const DNS_MANAGEMENT_PORT: u16 = 8055;

/// The Go programs, built from this tree and its pinned modules.
#[derive(Debug, Clone)]
pub struct Helpers {
    folder: PathBuf,
}

impl Helpers {
    /// Builds them where the cache has not got these sources yet.
    pub fn build(lab: &Lab, steps: &mut Steps) -> Result<Self> {
        let helpers = Self::of(lab)?;
        if helpers.folder.exists() {
            return Ok(helpers);
        }
        let estimate = if any_built(lab) { 10 } else { 160 };
        steps.run(
            "build the Go control server and clients",
            Some(Duration::from_secs(estimate)),
            || {
                let fresh = helpers.folder.with_extension("new");
                fs::create_dir_all(&fresh)?;
                let mut go = go_build(&lab.go_helpers(), &fresh);
                go.args(["./labcontrol", "./peer", "./backend", "tailscale.com/cmd/tsidp"]);
                command::logged(&mut go, &lab.cache.join("log/build.log"))?;
                fs::rename(&fresh, &helpers.folder).context("cannot move the built programs into the cache")
            },
        )?;
        Ok(helpers)
    }

    /// Where they lie for these sources.
    pub fn of(lab: &Lab) -> Result<Self> {
        let sources = lab.go_helpers();
        let mut files = vec![sources.join("go.mod"), sources.join("go.sum")];
        for package in ["labcontrol", "peer", "backend"] {
            let folder = sources.join(package);
            files.extend(
                fs::read_dir(&folder)
                    .with_context(|| format!("no {}", folder.display()))?
                    .flatten()
                    .map(|file| file.path()),
            );
        }
        files.sort();
        Ok(Self {
            folder: lab
                .cache
                .join("bin")
                .join(format!("tailnet-{}", &hash(&files)?[..16])),
        })
    }

    /// One of them: `labcontrol`, `peer`, `backend`, `tsidp`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Where Headscale lies for its pinned sources.
pub fn headscale(lab: &Lab) -> Result<PathBuf> {
    let sources = lab.go_helpers().join("headscale");
    let hash = hash(&[
        sources.join("go.mod"),
        sources.join("go.sum"),
        sources.join("tools.go"),
    ])?;
    Ok(lab
        .cache
        .join("bin")
        .join(format!("headscale-{}", &hash[..16]))
        .join("headscale"))
}

/// Builds Headscale where the cache has not got it; only tests need it.
pub fn build_headscale(lab: &Lab, steps: &mut Steps) -> Result<()> {
    let program = headscale(lab)?;
    if program.exists() {
        return Ok(());
    }
    steps.run("build Headscale", Some(Duration::from_secs(300)), || {
        let fresh = program.with_extension("new");
        fs::create_dir_all(program.parent().context("it has no folder")?)?;
        let mut go = go_build(&lab.go_helpers().join("headscale"), &fresh);
        command::logged(
            go.arg("github.com/juanfont/headscale/cmd/headscale"),
            &lab.cache.join("log/build.log"),
        )?;
        fs::rename(&fresh, &program).context("cannot move Headscale into the cache")
    })
}

/// Builds packages of `module` into `out`. As in `kubernetes/lab.sh`: no DWARF, and a compiler that collects its
/// garbage later, cost a sixth less.
fn go_build(module: &Path, out: &Path) -> Command {
    let mut go = Command::new("go");
    go.current_dir(module).env("CGO_ENABLED", "0").env("GOGC", "400");
    go.args([
        "build",
        "-mod=readonly",
        "-trimpath",
        "-buildvcs=false",
        "-gcflags=all=-dwarf=false",
        "-ldflags=-s -w",
        "-o",
    ])
    .arg(out);
    go
}

/// Starts what is not running yet; this process must be inside ([`crate::cluster::Cluster::enter`]).
pub fn up(lab: &Lab, helpers: &Helpers, steps: &mut Steps) -> Result<()> {
    let names = ["control", "dns", "acme", "clients"];
    if let Some(clients) = process::running(lab, "clients")
        && !clients.is_program(&helpers.program("peer"))
    {
        // The control server goes on with what it has: a new one would know no device.
        process::end(lab, &clients)?;
    }
    if let Some(control) = process::running(lab, "control")
        && !control.is_program(&helpers.program("labcontrol"))
    {
        println!(
            "  The control server's source has changed, but a new one would know no device: the old one goes on until \
             `cargo lab down`."
        );
    }
    if names.iter().all(|name| process::running(lab, name).is_some()) {
        return Ok(());
    }
    steps.run(
        "start control server, DERP, ACME, Go clients",
        Some(Duration::from_secs(2)),
        || {
            for name in names {
                if process::running(lab, name).is_none() {
                    start(lab, helpers, name)?;
                }
            }
            Ok(())
        },
    )
}

/// PEM of the authority behind the control server's HTTPS port and the ACME directory.
pub fn authority(lab: &Lab) -> Result<String> {
    let path = lab.pki().join("ca.pem");
    fs::read_to_string(&path).with_context(|| format!("no {}: is the lab up?", path.display()))
}

/// File with the root of certificates that the ACME server issues; it makes a new one at each start.
pub fn issuing_root(lab: &Lab) -> PathBuf {
    lab.pki().join("issuing-root.pem")
}

/// The control server's URL for pods and peers.
pub fn control_url() -> String {
    format!("http://{NODE_IP}:{CONTROL_PORT}")
}

/// The same behind TLS, by [`authority`].
pub fn control_https_url() -> String {
    format!("https://{NODE_IP}:{HTTPS_PORT}")
}

/// The ACME directory, behind TLS by [`authority`].
pub fn acme_directory() -> String {
    format!("https://{NODE_IP}:{ACME_PORT}/dir")
}

/// A Go peer with the surroundings that it needs here.
pub fn peer(lab: &Lab, helpers: &Helpers, mode: &str) -> Command {
    let mut peer = go_node(lab, &helpers.program("peer"));
    peer.arg(mode).args([
        "-control",
        &control_url(),
        "-admin",
        &format!("http://{NODE_IP}:{ADMIN_PORT}"),
    ]);
    peer
}

/// Tailscale's own identity provider, as it was frozen in their repository.
pub fn tsidp(lab: &Lab, helpers: &Helpers) -> Command {
    let mut tsidp = go_node(lab, &helpers.program("tsidp"));
    tsidp
        .env("TS_CONTROL_URL", control_url())
        .env("TAILSCALE_USE_WIP_CODE", "1");
    tsidp
}

fn go_node(lab: &Lab, program: &Path) -> Command {
    let mut node = Command::new(program);
    node.env("SSL_CERT_FILE", lab.pki().join("trust.pem"))
        .env("TS_DEBUG_ACME_DIRECTORY_URL", acme_directory())
        .env("TS_NO_LOGS_NO_SUPPORT", "true");
    node
}

fn start(lab: &Lab, helpers: &Helpers, name: &str) -> Result<()> {
    let pki = lab.pki();
    fs::create_dir_all(&pki)?;
    match name {
        "control" => {
            let mut control = Command::new(helpers.program("labcontrol"));
            control
                .args(["-ip", NODE_IP, "-domain", DOMAIN, "-pki"])
                .arg(&pki);
            control.args([
                "-challtestsrv",
                &format!("http://{NODE_IP}:{DNS_MANAGEMENT_PORT}"),
            ]);
            control.args(["-oauth", &format!("{}:{}", OAUTH_CLIENT.0, OAUTH_CLIENT.1)]);
            process::start(lab, name, &mut control)?;
            ready(lab, name, || control::Control.devices().map(drop))
        }
        "dns" => {
            let mut dns = Command::new("pebble-challtestsrv");
            dns.args([
                "-dns01",
                &format!("{NODE_IP}:{DNS_PORT}"),
                "-management",
                &format!("{NODE_IP}:{DNS_MANAGEMENT_PORT}"),
            ]);
            dns.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
            process::start(lab, name, &mut dns).map(drop)
        }
        "acme" => {
            let config = pki.join("pebble.json");
            fs::write(&config, pebble_config(&pki).to_string())?;
            let mut pebble = Command::new("pebble");
            pebble
                .arg("-config")
                .arg(&config)
                .args(["-dnsserver", &format!("{NODE_IP}:{DNS_PORT}")]);
            // Neither random pauses nor the one in twenty good nonces that it refuses by default.
            pebble
                .env("PEBBLE_VA_NOSLEEP", "1")
                .env("PEBBLE_WFE_NONCEREJECT", "0");
            process::start(lab, name, &mut pebble)?;
            ready(lab, name, || fetch_issuing_root(lab))
        }
        _ => {
            let mut clients = peer(lab, helpers, "clients");
            clients
                .args(["-listen", CLIENTS, "-dir"])
                .arg(lab.run.join("clients"))
                .arg("-ca")
                .arg(issuing_root(lab));
            process::start(lab, name, &mut clients)?;
            ready(lab, name, || {
                control::http("GET", &format!("http://{CLIENTS}/healthz"), None).map(drop)
            })
        }
    }
}

fn ready(lab: &Lab, name: &str, attempt: impl FnMut() -> Result<()>) -> Result<()> {
    wait::until(&format!("{name} to answer"), Duration::from_secs(15), attempt)
        .with_context(|| format!("its log is {}", lab.log(name).display()))
}

fn fetch_issuing_root(lab: &Lab) -> Result<()> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--cacert"])
        .arg(lab.pki().join("ca.pem"));
    let root = command::output(curl.arg(format!("https://{NODE_IP}:{ACME_MANAGEMENT_PORT}/roots/0")))?;
    fs::write(issuing_root(lab), &root)?;
    fs::write(lab.pki().join("trust.pem"), authority(lab)? + &root)?;
    Ok(())
}

fn pebble_config(pki: &Path) -> serde_json::Value {
    serde_json::json!({ "pebble": {
        "listenAddress": format!("{NODE_IP}:{ACME_PORT}"),
        "managementListenAddress": format!("{NODE_IP}:{ACME_MANAGEMENT_PORT}"),
        "certificate": pki.join("server.pem"),
        "privateKey": pki.join("server.key"),
        "httpPort": 5002,
        "tlsPort": 5001,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": false,
    }})
}

fn any_built(lab: &Lab) -> bool {
    fs::read_dir(lab.cache.join("bin")).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("tailnet-"))
    })
}

/// Hex SHA-256 over the files' contents.
pub fn hash(files: &[PathBuf]) -> Result<String> {
    let mut sums = command::output(Command::new("sha256sum").args(files))?;
    // Of the sums alone: the tree may lie elsewhere.
    sums = sums
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect::<Vec<_>>()
        .join("\n");
    let sum = command::output_of_input(&mut Command::new("sha256sum"), &sums)?;
    sum.split_whitespace()
        .next()
        .map(str::to_owned)
        .context("sha256sum said nothing")
}
