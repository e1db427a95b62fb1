//! The same proxy without Kubernetes: beside a process on loopback, set up as the usual container is.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postern_e2e::client::{Fetch, Fetched};
use postern_e2e::{product, tailnet, wait};
use rustix::process::Signal;
use serde_json::json;

use crate::first_light::{Running, streamed, tempdir};
use crate::funnel::Edge;
use crate::runner::{Test, seconds};
use crate::services::Api;
use crate::space::{FIRST_ANSWER, Space, url};

pub(crate) const TESTS: &[Test] = &[
    Test::beside("a_sidecar_streams_as_the_usual_container_would", streams),
    Test::beside("a_changed_serve_json_is_served_and_a_broken_one_is_not", reloads),
    Test::beside("a_restarted_sidecar_is_the_same_node", restarts),
    Test::beside("a_sidecar_does_what_the_containers_environment_says", environment),
    Test::beside("a_target_is_served_at_a_terminal_and_its_url_printed", foreground),
    Test::beside(
        "a_serve_json_is_on_funnel_with_a_key_and_users_have_limits",
        limits,
    ),
    Test::beside(
        "a_serve_json_leads_where_gos_serve_leads_a_service_too",
        same_as_go,
    ),
    Test::beside("the_local_api_answers_as_gos_daemon", local_api),
    Test::beside("nginx_lets_in_whom_forward_auth_knows", nginx),
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

fn restarts(space: &Space<'_>) -> Result<()> {
    let mut sidecar = Sidecar::start(space, "again", 9983)?;
    sidecar.answer(space)?;
    let identity = |space: &Space<'_>, name: &str| -> Result<(String, String)> {
        let device = space.device(name)?;
        Ok((device["stableID"].to_string(), device["addresses"].to_string()))
    };
    let before = identity(space, &sidecar.name)?;
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
    let port = |port: u16| format!("http://{}.{}:{port}/x", sidecar.name, postern_e2e::lab::DOMAIN);
    let seen = Fetch::get("alice", port(sidecar.port)).send()?.seen()?;
    ensure!(seen.uri == "/x", "the app saw {seen:?}");
    let other = Fetch::get("alice", port(sidecar.port + 1)).send();
    ensure!(other.is_err(), "a port that was not named answers {other:?}");
    sidecar.says(&format!("POSTERN_FORWARD_PORTS={}", sidecar.port + 1))?;

    let curl = |arguments: &[&str]| {
        let mut curl = Command::new("curl");
        postern_e2e::command::output(curl.args(["--silent", "--show-error", "--fail"]).args(arguments))
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

/// `serve TARGET` until Ctrl-C, and the questions that one asks beside it; then `funnel TARGET`, for the internet.
fn foreground(space: &Space<'_>) -> Result<()> {
    let name = space.name("fore");
    let folder = tempdir(&name);
    fs::create_dir_all(&folder)?;
    let (socket, said) = (folder.join("tailscaled.sock"), folder.join("said"));
    let url = format!("{}/hello", url(&name));
    let start = |subcommand: &str| -> Result<Running> {
        let mut proxy = alone(space);
        proxy.args([
            subcommand,
            "--set-path",
            "/hello",
            "--hostname",
            &name,
            "text:hello",
        ]);
        proxy
            .arg("--state-dir")
            .arg(folder.join("state"))
            .arg("--socket")
            .arg(&socket);
        let log = File::create(folder.join("log"))?;
        let running = Running::start(proxy.stdout(File::create(&said)?).stderr(log))?;
        wait::until("the URL", FIRST_ANSWER, || {
            let said = fs::read_to_string(&said)?;
            let warned = said.contains("everybody on the internet");
            ensure!(
                said.ends_with(&format!("{url}\nCtrl-C ends it.\n")) && warned == (subcommand == "funnel"),
                "it says {said:?}"
            );
            Ok(())
        })?;
        Ok(running)
    };
    let serving = start("serve")?;
    let body = Fetch::get("alice", &url).send()?.body;
    ensure!(body == "hello", "it says {body:.100}");

    let ask = |arguments: &[&str]| {
        let mut ask = alone(space);
        postern_e2e::command::output(ask.env("TS_SOCKET", &socket).args(arguments))
    };
    let own = ask(&["ip", "-4"])?;
    let device = space.device(&name)?;
    ensure!(
        device["addresses"][0] == format!("{}/32", own.trim()),
        "its address is {own}, and to control {device}"
    );
    let alice = ask(&["ip", "-4", "alice-laptop"])?;
    let who = ask(&["whois", alice.trim()])?;
    ensure!(who.contains("alice@example.com"), "whois says {who}");
    let status = ask(&["status"])?;
    ensure!(
        status.contains(own.trim()) && status.contains("alice-laptop"),
        "the status is {status}"
    );
    let config = folder.join("serve.json");
    fs::write(&config, SERVE.replace("PORT", "3000"))?;
    let told = ask(&["check", &config.display().to_string()])?;
    ensure!(
        told.contains("https 443 its own domain/* -> http://127.0.0.1:3000"),
        "check says {told}"
    );
    serving.end(Signal::INT)?;

    let funnelling = start("funnel")?;
    let edge = Edge::start(space)?;
    wait::until("an answer through the edge", FIRST_ANSWER, || {
        let answer = edge.get(space, &name, "/hello", &[])?;
        ensure!(
            answer.status == 200 && answer.text.ends_with("hello"),
            "{}",
            answer.text
        );
        Ok(())
    })?;
    funnelling.end(Signal::INT)?;
    fs::remove_dir_all(folder).context("remove its folder")
}

/// The same serve.json in Go's `serve` and in ours: every path has the same answer, of the node and of the Service
/// that it hosts. (Files are not among them: a `tsnet` node may not serve any.) And a program beside ours reaches
/// Go's.
fn same_as_go(space: &Space<'_>) -> Result<()> {
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
        let base = format!("{scheme}://{name}.{}", postern_e2e::lab::DOMAIN);
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
    let fqdn = format!("{service}.{}", postern_e2e::lab::DOMAIN);
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

/// Go's own client asks us and a `tsnet` node of the same tailnet: what they say of others is the same, as soon
/// as both have heard the same news.
fn local_api(space: &Space<'_>) -> Result<()> {
    let sidecar = Sidecar::start(space, "local-api", 9984)?;
    sidecar.answer(space)?;
    let address = |device: &str| -> Result<String> {
        let device = space.device(device)?;
        let address = device["addresses"][0].as_str().context("no address")?;
        Ok(address.trim_end_matches("/32").to_owned())
    };
    let alice = format!("{}:1", address("alice-laptop")?);
    let own = address(&sidecar.name)?;
    let go_name = space.name("ask");
    let folder = tempdir(&go_name);
    let compared = wait::until("the same answers", Duration::from_secs(60), || {
        let mut ask = tailnet::peer(&space.env.lab, &space.env.helpers, "ask");
        ask.args(["-hostname", &go_name, "-authkey", "tskey-auth-tagged", "-dir"])
            .arg(&folder)
            .arg("-socket")
            .arg(sidecar.socket());
        let said = postern_e2e::command::output(ask.args([&alice, &own, "192.0.2.1:1"]))?;
        let asked = said
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find(|event| event["event"] == "asked")
            .with_context(|| format!("the Go client said {said}"))?;
        same_answers(&asked["asked"], &asked["gos"], &[&alice, "192.0.2.1:1"], &own)
    })?;
    fs::remove_dir_all(folder).ok();
    ensure!(compared > 100, "only {compared} values were compared");
    space.note(format!("{compared} values compared"));
    Ok(())
}

/// How many values were compared. `others`: addresses that are neither node's own.
fn same_answers(
    ours: &serde_json::Value,
    gos: &serde_json::Value,
    others: &[&str],
    own: &str,
) -> Result<usize> {
    let mut compared = 0;
    let mut same = |what: &str, ours: &serde_json::Value, gos: &serde_json::Value| -> Result<()> {
        compared += 1;
        ensure!(ours == gos, "{what}:\n ours: {ours}\n Go's: {gos}");
        Ok(())
    };
    for addr in others {
        let (ours, gos) = (&ours["WhoIs"][addr], &gos["WhoIs"][addr]);
        same(addr, &without_values(ours), &without_values(gos))?;
    }
    same(
        "our user",
        &ours["WhoIs"][own]["UserProfile"],
        &gos["WhoIs"][own]["UserProfile"],
    )?;
    let (ours, gos) = (&ours["Status"], &gos["Status"]);
    for field in [
        "BackendState",
        "TUN",
        "HaveNodeKey",
        "AuthURL",
        "MagicDNSSuffix",
        "CurrentTailnet",
    ] {
        same(field, &ours[field], &gos[field])?;
    }
    let peers = gos["Peer"].as_object().context("Go knows no peers")?;
    for (key, theirs) in peers {
        // Not ourselves, nor who came in between.
        let Some(mine) = ours["Peer"].get(key) else {
            continue;
        };
        for (field, value) in theirs.as_object().into_iter().flatten() {
            if !OF_THE_PATH.contains(&field.as_str()) {
                same(&format!("{key} {field}"), &mine[field], value)?;
            }
        }
    }
    Ok(compared)
}

/// Of a node's capability without values Go repeats how control wrote it, `null` or `[]`. Tailscale's writes
/// `null`, and so do we. An address that nobody has gets a message instead.
fn without_values(who: &serde_json::Value) -> serde_json::Value {
    let mut who = who.clone();
    if let Some(caps) = who
        .pointer_mut("/Node/CapMap")
        .and_then(serde_json::Value::as_object_mut)
    {
        for values in caps.values_mut().filter(|values| values == &&json!([])) {
            *values = serde_json::Value::Null;
        }
    }
    who
}

/// What each node knows of its own way to a peer, and what changes between two questions.
const OF_THE_PATH: &[&str] = &[
    "CurAddr",
    "Relay",
    "RxBytes",
    "TxBytes",
    "LastWrite",
    "LastHandshake",
    "LastSeen",
    "Online",
    "Active",
    "InMagicSock",
    "InEngine",
    "TaildropTarget",
];

/// Debian's nginx behind our node: it asks who the client of a forwarded connection is.
fn nginx(space: &Space<'_>) -> Result<()> {
    let sidecar = Sidecar::start(space, "nginx", 9985)?;
    sidecar.answer(space)?;
    let (listen, by_proxy_protocol) = (9986, 9987);
    let config = NGINX
        .replace("FOLDER", &sidecar.folder.display().to_string())
        .replace("LISTEN", &listen.to_string())
        .replace("PROXIED", &by_proxy_protocol.to_string())
        .replace("APP", "9985");
    let path = sidecar.folder.join("nginx.conf");
    fs::write(&path, config)?;
    let mut nginx = Command::new("nginx");
    nginx
        .arg("-c")
        .arg(&path)
        .arg("-e")
        .arg(sidecar.folder.join("nginx.log"));
    let _nginx = Running::start(nginx.stdin(Stdio::null()))?;
    sidecar.write(&format!(
        r#"{{"TCP":{{"80":{{"TCPForward":"127.0.0.1:{listen}"}},
            "81":{{"TCPForward":"127.0.0.1:{by_proxy_protocol}","ProxyProtocol":2}}}}}}"#
    ))?;
    let name = format!("{}.{}", sidecar.name, postern_e2e::lab::DOMAIN);
    for port in [80, 81] {
        let url = format!("http://{name}:{port}/x");
        let seen = wait::until(&url, Duration::from_secs(20), || {
            let fetched = Fetch::get("alice", &url)
                .header("X-Webauth-User", "root")
                .send()?;
            ensure!(fetched.status == 200, "status {}", fetched.status);
            fetched.seen()
        })?;
        for (header, value) in [
            ("X-Webauth-User", "alice@example.com"),
            ("X-Webauth-Login", "alice"),
            ("X-Webauth-Name", "Alice Example"),
        ] {
            ensure!(
                seen.header(header) == [value],
                "{port}: {header} is {:?}",
                seen.header(header)
            );
        }
        let tagged = Fetch::get("tagged", &url).send()?;
        ensure!(
            tagged.status == 403,
            "{port}: a tagged machine got {}",
            tagged.status
        );
    }
    let direct = postern_e2e::control::http("GET", &format!("http://127.0.0.1:{listen}/x"), None);
    let refused = direct
        .err()
        .context("nginx let somebody in who did not come by the tailnet")?;
    ensure!(format!("{refused:#}").contains("401"), "{refused:#}");
    Ok(())
}

