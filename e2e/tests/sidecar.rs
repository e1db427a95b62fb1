//! The same proxy without Kubernetes: beside a process on loopback, set up as the usual container is.

mod fixture;
mod forward_auth;
mod local_api;
mod serve_json;
mod terminal;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::lab::DOMAIN;
use postern_e2e::{command, tailnet, wait};

pub(crate) use self::fixture::Sidecar;
use crate::first_light::{Running, streamed};
use crate::funnel::Edge;
use crate::runner::{Test, seconds};
use crate::space::{FIRST_ANSWER, Space, url};

pub(crate) const TESTS: &[Test] = &[
    Test::beside("a_sidecar_streams_as_the_usual_container_would", streams),
    Test::beside("a_changed_serve_json_is_served_and_a_broken_one_is_not", reloads),
    Test::beside("a_restarted_sidecar_is_the_same_node", restarts),
    Test::beside("a_sidecar_does_what_the_containers_environment_says", environment),
    Test::beside(
        "a_target_is_served_at_a_terminal_and_its_url_printed",
        terminal::foreground,
    ),
    Test::beside(
        "a_serve_json_is_on_funnel_with_a_key_and_users_have_limits",
        limits,
    ),
    Test::beside(
        "a_serve_json_leads_where_gos_serve_leads_a_service_too",
        serve_json::same_as_go,
    ),
    Test::beside("the_local_api_answers_as_gos_daemon", local_api::same_as_go),
    Test::beside("nginx_lets_in_whom_forward_auth_knows", forward_auth::nginx),
];

/// A serve.json as people have it.
const SERVE: &str = r#"{
  "TCP": { "443": { "HTTPS": true } },
  "Web": { "${TS_CERT_DOMAIN}:443": { "Handlers": { "/": { "Proxy": "http://127.0.0.1:PORT" } } } }
}"#;

fn streams(space: &Space<'_>) -> Result<()> {
    let sidecar = Sidecar::start(space, "ollama", 9981)?;
    let url = url(&sidecar.name);
    sidecar.answer(space)?;
    for query in ["n=4&ms=300", "n=4&ms=300&sse=1"] {
        wait::until(&format!("{query} as it is sent"), FIRST_ANSWER, || {
            let fetched = Fetch::get("alice", format!("{url}/stream?{query}")).send()?;
            streamed(&fetched, 4, 300)
        })?;
    }
    let seen = Fetch::get("bob", format!("{url}/api/tags")).send()?.seen()?;
    ensure!(
        seen.header("Tailscale-User-Login") == ["bob@example.com"],
        "the app saw {:?}",
        seen.headers
    );
    Ok(())
}

