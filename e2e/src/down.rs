//! `cargo lab down`: ends what the lab started, then looks whether anything is left.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::cluster::{self, Cluster};
use crate::lab::Lab;
use crate::step::Steps;
use crate::{command, process, wait};

/// Names of the machine's network interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interfaces(BTreeSet<String>);

impl Interfaces {
    /// As they are outside of the lab.
    pub fn now() -> Result<Self> {
        let entries = fs::read_dir("/sys/class/net")?;
        Ok(Self(
            entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect(),
        ))
    }
}

/// What `down` has to know about a lab to find its remains.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Traces {
    /// Inode of the network namespace.
    network: u64,
    /// Interfaces before it was up.
    interfaces: Interfaces,
}

/// Records what a running lab is known by.
pub fn remember(lab: &Lab, cluster: &Cluster, before: &Interfaces) -> Result<()> {
    let path = traces(lab);
    if !path.exists() {
        let known = Traces {
            network: cluster.network()?,
            interfaces: before.clone(),
        };
        fs::write(path, serde_json::to_vec(&known)?)?;
    }
    Ok(())
}

/// Takes the lab down; an error names what is left.
pub fn down(lab: &Lab, steps: &mut Steps) -> Result<()> {
    let traces: Option<Traces> = fs::read(traces(lab))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let processes = process::recorded(lab);
    if cluster::init_pid(lab).is_none() && processes.is_empty() && traces.is_none() && cgroups(lab).is_empty()
    {
        println!("The lab is not up; there is nothing to take down.");
        return Ok(());
    }
    steps.run("end control server, ACME, Go clients", None, || {
        processes
            .iter()
            .try_for_each(|process| process::end(lab, process))
    })?;
    steps.run("end Kubernetes", None, || {
        command::output(cluster::script(lab).arg("down")).map(drop)
    })?;
    let traces = traces.unwrap_or_default();
    steps.run("look for remains", None, || {
        wait::until("the last of the lab to go", Duration::from_secs(5), || {
            let left = remains(lab, &traces, &processes);
            if left.is_empty() {
                Ok(())
            } else {
                bail!("the lab left\n  - {}", left.join("\n  - "))
            }
        })
    })?;
    println!("Nothing is left: no process, namespace, mount, cgroup or interface.");
    println!(
        "Kept for the next time: {} (caches) and {} (logs).",
        lab.cache.join("bin").display(),
        lab.logs().display()
    );
    Ok(())
}

fn remains(lab: &Lab, traces: &Traces, processes: &[process::Process]) -> Vec<String> {
    let recorded = processes.iter().filter(|process| process.runs());
    let mut left: Vec<String> = recorded
        .map(|process| format!("process {} ({})", process.pid, process.name))
        .collect();
    left.extend(holders(traces.network));
    left.extend(mounts(lab, traces.network));
    left.extend(
        cgroups(lab)
            .into_iter()
            .map(|path| format!("cgroup {}", path.display())),
    );
    left.extend(interfaces(&traces.interfaces));
    left
}

/// Processes in the lab's network namespace; the kernel drops it when there is none.
fn holders(network: u64) -> Vec<String> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let inode = fs::metadata(entry.path().join("ns/net")).ok()?.ino();
        (network != 0 && inode == network && pid != std::process::id())
            .then(|| format!("process {pid} in the network namespace"))
    })
    .collect()
}

fn mounts(lab: &Lab, network: u64) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let run = lab.run.display().to_string();
    let bound = format!("net:[{network}]");
    table
        .lines()
        .filter(|line| line.contains(&run) || line.contains(&bound))
        .map(|line| format!("mount {}", line.split_whitespace().nth(4).unwrap_or(line)))
        .collect()
}

fn cgroups(lab: &Lab) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    hierarchies
        .chain([root.to_owned()])
        .map(|path| path.join(&lab.name))
        .filter(|path| path.is_dir())
        .collect()
}

/// Of the kinds that the lab makes inside, and that were not there before it.
fn interfaces(before: &Interfaces) -> Vec<String> {
    let now = Interfaces::now().unwrap_or_default();
    let ours = |name: &&String| {
        ["br-node", "cni0", "veth"]
            .iter()
            .any(|kind| name.starts_with(kind))
    };
    now.0
        .difference(&before.0)
        .filter(ours)
        .map(|name| format!("interface {name}"))
        .collect()
}

fn traces(lab: &Lab) -> PathBuf {
    lab.run.join("traces.json")
}
