//! The node's own examples, with Go on the other side: nothing of the proxy is in them.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::control::Control;
use postern_e2e::lab::DOMAIN;
use postern_e2e::{command, product, tailnet, wait};
use serde_json::{Value, json};

use crate::first_light::{Running, tempdir};
use crate::runner::Test;
use crate::space::{FIRST_ANSWER, Space, url};

pub(crate) const TESTS: &[Test] = &[
    Test::beside("the_internet_reaches_a_funnel_by_its_edge_alone", funnel),
    Test::beside("a_service_is_reached_on_another_host_when_one_ends", service),
    Test::beside("datagrams_are_answered_to_go_and_to_ourselves", udp_echo),
];

/// After control has decided something, the nodes hear of it.
const NEWS: Duration = Duration::from_secs(20);

fn funnel(space: &Space<'_>) -> Result<()> {
    let name = space.name("fun");
    let example = Example::start(space, "funnel", &name, "tskey-auth-tagged", &[], &[])?;
    let page = url(&name);
    example.said("Open to the internet", FIRST_ANSWER)?;
    let from_tailnet = |user: &str| -> Result<String> {
        wait::until("an answer", FIRST_ANSWER, || {
            Ok(Fetch::get(user, &page).send()?.body)
        })
    };
    ensure!(from_tailnet("bob")? == "Hello, Bob Example!\n");
    let device = space.device(&name)?;
    let info = &device["hostinfo"];
    ensure!(info["IngressEnabled"] == true, "control was told {info}");
    let ports = info["Services"].to_string();
    ensure!(
        ports.contains("peerapi4") && ports.contains("peerapi6"),
        "{ports}"
    );

    let edge = Edge::start(space, 9985)?;
    let body = edge.fetch(space, &name, FIRST_ANSWER)?;
    ensure!(
        body.starts_with("Hello, 127.0.0.1:") && body.ends_with(" of the internet!\n"),
        "the internet got {body:?}"
    );
    edge.capability(false)?;
    wait::until("the edge to be refused", NEWS, || {
        match edge.try_fetch(space, &name) {
            Ok(body) => bail!("the internet got {body:?}"),
            Err(_) => Ok(()),
        }
    })?;
    let log = fs::read_to_string(&edge.log)?;
    ensure!(
        log.contains("HTTP/1.1 403"),
        "the edge heard {}",
        command::tail(&log, 5)
    );
    ensure!(from_tailnet("alice")? == "Hello, Alice Example!\n");
    edge.capability(true)?;
    edge.fetch(space, &name, NEWS).map(drop)
}

fn service(space: &Space<'_>) -> Result<()> {
    let label = space.name("clk");
    let service = format!("svc:{label}");
    let definition = json!({"name": service, "ports": ["tcp:80", "tcp:443"]});
    let define = |method| Control.call(method, &format!("/admin/services/{service}"), Some(&definition));
    define("PUT")?;
    let host = |suffix: &str, key: &str| {
        let env = [("SERVICE", service.as_str())];
        Example::start(space, "service", &space.name(suffix), key, &env, &[])
    };
    let one = host("h1", "tskey-auth-tagged")?;
    one.said("approved=true", FIRST_ANSWER)?;
    let plain = format!("http://{label}.{DOMAIN}/");
    let secure = format!("https://{label}.{DOMAIN}/");
    let reach = |url: &str, on: &str, bound: Duration| {
        let on = format!("on {}.{DOMAIN}\n", space.name(on));
        wait::until(&format!("{url} {on}"), bound, || {
            let fetch = Fetch {
                timeout_ms: Some(3000),
                ..Fetch::get("bob", url)
            };
            let body = fetch.send()?.body;
            ensure!(
                body.starts_with("bob@example.com reached ") && body.ends_with(&on),
                "it says {body:?}"
            );
            Ok(())
        })
    };
    reach(&plain, "h1", FIRST_ANSWER)?;
    reach(&secure, "h1", FIRST_ANSWER)?;
    let listed = Control.call(
        "GET",
        &format!("/admin/nodes/{}/c2n/vip-services", space.name("h1")),
        None,
    )?;
    let wanted = json!([{"Name": service, "Ports": ["tcp:80", "tcp:443"], "Active": true}]);
    ensure!(listed["VIPServices"] == wanted, "control was told {listed}");

    // Not approved, not reached.
    let approve = |suffix: &str, on: bool| {
        let path = format!("/admin/services/{service}/hosts/{}", space.name(suffix));
        Control.call("PUT", &path, Some(&json!({ "approved": on })))
    };
    approve("h1", false)?;
    one.said("approved=false", NEWS)?;
    approve("h1", true)?;
    reach(&plain, "h1", NEWS)?;

    let two = host("h2", "tskey-auth-tagged")?;
    two.said("approved=true", FIRST_ANSWER)?;
    let start = std::time::Instant::now();
    drop(one);
    reach(&plain, "h2", FIRST_ANSWER)?;
    space.note(format!(
        "taken over in {}",
        crate::runner::seconds(start.elapsed())
    ));
    reach(&secure, "h2", FIRST_ANSWER)?;

    // Users' nodes host nothing, and hear why.
    let untagged = host("h3", "tskey-auth-alice")?;
    untagged.said("Untagged", FIRST_ANSWER)
}