/// As README of nginx-auth has it, in short; one server believes the socket, one the PROXY protocol. One process, so
/// that its end is the end of it all.
const NGINX: &str = r"
daemon off;
master_process off;
user root;
worker_processes 1;
pid FOLDER/nginx.pid;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path FOLDER; proxy_temp_path FOLDER; fastcgi_temp_path FOLDER;
  uwsgi_temp_path FOLDER; scgi_temp_path FOLDER;
  map $proxy_protocol_addr $client { '' $remote_addr; default $proxy_protocol_addr; }
  map $proxy_protocol_port $client_port { '' $remote_port; default $proxy_protocol_port; }
  server {
    listen 127.0.0.1:LISTEN;
    listen 127.0.0.1:PROXIED proxy_protocol;
    location / {
      auth_request /auth;
      auth_request_set $auth_user $upstream_http_tailscale_user;
      auth_request_set $auth_name $upstream_http_tailscale_name;
      auth_request_set $auth_login $upstream_http_tailscale_login;
      proxy_set_header X-Webauth-User $auth_user;
      proxy_set_header X-Webauth-Name $auth_name;
      proxy_set_header X-Webauth-Login $auth_login;
      proxy_pass http://127.0.0.1:APP;
    }
    location = /auth {
      internal;
      proxy_pass http://unix:FOLDER/auth.sock;
      proxy_pass_request_body off;
      proxy_set_header Content-Length '';
      proxy_set_header Remote-Addr $client;
      proxy_set_header Remote-Port $client_port;
    }
  }
}
";

