//! An Ingress is served over the tailnet with the caller's identity, as Go's own `serve` would.

use std::collections::BTreeMap;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_e2e::client::{Fetch, Seen};
use postern_e2e::lab::DOMAIN;
use postern_e2e::{tailnet, wait};
use rustix::process::{Pid, Signal, kill_process};

use crate::runner::Test;
use crate::space::{FIRST_ANSWER, Space, url};

pub(crate) const TESTS: &[Test] = &[
    Test::beside("a_get_through_an_ingress_shows_the_callers_identity", identity),
    Test::beside("a_tailnet_ingress_serves_the_same", tailnet_ingress),
    Test::beside("a_tagged_caller_has_no_user_headers", tagged),
    Test::beside("headers_equal_those_of_gos_serve", same_as_go),
    Test::beside("http_2_streams_websockets_and_trailers_pass", protocols),
    Test::beside("paths_lead_to_their_services", paths),
];

fn identity(space: &Space<'_>) -> Result<()> {
    let (name, url) = space.app()?;
    let fetched = Fetch::get("alice", format!("{url}/some/path?x=1")).send()?;
    let seen = fetched.seen()?;
    for (header, value) in [
        ("Tailscale-User-Login", "alice@example.com"),
        ("Tailscale-User-Name", "Alice Example"),
        (
            "Tailscale-User-Profile-Pic",
            "https://avatars.example.com/alice.png",
        ),
        ("Tailscale-Headers-Info", "https://tailscale.com/s/serve-headers"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", &format!("{name}.{DOMAIN}")),
    ] {
        ensure!(
            seen.header(header) == [value],
            "{header} is {:?}, not {value:?}",
            seen.header(header)
        );
    }
    let alice = space.device("alice-laptop")?;
    let address = alice["addresses"][0]
        .as_str()
        .unwrap_or_default()
        .trim_end_matches("/32");
    ensure!(
        seen.header("X-Forwarded-For") == [address],
        "X-Forwarded-For is {:?}, not {address}",
        seen.header("X-Forwarded-For")
    );
    ensure!(
        seen.uri == "/some/path?x=1" && seen.host == format!("{name}.{DOMAIN}"),
        "the app saw {} {}",
        seen.host,
        seen.uri
    );
    let names = fetched.cert.and_then(|cert| cert.names).unwrap_or_default();
    ensure!(
        names == [format!("{name}.{DOMAIN}")],
        "the certificate is for {names:?}"
    );
    space.note(fetched.path);
    Ok(())
}

fn tailnet_ingress(space: &Space<'_>) -> Result<()> {
    space.deploy("app")?;
    let name = space.name("ti");
    let url = space.tailnet_ingress(&name, "app")?;
    let seen = Fetch::get("bob", format!("{url}/x")).send()?.seen()?;
    ensure!(
        seen.header("Tailscale-User-Login") == ["bob@example.com"],
        "the app saw {:?}",
        seen.headers
    );
    let ready = |object: &serde_json::Value| {
        crate::space::condition(object, "Ready").is_some_and(|(status, ..)| status == "True")
    };
    let object = space.cluster().wait(
        "tailnetingress",
        &space.namespace,
        &name,
        Duration::from_secs(15),
        ready,
    )?;
    ensure!(
        object["status"]["url"].as_str() == Some(url.as_str()),
        "status.url is {}",
        object["status"]["url"]
    );
    Ok(())
}

fn tagged(space: &Space<'_>) -> Result<()> {
    let (_, url) = space.app()?;
    let seen = Fetch::get("tagged", url).send()?.seen()?;
    let ours: Vec<_> = seen
        .headers
        .keys()
        .filter(|name| name.to_ascii_lowercase().starts_with("tailscale-"))
        .collect();
    ensure!(ours.is_empty(), "the app saw {ours:?}");
    ensure!(
        seen.header("X-Forwarded-For").len() == 1,
        "the app saw {:?}",
        seen.headers
    );
    Ok(())
}

/// The same requests through Go's `serve` in front of the same Service.
fn same_as_go(space: &Space<'_>) -> Result<()> {
    let (name, ours) = space.app()?;
    let service = space
        .cluster()
        .get("service", &space.namespace, "app")?
        .context("no Service")?;
    let backend = format!(
        "http://{}",
        service["spec"]["clusterIP"].as_str().context("no clusterIP")?
    );
    let go_name = space.name("go");
    let mut serve = tailnet::peer(&space.env.lab, &space.env.helpers, "serve-config");
    serve.args([
        "-hostname",
        &go_name,
        "-authkey",
        "tskey-auth-tagged",
        "-backend",
        &backend,
        "-dir",
    ]);
    let folder = tempdir(&go_name);
    let _go = Running(
        serve
            .arg(&folder)
            .stdout(std::process::Stdio::null())
            .spawn()
            .context("cannot start the Go peer")?,
    );
    let theirs = url(&go_name);
    space.answer(&theirs)?;
    let mut compared = 0;
    for user in ["alice", "bob", "tagged"] {
        for request in [
            Fetch::get(user, ""),
            Fetch {
                proto: "h2".into(),
                ..Fetch::get(user, "")
            },
            Fetch {
                method: "POST".into(),
                body: "hello".into(),
                ..Fetch::get(user, "")
            },
            Fetch::get(user, "")
                .header("X-Forwarded-For", "1.2.3.4")
                .header("X-Forwarded-Proto", "gopher"),
            Fetch::get(user, "")
                .header("tailscale-user-login", "root@example.com")
                .header("Tailscale-Funnel-Request", "?1"),
            Fetch::get(user, "")
                .header("Accept-Encoding", "br")
                .header("User-Agent", ""),
            Fetch::get(user, "")
                .header("X-Own", "a")
                .header("X-Own", "b")
                .header("Cookie", "a=b"),
        ] {
            let path = "/a%20b/c?d=e&f=%20g";
            let at = |base: &str| Fetch {
                url: format!("{base}{path}"),
                ..request.clone()
            };
            let (mine, gos) = (at(&ours).send()?.seen()?, at(&theirs).send()?.seen()?);
            let (mine, gos) = (
                comparable(&mine, &name, &request),
                comparable(&gos, &go_name, &request),
            );
            ensure!(mine == gos, "for {request:?}\n ours: {mine:?}\n Go's: {gos:?}");
            compared += 1;
        }
    }
    space.note(format!("{compared} requests compared"));
    std::fs::remove_dir_all(folder).ok();
    Ok(())
}

/// What only one of them sends, and why that is right.
const OWN: &[&str] = &[
    "Postern-Hops",    // ours: breaks loops
    "X-Request-Id",    // ours: the access log has the same
    "Accept-Encoding", // Go's client asks for gzip where its caller did not; compared where the client sent it
];

/// What both must agree on; their own names apart.
pub(crate) fn comparable(seen: &Seen, name: &str, request: &Fetch) -> String {
    let own = |text: &str| text.replace(name, "NAME");
    let sent = |key: &str| {
        request
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case(key))
    };
    let headers = seen
        .headers
        .iter()
        .filter(|(key, _)| !OWN.contains(&key.as_str()) || sent(key));
    let headers: BTreeMap<_, Vec<String>> = headers
        .map(|(key, values)| (key, values.iter().map(|value| own(value)).collect()))
        .collect();
    let host = own(&seen.host);
    format!("{} {host} {} {:?} {headers:?}", seen.method, seen.uri, seen.body)
}

