//! A change is served at once, a broken one changes nothing but what is said about it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postern_e2e::app;
use postern_e2e::client::Fetch;
use postern_e2e::wait;

use crate::runner::{Test, seconds};
use crate::space::{Space, condition, url};

pub(crate) const TESTS: &[Test] = &[
    Test::beside("a_changed_ingress_is_served_within_a_second", changed),
    Test::beside(
        "a_broken_ingress_keeps_its_old_route_and_says_why",
        broken_ingress,
    ),
    Test::beside(
        "a_broken_tailnet_ingress_keeps_its_old_route_and_says_why",
        broken_tailnet_ingress,
    ),
    Test::beside(
        "a_service_that_is_missing_is_named_and_found_when_it_comes",
        missing_service,
    ),
];

/// Promised is one second; a loaded machine gets five times that.
const SERVED: Duration = Duration::from_secs(5);

fn changed(space: &Space<'_>) -> Result<()> {
    space.deploy("one")?;
    space.deploy("two")?;
    let name = space.name("change");
    let url = space.ingress(&name, "one")?;
    let mut slowest = Duration::ZERO;
    for app in ["two", "one", "two"] {
        space
            .cluster()
            .apply(&app::ingress(&space.namespace, &name, app))?;
        let applied = Instant::now();
        wait::until(&format!("{app} to be served"), SERVED, || {
            let seen = Fetch::get("alice", &url).send()?.seen()?;
            ensure!(seen.app == app, "it is still {}", seen.app);
            Ok(())
        })?;
        slowest = slowest.max(applied.elapsed());
    }
    space.note(format!("served {} after apply at most", seconds(slowest)));
    Ok(())
}

fn broken_ingress(space: &Space<'_>) -> Result<()> {
    let (name, url) = space.app()?;
    let annotate = |value: &str| {
        let value = format!("postern.dev/tags={value}");
        space.cluster().run(&[
            "annotate",
            "ingress",
            &name,
            "--overwrite",
            &value,
            "--namespace",
            &space.namespace,
        ])
    };
    annotate("not-a-tag")?;
    let message = space.event(&name, "Invalid", Duration::from_secs(10))?;
    ensure!(
        message.contains("postern.dev/tags"),
        "the Event does not name the field: {message}"
    );
    wait::throughout("the old route", Duration::from_secs(3), || {
        ensure!(
            Fetch::get("alice", &url).send()?.seen()?.app == "app",
            "another app answered"
        );
        Ok(())
    })?;
    let object = space
        .cluster()
        .get("ingress", &space.namespace, &name)?
        .context("the Ingress is gone")?;
    ensure!(
        !object["status"]["loadBalancer"]["ingress"][0].is_null(),
        "the address is gone from {}",
        object["status"]
    );
    Ok(())
}

fn broken_tailnet_ingress(space: &Space<'_>) -> Result<()> {
    space.deploy("app")?;
    let name = space.name("broken");
    let url = space.tailnet_ingress(&name, "app")?;
    // Not in the group's allow list.
    let patch = r#"{"spec":{"tags":["tag:other"]}}"#;
    space.cluster().run(&[
        "patch",
        "tailnetingress",
        &name,
        "--type=merge",
        "--patch",
        patch,
        "--namespace",
        &space.namespace,
    ])?;
    let object = space.cluster().wait(
        "tailnetingress",
        &space.namespace,
        &name,
        Duration::from_secs(10),
        |object| condition(object, "Accepted").is_some_and(|(status, ..)| status == "False"),
    )?;
    let (_, reason, message) = condition(&object, "Accepted").context("no condition")?;
    ensure!(
        reason == "NotAllowed" && message.contains("tag:other"),
        "the condition says {reason}: {message}"
    );
    wait::throughout("the old route", Duration::from_secs(3), || {
        ensure!(
            Fetch::get("alice", &url).send()?.seen()?.app == "app",
            "another app answered"
        );
        Ok(())
    })
}

fn missing_service(space: &Space<'_>) -> Result<()> {
    let name = space.name("missing");
    space
        .cluster()
        .apply(&app::ingress(&space.namespace, &name, "late"))?;
    let message = space.event(&name, "BackendNotFound", Duration::from_secs(20))?;
    ensure!(
        message.contains("late"),
        "the Event does not name the Service: {message}"
    );
    space.deploy("late")?;
    space.answer(&url(&name)).map(drop)
}
