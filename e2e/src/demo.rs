//! `cargo lab demo`: the product's main job on real parts, as a newcomer would set it up.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::app;
use crate::client::Fetch;
use crate::cluster::Cluster;
use crate::lab::{DOMAIN, Lab};
use crate::step::{Steps, shown};
use crate::up;
use crate::wait;

const NAMESPACE: &str = "demo";
const NAME: &str = "hello";
const USER: &str = "alice";

/// Brings the lab up, puts an app on the tailnet, and lets a Go client fetch it.
pub fn demo(lab: &Lab, steps: &mut Steps) -> Result<()> {
    println!("Postern between a real Kubernetes and a real tailnet, all on this machine:");
    let up = up::up(lab, steps)?;
    let cluster = &up.cluster;
    let manifest = app::ingress(NAMESPACE, NAME, NAME);
    steps.run("deploy the sample app", Some(Duration::from_secs(2)), || {
        let deployment = app::deployment(NAMESPACE, NAME, &up.images.backend.reference());
        cluster.apply(&format!("{}---\n{deployment}", app::namespace(NAMESPACE)))?;
        cluster.run(&[
            "rollout",
            "status",
            "deployment",
            NAME,
            "--namespace",
            NAMESPACE,
            "--timeout=60s",
        ])
    })?;
    let start = Instant::now();
    let url = format!("https://{NAME}.{DOMAIN}");
    steps.run(
        "apply its Ingress, wait for the address",
        Some(Duration::from_secs(5)),
        || {
            cluster.apply(&manifest)?;
            wait::until("the Ingress to have an address", Duration::from_secs(60), || {
                address(cluster)
            })
        },
    )?;
    let fetched = steps.run(&format!("fetch {url}/text as {USER}"), None, || {
        wait::until(&url, Duration::from_secs(30), || {
            match Fetch::get(USER, format!("{url}/text")).send()? {
                fetched if fetched.status == 200 => Ok(fetched),
                fetched => bail!("status {}: {:.200}", fetched.status, fetched.body),
            }
        })
    })?;
    let served = start.elapsed();

    println!("\n$ kubectl apply -f - <<EOF\n{manifest}EOF");
    println!(
        "\n{} s later a Go tailnet client of {USER}@example.com got from {url}/text:\n",
        served.as_secs()
    );
    println!("  HTTP status {}, {}", fetched.status, fetched.path);
    println!("  The request, as the app saw it:");
    fetched.body.lines().for_each(|line| println!("    {line}"));
    println!("\nWhere the time went:");
    for (what, took) in steps.done() {
        println!("  {what:<56} {:>8}", shown(*took));
    }
    let timing = &fetched.timing_ms;
    let milliseconds = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    println!(
        "  the request: connected after {} ms, TLS after {} ms, first byte after {} ms",
        milliseconds(timing.dialed),
        milliseconds(timing.secured),
        milliseconds(timing.first_byte)
    );
    println!("  all of it: {}", shown(steps.elapsed()));
    println!("\nThe lab stays up. Try next:");
    for (line, why) in [
        (format!("cargo lab curl {url}/text"), "the same by hand"),
        (
            format!("cargo lab curl --as bob {url}/text"),
            "another user: look at Tailscale-User-Login",
        ),
        (
            format!("cargo lab curl --as tagged {url}/text"),
            "a device of nobody: no user headers",
        ),
        (
            format!("cargo lab curl -H 'Tailscale-User-Login: root' {url}/text"),
            "a forged header never arrives",
        ),
        (
            format!("cargo lab curl -N {url}/stream"),
            "a stream arrives as it is produced",
        ),
        (
            format!("cargo lab kubectl -n {NAMESPACE} get ingress"),
            "the name in Kubernetes",
        ),
        (
            format!("cargo lab kubectl -n {NAMESPACE} delete ingress {NAME}"),
            "and it is gone from the tailnet",
        ),
        ("cargo lab status".to_owned(), "devices and pods"),
        ("cargo lab logs proxy".to_owned(), "what the proxy says"),
        ("cargo lab down".to_owned(), "end all of it"),
    ] {
        println!("  {line:<82} {why}");
    }
    Ok(())
}

fn address(cluster: &Cluster) -> Result<Value> {
    let ingress = cluster.get("ingress", NAMESPACE, NAME)?.unwrap_or_default();
    match &ingress["status"]["loadBalancer"]["ingress"][0] {
        Value::Null => {
            bail!("it has none yet: see `cargo lab kubectl -n {NAMESPACE} describe ingress {NAME}`")
        }
        entry => Ok(entry.clone()),
    }
}
