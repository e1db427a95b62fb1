//! A client in another namespace than its provider's: the provider says whose clients it takes. The same client goes
//! to another provider.

use anyhow::{Result, ensure};
use postern_e2e::wait;
use serde_json::{Value, json};

use super::client::{REDIRECT, authorize, let_in, read, ready, refused};
use crate::space::{FIRST_ANSWER, Space, url};

/// The namespace, and a provider of its own that is ready by the time it is wanted.
pub(super) fn settles(neighbour: &Space<'_>) -> Result<()> {
    neighbour.create()?;
    let_in(neighbour)?;
    neighbour.cluster().apply(&format!(
        "apiVersion: postern.dev/v1alpha1\nkind: IdentityProvider\nmetadata: {{ name: second, namespace: {} }}\n\
         spec: {{ hostname: {}, proxyGroupName: default }}\n",
        neighbour.namespace,
        hostname(neighbour)
    ))
}

/// `name` is the device of the provider `login`.
pub(super) fn comes_and_goes(space: &Space<'_>, neighbour: &Space<'_>, name: &str) -> Result<()> {
    let login = format!("{{ name: login, namespace: {} }}", space.namespace);
    apply(neighbour, "app", &login, REDIRECT, false)?;
    refused(neighbour, "app", "NotAllowed", "spec.identityProviderRef: ")?;

    let both = [&space.namespace, &neighbour.namespace];
    let term = json!({ "key": "kubernetes.io/metadata.name", "operator": "In", "values": both });
    allow(
        space,
        &json!({ "from": "Selector", "selector": { "matchExpressions": [term] } }),
    )?;
    let object = ready(neighbour, "app")?;
    let id = object["status"]["clientID"].as_str().unwrap_or_default();
    let secret = read(neighbour, "app-oidc")?;
    ensure!(
        secret["ISSUER"] == url(name) && secret["CLIENT_ID"] == id,
        "the Secret has {} and {}",
        secret["ISSUER"],
        secret["CLIENT_ID"]
    );
    is_answered(name, id, REDIRECT, 200)?;

    // What isn't allowed any more is out, although it was let in once.
    allow(space, &json!({ "from": "Same", "selector": null }))?;
    refused(neighbour, "app", "NotAllowed", "spec.clients.allowedNamespaces")?;
    is_answered(name, id, REDIRECT, 400)?;

    apply(neighbour, "app", "{ name: second }", REDIRECT, false)?;
    let moved = ready(neighbour, "app")?;
    ensure!(moved["status"]["clientID"] == id, "it is {}", moved["status"]);
    let second = hostname(neighbour);
    let after = read(neighbour, "app-oidc")?;
    ensure!(
        after["ISSUER"] == url(&second) && after["CLIENT_SECRET"] == secret["CLIENT_SECRET"],
        "the Secret has {}",
        after["ISSUER"]
    );
    is_answered(&second, id, REDIRECT, 200)?;
    is_answered(name, id, REDIRECT, 400)?;
    a_program(neighbour, &second)
}

/// A client that can keep no secret gets none, and listens on whatever port of loopback is free (RFC 8252, section 7.3).
fn a_program(neighbour: &Space<'_>, provider: &str) -> Result<()> {
    apply(
        neighbour,
        "program",
        "{ name: second }",
        "http://127.0.0.1/callback",
        true,
    )?;
    let object = ready(neighbour, "program")?;
    let id = object["status"]["clientID"].as_str().unwrap_or_default();
    let secret = read(neighbour, "program-oidc")?;
    ensure!(
        secret["CLIENT_ID"] == id && !secret.contains_key("CLIENT_SECRET"),
        "its Secret has {:?}",
        secret.keys()
    );
    is_answered(provider, id, "http://127.0.0.1:51004/callback", 200)?;
    is_answered(provider, id, "http://127.0.0.1:51004/elsewhere", 400)
}

fn hostname(neighbour: &Space<'_>) -> String {
    neighbour.name("idp")
}

fn apply(neighbour: &Space<'_>, name: &str, provider: &str, redirect: &str, public: bool) -> Result<()> {
    neighbour.cluster().apply(&format!(
        "apiVersion: postern.dev/v1alpha1\nkind: OIDCClient\nmetadata: {{ name: {name}, namespace: {} }}\n\
         spec: {{ identityProviderRef: {provider}, redirectURIs: ['{redirect}'], public: {public} }}\n",
        neighbour.namespace
    ))
}

fn allow(space: &Space<'_>, namespaces: &Value) -> Result<()> {
    let patch = json!({ "spec": { "clients": { "allowedNamespaces": namespaces } } }).to_string();
    let patch = [
        "patch",
        "identityprovider",
        "login",
        "--type=merge",
        "--patch",
        &patch,
    ];
    let of_space = ["--namespace", space.namespace.as_str()];
    space.cluster().run(&[&patch[..], &of_space].concat()).map(drop)
}

/// What the authorization endpoint of a provider makes of the client.
fn is_answered(provider: &str, id: &str, redirect: &str, wanted: u16) -> Result<()> {
    wait::until("the provider to know", FIRST_ANSWER, || {
        let status = authorize(provider, id, redirect)?;
        ensure!(status == wanted, "{provider} answers {status}, not {wanted}");
        Ok(())
    })
}
