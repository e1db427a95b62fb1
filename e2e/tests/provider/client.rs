//! A client from a manifest: the Secret beside the app, what the provider knows of it, and what remains.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::product::NAMESPACE;
use postern_e2e::relying_party::RelyingParty;
use postern_e2e::wait;
use serde_json::Value;

use super::{READY, inside};
use crate::rights::can_i;
use crate::space::{FIRST_ANSWER, Space, condition, url};

pub(super) const REDIRECT: &str = "https://app.example.com/callback";
const OTHER: &str = "https://app.example.com/elsewhere";

/// From its manifest to its deletion; `name` is the device of the provider `login`, in the test's own namespace.
pub(super) fn declared(
    space: &Space<'_>,
    party: &RelyingParty,
    group: &str,
    name: &str,
    back_channel: &str,
) -> Result<()> {
    let clients = format!("{group}-{name}-idp-declared");
    let known = || -> Result<Value> {
        let secret = space.cluster().get("secret", NAMESPACE, &clients)?;
        Ok(secret.context("the provider has no Secret with clients")?["data"].clone())
    };
    apply(space, "app", REDIRECT, "")?;
    refused(space, "app", "SecretNotWritable", "oidcClientNamespaces")?;
    let_in(space)?;
    space.look_again("oidcclient", "app")?;
    let object = ready(space, "app")?;
    let secret = read(space, "app-oidc")?;
    let value = |key: &str| secret.get(key).map(String::as_str).unwrap_or_default();
    let id = value("CLIENT_ID");
    ensure!(!id.is_empty() && object["status"]["clientID"] == id, "{object}");
    for (key, path) in [
        ("ISSUER", ""),
        ("AUTH_URL", "/authorize"),
        ("TOKEN_URL", "/token"),
        ("USERINFO_URL", "/userinfo"),
        ("JWKS_URL", "/.well-known/jwks.json"),
        ("DISCOVERY_URL", "/.well-known/openid-configuration"),
    ] {
        ensure!(
            value(key) == format!("{}{path}", url(name)),
            "{key}={}",
            value(key)
        );
    }
    ensure!(value("BACK_CHANNEL") == back_channel, "{}", value("BACK_CHANNEL"));
    let columns = space
        .cluster()
        .run(&["get", "oidcclient", "app", "--namespace", &space.namespace])?;
    let columns: Vec<Vec<&str>> = columns
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    ensure!(
        columns[0] == ["NAME", "PROVIDER", "READY", "SECRET", "AGE"]
            && columns[1][..4] == ["app", "login", "True", "app-oidc"],
        "{columns:?}"
    );
    rights(space)?;
    let told = ["CLIENT_ID", "CLIENT_SECRET"].map(|key| (key, value(key)));
    inside(space, party, name, back_channel, &told)?;
    follows_its_manifest(space, name, id)?;
    changes_its_secret(space, name, &secret)?;
    leaves_others_alone(space)?;

    space.cluster().run(&[
        "delete",
        "oidcclient",
        "--all",
        "--namespace",
        &space.namespace,
        "--timeout=20s",
    ])?;
    wait::until("nothing of the client", FIRST_ANSWER, || {
        let left = space.cluster().get("secret", &space.namespace, "app-oidc")?;
        ensure!(left.is_none(), "its Secret is there");
        ensure!(known()?.is_null(), "the provider's Secret says {}", known()?);
        let status = authorize(name, id, REDIRECT)?;
        ensure!(status == 400, "authorize answers {status}");
        Ok(())
    })
}

fn apply(space: &Space<'_>, client: &str, redirect: &str, more: &str) -> Result<()> {
    space.cluster().apply(&format!(
        "apiVersion: postern.dev/v1alpha1\nkind: OIDCClient\nmetadata: {{ name: {client}, namespace: {} }}\n\
         spec: {{ identityProviderRef: {{ name: login }}, redirectURIs: ['{redirect}']{more} }}\n",
        space.namespace
    ))
}

/// The namespace opts in; the operator looks again by itself within half a minute, and at once when asked to.
pub(super) fn let_in(space: &Space<'_>) -> Result<()> {
    let namespace = &space.namespace;
    space.cluster().apply(&format!(
        r#"apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{ name: oidc-clients, namespace: {namespace} }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {NAMESPACE}-postern-oidc-clients }}
subjects: [{{ kind: ServiceAccount, name: postern-operator, namespace: {NAMESPACE} }}]
"#
    ))?;
    wait::until("the right to write Secrets", FIRST_ANSWER, || {
        let can = can_i(space, "postern-operator", "create", "secret", "", namespace);
        ensure!(can == "yes", "{can}");
        Ok(())
    })
}