/// A proxy and its application, two processes in the lab's network namespace.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) name: String,
    pub(crate) folder: std::path::PathBuf,
    pub(crate) log: std::path::PathBuf,
    /// The application's.
    port: u16,
    /// Where programs beside it reach the tailnet.
    way_out: String,
    /// Where it says how it is.
    probes: String,
    /// Where the LocalAPI is beside its socket.
    local_api: String,
    proxy: Option<Running>,
    _app: Running,
}

impl Sidecar {
    fn start(space: &Space<'_>, name: &str, port: u16) -> Result<Self> {
        let mut sidecar = Self::prepare(space, name, port)?;
        sidecar.run(space)?;
        Ok(sidecar)
    }

    /// All but the proxy.
    pub(crate) fn prepare(space: &Space<'_>, name: &str, port: u16) -> Result<Self> {
        let name = space.name(name);
        let folder = tempdir(&name);
        fs::create_dir_all(folder.join("state"))?;
        let mut app = Command::new(space.env.helpers.program("backend"));
        let app = Running::start(
            app.args(["-addr", &format!("127.0.0.1:{port}")])
                .stdin(Stdio::null()),
        )?;
        let sidecar = Self {
            log: folder.join("log"),
            name,
            folder,
            port,
            way_out: format!("localhost:{}", port + 1000),
            probes: format!("127.0.0.1:{}", port + 2000),
            local_api: format!("127.0.0.1:{}", port + 3000),
            proxy: None,
            _app: app,
        };
        sidecar.write(&SERVE.replace("PORT", &port.to_string()))?;
        Ok(sidecar)
    }