fn protocols(space: &Space<'_>) -> Result<()> {
    let (_, url) = space.app()?;
    let h2 = Fetch {
        proto: "h2".into(),
        ..Fetch::get("alice", &url)
    }
    .send()?;
    ensure!(h2.proto == "HTTP/2.0", "spoke {}", h2.proto);
    for (what, query) in [("NDJSON", "n=4&ms=300"), ("SSE", "n=4&ms=300&sse=1")] {
        for proto in ["h1", "h2"] {
            wait::until(&format!("{what} by {proto} as it is sent"), FIRST_ANSWER, || {
                let fetched = Fetch {
                    proto: proto.into(),
                    ..Fetch::get("alice", format!("{url}/stream?{query}"))
                };
                streamed(&fetched.send()?, 4, 300)
            })?;
        }
    }
    let socket = url.replacen("https", "wss", 1) + "/ws";
    let fetched = Fetch {
        web_socket: vec!["one".into(), "two".into()],
        ..Fetch::get("alice", socket)
    }
    .send()?;
    ensure!(
        fetched.messages == ["one", "two"],
        "the echo said {:?}",
        fetched.messages
    );
    let grpc = Fetch {
        proto: "h2".into(),
        method: "POST".into(),
        ..Fetch::get("alice", format!("{url}/trailers"))
    }
    .header("Content-Type", "application/grpc")
    .header("Te", "trailers")
    .send()?;
    let trailers = grpc.trailers.unwrap_or_default();
    ensure!(
        trailers == [("Grpc-Status".to_owned(), "0".to_owned())],
        "the trailers are {trailers:?}"
    );
    let big = Fetch::get("alice", format!("{url}/bytes?n=33554432")).send()?;
    ensure!(big.bytes == 33_554_432, "{} bytes came", big.bytes);
    Ok(())
}