fn udp_echo(space: &Space<'_>) -> Result<()> {
    let name = space.name("udp");
    let echo = Example::start(space, "udp-echo", &name, "tskey-auth-tagged", &[], &[])?;
    echo.said("Echoes", FIRST_ANSWER)?;
    let to = format!("{name}:7");
    let asking = Example::start(
        space,
        "udp-echo",
        &space.name("ask"),
        "tskey-auth-bob",
        &[],
        &[&to],
    )?;
    asking.said("said=hello", FIRST_ANSWER)?;

    let folder = tempdir(&space.name("go"));
    let mut go = tailnet::peer(&space.env.lab, &space.env.helpers, "udp");
    go.args([
        "-hostname",
        &space.name("go"),
        "-authkey",
        "tskey-auth-alice",
        "-to",
        &to,
        "-dir",
    ]);
    let said = command::output(go.arg(&folder));
    let _ = fs::remove_dir_all(&folder);
    let said = said?;
    ensure!(said.contains(r#""said":"hello""#), "the Go peer said {said}");
    Ok(())
}

/// A running example and what it has said.
#[derive(Debug)]
struct Example {
    folder: PathBuf,
    log: PathBuf,
    _process: Running,
}

impl Example {
    fn start(
        space: &Space<'_>,
        example: &str,
        name: &str,
        key: &str,
        env: &[(&str, &str)],
        arguments: &[&str],
    ) -> Result<Self> {
        let folder = tempdir(name);
        let log = folder.join("log");
        let mut program = Command::new(product::example(&space.env.lab, example));
        program.arg(tailnet::control_url()).args(arguments).env_clear();
        program
            .env("TS_AUTHKEY", key)
            .env("TS_HOSTNAME", name)
            .env("ACME_DIRECTORY", tailnet::acme_directory())
            .env("SSL_CERT_FILE", space.env.lab.pki().join("trust.pem"))
            .env("NO_COLOR", "1")
            .envs(env.iter().copied());
        let process = started(&mut program, &log)?;
        Ok(Self {
            folder,
            log,
            _process: process,
        })
    }

    /// Waits until its last line with a word of `text` before `=` has all of it.
    fn said(&self, text: &str, bound: Duration) -> Result<()> {
        let key = text.split_inclusive('=').next().unwrap_or(text);
        wait::until(&format!("{text:?}"), bound, || {
            let log = fs::read_to_string(&self.log)?;
            let line = log.lines().rfind(|line| line.contains(key)).unwrap_or_default();
            ensure!(line.contains(text), "it said\n{}", command::tail(&log, 10));
            Ok(())
        })
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Funnel's edge: a Go node that control has made an ingress node.
#[derive(Debug)]
struct Edge {
    name: String,
    folder: PathBuf,
    log: PathBuf,
    addr: String,
    _process: Running,
}

impl Edge {
    fn start(space: &Space<'_>, port: u16) -> Result<Self> {
        let name = space.name("edge");
        let folder = tempdir(&name);
        let log = folder.join("log");
        let addr = format!("127.0.0.1:{port}");
        let mut edge = tailnet::peer(&space.env.lab, &space.env.helpers, "edge");
        edge.args([
            "-hostname",
            &name,
            "-authkey",
            "tskey-auth-carol",
            "-listen",
            &addr,
            "-dir",
        ])
        .arg(folder.join("state"));
        let process = started(&mut edge, &log)?;
        let edge = Self {
            name,
            folder,
            log,
            addr,
            _process: process,
        };
        wait::until("the edge", FIRST_ANSWER, || {
            let log = fs::read_to_string(&edge.log)?;
            ensure!(log.contains("serving"), "it said {}", command::tail(&log, 5));
            Ok(())
        })?;
        Ok(edge)
    }

    fn capability(&self, on: bool) -> Result<()> {
        let path = format!("/admin/nodes/{}/ingress-cap", self.name);
        Control.call("PUT", &path, Some(&Value::Bool(on))).map(drop)
    }

    /// What somebody on the internet gets from `https://NAME.SUFFIX/`.
    fn try_fetch(&self, space: &Space<'_>, name: &str) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "5",
            "--cacert",
        ])
        .arg(tailnet::issuing_root(&space.env.lab));
        curl.args(["--connect-to", &format!("{name}.{DOMAIN}:443:{}", self.addr)]);
        command::output(curl.arg(url(name)))
    }

    fn fetch(&self, space: &Space<'_>, name: &str, bound: Duration) -> Result<String> {
        wait::until("an answer through the edge", bound, || {
            self.try_fetch(space, name)
        })
        .with_context(|| {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            format!("the edge said\n{}", command::tail(&log, 10))
        })
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A program that says everything into a file.
fn started(program: &mut Command, log: &PathBuf) -> Result<Running> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = File::create(log)?;
    let out = file.try_clone()?;
    Running::start(program.stdin(Stdio::null()).stdout(out).stderr(file))
}