fn reloads(space: &Space<'_>) -> Result<()> {
    let sidecar = Sidecar::start(space, "reload", 9982)?;
    let url = url(&sidecar.name);
    sidecar.answer(space)?;
    sidecar.write(&SERVE.replace(r#""Proxy": "http://127.0.0.1:PORT""#, r#""Text": "changed""#))?;
    wait::until("the changed serve.json", Duration::from_secs(5), || {
        let body = Fetch::get("alice", &url).send()?.body;
        ensure!(body == "changed", "it says {body:.100}");
        Ok(())
    })?;
    sidecar.write("{ not json")?;
    wait::throughout("the last good serve.json", Duration::from_secs(3), || {
        let body = Fetch::get("alice", &url).send()?.body;
        ensure!(body == "changed", "it says {body:.100}");
        Ok(())
    })?;
    sidecar.says("serve.json")
}

/// On the volume of Tailscale's container, and on its own.
fn restarts(space: &Space<'_>) -> Result<()> {
    let mut sidecar = Sidecar::prepare(space, "again", 9983)?;
    let identity = |space: &Space<'_>, name: &str| -> Result<(String, String)> {
        let device = space.device(name)?;
        Ok((device["stableID"].to_string(), device["addresses"].to_string()))
    };
    let mut gos = tailnet::peer(&space.env.lab, &space.env.helpers, "serve-config");
    gos.args(["-hostname", &sidecar.name, "-authkey", "tskey-auth-tagged"]);
    gos.arg("-dir").arg(sidecar.state());
    let mut gos = Running::start(gos.stdout(Stdio::piped()))?;
    let mut said = BufReader::new(gos.0.stdout.take().context("no output")?).lines();
    let first = said.next().context("Go's node ended")??;
    ensure!(first.contains(r#""event":"running""#), "Go's node said {first}");
    let before = identity(space, &sidecar.name)?;
    drop(gos);

    sidecar.run(space)?;
    sidecar.answer(space)?;
    let taken_over = identity(space, &sidecar.name)?;
    ensure!(
        before == taken_over,
        "Go's was {before:?} and it is {taken_over:?}"
    );
    sidecar.restart(space)?;
    let start = Instant::now();
    sidecar.answer(space)?;
    space.note(format!("answered {} after the restart", seconds(start.elapsed())));
    let after = identity(space, &sidecar.name)?;
    ensure!(before == after, "it was {before:?} and is {after:?}");
    Ok(())
}

fn environment(space: &Space<'_>) -> Result<()> {
    let mut sidecar = Sidecar::prepare(space, "env", 9989)?;
    // A volume that another user has left is named with its owner.
    let state = sidecar.folder.join("state/tailscaled.state");
    fs::write(&state, "{}")?;
    fs::set_permissions(&state, Permissions::from_mode(0o600))?;
    let mut stranger = sidecar.command(space)?;
    stranger.uid(65_532).gid(65_532);
    stranger
        .env_remove("TS_SOCKET")
        .env_remove("POSTERN_LOCAL_API")
        .env_remove("POSTERN_FORWARD_AUTH");
    let refused = Running::start(&mut stranger)?;
    sidecar.says("it belongs to uid 0 (mode 0")?;
    sidecar.says("we run as uid 65532: chown -R 65532 it")?;
    drop(refused);
    fs::remove_file(state)?;

    sidecar.run(space)?;
    sidecar.answer(space)?;
    // Ports are forwarded where that was said, and nowhere else.
    let port = |port: u16| format!("http://{}.{}:{port}/x", sidecar.name, DOMAIN);
    let seen = Fetch::get("alice", port(sidecar.port)).send()?.seen()?;
    ensure!(seen.uri == "/x", "the app saw {seen:?}");
    let other = Fetch::get("alice", port(sidecar.port + 1)).send();
    ensure!(other.is_err(), "a port that was not named answers {other:?}");
    sidecar.says(&format!("POSTERN_FORWARD_PORTS={}", sidecar.port + 1))?;

    let curl = |arguments: &[&str]| {
        let mut curl = Command::new("curl");
        command::output(curl.args(["--silent", "--show-error", "--fail"]).args(arguments))
    };
    let probe = |path: &str| curl(&[&format!("http://{}{path}", sidecar.probes)]);
    ensure!(probe("/healthz")? == "ok");
    ensure!(
        probe("/metrics")?.contains("proxy_connections"),
        "the metrics lack the proxy's"
    );

    // The LocalAPI on loopback, by the password of its file.
    let status = format!("http://{}/localapi/v0/status", sidecar.local_api);
    let password = fs::read_to_string(sidecar.folder.join("password"))?;
    let told = curl(&["--user", &format!(":{password}"), &status])?;
    ensure!(told.contains(&sidecar.name), "the LocalAPI says {told:.300}");
    let refused = curl(&[&status]).err().context("it answers without a password")?;
    ensure!(format!("{refused:#}").contains("401"), "{refused:#}");
    Ok(())
}

/// `AllowFunnel` through a Go node as the edge, with what a serve.json has no words for.
fn limits(space: &Space<'_>) -> Result<()> {
    const OLD: &str = "sk-old-0123456789abcdef";
    const NEW: &str = "sk-new-0123456789abcdef";
    let mut sidecar = Sidecar::prepare(space, "keys", 9991)?;
    let public = r#""AllowFunnel": { "${TS_CERT_DOMAIN}:443": true }, "TCP""#;
    sidecar.write(&SERVE.replace(r#""TCP""#, public).replace("PORT", "9991"))?;
    let keys = sidecar.folder.join("keys");
    fs::create_dir_all(keys.join("bearer"))?;
    fs::write(keys.join("bearer/ci"), OLD)?;
    let mut proxy = sidecar.command(space)?;
    proxy
        .env("POSTERN_FUNNEL_KEYS", &keys)
        .env("POSTERN_USER_REQUESTS_PER_MINUTE", "3");
    sidecar.start_as(proxy)?;
    let edge = Edge::start(space)?;
    sidecar.answer(space)?;
    let ask = |key: &str| {
        edge.get(
            space,
            &sidecar.name,
            "/x",
            &[&format!("Authorization: Bearer {key}")],
        )
    };
    let seen = wait::until("an answer through the edge", FIRST_ANSWER, || {
        let answer = ask(OLD)?;
        ensure!(answer.status == 200, "{}", answer.text);
        answer.seen()
    })?;
    ensure!(
        seen.header("Tailscale-Funnel-Request") == ["?1"] && seen.header("Authorization").is_empty(),
        "the app saw {:?}",
        seen.headers
    );
    ensure!(ask("sk-other-0123456789abc")?.status == 401, "any key opens");
    fs::write(keys.join("bearer/ci"), NEW)?;
    wait::until(
        "the new key to hold, and the old one to be out",
        FIRST_ANSWER,
        || {
            let (new, old) = (ask(NEW)?.status, ask(OLD)?.status);
            ensure!((new, old) == (200, 401), "they are answered {new} and {old}");
            Ok(())
        },
    )?;
    let mut spent = 0;
    while Fetch::get("carol", url(&sidecar.name)).send()?.status == 200 {
        spent += 1;
        ensure!(spent < 20, "carol has no limit");
    }
    let refused = Fetch::get("carol", url(&sidecar.name)).send()?;
    ensure!(
        spent >= 3 && refused.status == 429 && !refused.header("Retry-After").is_empty(),
        "after {spent} she got {}",
        refused.status
    );
    Ok(())
}