    pub(crate) fn run(&mut self, space: &Space<'_>) -> Result<()> {
        let proxy = self.command(space)?;
        self.start_as(proxy)
    }

    fn start_as(&mut self, mut proxy: Command) -> Result<()> {
        self.proxy = Some(Running::start(&mut proxy)?);
        Ok(())
    }

    /// As the container would be set up.
    fn command(&self, space: &Space<'_>) -> Result<Command> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut proxy = alone(space);
        proxy
            .arg("run")
            .env("TS_STATE_DIR", self.folder.join("state"))
            .env("TS_HOSTNAME", &self.name)
            .env("TS_SERVE_CONFIG", self.folder.join("serve.json"))
            .env("TS_SOCKET", self.socket())
            .env("TS_SOCKS5_SERVER", &self.way_out)
            .env("TS_OUTBOUND_HTTP_PROXY_LISTEN", &self.way_out)
            .env("TS_ENABLE_HEALTH_CHECK", "true")
            .env("TS_ENABLE_METRICS", "true")
            .env("TS_LOCAL_ADDR_PORT", &self.probes)
            .env("POSTERN_LOCAL_API", &self.local_api)
            .env("POSTERN_LOCAL_API_PASSWORD_FILE", self.folder.join("password"))
            .env("POSTERN_FORWARD_PORTS", self.port.to_string())
            .env(
                "POSTERN_FORWARD_AUTH",
                format!("unix:{}", self.folder.join("auth.sock").display()),
            );
        proxy.stdout(log.try_clone()?).stderr(log);
        Ok(proxy)
    }

