//! The same line on the other coordination server, which has no certificate API and another management API.

mod server;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postern_e2e::client::{Fetch, Fetched};
use postern_e2e::product::NAMESPACE;
use postern_e2e::wait;
use serde_json::Value;

use self::server::Headscale;
use crate::removal::in_group;
use crate::runner::{Test, seconds};
use crate::services;
use crate::space::{FIRST_ANSWER, Space, condition};

pub(crate) const TESTS: &[Test] = &[Test::beside(
    "the_line_works_on_headscale_with_an_own_certificate",
    line,
)];

/// What the example calls the Tailnet, its Secret and the ProxyGroup.
const EXAMPLE: &str = "headscale";
const CLIENTS: &str = "127.0.0.1:9931";
const SUFFIX: &str = "hs.lab";

/// Promised for every recovery.
const BACK: Duration = Duration::from_secs(30);

fn line(space: &Space<'_>) -> Result<()> {
    let names = [space.name("hs"), space.name("hs-ti")];
    let mut headscale = Headscale::start(space, &names)?;
    let result = works(space, &mut headscale, &names);
    // In any case, and while Headscale is there: what the example makes has the same names in the next run.
    let gone = leaves_nothing(space, &headscale, &names);
    result.and(gone)
}

fn works(space: &Space<'_>, headscale: &mut Headscale, names: &[String; 2]) -> Result<()> {
    let [name, own_kind] = names;
    let url = format!("https://{name}.{SUFFIX}/x");
    space.deploy("app")?;
    space.cluster().apply(&headscale.example(space)?)?;
    space.cluster().apply(&headscale.names(space, name, own_kind)?)?;
    shows_the_caller(space, headscale, &url)?;
    answer("alice", &format!("https://{own_kind}.{SUFFIX}/x"), FIRST_ANSWER)
        .context("by the TailnetIngress")?;
    says_what_headscale_lacks(space, own_kind)?;
    survives_its_pod(space, headscale, name, &url)?;

    headscale.stop();
    let served = wait::throughout("the name without Headscale", Duration::from_secs(8), || {
        let fetched = Fetch::get("alice", &url).send_by(CLIENTS)?;
        ensure!(fetched.status == 200, "status {}", fetched.status);
        Ok(())
    });
    headscale.serve()?;
    served?;
    // A node that registers now shows whether news from Headscale arrive again.
    let restored = Instant::now();
    answer("newcomer", &url, BACK).context("after the return of Headscale")?;
    space.note(format!(
        "a new client served {} after its return",
        seconds(restored.elapsed())
    ));
    Ok(())
}

fn leaves_nothing(space: &Space<'_>, headscale: &Headscale, names: &[String; 2]) -> Result<()> {
    let delete = |arguments: &[&str], namespace: &str| {
        let found = ["--namespace", namespace, "--ignore-not-found"];
        space
            .cluster()
            .run(&[&["delete"][..], arguments, &found].concat())
            .map(drop)
    };
    let users = "ingress,tailnetingress,tailnetservice";
    delete(&[users, "--all", "--timeout=30s"], &space.namespace)?;
    wait::until("Headscale to forget the nodes", BACK, || {
        for name in names {
            ensure!(headscale.node(name)?.is_none(), "{name} is still there");
        }
        Ok(())
    })?;
    delete(&["proxygroup,tailnet", EXAMPLE, "--wait=false"], NAMESPACE)?;
    delete(&["secret", EXAMPLE], NAMESPACE)
}

fn shows_the_caller(space: &Space<'_>, headscale: &Headscale, url: &str) -> Result<()> {
    let applied = Instant::now();
    let fetched = answer("alice", url, FIRST_ANSWER).with_context(|| headscale.log())?;
    let seen = fetched.seen()?;
    for (header, value) in [
        ("Tailscale-User-Login", "alice@example.com"),
        ("Tailscale-User-Name", "Alice Example"),
    ] {
        ensure!(
            seen.header(header) == [value],
            "{header} is {:?}, not {value:?}",
            seen.header(header)
        );
    }
    space.note(format!(
        "first answer after {}, {}",
        seconds(applied.elapsed()),
        fetched.path
    ));
    Ok(())
}

fn says_what_headscale_lacks(space: &Space<'_>, own_kind: &str) -> Result<()> {
    let tailnet = space.cluster().wait(
        "tailnet",
        NAMESPACE,
        EXAMPLE,
        Duration::from_secs(15),
        |tailnet| condition(tailnet, "Ready").is_some_and(|(status, ..)| status == "True"),
    )?;
    let https = condition(&tailnet, "HTTPSAvailable");
    ensure!(
        https.is_some_and(|(status, reason, _)| (status, reason) == ("False", "CertificateRequired")),
        "HTTPSAvailable is {https:?}"
    );
    let services = condition(&tailnet, "ServicesAvailable");
    ensure!(
        services.is_some_and(|(status, reason, _)| (status, reason) == ("False", "ServicesUnavailable")),
        "ServicesAvailable is {services:?}"
    );
    let unavailable = |object: &Value| {
        condition(object, "FunnelReady")
            .is_some_and(|(status, reason, _)| (status, reason) == ("False", "FunnelUnavailable"))
    };
    let bound = Duration::from_secs(15);
    space
        .cluster()
        .wait("tailnetingress", &space.namespace, own_kind, bound, unavailable)
        .context("it says nothing of Funnel")?;
    let manifest = services::manifest(space, "svc", &space.name("svc"), 5432);
    space.cluster().apply(&in_group(&manifest, EXAMPLE))?;
    services::wait_for(space, "svc", "Accepted", "ServicesUnavailable", "TailnetIngress")?;
    services::delete(space, "svc")
}

fn survives_its_pod(space: &Space<'_>, headscale: &Headscale, name: &str, url: &str) -> Result<()> {
    let before = headscale
        .node(name)?
        .context("Headscale does not know the node")?;
    let pod = format!("{EXAMPLE}-0");
    space.cluster().kill_pod(NAMESPACE, &pod)?;
    let killed = Instant::now();
    answer("alice", url, BACK).context("after the kill of the pod")?;
    space.note(format!("answered {} after the kill", seconds(killed.elapsed())));
    let after = headscale
        .node(name)?
        .context("Headscale has forgotten the node")?;
    ensure!(before == after, "it was {before:?} and is {after:?}");
    Ok(())
}

fn answer(client: &str, url: &str, bound: Duration) -> Result<Fetched> {
    wait::until(url, bound, || {
        let fetched = Fetch {
            timeout_ms: Some(3000),
            ..Fetch::get(client, url)
        }
        .send_by(CLIENTS)?;
        ensure!(
            fetched.status == 200,
            "status {}: {:.200}",
            fetched.status,
            fetched.body
        );
        Ok(fetched)
    })
}
