//! Funnel from manifests: the internet reaches what they say, under the lock that they say, and nothing by accident.
//! A Go node is the edge.

mod edge;
mod keys;
mod limits;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::control::Control;
use postern_e2e::lab::DOMAIN;
use postern_e2e::product::NAMESPACE;
use postern_e2e::{app, wait};
use serde_json::{Value, json};

pub(crate) use self::edge::Edge;
use self::keys::{OLD, OLD_PASSWORD};
use crate::examples::Example;
use crate::rights::can_i;
use crate::runner::Test;
use crate::space::{Space, condition, url};

pub(crate) const TESTS: &[Test] = &[
    Test::beside("the_internet_reaches_what_a_manifest_opens_with_a_key", locked),
    Test::beside("nothing_comes_to_be_on_the_internet_by_accident", by_accident),
    Test::beside("callers_have_their_limits_on_both_sides", limits::hold),
    Test::beside("the_example_funnel_key_holds", example),
];

/// For a condition, or a change of keys: the operator looks at Secrets of other namespaces every 30 s.
const SAID: Duration = Duration::from_secs(90);

fn locked(space: &Space<'_>) -> Result<()> {
    space.deploy("app")?;
    space.deploy("secret-app")?;
    let name = space.name("fun");
    keys::old(space)?;
    space.cluster().apply(&format!(
        "{}  rules:
  - path: {{ value: /public }}
    backend: {{ service: {{ name: app, port: 80 }} }}
    access: {{ allow: [{{ user: alice@example.com }}] }}
  - backend: {{ service: {{ name: secret-app, port: 80 }} }}
  funnel:
    ports: [443, 10000]
    rules: [/public]
    auth: {{ bearerKeys: {{ secretRef: {{ name: keys }} }}, basic: {{ secretRef: {{ name: people }} }} }}
",
        head(space, &name)
    ))?;
    let edge = Edge::start(space)?;
    let by_ipv6 = Edge::of_port(space, 10_000, "::1")?;
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

    // The operator looks at the keys that are added by itself; meanwhile everything else is tried.
    let proxies = keys::proxies(space)?;
    keys::both(space)?;
    for (path, key, wanted) in [
        ("/public", "", 401),
        ("/public", "Authorization: Bearer sk-other-0123456789abc", 401),
        ("/", &*bearer(OLD), 404),
        ("/elsewhere", "", 404),
    ] {
        let answer = ask(path, &[key])?;
        ensure!(answer.status == wanted, "{path} with {key:?}: {}", answer.text);
    }
    of_another_port(space, &name, &by_ipv6)?;
    drop(by_ipv6);
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

    keys::change_over(space, &name, &edge)?;
    ensure!(keys::proxies(space)? == proxies, "a proxy was restarted");
    Ok(())
}

/// Port 10000, for a client that has IPv6 alone; on the tailnet it is what it is on 443.
fn of_another_port(space: &Space<'_>, name: &str, edge: &Edge) -> Result<()> {
    let authority = format!("{name}.{DOMAIN}:10000");
    let bearer = format!("Authorization: Bearer {OLD}");
    let seen = wait::until("an answer through its edge", SAID, || {
        edge.get(space, name, "/public", &[&bearer])?.seen()
    })?;
    for (header, value) in [
        ("Tailscale-Funnel-Request", "?1"),
        ("X-Forwarded-For", "::1"),
        ("X-Forwarded-Host", &authority),
    ] {
        ensure!(
            seen.header(header) == [value],
            "{header} is {:?}",
            seen.header(header)
        );
    }
    for (path, key, wanted) in [("/public", "", 401), ("/", &*bearer, 404)] {
        let answer = edge.get(space, name, path, &[key])?;
        ensure!(answer.status == wanted, "{path} with {key:?}: {}", answer.text);
    }
    let on_tailnet = Fetch::get("alice", format!("https://{authority}/public")).send()?;
    ensure!(
        on_tailnet.seen()?.header("Tailscale-User-Login") == ["alice@example.com"],
        "{on_tailnet:?}"
    );
    Ok(())
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

    // Said in words it is: on that port, and there on the internet alone.
    apply("{ ports: [8443], only: true, unauthenticated: true }")?;
    let of_8443 = Edge::of_port(space, 8443, "127.0.0.1")?;
    said(space, &name, "FunnelReady", "FunnelReady", "")?;
    wait::until("an answer through the edge", SAID, || {
        let answer = of_8443.get(space, &name, "/", &["Authorization: Bearer the-apps-own"])?;
        ensure!(answer.status == 200, "{}", answer.text);
        ensure!(
            answer.seen()?.header("Authorization") == ["Bearer the-apps-own"],
            "{}",
            answer.text
        );
        Ok(())
    })?;
    ensure!(
        edge.get(space, &name, "/", &[]).is_err(),
        "port 443 is on the internet too"
    );
    let on_tailnet = Fetch {
        timeout_ms: Some(2000),
        ..Fetch::get("alice", format!("{}:8443/", url(&name)))
    };
    ensure!(on_tailnet.send().is_err(), "port 8443 is on the tailnet too");
    space.answer(&url(&name))?;
    // What is taken back is gone, and the tailnet's side stays.
    apply("{}")?;
    wait::until("it to be off the internet", SAID, || {
        ensure!(of_8443.get(space, &name, "/", &[]).is_err(), "it is there still");
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
        for secret in [OLD, OLD_PASSWORD] {
            ensure!(!log.contains(secret), "the log has {secret}");
        }
        Ok(())
    })
}
