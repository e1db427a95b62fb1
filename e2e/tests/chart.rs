//! The chart installs, upgrades, uninstalls and installs again, with objects there all the time.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::command;
use postern_e2e::control::Control;
use postern_e2e::product::NAMESPACE;
use postern_e2e::wait;

use crate::first_light::tempdir;
use crate::runner::{Test, seconds};
use crate::space::Space;

pub(crate) const TESTS: &[Test] = &[
    Test::alone("an_upgrade_of_the_chart_interrupts_nothing", upgrade),
    Test::alone(
        "the_chart_can_be_uninstalled_and_installed_again_with_objects_there",
        reinstall,
    ),
];

fn upgrade(space: &Space<'_>) -> Result<()> {
    let (_, url) = space.app()?;
    let values = Values::of_the_release(space)?;
    values.helm(
        space,
        &["upgrade", "--set", "operator.resources.requests.cpu=21m"],
    )?;
    let served = wait::throughout("the name during the upgrade", Duration::from_secs(5), || {
        ensure!(
            Fetch::get("alice", &url).send()?.status == 200,
            "it does not serve"
        );
        Ok(())
    });
    values.helm(space, &["upgrade"])?;
    served?;
    space.ingress(&space.name("later"), "app").map(drop)
}

fn reinstall(space: &Space<'_>) -> Result<()> {
    let (name, url) = space.app()?;
    let values = Values::of_the_release(space)?;
    let start = Instant::now();
    let mut helm = space.cluster().helm();
    helm.args([
        "uninstall",
        "postern",
        "--namespace",
        NAMESPACE,
        "--wait",
        "--timeout",
        "2m",
    ]);
    let uninstalled = command::output(&mut helm);
    let took = start.elapsed();
    let left = uninstalled.and_then(|_| left_behind(space, &name));
    // Whatever is wrong: the lab needs it back.
    values.helm(space, &["install"])?;
    left?;
    space.note(format!("uninstalled in {}", seconds(took)));
    let again = Instant::now();
    space.answer(&url)?;
    space.note(format!(
        "answers {} after it was installed again",
        seconds(again.elapsed())
    ));
    Ok(())
}

/// After an uninstallation people's objects are there, and nothing holds them.
fn left_behind(space: &Space<'_>, name: &str) -> Result<()> {
    let object = space
        .cluster()
        .get("ingress", &space.namespace, name)?
        .context("the Ingress is gone")?;
    let finalizers = &object["metadata"]["finalizers"];
    ensure!(
        finalizers.as_array().is_none_or(Vec::is_empty),
        "the Ingress is held by {finalizers}"
    );
    ensure!(
        Control.device(name)?.is_none(),
        "the device is still on the control server"
    );
    let tailnet = space
        .cluster()
        .get("tailnet", "", "default")?
        .context("the Tailnet is gone")?;
    let finalizers = &tailnet["metadata"]["finalizers"];
    ensure!(
        finalizers.as_array().is_none_or(Vec::is_empty),
        "the Tailnet is held by {finalizers}"
    );
    wait::until("the pods to be gone", Duration::from_secs(60), || {
        let pods = space.cluster().list("pod", NAMESPACE, "")?;
        let names: Vec<String> = pods
            .iter()
            .map(|pod| pod["metadata"]["name"].to_string())
            .collect();
        ensure!(names.is_empty(), "there are {names:?}");
        Ok(())
    })
}

/// The release's values, as a file.
#[derive(Debug)]
struct Values(std::path::PathBuf);

impl Values {
    fn of_the_release(space: &Space<'_>) -> Result<Self> {
        let mut helm = space.cluster().helm();
        helm.args([
            "get",
            "values",
            "postern",
            "--namespace",
            NAMESPACE,
            "--output",
            "yaml",
        ]);
        let path = tempdir(&format!("{}-values.yaml", space.namespace));
        std::fs::write(&path, command::output(&mut helm)?)?;
        Ok(Self(path))
    }

    fn helm(&self, space: &Space<'_>, arguments: &[&str]) -> Result<()> {
        let mut helm: Command = space.cluster().helm();
        helm.args(arguments)
            .arg("postern")
            .arg(space.env.lab.tree.join("charts/postern"))
            .arg("--values")
            .arg(&self.0);
        helm.args(["--namespace", NAMESPACE, "--wait", "--timeout", "2m"]);
        command::output(&mut helm).map(drop)
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
