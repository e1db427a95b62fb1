//! Funnel from manifests: the internet reaches what they say, under the lock that they say, and nothing by accident.
//! A Go node is the edge.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postern_e2e::client::{Fetch, Seen};
use postern_e2e::control::Control;
use postern_e2e::lab::DOMAIN;
use postern_e2e::product::NAMESPACE;
use postern_e2e::{app, command, tailnet, wait};
use serde_json::{Value, json};

use crate::examples::Example;
use crate::first_light::{Running, tempdir};
use crate::rights::can_i;
use crate::runner::{Test, seconds};
use crate::space::{Space, condition, url};

pub(crate) const TESTS: &[Test] = &[
    Test::beside("the_internet_reaches_what_a_manifest_opens_with_a_key", locked),
    Test::beside("nothing_comes_to_be_on_the_internet_by_accident", by_accident),
    Test::beside("callers_have_their_limits_on_both_sides", limits),
    Test::beside("the_example_funnel_key_holds", example),
];

/// For a condition, or a change of keys: the operator looks at Secrets of other namespaces every 30 s.
const SAID: Duration = Duration::from_secs(90);
const OLD: &str = "sk-old-0123456789abcdef";
const NEW: &str = "sk-new-0123456789abcdef";

fn locked(space: &Space<'_>) -> Result<()> {
    space.deploy("app")?;
    space.deploy("secret-app")?;
    let name = space.name("fun");
    let edge = Edge::start(space)?;
    keys(space, &[("ci", OLD)])?;
    space.cluster().apply(&format!(
        "{}  rules:
  - path: {{ value: /public }}
    backend: {{ service: {{ name: app, port: 80 }} }}
    access: {{ allow: [{{ user: alice@example.com }}] }}
  - backend: {{ service: {{ name: secret-app, port: 80 }} }}
  funnel: {{ rules: [/public], auth: {{ bearerKeys: {{ secretRef: {{ name: keys }} }} }} }}
",
        head(space, &name)
    ))?;
    said(space, &name, "FunnelReady", "FunnelReady", "")?;
    said(space, &name, "Ready", "Ready", "")?;
    let bearer = |key: &str| format!("Authorization: Bearer {key}");
    let ask = |path: &str, headers: &[&str]| edge.get(space, &name, path, headers);

    let seen = wait::until("an answer through the edge", SAID, || {
        let answer = ask(
            "/public/x?y=1",
            &[&bearer(OLD), "Tailscale-User-Login: alice@example.com"],
        )?;
        ensure!(answer.status == 200, "{}", answer.text);
        answer.seen()
    })?;
    ensure!(seen.app == "app" && seen.uri == "/public/x?y=1", "{seen:?}");
    for (header, value) in [
        ("Tailscale-Funnel-Request", "?1"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", &format!("{name}.{DOMAIN}")),
    ] {
        ensure!(
            seen.header(header) == [value],
            "{header} is {:?}",
            seen.header(header)
        );
    }
    let told: Vec<_> = (seen.headers.keys())
        .filter(|name| name.starts_with("Tailscale-") && *name != "Tailscale-Funnel-Request")
        .collect();
    ensure!(told.is_empty(), "somebody on the internet has {told:?}");
    ensure!(
        seen.header("Authorization").is_empty(),
        "the app was told the key"
    );

    for (path, key, wanted) in [
        ("/public", "", 401),
        ("/public", "Authorization: Bearer sk-other-0123456789abc", 401),
        ("/", &*bearer(OLD), 404),
        ("/elsewhere", "", 404),
    ] {
        let answer = ask(path, &[key])?;
        ensure!(answer.status == wanted, "{path} with {key:?}: {}", answer.text);
    }
    let on_tailnet = Fetch::get("alice", format!("{}/public", url(&name)))
        .send()?
        .seen()?;
    ensure!(
        on_tailnet.header("Tailscale-User-Login") == ["alice@example.com"]
            && on_tailnet.header("Tailscale-Funnel-Request").is_empty(),
        "{:?}",
        on_tailnet.headers
    );
    let bob = Fetch::get("bob", format!("{}/public", url(&name))).send()?;
    ensure!(bob.status == 403, "bob gets {}", bob.status);
    logged(space, &name)?;
    rights(space, &name)?;

    // Without the capability an ingress node is a peer like others.
    edge.may(false)?;
    wait::until("the edge to be refused", SAID, || {
        ensure!(ask("/public", &[&bearer(OLD)]).is_err(), "it is let in");
        Ok(())
    })?;
    edge.may(true)?;
    wait::until("the edge to be let in", SAID, || {
        ask("/public", &[&bearer(OLD)]).map(drop)
    })?;

    change_over(space, &name, &edge)
}

/// Proxies read hashes, and no more than that; the operator what it was given.
fn rights(space: &Space<'_>, name: &str) -> Result<()> {
    let hashes = format!("default-{name}-keys");
    for (account, verb, secret, namespace, may) in [
        ("default-proxy", "get", &*hashes, NAMESPACE, true),
        ("default-proxy", "patch", &hashes, NAMESPACE, false),
        ("default-proxy", "get", "keys", &space.namespace, false),
        ("postern-operator", "get", "keys", &space.namespace, true),
        ("postern-operator", "get", "others", &space.namespace, false),
        ("postern-operator", "patch", "keys", &space.namespace, false),
    ] {
        let can = can_i(space, account, verb, "secret", secret, namespace);
        ensure!((can == "yes") == may, "{account} {verb} {secret}: {can}");
    }
    Ok(())
}

/// Old and new keys hold at once, the old one is out when it is taken out, and no pod restarts for it.
fn change_over(space: &Space<'_>, name: &str, edge: &Edge) -> Result<()> {
    let status = |key: &str| -> Result<u16> {
        let header = format!("Authorization: Bearer {key}");
        Ok(edge.get(space, name, "/public", &[&header])?.status)
    };
    let pods = || -> Result<Vec<Value>> {
        let pods = space
            .cluster()
            .list("pod", NAMESPACE, "postern.dev/proxy-group=default")?;
        let of = |pod: &Value| {
            json!([
                pod["metadata"]["uid"],
                pod["status"]["containerStatuses"][0]["restartCount"]
            ])
        };
        Ok(pods.iter().map(of).collect())
    };
    let before = pods()?;
    ensure!(!before.is_empty(), "there is no proxy");
    keys(space, &[("ci", &format!("{OLD}\n{NEW}"))])?;
    let start = Instant::now();
    wait::until("the new key to hold", SAID, || {
        ensure!(status(OLD)? == 200, "the old one doesn't");
        ensure!(status(NEW)? == 200, "not yet");
        Ok(())
    })?;
    space.note(format!("a new key after {}", seconds(start.elapsed())));
    keys(space, &[("ci", NEW), ("short", "secret")])?;
    wait::until("the old key to be out", SAID, || {
        ensure!(status(NEW)? == 200, "the new one doesn't hold");
        ensure!(status(OLD)? == 401, "not yet");
        Ok(())
    })?;
    // The bad entry is named, and costs the good ones nothing.
    said(space, name, "ResolvedRefs", "InvalidSecret", "entry short")?;
    space
        .cluster()
        .run(&["delete", "secret", "keys", "--namespace", &space.namespace])?;
    wait::until("nobody to have a key", SAID, || {
        ensure!(status(NEW)? == 401, "not yet");
        Ok(())
    })?;
    said(
        space,
        name,
        "ResolvedRefs",
        "SecretNotFound",
        "spec.funnel.auth.bearerKeys",
    )?;
    ensure!(pods()? == before, "a proxy was restarted");
    Ok(())
}

fn by_accident(space: &Space<'_>) -> Result<()> {
    space.deploy("app")?;
    let edge = Edge::start(space)?;
    // As people have it from the Tailscale operator.
    let ingress = space.name("ann");
    let manifest = app::ingress(&space.namespace, &ingress, "app");
    let annotated = manifest.replace(
        "namespace:",
        "annotations: { tailscale.com/funnel: \"true\" }, namespace:",
    );
    space.cluster().apply(&annotated)?;
    let event = space.event(&ingress, "FunnelNeedsLock", SAID)?;
    ensure!(event.contains("tailscale.com/funnel"), "{event}");
    space.answer(&url(&ingress))?;
    ensure!(
        edge.get(space, &ingress, "/", &[]).is_err(),
        "the Ingress is on the internet"
    );

    let name = space.name("ti");
    let apply = |funnel: &str| {
        space.cluster().apply(&format!(
            "{}  backend: {{ service: {{ name: app, port: 80 }} }}\n  funnel: {funnel}\n",
            head(space, &name)
        ))
    };
    apply("{ limits: { perAddress: { connections: 5 } } }")?;
    said(
        space,
        &name,
        "FunnelReady",
        "FunnelNeedsLock",
        "unauthenticated: true",
    )?;
    space.answer(&url(&name))?;
    ensure!(
        edge.get(space, &name, "/", &[]).is_err(),
        "it is on the internet without a lock"
    );

    // Said in words it is.
    apply("{ unauthenticated: true }")?;
    said(space, &name, "FunnelReady", "FunnelReady", "")?;
    wait::until("an answer through the edge", SAID, || {
        let answer = edge.get(space, &name, "/", &["Authorization: Bearer the-apps-own"])?;
        ensure!(answer.status == 200, "{}", answer.text);
        ensure!(
            answer.seen()?.header("Authorization") == ["Bearer the-apps-own"],
            "{}",
            answer.text
        );
        Ok(())
    })?;
    // What is taken back is gone, and the tailnet's side stays.
    apply("{}")?;
    wait::until("it to be off the internet", SAID, || {
        ensure!(edge.get(space, &name, "/", &[]).is_err(), "it is there still");
        Ok(())
    })?;
    space.answer(&url(&name))?;

    // What the policy doesn't allow is said.
    Control.call(
        "PUT",
        &format!("/admin/nodes/{name}/caps"),
        Some(&json!({ "https": null })),
    )?;
    apply("{ unauthenticated: true }")?;
    said(space, &name, "FunnelReady", "FunnelUnavailable", "funnel")?;
    said(space, &name, "Ready", "FunnelUnavailable", "funnel")?;
    space.answer(&url(&name)).map(drop)
}

fn limits(space: &Space<'_>) -> Result<()> {
    space.deploy("app")?;
    let name = space.name("lim");
    let edge = Edge::start(space)?;
    keys(space, &[("one", OLD), ("two", NEW)])?;
    space.cluster().apply(&format!(
        "{}  rules:
  - backend: {{ service: {{ name: app, port: 80 }} }}
    limits: {{ perUser: {{ requestsPerMinute: 3 }} }}
  - path: {{ value: /slow }}
    backend: {{ service: {{ name: app, port: 80 }} }}
    rewrite: {{ replacePrefix: /stream }}
    limits: {{ perUser: {{ concurrent: 1 }} }}
  funnel:
    rules: [/]
    sources: [127.0.0.0/30]
    auth: {{ bearerKeys: {{ secretRef: {{ name: keys }} }} }}
    limits: {{ perKey: {{ requestsPerMinute: 2 }}, perAddress: {{ requestsPerMinute: 4 }} }}
",
        head(space, &name)
    ))?;
    said(space, &name, "Ready", "Ready", "")?;
    let ask = |from: &str, key: &str| {
        let header = format!("Authorization: Bearer {key}");
        edge.ask(space, from, &name, "/", &[&header], None)
    };
    // Who isn't let in uses nothing up.
    let stranger = wait::until("an answer through the edge", SAID, || ask("127.0.0.9", OLD))?;
    ensure!(stranger.status == 403, "{}", stranger.text);
    for (from, key, wanted) in [
        ("127.0.0.1", OLD, 200),
        ("127.0.0.1", OLD, 200),
        ("127.0.0.1", OLD, 429),
        // Another address changes nothing for the key, nor a key for the address.
        ("127.0.0.2", OLD, 429),
        ("127.0.0.1", NEW, 200),
        ("127.0.0.1", NEW, 429),
        ("127.0.0.2", NEW, 200),
    ] {
        let answer = ask(from, key)?;
        ensure!(
            answer.status == wanted,
            "{key} from {from}, wanted {wanted}: {}",
            answer.text
        );
        let after = answer.text.to_ascii_lowercase().contains("\nretry-after: ");
        ensure!(after == (wanted == 429), "{}", answer.text);
    }

    let on_tailnet = |user: &str, key: &str| {
        let fetch = Fetch::get(user, url(&name));
        match key {
            "" => fetch.send(),
            key => fetch.header("Authorization", &format!("Bearer {key}")).send(),
        }
    };
    let mut spent = 0;
    while on_tailnet("carol", "")?.status == 200 {
        spent += 1;
        ensure!(spent < 20, "carol has no limit");
    }
    ensure!(spent >= 3, "carol had {spent}");
    let refused = on_tailnet("carol", "")?;
    ensure!(
        refused.status == 429 && !refused.header("Retry-After").is_empty(),
        "{refused:?}"
    );
    // The other user is another matter, but not with a key that is used up.
    ensure!(
        on_tailnet("bob", NEW)?.status == 429,
        "the key holds on the tailnet"
    );
    ensure!(on_tailnet("bob", "")?.status == 200, "bob pays for others");

    at_once(&name)
}

/// One request at a time: the second is refused while the first one's answer goes on, and let in after it.
fn at_once(name: &str) -> Result<()> {
    let slow = |ms: u32, n: u32| Fetch::get("alice", format!("{}/slow?n={n}&ms={ms}", url(name)));
    std::thread::scope(|scope| {
        // It may itself come while one of the others runs.
        let first = scope.spawn(|| {
            wait::until("the first to be let in", SAID, || {
                let first = slow(1000, 8).send()?;
                ensure!(first.status == 200, "status {}", first.status);
                Ok(first)
            })
        });
        let refused = wait::until("the second to be refused", SAID, || {
            let second = slow(1, 1).send()?;
            ensure!(second.status == 429, "status {}", second.status);
            Ok(second)
        });
        first.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
        ensure!(refused?.header("Retry-After") == ["1"], "no Retry-After");
        wait::until("the next to be let in", SAID, || {
            ensure!(slow(1, 1).send()?.status == 200, "not yet");
            Ok(())
        })
    })
}

/// `examples/funnel-key`, with a key of ours.
fn example(space: &Space<'_>) -> Result<()> {
    let example = Example::new(space, "funnel-key", "llm")?;
    let key = format!("--from-literal=laptop={OLD}");
    (space.cluster()).run(&[
        "create",
        "secret",
        "generic",
        "public-keys",
        "--namespace",
        "llm",
        &key,
    ])?;
    for file in ["server.yaml", "tailnet-ingress.yaml"] {
        example.apply(&example.read(file, &[])?)?;
    }
    let edge = Edge::start(space)?;
    let bearer = format!("Authorization: Bearer {OLD}");
    let chat = |headers: &[&str]| edge.ask(space, "127.0.0.1", "llm", "/api/chat", headers, Some("{}"));
    wait::until("an answer through the edge", SAID, || {
        let answer = chat(&[&bearer])?;
        ensure!(answer.status == 200, "{}", answer.text);
        ensure!(
            answer.body.trim_end().ends_with(r#""done":true}"#),
            "{}",
            answer.text
        );
        Ok(())
    })?;
    ensure!(chat(&[])?.status == 401, "no key is needed");
    for path in ["/", "/api/tags", "/api/delete"] {
        let answer = edge.get(space, "llm", path, &[&bearer])?;
        ensure!(answer.status == 404, "{path} is public: {}", answer.text);
    }
    let tags = |user: &str| Fetch::get(user, format!("{}/api/tags", url("llm"))).send();
    ensure!(tags("bob")?.status == 403, "bob may do everything");
    ensure!(tags("alice")?.status != 403, "alice may not");
    Ok(())
}

/// The first lines of a TailnetIngress.
fn head(space: &Space<'_>, name: &str) -> String {
    format!(
        "apiVersion: postern.dev/v1alpha1\nkind: TailnetIngress\nmetadata: {{ name: {name}, namespace: {} }}\nspec:\n",
        space.namespace
    )
}

/// The Secret `keys`, which the operator may read.
fn keys(space: &Space<'_>, entries: &[(&str, &str)]) -> Result<()> {
    let namespace = &space.namespace;
    let data: serde_json::Map<String, Value> = (entries.iter())
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    let rules =
        json!([{ "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["keys"], "verbs": ["get"] }]);
    let meta = json!({ "name": "keys", "namespace": namespace });
    let group = "rbac.authorization.k8s.io";
    for object in [
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": data }),
        json!({ "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": meta, "rules": rules }),
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": meta,
            "roleRef": { "apiGroup": group, "kind": "Role", "name": "keys" },
            "subjects": [{ "kind": "ServiceAccount", "name": "postern-operator", "namespace": NAMESPACE }],
        }),
    ] {
        space.cluster().apply(&object.to_string())?;
    }
    Ok(())
}

fn said(space: &Space<'_>, name: &str, kind: &str, reason: &str, named: &str) -> Result<Value> {
    space
        .cluster()
        .wait("tailnetingress", &space.namespace, name, SAID, |object| {
            condition(object, kind)
                .is_some_and(|(_, said, message)| said == reason && message.contains(named))
        })
        .with_context(|| format!("{kind} is not {reason}, naming {named:?}"))
}

/// The proxy's access log has the client's own address, not the edge's, and the key's name.
fn logged(space: &Space<'_>, name: &str) -> Result<()> {
    wait::until("the access log", SAID, || {
        let log = space.cluster().run(&[
            "logs",
            "--namespace",
            NAMESPACE,
            "--selector=app.kubernetes.io/name=postern-proxy",
            "--tail=2000",
        ])?;
        let line = (log.lines())
            .find(|line| line.contains(&format!("{name}.{DOMAIN}")) && line.contains("key:ci"))
            .context("there is no line with the key")?;
        ensure!(line.contains("127.0.0.1"), "{line}");
        ensure!(!log.contains(OLD), "the log has the key");
        Ok(())
    })
}

/// A Go node in the place of Funnel's edge.
pub(crate) struct Edge {
    name: String,
    listen: String,
    process: Option<Running>,
}

/// What somebody on the internet got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
    body: String,
}

impl Edge {
    pub(crate) fn start(space: &Space<'_>) -> Result<Self> {
        let name = space.name("edge");
        // The port is free again when the edge wants it, and nobody is given it twice in a row.
        let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut edge = tailnet::peer(&space.env.lab, &space.env.helpers, "edge");
        edge.args([
            "-hostname",
            &name,
            "-authkey",
            "tskey-auth-carol",
            "-listen",
            &listen,
            "-dir",
        ]);
        edge.arg(tempdir(&name)).stdout(Stdio::null());
        let process = Running::start(&mut edge)?;
        wait::until("the edge to listen", SAID, || {
            std::net::TcpStream::connect(&listen)
                .map(drop)
                .context(listen.clone())
        })?;
        Ok(Self {
            name,
            listen,
            process: Some(process),
        })
    }

    /// Gives it the capability, or takes it.
    fn may(&self, may: bool) -> Result<()> {
        let path = format!("/admin/nodes/{}/ingress-cap", self.name);
        Control.call("PUT", &path, Some(&json!(may))).map(drop)
    }

    /// Where clients on the internet connect to.
    pub(crate) fn address(&self) -> &str {
        &self.listen
    }

    pub(crate) fn get(&self, space: &Space<'_>, name: &str, path: &str, headers: &[&str]) -> Result<Answer> {
        self.ask(space, "127.0.0.1", name, path, headers, None)
    }

    /// A request from an address, a POST where it has a body; an error where the edge wasn't let in.
    fn ask(
        &self,
        space: &Space<'_>,
        from: &str,
        name: &str,
        path: &str,
        headers: &[&str],
        body: Option<&str>,
    ) -> Result<Answer> {
        let host = format!("{name}.{DOMAIN}");
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--include",
            "--http1.1",
            "--max-time",
            "10",
        ]);
        curl.args(["--interface", from, "--cacert"])
            .arg(tailnet::issuing_root(&space.env.lab));
        curl.args(["--connect-to", &format!("{host}:443:{}", self.listen)]);
        for header in headers.iter().filter(|header| !header.is_empty()) {
            curl.args(["--header", header]);
        }
        if let Some(body) = body {
            curl.args(["--data", body]);
        }
        let text = command::output(curl.arg(format!("https://{host}{path}")))?;
        let (head, body) = text.split_once("\r\n\r\n").context("no head")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok(Answer {
            status,
            body: body.to_owned(),
            text,
        })
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        drop(self.process.take());
        let _ = std::fs::remove_dir_all(tempdir(&self.name));
        // A device that nobody will delete otherwise.
        let _ = Control.call("DELETE", &format!("/admin/nodes/{}", self.name), None);
    }
}

impl Answer {
    pub(crate) fn seen(&self) -> Result<Seen> {
        serde_json::from_str(&self.body).with_context(|| format!("not the backend's echo: {}", self.text))
    }
}
