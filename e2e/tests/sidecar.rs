//! The same proxy without Kubernetes: beside a process on loopback, set up as the usual container is.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_e2e::client::{Fetch, Fetched};
use postern_e2e::{product, tailnet, wait};
use rustix::process::Signal;

use crate::first_light::{Running, streamed, tempdir};
use crate::runner::Test;
use crate::space::{FIRST_ANSWER, Space, url};

pub(crate) const TESTS: &[Test] = &[
    Test::beside("a_sidecar_streams_as_the_usual_container_would", streams),
    Test::beside("a_changed_serve_json_is_served_and_a_broken_one_is_not", reloads),
    Test::beside("a_restarted_sidecar_is_the_same_node", restarts),
    Test::beside("a_serve_json_leads_where_gos_serve_leads", same_as_go),
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
        let fetched = Fetch::get("alice", format!("{url}/stream?{query}")).send()?;
        streamed(&fetched, 4, 300).context(query)?;
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
    let log = fs::read_to_string(&sidecar.log)?;
    ensure!(
        log.contains("serve.json"),
        "the log does not name the file that it refused"
    );
    Ok(())
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
    let start = std::time::Instant::now();
    sidecar.answer(space)?;
    space.note(format!(
        "answered {} after the restart",
        crate::runner::seconds(start.elapsed())
    ));
    let after = identity(space, &sidecar.name)?;
    ensure!(before == after, "it was {before:?} and is {after:?}");
    Ok(())
}

/// The same serve.json in Go's `serve` and in ours: every path has the same answer. (Files are not among them:
/// a `tsnet` node may not serve any.)
fn same_as_go(space: &Space<'_>) -> Result<()> {
    let sidecar = Sidecar::start(space, "same", 9988)?;
    let config = EVERYTHING.replace("HANDLERS", HANDLERS).replace("PORT", "9988");
    sidecar.write(&config)?;
    let go_name = space.name("same-go");
    let folder = tempdir(&go_name);
    let mut serve = tailnet::peer(&space.env.lab, &space.env.helpers, "serve-config");
    serve.args(["-hostname", &go_name, "-authkey", "tskey-auth-tagged", "-serve"]);
    serve
        .arg(sidecar.folder.join("serve.json"))
        .arg("-dir")
        .arg(&folder);
    let _go = Running::start(serve.stdout(Stdio::null()))?;
    space.answer(&url(&go_name))?;
    sidecar.answer(space)?;
    let mut compared = 0;
    for path in PATHS {
        for scheme in ["https", "http"] {
            let answer = |name: &str| -> Result<(u16, String)> {
                let base = format!("{scheme}://{name}.{}", postern_e2e::lab::DOMAIN);
                let fetched = Fetch::get("alice", format!("{base}{path}")).send()?;
                let said = match (fetched.status, fetched.seen()) {
                    (200, Ok(seen)) => crate::first_light::comparable(&seen, name, &Fetch::default()),
                    (200, Err(_)) => fetched.body.clone(),
                    (300..400, _) => fetched.header("location").join(" "),
                    _ => String::new(),
                };
                Ok((fetched.status, said.replace(name, "NAME")))
            };
            let (ours, gos) = (answer(&sidecar.name)?, answer(&go_name)?);
            ensure!(ours == gos, "{scheme} {path}:\n ours: {ours:?}\n Go's: {gos:?}");
            compared += 1;
        }
    }
    fs::remove_dir_all(folder).ok();
    space.note(format!("{compared} answers compared"));
    Ok(())
}

const EVERYTHING: &str = r#"{
  "TCP": { "443": { "HTTPS": true }, "80": { "HTTP": true } },
  "Web": {
    "${TS_CERT_DOMAIN}:443": { "Handlers": HANDLERS },
    "${TS_CERT_DOMAIN}:80": { "Handlers": HANDLERS }
  }
}"#;

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
        for values in caps
            .values_mut()
            .filter(|values| values == &&serde_json::json!([]))
        {
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
            proxy: None,
            _app: app,
        };
        sidecar.write(&SERVE.replace("PORT", &port.to_string()))?;
        Ok(sidecar)
    }

    pub(crate) fn run(&mut self, space: &Space<'_>) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut proxy = Command::new(product::program(&space.env.lab, "postern-proxy"));
        proxy.arg("run").env_clear();
        proxy
            .env("TS_AUTHKEY", "tskey-auth-tagged")
            .env("TS_STATE_DIR", self.folder.join("state"))
            .env("TS_HOSTNAME", &self.name)
            .env("TS_SERVE_CONFIG", self.folder.join("serve.json"))
            .env("TS_SOCKET", self.socket())
            .env(
                "POSTERN_FORWARD_AUTH",
                format!("unix:{}", self.folder.join("auth.sock").display()),
            )
            .env(
                "TS_EXTRA_ARGS",
                format!("--login-server={}", tailnet::control_url()),
            )
            .env("TS_DEBUG_ACME_DIRECTORY_URL", tailnet::acme_directory())
            .env("SSL_CERT_FILE", space.env.lab.pki().join("trust.pem"))
            .env("POSTERN_ADMIN_PORT", "0");
        proxy.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.proxy = Some(Running::start(&mut proxy)?);
        Ok(())
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

    pub(crate) fn answer(&self, space: &Space<'_>) -> Result<Fetched> {
        space
            .answer_within(&url(&self.name), FIRST_ANSWER)
            .with_context(|| {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                format!("the proxy said\n{}", postern_e2e::command::tail(&log, 15))
            })
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        drop(self.proxy.take());
        let _ = fs::remove_dir_all(&self.folder);
    }
}
