//! A name comes back by itself, as the same node with the same address, whatever was broken.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::command;
use postern_e2e::control::Control;
use postern_e2e::product::NAMESPACE;
use postern_e2e::wait;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::runner::{Test, seconds};
use crate::space::Space;

pub(crate) const TESTS: &[Test] = &[
    Test::alone("a_killed_proxy_pod_comes_back_as_the_same_node", killed_pod),
    Test::alone("an_operator_restart_interrupts_nothing", operator_restart),
    Test::alone(
        "a_control_outage_interrupts_nothing_and_ends_by_itself",
        control_outage,
    ),
    Test::alone("a_name_is_served_by_relay_when_udp_is_blocked", relay_only),
    Test::alone(
        "a_name_is_served_while_the_api_server_is_stopped",
        api_server_stopped,
    ),
];

/// Promised for every recovery.
const BACK: Duration = Duration::from_secs(30);

fn killed_pod(space: &Space<'_>) -> Result<()> {
    let (name, url) = space.app()?;
    let before = identity(&space.device(&name)?);
    space.cluster().kill_pod(NAMESPACE, "default-0")?;
    let killed = Instant::now();
    space.answer_within(&url, BACK)?;
    space.note(format!("answered {} after the kill", seconds(killed.elapsed())));
    let after = identity(&space.device(&name)?);
    ensure!(before == after, "it was {before:?} and is {after:?}");
    Ok(())
}

fn operator_restart(space: &Space<'_>) -> Result<()> {
    let (name, url) = space.app()?;
    let before = identity(&space.device(&name)?);
    space.cluster().run(&[
        "rollout",
        "restart",
        "deployment",
        "postern-operator",
        "--namespace",
        NAMESPACE,
    ])?;
    let mut requests = 0;
    wait::throughout("the name during the restart", Duration::from_secs(8), || {
        requests += 1;
        ensure!(
            Fetch::get("alice", &url).send()?.status == 200,
            "it does not serve"
        );
        Ok(())
    })?;
    space.cluster().run(&[
        "rollout",
        "status",
        "deployment",
        "postern-operator",
        "--namespace",
        NAMESPACE,
        "--timeout=60s",
    ])?;
    ensure!(
        identity(&space.device(&name)?) == before,
        "it is another node now"
    );
    space.ingress(&space.name("later"), "app")?;
    space.note(format!("{requests} requests during the restart"));
    Ok(())
}

fn control_outage(space: &Space<'_>) -> Result<()> {
    let (name, url) = space.app()?;
    let before = identity(&space.device(&name)?);
    let broken = |on: bool| Control.call("PUT", "/admin/control-broken", Some(&json!(on)));
    broken(true)?;
    let served = wait::throughout("the name during the outage", Duration::from_secs(10), || {
        ensure!(
            Fetch::get("alice", &url).send()?.status == 200,
            "it does not serve"
        );
        Ok(())
    });
    broken(false)?;
    served?;
    let restored = Instant::now();
    // What control says after the outage must arrive: a user's new name.
    let rename = |name: &str| {
        Control.call(
            "PUT",
            "/admin/users/carol@example.com",
            Some(&json!({ "name": name })),
        )
    };
    rename("Carol Renamed")?;
    let renamed = wait::until("news from control", BACK, || {
        let seen = Fetch::get("carol", &url).send()?.seen()?;
        ensure!(
            seen.header("Tailscale-User-Name") == ["Carol Renamed"],
            "the app saw {:?}",
            seen.headers
        );
        Ok(restored.elapsed())
    });
    rename("Carol Example")?;
    space.note(format!("news {} after the outage", seconds(renamed?)));
    ensure!(
        identity(&space.device(&name)?) == before,
        "it is another node now"
    );
    Ok(())
}

