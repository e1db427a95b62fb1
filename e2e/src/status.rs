//! `cargo lab status`: what runs, and how it is.

use anyhow::Result;

use crate::cluster::Cluster;
use crate::control::Control;
use crate::lab::{DOMAIN, Lab};
use crate::{command, process, tailnet};

/// Prints the parts, the tailnet's devices and Postern's objects.
pub fn status(lab: &Lab) -> Result<()> {
    let cluster = Cluster::of(lab)?;
    println!(
        "The lab {} is up (pid {}), logs in {}",
        lab.name,
        cluster.pid,
        lab.logs().display()
    );
    for process in process::recorded(lab) {
        let state = if process.runs() {
            "runs"
        } else {
            "has ended: see `cargo lab logs`"
        };
        println!("  {:<10} {state} (pid {})", process.name, process.pid);
    }
    cluster.enter()?;
    println!("\nControl server {} for *.{DOMAIN}", tailnet::control_url());
    match Control.devices() {
        Ok(devices) => devices.iter().for_each(|device| println!("  {}", line(device))),
        Err(error) => println!("  does not answer: {error:#}"),
    }
    println!();
    let mut kubectl = cluster.kubectl();
    kubectl.args(["get", "--all-namespaces", "--ignore-not-found", "nodes,pods"]);
    print!("{}", command::output(&mut kubectl)?);
    for kinds in [
        "tailnets,proxygroups,tailnetingresses,tailnetservices,identityproviders",
        "ingresses",
    ] {
        let mut kubectl = cluster.kubectl();
        kubectl.args(["get", "--all-namespaces", "--ignore-not-found", kinds]);
        // Without the chart there are no such kinds.
        print!("{}", command::output(&mut kubectl).unwrap_or_default());
    }
    Ok(())
}

fn line(device: &serde_json::Value) -> String {
    let text = |key: &str| device[key].as_str().unwrap_or("-").to_owned();
    let address = device["addresses"][0]
        .as_str()
        .unwrap_or("-")
        .trim_end_matches("/32")
        .to_owned();
    let online = if device["online"] == true {
        "online"
    } else {
        "offline"
    };
    format!(
        "{:<40} {address:<14} {online:<8} {}",
        text("name").trim_end_matches('.'),
        text("login")
    )
}
