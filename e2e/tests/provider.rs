//! The identity provider from a manifest: one of its own pods, its documents in objects of the cluster.

mod client;
mod guest;

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::product::NAMESPACE;
use postern_e2e::relying_party::RelyingParty;
use postern_e2e::{command, wait};
use serde_json::Value;

use crate::first_light::Running;
use crate::funnel::Edge;
use crate::identity::{admits_alice, grant_alice, speaks_as_it_should};
use crate::rights::can_i;
use crate::runner::{Test, seconds};
use crate::space::{FIRST_ANSWER, Space, condition, url};

pub(crate) const TESTS: &[Test] = &[Test::beside(
    "an_identity_provider_is_served_and_a_login_outlives_its_pod",
    provider,
)];

/// Pods of its own are started, and a certificate is issued.
pub(crate) const READY: Duration = Duration::from_secs(120);
const DOCUMENT: &str = "postern.dev/role=document";

fn provider(space: &Space<'_>) -> Result<()> {
    let neighbour = space.neighbour();
    let result = guest::settles(&neighbour).and_then(|()| served(space, &neighbour));
    neighbour.delete();
    result
}

fn served(space: &Space<'_>, neighbour: &Space<'_>) -> Result<()> {
    let name = space.name("idp");
    let namespace = &space.namespace;
    space.cluster().apply(&format!(
        "apiVersion: postern.dev/v1alpha1\nkind: IdentityProvider\nmetadata: {{ name: login, namespace: {namespace} }}\n\
         spec: {{ hostname: {name}, backChannel: {{ enabled: true }}, funnel: {{ enabled: true }}, dynamicRegistration: {{ enabled: true }}, tokenExchange: {{ enabled: true }} }}\n"
    ))?;
    let object = space
        .cluster()
        .wait("identityprovider", namespace, "login", READY, |object| {
            condition(object, "Ready").is_some_and(|(status, _, _)| status == "True")
        })?;
    ensure!(
        object["status"]["issuer"] == url(&name),
        "the status is {}",
        object["status"]
    );
    let uid = object["metadata"]["uid"].as_str().context("no UID")?.to_owned();
    let documents = || {
        space.cluster().list(
            "configmap",
            NAMESPACE,
            &format!("{DOCUMENT},postern.dev/owner-uid={uid}"),
        )
    };
    let group = documents()?[0]["metadata"]["labels"]["postern.dev/proxy-group"]
        .as_str()
        .unwrap_or_default()
        .to_owned();

    space.answer(&format!("{}/.well-known/openid-configuration", url(&name)))?;
    grant_alice(space, &name)?;
    admits_alice(&name)?;
    // Whoever asks without being proven leaves nothing behind.
    let unknown = format!(
        "{}/authorize?client_id=nobody&redirect_uri=https://app.example.com/",
        url(&name)
    );
    let refused = Fetch::get("bob", unknown).send()?;
    ensure!(refused.status == 400, "an unknown client got {}", refused.status);
    let written = |documents: Vec<Value>| documents.iter().filter(|map| !map["data"].is_null()).count();
    ensure!(written(documents()?) == 0, "something was written");

    let party = RelyingParty::of(&space.env.lab)?;
    let mut script = party.script(&space.env.lab, "protocol.mjs", &url(&name))?;
    let seen = serde_json::from_str(&command::output(&mut script)?)?;
    speaks_as_it_should(space, &name, &seen)?;
    ensure!(
        written(documents()?) > 0,
        "nothing was written where it should be"
    );
    let text = serde_json::to_string(&documents()?)?;
    for secret in ["client_secret", "refresh_token", "access_token"] {
        ensure!(!text.contains(secret), "{secret} is in a ConfigMap");
    }
    rights(space, &group, &name)?;
    let back_channel = back_channel(&object)?;
    inside(space, &party, &name, back_channel, &[])?;
    outside(space, &party, &name)?;
    client::declared(space, &party, &group, &name, back_channel)?;
    guest::comes_and_goes(space, neighbour, &name)?;
    outlived(space, &party, &group, &name)?;

    space.cluster().run(&[
        "delete",
        "identityprovider",
        "login",
        "--namespace",
        namespace,
        "--timeout=60s",
    ])?;
    ensure!(space.device(&name).is_err(), "the device is still there");
    ensure!(documents()?.is_empty(), "its documents are still there");
    let keys = space
        .cluster()
        .list("secret", NAMESPACE, &format!("postern.dev/owner-uid={uid}"))?;
    ensure!(keys.is_empty(), "its Secrets are still there");
    Ok(())
}

/// The Service of the back channel.
pub(crate) fn back_channel(object: &Value) -> Result<&str> {
    object["status"]["backChannel"]
        .as_str()
        .context("the status names no back channel")
}

/// An application of the cluster gets its tokens by the back channel.
fn inside(
    space: &Space<'_>,
    party: &RelyingParty,
    name: &str,
    host: &str,
    told: &[(&str, &str)],
) -> Result<()> {
    elsewhere(space, party, name, &way_inside(space, host)?, told).context("inside of the cluster")
}

/// Where the Service of a back channel is.
pub(crate) fn way_inside(space: &Space<'_>, host: &str) -> Result<String> {
    let service = host
        .strip_suffix(&format!(".{NAMESPACE}.svc"))
        .context(host.to_owned())?;
    let service = space.cluster().get("service", NAMESPACE, service)?;
    let service = service.context("there is no Service")?;
    let address = service["spec"]["clusterIP"]
        .as_str()
        .context("it has no address")?;
    Ok(format!("{address}:443"))
}