fn rights(space: &Space<'_>) -> Result<()> {
    let wrong: Vec<String> = [
        ("get", "yes"),
        ("create", "yes"),
        ("patch", "yes"),
        ("list", "no"),
        ("watch", "no"),
        ("update", "no"),
        ("delete", "no"),
    ]
    .into_iter()
    .filter_map(|(verb, may)| {
        let can = can_i(space, "postern-operator", verb, "secret", "", &space.namespace);
        (can != may).then(|| format!("{verb}: {can}, should be {may}"))
    })
    .collect();
    ensure!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

/// Waits until the provider has the newest generation.
pub(super) fn ready(space: &Space<'_>, client: &str) -> Result<Value> {
    space
        .cluster()
        .wait("oidcclient", &space.namespace, client, READY, |object| {
            let conditions = object["status"]["conditions"].as_array();
            let ready = conditions.into_iter().flatten().find(|c| c["type"] == "Ready");
            ready.is_some_and(|ready| {
                ready["status"] == "True" && ready["observedGeneration"] == object["metadata"]["generation"]
            })
        })
}

pub(super) fn refused(space: &Space<'_>, client: &str, reason: &str, named: &str) -> Result<()> {
    let said = space
        .cluster()
        .wait("oidcclient", &space.namespace, client, FIRST_ANSWER, |object| {
            condition(object, "Ready").is_some_and(|(status, said, message)| {
                status == "False" && said == reason && message.contains(named)
            })
        });
    said.with_context(|| format!("{client} is not {reason}, naming {named:?}"))?;
    Ok(())
}

/// A Secret's values.
pub(super) fn read(space: &Space<'_>, name: &str) -> Result<BTreeMap<String, String>> {
    let template =
        r#"--output=go-template={{range $k, $v := .data}}{{$k}}={{$v | base64decode}}{{"\n"}}{{end}}"#;
    let text = space
        .cluster()
        .run(&["get", "secret", name, "--namespace", &space.namespace, template])?;
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Ok(pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect())
}

/// What the authorization endpoint answers alice.
pub(super) fn authorize(name: &str, id: &str, redirect: &str) -> Result<u16> {
    let query = format!(
        "client_id={id}&redirect_uri={redirect}&response_type=code&scope=openid&state=s&prompt=consent\
         &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256"
    );
    Ok(Fetch::get("alice", format!("{}/authorize?{query}", url(name)))
        .send()?
        .status)
}

/// Another redirect URI counts as soon as it is said that it does, and nobody is started anew.
fn follows_its_manifest(space: &Space<'_>, name: &str, id: &str) -> Result<()> {
    let statuses = || anyhow::Ok((authorize(name, id, REDIRECT)?, authorize(name, id, OTHER)?));
    let before = statuses()?;
    ensure!(before == (200, 400), "before the change: {before:?}");
    apply(
        space,
        "app",
        OTHER,
        ", displayName: The App, access: { allow: [{ user: alice@example.com }] }",
    )?;
    ready(space, "app")?;
    let after = statuses()?;
    ensure!(after == (400, 200), "after the change: {after:?}");
    let list = Fetch::get("alice", url(name)).send()?.body;
    ensure!(
        list.contains("The App") && list.contains("Configuration") && !list.contains(&format!("/edit/{id}")),
        "the admin page says {list}"
    );
    Ok(())
}

/// A deleted Secret comes back with another client secret, and the one before it is good for a while.
fn changes_its_secret(space: &Space<'_>, name: &str, before: &BTreeMap<String, String>) -> Result<()> {
    space
        .cluster()
        .run(&["delete", "secret", "app-oidc", "--namespace", &space.namespace])?;
    space.look_again("oidcclient", "app")?;
    let after = wait::until("another client secret", READY, || {
        let after = read(space, "app-oidc")?;
        ensure!(
            after["CLIENT_SECRET"] != before["CLIENT_SECRET"],
            "it is the same"
        );
        Ok(after)
    })?;
    let proves = |secret: &str| {
        let fetch = Fetch {
            method: "POST".into(),
            body: format!(
                "client_id={}&client_secret={secret}&token=none",
                after["CLIENT_ID"]
            ),
            ..Fetch::get("alice", format!("{}/introspect", url(name)))
        };
        let fetch = fetch.header("Content-Type", "application/x-www-form-urlencoded");
        anyhow::Ok(fetch.send()?.status)
    };
    wait::until("the new secret to be good", FIRST_ANSWER, || {
        let status = proves(&after["CLIENT_SECRET"])?;
        ensure!(status == 200, "it is answered {status}");
        Ok(())
    })?;
    let (old, none) = (proves(&before["CLIENT_SECRET"])?, proves("none")?);
    ensure!(
        old == 200 && none == 401,
        "the old secret is answered {old}, a wrong one {none}"
    );
    Ok(())
}

/// A Secret of the user's stays as it is, and the client says so.
fn leaves_others_alone(space: &Space<'_>) -> Result<()> {
    space.cluster().apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: taken, namespace: {} }}\nstringData: {{ CLIENT_SECRET: mine }}\n",
        space.namespace
    ))?;
    apply(space, "second", REDIRECT, ", secretName: taken")?;
    refused(space, "second", "SecretNotOwned", "Secret taken")?;
    let there = read(space, "taken")?;
    ensure!(
        there == [("CLIENT_SECRET".to_owned(), "mine".to_owned())].into(),
        "it has {:?} now",
        there.keys()
    );
    Ok(())
}
