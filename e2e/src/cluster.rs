//! The one-node Kubernetes: `lab/kubernetes/lab.sh` with its results as types.

mod watch;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use self::watch::Watch;
use crate::command;
use crate::lab::Lab;
use crate::step::Steps;
use crate::wait;

/// A cluster that is up.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// PID 1 of its namespaces, as seen from outside.
    pub pid: i32,
    kubectl: PathBuf,
    helm: PathBuf,
    kubeconfig: PathBuf,
}

impl Cluster {
    /// The lab's cluster; an error that says how to start it where it is not up.
    pub fn of(lab: &Lab) -> Result<Self> {
        let Some(pid) = init_pid(lab) else {
            bail!("the lab is not up: start it by `cargo lab up` (about a minute with warm caches)");
        };
        let path =
            |name| command::output(script(lab).args(["path", name])).map(|path| PathBuf::from(path.trim()));
        Ok(Self {
            pid,
            kubectl: path("kubectl")?,
            helm: path("helm")?,
            kubeconfig: lab.run.join("admin.kubeconfig"),
        })
    }

    /// Moves this thread, and the programs that it starts from now on, into the lab's network namespace; files,
    /// users and pids stay the machine's.
    pub fn enter(&self) -> Result<()> {
        let file = fs::File::open(format!("/proc/{}/ns/net", self.pid)).context("the lab has just ended")?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .context("cannot enter the lab's network namespace")
    }

    /// kubectl as cluster-admin; works from inside.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command
    }

    /// helm as cluster-admin; works from inside.
    pub fn helm(&self) -> Command {
        let mut command = Command::new(&self.helm);
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// Server-side apply of a manifest.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let mut command = self.kubectl();
        command.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        command::output_of_input(&mut command, manifest).map(drop)
    }

    /// One object as JSON, if it exists.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let mut command = self.kubectl();
        command.args([
            "get",
            kind,
            name,
            "--ignore-not-found",
            "--output",
            "json",
            "--namespace",
            namespace,
        ]);
        let said = command::output(&mut command)?;
        if said.trim().is_empty() {
            Ok(None)
        } else {
            json(&said).map(Some)
        }
    }

    /// The objects of a kind that a selector matches, in one namespace.
    pub fn list(&self, kind: &str, namespace: &str, selector: &str) -> Result<Vec<Value>> {
        let mut command = self.kubectl();
        command.args([
            "get",
            kind,
            "--output",
            "json",
            "--namespace",
            namespace,
            "--selector",
            selector,
        ]);
        match json(&command::output(&mut command)?)?["items"].take() {
            Value::Array(items) => Ok(items),
            other => bail!("expected a list of {kind}, got {other}"),
        }
    }

    /// Runs kubectl and gives what it says.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        command::output(self.kubectl().args(arguments))
    }

    /// Takes a pod away without asking it to end.
    pub fn kill_pod(&self, namespace: &str, name: &str) -> Result<()> {
        let hard = ["--namespace", namespace, "--grace-period=0", "--force"];
        command::output(self.kubectl().args(["delete", "pod", name]).args(hard)).map(drop)
    }

    /// Waits until an object is as wanted; the error has the object's status.
    pub fn wait(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        bound: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let until = Instant::now() + bound;
        let mut last = None;
        // A watch ends with the API server; then another one is due.
        wait::until(&format!("{kind} {namespace}/{name}"), bound, || {
            let mut watch = Watch::start(self.kubectl(), kind, namespace, name)?;
            loop {
                match watch.next(until) {
                    Ok(Some(object)) if wanted(&object) => return Ok(object),
                    Ok(state) => last = state,
                    Err(error) => match &last {
                        Some(object) => bail!("its status is {}: {error}", object["status"]),
                        None => bail!("there is none: {error}"),
                    },
                }
            }
        })
    }

    /// Inode of its network namespace: how `down` finds what still holds it.
    pub fn network(&self) -> Result<u64> {
        Ok(fs::metadata(format!("/proc/{}/ns/net", self.pid))?.ino())
    }
}

/// The cluster's script, for this lab.
pub fn script(lab: &Lab) -> Command {
    let mut command = Command::new(lab.script());
    command
        .env("LAB_NAME", &lab.name)
        .env("LAB_CACHE", &lab.cache)
        .env("LAB_RUN", &lab.run);
    command
}

/// Builds what is not in the cache yet, from published modules.
pub fn build(lab: &Lab, steps: &mut Steps) -> Result<()> {
    let missing = command::output(script(lab).arg("missing"))?;
    let missing: Vec<&str> = missing.split_whitespace().collect();
    let total: u64 = missing.iter().map(|name| estimate(name)).sum();
    if total > 60 {
        println!(
            "  Kubernetes is built from its published modules, once: {} programs, about {} min on two cores.",
            missing.len(),
            total.div_ceil(60)
        );
    }
    for name in missing {
        let estimate = Duration::from_secs(estimate(name));
        steps.run(&format!("build {name}"), Some(estimate), || {
            command::logged(
                script(lab).args(["build", name]),
                &lab.cache.join("log/build.log"),
            )
        })?;
    }
    Ok(())
}

/// Starts the cluster, or says that it is up already. A start that fails leaves nothing but its logs.
pub fn up(lab: &Lab, steps: &mut Steps) -> Result<Cluster> {
    if init_pid(lab).is_none() {
        let started = steps.run("start Kubernetes", Some(Duration::from_secs(10)), || {
            command::output(script(lab).arg("up"))
        });
        if let Err(error) = started {
            let _ = command::output(script(lab).arg("down"));
            return Err(error.context(format!(
                "the cluster did not start; its logs are in {}",
                lab.logs().display()
            )));
        }
    }
    Cluster::of(lab)
}

/// PID 1 of the lab's namespaces.
pub fn init_pid(lab: &Lab) -> Option<i32> {
    let pid: i32 = fs::read_to_string(lab.run.join("init.pid"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    cmdline
        .split(|byte| *byte == 0)
        .any(|word| word == b"__init")
        .then_some(pid)
}

/// Seconds on two cores with an empty build cache, in the order of `lab.sh missing`.
fn estimate(name: &str) -> u64 {
    match name {
        "kube-apiserver" => 420,
        "kube-controller-manager" => 90,
        "helm" => 160,
        "coredns" => 90,
        "kubelet" | "kubectl" => 30,
        "pause" => 1,
        _ => 10,
    }
}

fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("not JSON: {}", command::tail(text, 3)))
}