    /// Where the LocalAPI is.
    fn socket(&self) -> std::path::PathBuf {
        self.folder.join("tailscaled.sock")
    }

    /// Ends it as a container runtime would, and starts it again.
    pub(crate) fn restart(&mut self, space: &Space<'_>) -> Result<()> {
        if let Some(running) = self.proxy.take() {
            running.end(Signal::TERM)?;
        }
        self.run(space)
    }

    fn write(&self, serve: &str) -> Result<()> {
        let path = self.folder.join("serve.json");
        let fresh = Path::new(&self.folder).join("serve.json.new");
        fs::write(&fresh, serve)?;
        fs::rename(fresh, path).context("cannot write serve.json")
    }

    /// Ends it as a container runtime would.
    fn end(mut self) -> Result<()> {
        match self.proxy.take() {
            Some(running) => running.end(Signal::TERM),
            None => Ok(()),
        }
    }

    pub(crate) fn answer(&self, space: &Space<'_>) -> Result<Fetched> {
        let answer = space.answer_within(&url(&self.name), FIRST_ANSWER);
        answer.with_context(|| self.said())
    }

    /// What a program beside it gets of a tailnet's URL by its way out.
    fn fetches(&self, space: &Space<'_>, protocol: &str, url: &str) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "20",
            "--cacert",
        ]);
        curl.arg(tailnet::issuing_root(&space.env.lab));
        curl.args(["--proxy", &format!("{protocol}://{}", self.way_out), url]);
        postern_e2e::command::output(&mut curl)
    }

    /// Waits until the log has it.
    fn says(&self, text: &str) -> Result<()> {
        wait::until(text, Duration::from_secs(10), || {
            let log = fs::read_to_string(&self.log)?;
            ensure!(
                log.contains(text),
                "the proxy said\n{}",
                postern_e2e::command::tail(&log, 15)
            );
            Ok(())
        })
    }

    /// The end of the log.
    fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        format!("the proxy said\n{}", postern_e2e::command::tail(&log, 15))
    }
}

/// The program where it runs without Kubernetes, on the lab's tailnet.
fn alone(space: &Space<'_>) -> Command {
    let mut proxy = Command::new(product::program(&space.env.lab, "postern-proxy"));
    proxy.env_clear();
    proxy
        .env("TS_AUTHKEY", "tskey-auth-tagged")
        .env(
            "TS_EXTRA_ARGS",
            format!("--login-server={}", tailnet::control_url()),
        )
        .env("TS_DEBUG_ACME_DIRECTORY_URL", tailnet::acme_directory())
        .env("SSL_CERT_FILE", space.env.lab.pki().join("trust.pem"))
        .env("POSTERN_ADMIN_PORT", "0")
        .stdin(Stdio::null());
    proxy
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        drop(self.proxy.take());
        let _ = fs::remove_dir_all(&self.folder);
    }
}