fn relay_only(space: &Space<'_>) -> Result<()> {
    let (_, url) = space.app()?;
    let direct = Fetch::get("alice", &url).send()?.path;
    let pod = space
        .cluster()
        .get("pod", NAMESPACE, "default-0")?
        .context("there is no proxy pod")?;
    let address = pod["status"]["podIP"]
        .as_str()
        .context("it has no address")?
        .to_owned();
    let blocked = Blocked::new(&address)?;
    let start = Instant::now();
    let path = wait::until("an answer by relay", BACK, || {
        let fetched = Fetch {
            timeout_ms: Some(5000),
            ..Fetch::get("alice", &url)
        }
        .send()?;
        ensure!(
            fetched.status == 200 && fetched.path.starts_with("derp"),
            "status {} {}",
            fetched.status,
            fetched.path
        );
        Ok(fetched.path)
    })?;
    space.note(format!(
        "{direct} became {path} after {}",
        seconds(start.elapsed())
    ));
    drop(blocked);
    let freed = Instant::now();
    wait::until("the direct path again", BACK, || {
        let fetched = Fetch::get("alice", &url).send()?;
        ensure!(fetched.path.starts_with("direct"), "it is {}", fetched.path);
        Ok(())
    })?;
    space.note(format!("direct again after {}", seconds(freed.elapsed())));
    Ok(())
}

fn api_server_stopped(space: &Space<'_>) -> Result<()> {
    let (name, url) = space.app()?;
    let before = identity(&space.device(&name)?);
    let stopped = Stopped::api_server(space)?;
    let mut requests = 0;
    let served = wait::throughout("the name without an API server", Duration::from_secs(60), || {
        requests += 1;
        ensure!(
            Fetch::get("alice", &url).send()?.status == 200,
            "it does not serve"
        );
        Ok(())
    });
    drop(stopped);
    wait::until("the API server to be back", BACK, || {
        space.cluster().run(&["get", "--raw", "/readyz"])
    })?;
    served?;
    space.note(format!("{requests} requests meanwhile"));
    let back = Instant::now();
    space.deploy("other")?;
    space
        .cluster()
        .apply(&postern_e2e::app::ingress(&space.namespace, &name, "other"))?;
    wait::until("a change to be served again", BACK, || {
        let seen = Fetch::get("alice", &url).send()?.seen()?;
        ensure!(seen.app == "other", "it is still {}", seen.app);
        Ok(())
    })?;
    space.note(format!(
        "a change served {} after its return",
        seconds(back.elapsed())
    ));
    ensure!(
        identity(&space.device(&name)?) == before,
        "it is another node now"
    );
    Ok(())
}

/// What must outlive everything: the node's ID and its addresses.
fn identity(device: &Value) -> (String, String) {
    (device["stableID"].to_string(), device["addresses"].to_string())
}

/// Rules that drop all UDP of one pod, in the lab's own namespace.
#[derive(Debug)]
struct Blocked {
    address: String,
}

impl Blocked {
    fn new(address: &str) -> Result<Self> {
        let blocked = Self {
            address: address.to_owned(),
        };
        blocked.rules("--insert")?;
        Ok(blocked)
    }

    fn rules(&self, action: &str) -> Result<()> {
        for (chain, end) in [
            ("INPUT", "--source"),
            ("OUTPUT", "--destination"),
            ("FORWARD", "--source"),
            ("FORWARD", "--destination"),
        ] {
            // Names must still resolve: CoreDNS is another pod.
            let mut iptables = Command::new("iptables");
            iptables.args(["--wait", action, chain, end, &self.address, "--protocol", "udp"]);
            iptables.args([
                "--match",
                "multiport",
                "!",
                "--ports",
                "53,1053",
                "--jump",
                "DROP",
            ]);
            command::output(&mut iptables)?;
        }
        Ok(())
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = self.rules("--delete");
    }
}

/// A process that stands still until this is dropped.
#[derive(Debug)]
struct Stopped(Pid);

impl Stopped {
    fn api_server(space: &Space<'_>) -> Result<Self> {
        let run = format!("{}/", space.env.lab.run.display());
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Ok(cmdline) = std::fs::read_to_string(entry.path().join("cmdline")) else {
                continue;
            };
            let program = cmdline.split('\0').next().unwrap_or_default();
            let pid = entry
                .file_name()
                .to_string_lossy()
                .parse()
                .ok()
                .and_then(Pid::from_raw);
            if let (true, true, Some(pid)) =
                (program.ends_with("/kube-apiserver"), cmdline.contains(&run), pid)
            {
                kill_process(pid, Signal::STOP)?;
                return Ok(Self(pid));
            }
        }
        bail!("this lab's kube-apiserver is not running")
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}