/// Who isn't on the tailnet gets tokens by that way, and nobody can log in, register or administer there. The client
/// registers itself, unless it is told its ID and secret.
fn elsewhere(
    space: &Space<'_>,
    party: &RelyingParty,
    name: &str,
    way: &str,
    told: &[(&str, &str)],
) -> Result<()> {
    let mut script = party.script(&space.env.lab, "elsewhere.mjs", &url(name))?;
    script.envs(told.iter().copied());
    let seen = command::output(script.env("WAY", way))?;
    let seen: Value = serde_json::from_str(&seen)?;
    let issuer = url(name);
    ensure!(
        seen["server"]["issuer"] == issuer && seen["claims"]["iss"] == issuer,
        "{seen}"
    );
    ensure!(seen["server"]["registration_endpoint"].is_null(), "{seen}");
    ensure!(
        seen["keys"].as_u64() > Some(0) && seen["active"] == true,
        "{seen}"
    );
    for part in ["claims", "userinfo", "refreshed"] {
        ensure!(seen[part]["email"] == "alice@example.com", "{part}: {seen}");
    }
    let refused = seen["refused"].as_array().context("nothing was refused")?;
    let refusals = refused
        .iter()
        .filter(|status| (400..500).contains(&status.as_i64().unwrap_or_default()));
    ensure!(
        refused.len() == 5 && refusals.count() == 5,
        "what is for the tailnet alone was answered {refused:?}"
    );
    Ok(())
}

/// From the internet, with a Go node as Funnel's edge; until the manifest says otherwise.
fn outside(space: &Space<'_>, party: &RelyingParty, name: &str) -> Result<()> {
    let namespace = &space.namespace;
    let edge = Edge::start(space)?;
    space
        .cluster()
        .wait("identityprovider", namespace, "login", READY, |object| {
            condition(object, "FunnelReady").is_some_and(|(status, _, _)| status == "True")
        })?;
    let tailnet = space.cluster().wait("tailnet", "", "default", READY, |tailnet| {
        condition(tailnet, "FunnelAvailable").is_some_and(|(status, _, _)| status == "True")
    });
    tailnet.context("the Tailnet doesn't say that Funnel is available")?;
    elsewhere(space, party, name, edge.address(), &[]).context("on the internet")?;
    let keys = "/.well-known/jwks.json";
    let answer = edge.get(space, name, keys, &[])?;
    ensure!(answer.status == 200, "{}", answer.text);
    space.cluster().run(&[
        "patch",
        "identityprovider",
        "login",
        "--namespace",
        namespace,
        "--type=merge",
        "--patch",
        r#"{"spec":{"funnel":{"enabled":false}}}"#,
    ])?;
    wait::until("it to be off the internet", FIRST_ANSWER, || {
        ensure!(edge.get(space, name, keys, &[]).is_err(), "it is there still");
        Ok(())
    })?;
    space.answer(&format!("{}{keys}", url(name))).map(drop)
}

/// The pod is killed after the browser has the code, and before the application shows it.
fn outlived(space: &Space<'_>, party: &RelyingParty, group: &str, name: &str) -> Result<()> {
    let mut script = party.script(&space.env.lab, "interrupted.mjs", &url(name))?;
    let mut script = Running::start(script.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let mut said = BufReader::new(script.0.stdout.take().context("no output")?).lines();
    let first = said.next().context("the script ended")??;
    ensure!(first == "authorized", "the script said {first}");
    let pod = format!("{group}-0");
    let uid = || -> Result<Value> {
        let pod = space
            .cluster()
            .get("pod", NAMESPACE, &pod)?
            .context("there is none")?;
        ensure!(
            pod["status"]["containerStatuses"][0]["ready"] == true,
            "it isn't ready"
        );
        Ok(pod["metadata"]["uid"].clone())
    };
    let before = uid()?;
    let killed = Instant::now();
    space.cluster().kill_pod(NAMESPACE, &pod)?;
    let metadata = format!("{}/.well-known/openid-configuration", url(name));
    wait::until("the next pod", FIRST_ANSWER, || {
        ensure!(uid()? != before, "it is the same");
        let answer = Fetch {
            timeout_ms: Some(2000),
            ..Fetch::get("alice", &metadata)
        };
        let status = answer.send()?.status;
        ensure!(status == 200, "status {status}");
        Ok(())
    })?;
    space.note(format!("answered {} after a kill", seconds(killed.elapsed())));
    let mut input = script.0.stdin.take().context("no input")?;
    input.write_all(b"now\n")?;
    let claims = said.next().context("the login ended with the pod")??;
    let claims: Value = serde_json::from_str(&claims).context(claims)?;
    ensure!(claims["email"] == "alice@example.com", "the claims are {claims}");
    Ok(())
}

/// What its pods may do, and those of others may not.
fn rights(space: &Space<'_>, group: &str, name: &str) -> Result<()> {
    let own = format!("{group}-proxy");
    let keys = format!("{group}-{name}-idp-keys");
    let clients = format!("{group}-{name}-idp-declared");
    let sessions = format!("{group}-{name}-idp-sessions-00");
    for (account, verb, resource, object, may) in [
        (own.as_str(), "get", "secret", keys.as_str(), "yes"),
        (&own, "patch", "secret", &keys, "yes"),
        (&own, "patch", "configmap", &sessions, "yes"),
        (&own, "delete", "configmap", &sessions, "no"),
        (&own, "list", "configmap", "", "no"),
        (&own, "get", "secret", &clients, "yes"),
        (&own, "patch", "secret", &clients, "no"),
        (&own, "get", "secret", "default-acme", "no"),
        ("default-proxy", "get", "secret", &keys, "no"),
        ("default-proxy", "get", "configmap", &sessions, "no"),
    ] {
        let can = can_i(space, account, verb, resource, object, NAMESPACE);
        ensure!(
            can == may,
            "{account} {verb} {resource}/{object}: {can}, should be {may}"
        );
    }
    Ok(())
}
