//! A serve.json means what it means to Go.

use std::fs;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::lab::DOMAIN;
use postern_e2e::tailnet;
use serde_json::json;

use super::fixture::Sidecar;
use crate::first_light::{Running, tempdir};
use crate::runner::seconds;
use crate::services::Api;
use crate::space::{Space, url};

/// The same serve.json in Go's `serve` and in ours: every path has the same answer, of the node and of the Service
/// that it hosts. (Files are not among them: a `tsnet` node may not serve any.) And a program beside ours reaches
/// Go's.
pub(super) fn same_as_go(space: &Space<'_>) -> Result<()> {
    let sidecar = Sidecar::start(space, "same", 9988)?;
    let (service, go_service) = (space.name("web"), space.name("web-go"));
    // Defined late, as people do it: that it is missing is said, and nothing else waits for it.
    sidecar.write(&everything(&service))?;
    sidecar.answer(space)?;
    sidecar.says(&format!("approved as a host of svc:{service}"))?;
    let api = Api::open()?;
    for name in [&service, &go_service] {
        let ports = ["tcp:80", "tcp:443", "tcp:5432", "tcp:5433"];
        api.put(&json!({ "name": format!("svc:{name}"), "ports": ports }))?;
    }

    let go_name = space.name("same-go");
    let folder = tempdir(&go_name);
    let go_config = sidecar.folder.join("go.json");
    fs::write(&go_config, everything(&go_service))?;
    let mut serve = tailnet::peer(&space.env.lab, &space.env.helpers, "serve-config");
    serve.args(["-hostname", &go_name, "-authkey", "tskey-auth-tagged", "-serve"]);
    serve.arg(go_config).arg("-dir").arg(&folder);
    let go = Running::start(serve.stdout(Stdio::null()))?;
    let mut compared = 0;
    for (ours, gos) in [(&sidecar.name, &go_name), (&service, &go_service)] {
        space.answer(&url(gos)).with_context(|| format!("Go's {gos}"))?;
        space.answer(&url(ours)).with_context(|| sidecar.said())?;
        compared += same_paths(ours, gos)?;
    }
    space.note(format!("{compared} answers compared"));
    for protocol in ["socks5h", "http"] {
        let text = sidecar.fetches(space, protocol, &format!("{}/text", url(&go_name)))?;
        ensure!(text == "a text", "by {protocol} Go's node said {text}");
    }

    // A host that ends is withdrawn first.
    drop(go);
    fs::remove_dir_all(folder).ok();
    let start = Instant::now();
    sidecar.end()?;
    space.note(format!(
        "the Service was left within {}",
        seconds(start.elapsed())
    ));
    [service, go_service]
        .iter()
        .try_for_each(|name| api.delete(&format!("svc:{name}")))
}

/// How many answers were compared.
fn same_paths(ours: &str, gos: &str) -> Result<usize> {
    let answer = |name: &str, scheme: &str, rest: &str| -> Result<(u16, String)> {
        let base = format!("{scheme}://{name}.{}", DOMAIN);
        let fetched = Fetch::get("alice", format!("{base}{rest}")).send()?;
        let said = match (fetched.status, fetched.seen()) {
            (200, Ok(seen)) => crate::first_light::comparable(&seen, name, &Fetch::default()),
            (200, Err(_)) => fetched.body.clone(),
            (300..400, _) => fetched.header("location").join(" "),
            _ => String::new(),
        };
        Ok((fetched.status, said.replace(name, "NAME")))
    };
    let paths = PATHS.iter().flat_map(|path| [("https", *path), ("http", *path)]);
    let bytes = [("http", ":5432/x"), ("https", ":5433/x")];
    let mut compared = 0;
    for (scheme, rest) in paths.chain(bytes) {
        let (ours, gos) = (answer(ours, scheme, rest)?, answer(gos, scheme, rest)?);
        ensure!(ours == gos, "{scheme} {rest}:\n ours: {ours:?}\n Go's: {gos:?}");
        compared += 1;
    }
    Ok(compared)
}

/// A serve.json whose node and Service have the same handlers. Within a Service Go knows no placeholder.
fn everything(service: &str) -> String {
    let fqdn = format!("{service}.{}", DOMAIN);
    let section = |host: &str| {
        r#""TCP": {
                "443": { "HTTPS": true }, "80": { "HTTP": true }, "5432": { "TCPForward": "127.0.0.1:PORT" },
                "5433": { "TCPForward": "localhost:PORT", "TerminateTLS": "HOST" }
            },
            "Web": { "HOST:443": { "Handlers": HANDLERS }, "HOST:80": { "Handlers": HANDLERS } }"#
            .replace("HOST", host)
            .replace("HANDLERS", HANDLERS)
            .replace("PORT", "9988")
    };
    let (own, of_service) = (section("${TS_CERT_DOMAIN}"), section(&fqdn));
    format!(r#"{{ {own}, "Services": {{ "svc:{service}": {{ {of_service} }} }} }}"#)
}

const HANDLERS: &str = r#"{
  "/": { "Proxy": "http://127.0.0.1:PORT" },
  "/foo": { "Proxy": "http://127.0.0.1:PORT/base" },
  "/bar/": { "Proxy": "http://localhost:PORT/base/" },
  "/d": { "Text": "exact" }, "/d/": { "Proxy": "127.0.0.1:PORT" },
  "/deep/er": { "Proxy": "http://127.0.0.1:PORT/one" }, "/deep/er/est": { "Proxy": "http://127.0.0.1:PORT/two" },
  "/text": { "Text": "a text" },
  "/to": { "Redirect": "https://example.com/there" },
  "/gone": { "Redirect": "301:https://${HOST}/new${REQUEST_URI}" },
  "/kept": { "Redirect": "308:/other" },
  "/caf\u00e9": { "Proxy": "http://127.0.0.1:PORT" },
  "/port": { "Proxy": "PORT" }
}"#;

const PATHS: &[&str] = &[
    "/",
    "/x",
    "/x/?q=1&r=%20",
    "/foo",
    "/foo/",
    "/foo/bar",
    "/foo/bar/",
    "/foobar",
    "/foo/a%20b%2Cc",
    "/bar",
    "/bar/",
    "/bar/x",
    "/d",
    "/d/",
    "/d/x",
    "/deep/er",
    "/deep/er/est/x",
    "/deep",
    "/text",
    "/text/below",
    "/to",
    "/to/x?y=z",
    "/gone",
    "/kept",
    "/caf%C3%A9",
    "/caf%C3%A9/x",
    "/port/x",
    "/x;v=1/y",
    "/~x",
];