/// Whether `count` chunks came as they were sent, `every` milliseconds apart.
pub(crate) fn streamed(fetched: &postern_e2e::client::Fetched, count: usize, every: u64) -> Result<()> {
    let chunks = fetched.chunks.as_deref().unwrap_or_default();
    let at: Vec<u64> = chunks.iter().map(|chunk| chunk.ms).collect();
    ensure!(
        at.len() >= count,
        "{count} chunks were sent, {} came: {at:?}",
        at.len()
    );
    // A body that is kept back comes at once, whenever it is asked for; a busy machine moves chunks now and then.
    let spread = at[at.len() - 1] - at[0];
    ensure!(
        2 * spread >= every * (count as u64 - 1),
        "sent {every} ms apart, they came after {at:?} ms"
    );
    Ok(())
}

fn paths(space: &Space<'_>) -> Result<()> {
    space.deploy("root")?;
    space.deploy("api")?;
    let name = space.name("paths");
    let path = |kind: &str, path: &str, service: &str| {
        format!(
            "      - {{ path: {path}, pathType: {kind}, backend: {{ service: {{ name: {service}, port: {{ name: http }} }} }} }}\n"
        )
    };
    space.cluster().apply(&format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{ name: {name}, namespace: {} }}\nspec:\n  ingressClassName: postern\n  rules:\n  - http:\n      paths:\n{}{}{}",
        space.namespace,
        path("Prefix", "/api", "api"),
        path("Exact", "/only", "api"),
        path("Prefix", "/", "root"),
    ))?;
    let url = url(&name);
    space.answer(&url)?;
    for (at, app) in [
        ("/", "root"),
        ("/api", "api"),
        ("/api/x", "api"),
        ("/apix", "root"),
        ("/only", "api"),
        ("/only/x", "root"),
    ] {
        let seen = Fetch::get("alice", format!("{url}{at}")).send()?.seen()?;
        ensure!(
            seen.app == app && seen.uri == at,
            "{at} led to {} as {}",
            seen.app,
            seen.uri
        );
    }
    Ok(())
}

/// A folder for a peer's state, below the system's temporary folder.
pub(crate) fn tempdir(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("postern-e2e-{name}"))
}

/// A program that ends with the test.
#[derive(Debug)]
pub(crate) struct Running(pub Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        command
            .spawn()
            .map(Self)
            .with_context(|| format!("cannot start {}", command.get_program().display()))
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn end(mut self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no pid")?, signal)?;
        wait::until("the program to end by itself", Duration::from_secs(30), || {
            self.0.try_wait()?.context("it still runs").map(drop)
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
