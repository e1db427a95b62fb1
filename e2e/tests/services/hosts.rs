//! Hosts of a Service: clients reach it by name on whichever replica control sends them to.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use postern_e2e::client::{Failure, Fetch, Steadied, Steady};
use postern_e2e::control::Control;
use postern_e2e::lab::DOMAIN;
use postern_e2e::product::NAMESPACE;
use postern_e2e::wait;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{Api, delete, nothing_left, wait_for};
use crate::runner::seconds;
use crate::space::{FIRST_ANSWER, Space, url};

/// Promised are two seconds; a loaded machine gets five times that.
const AT_A_SWITCH: Duration = Duration::from_secs(10);
/// Promised for the first answer after a host was killed.
const BACK: Duration = Duration::from_secs(20);
/// A replica that leaves takes 20 s at most, and another one comes.
const SETTLED: Duration = Duration::from_secs(180);

pub(super) fn reached(space: &Space<'_>) -> Result<()> {
    space.deploy("app")?;
    space.deploy("two")?;
    let name = space.name("web");
    let service = format!("svc:{name}");
    space.cluster().apply(&format!(
        r#"apiVersion: postern.dev/v1alpha1
kind: TailnetService
metadata: {{ name: web, namespace: {namespace} }}
spec:
  service: {service}
  httpRedirect: true
  ports:
  - port: 443
    rules:
    - path: {{ type: Prefix, value: /two }}
      rewrite: {{ replacePrefix: / }}
      backend: {{ service: {{ name: two, port: 80 }} }}
      access: {{ allow: [{{ user: alice@example.com }}] }}
    - path: {{ type: Prefix, value: / }}
      backend: {{ service: {{ name: app, port: 80 }} }}
  - {{ port: 8080, protocol: HTTP, backend: {{ service: {{ name: app, port: 80 }} }} }}
  - {{ port: 8443, protocol: TLS, backend: {{ service: {{ name: app, port: 80 }} }} }}
  - {{ port: 5432, protocol: TCP, backend: {{ service: {{ name: app, port: 80 }} }} }}
"#,
        namespace = space.namespace,
    ))?;
    let applied = Instant::now();
    let fqdn = format!("{name}.{DOMAIN}");
    let seen = space.answer(&url(&name))?;
    space.note(format!("answered {} after apply", seconds(applied.elapsed())));
    let names = seen.cert.as_ref().and_then(|cert| cert.names.clone());
    ensure!(
        names.as_deref() == Some(std::slice::from_ref(&fqdn)),
        "its certificate is for {names:?}"
    );
    let object = wait_for(space, "web", "Ready", "Ready", "")?;
    ensure!(
        object["status"]["hostname"] == fqdn.as_str() && object["status"]["hosts"] == 1,
        "its status is {}",
        object["status"]
    );
    stands(&object, None)?;
    every_port(&fqdn)?;

    // Without approval the condition has what the policy lacks; the replica goes on without.
    let host = Control
        .devices()?
        .into_iter()
        .find(|device| device["advertised"][&service].is_object())
        .context("no device advertises it")?;
    let host = host["stableID"].as_str().context("the host has no ID")?;
    let approve = |approved: bool| {
        let path = format!("/admin/services/{service}/hosts/{host}");
        Control.call("PUT", &path, Some(&json!({ "approved": approved })))
    };
    approve(false)?;
    let line = format!(r#""autoApprovers": {{ "services": {{ "{service}": ["tag:k8s"] }} }}"#);
    let refused = wait_for(space, "web", "Ready", "NeedsApproval", &line);
    approve(true)?;
    stands(&refused?, Some("Approved"))?;
    wait_for(space, "web", "Ready", "Ready", "")?;
    space.answer(&url(&name))?;

    delete(space, "web")?;
    ensure!(
        Api::open()?.definition(&service)?.is_none(),
        "it is still defined"
    );
    nothing_left(space, &name)
}

/// The conditions are there in the order in which a Service comes up, and hold up to the one that is missing.
fn stands(object: &Value, missing: Option<&str>) -> Result<()> {
    const ORDER: [&str; 9] = [
        "Accepted",
        "ResolvedRefs",
        "Defined",
        "Offered",
        "Approved",
        "CertificateReady",
        "Advertised",
        "Serving",
        "Ready",
    ];
    let conditions = object["status"]["conditions"].as_array();
    let said: Vec<_> = (conditions.into_iter().flatten())
        .map(|condition| {
            let text = |key: &str| condition[key].as_str().unwrap_or_default();
            (text("type"), text("status"))
        })
        .collect();
    ensure!(said.iter().map(|(kind, _)| *kind).eq(ORDER), "there are {said:?}");
    let first = said.iter().find(|(_, status)| *status != "True");
    ensure!(first.map(|(kind, _)| *kind) == missing, "they are {said:?}");
    Ok(())
}

/// HTTPS, HTTP, TLS that is ended before the bytes go on, and bytes; each as in a TailnetIngress.
fn every_port(fqdn: &str) -> Result<()> {
    let ask = |user: &str, url: &str| {
        let fetched = Fetch::get(user, url.to_owned()).send();
        fetched.with_context(|| format!("{user} at {url}"))
    };
    let alice = ["alice@example.com"];
    let seen = ask("alice", &format!("https://{fqdn}/two/x"))?.seen()?;
    ensure!(
        seen.app == "two" && seen.uri == "/x" && seen.header("Tailscale-User-Login") == alice,
        "the app saw {seen:?}"
    );
    let refused = ask("bob", &format!("https://{fqdn}/two/x"))?.status;
    ensure!(refused == 403, "bob got {refused}");
    let seen = ask("bob", &format!("http://{fqdn}:8080/"))?.seen()?;
    ensure!(
        seen.header("Tailscale-User-Login") == ["bob@example.com"],
        "the app saw {seen:?}"
    );
    let redirect = ask("alice", &format!("http://{fqdn}/"))?;
    ensure!(
        (300..400).contains(&redirect.status) && redirect.header("Location") == [format!("https://{fqdn}/")],
        "port 80 answers {redirect:?}"
    );
    for url in [format!("https://{fqdn}:8443/"), format!("http://{fqdn}:5432/")] {
        let seen = ask("alice", &url)?.seen()?;
        ensure!(
            seen.app == "app" && seen.header("Tailscale-User-Login").is_empty(),
            "at {url} the app saw {seen:?}"
        );
    }
    Ok(())
}

pub(super) fn switched(space: &Space<'_>) -> Result<()> {
    space.deploy("app")?;
    let name = space.name("ha");
    let group = Group::create(space)?;
    group.apply(space, &name)?;
    group.settles(space, 2)?;
    let url = url(&name);
    space.answer(&url)?;

    let over_https = Steady::start("bob", &url, 6)?;
    let over_tcp = Steady::start("carol", &format!("http://{name}.{DOMAIN}:5432/"), 4)?;
    let of_postern = ["--namespace", NAMESPACE];
    let kubectl = |arguments: &[&str]| space.cluster().run(&[arguments, &of_postern].concat());
    kubectl(&["delete", "pod", &format!("{}-0", group.name)])?;
    group.settles(space, 2)?;
    kubectl(&["rollout", "restart", &format!("statefulset/{}", group.name)])?;
    group.settles(space, 2)?;
    group.scale(space, 3)?;
    group.settles(space, 3)?;
    group.scale(space, 2)?;
    group.settles(space, 2)?;
    let switches = group.switches()?;
    ensure!(
        switches.len() >= 3,
        "clients were sent elsewhere {} times only",
        switches.len()
    );
    space.note(format!("{} switches", switches.len()));
    for (what, load) in [("HTTPS", over_https), ("TCP", over_tcp)] {
        let steadied = load.end()?;
        space.note(judged(what, &steadied, &switches)?);
    }

    let primary = group.primary()?;
    kill(&primary)?;
    let killed = Instant::now();
    space.answer_within(&url, BACK)?;
    space.note(format!("answered {} after a kill", seconds(killed.elapsed())));

    // The wrong way round: the group first, then what it serves.
    space
        .cluster()
        .run(&["delete", "proxygroup", &group.name, "--wait=false"])?;
    delete(space, "ha")?;
    let defined = Api::open()?.definition(&format!("svc:{name}"))?;
    ensure!(defined.is_none(), "it is still defined: {defined:?}");
    group.gone(space)?;
    nothing_left(space, &name)
}

/// Only requests in flight when clients are sent elsewhere may fail, and one of each connection.
fn judged(what: &str, steadied: &Steadied, switches: &[u64]) -> Result<String> {
    let mut at: BTreeMap<(u64, u64), &Failure> = BTreeMap::new();
    let mut latest = 0;
    for failure in &steadied.failures {
        let nearest = switches.iter().min_by_key(|switch| distance(failure, **switch));
        let nearest = *nearest.with_context(|| format!("{failure:?} without any switch"))?;
        let distance = distance(failure, nearest);
        latest = latest.max(distance);
        ensure!(
            u128::from(distance) <= AT_A_SWITCH.as_millis(),
            "over {what} {failure:?} is {distance} ms from a switch; they were at {switches:?}"
        );
        if let Some(other) = at.insert((failure.connection, nearest), failure) {
            bail!("over {what} a connection failed twice at the switch at {nearest}: {other:?} {failure:?}");
        }
    }
    Ok(format!(
        "{what}: {} of {} requests failed, {} from a switch at most, the slowest answer took {}",
        steadied.failures.len(),
        steadied.requests,
        seconds(Duration::from_millis(latest)),
        seconds(Duration::from_millis(steadied.slowest_ms)),
    ))
}

/// Milliseconds between a switch and a request; none when the request was in flight.
fn distance(failure: &Failure, switch: u64) -> u64 {
    if switch < failure.started {
        failure.started - switch
    } else {
        switch.saturating_sub(failure.ended)
    }
}

/// A ProxyGroup of two replicas on the lab's Tailnet.
struct Group {
    name: String,
}

impl Group {
    fn create(space: &Space<'_>) -> Result<Self> {
        let short = space.namespace.len().min(34);
        let name = format!("s-{}", space.namespace.get(..short).unwrap_or_default());
        space.cluster().apply(&format!(
            "apiVersion: postern.dev/v1alpha1\nkind: ProxyGroup\nmetadata: {{ name: {name} }}\nspec: {{ replicas: 2 }}\n"
        ))?;
        Ok(Self { name })
    }

    fn apply(&self, space: &Space<'_>, name: &str) -> Result<()> {
        let manifest = super::manifest(space, "ha", name, 5432);
        space
            .cluster()
            .apply(&crate::removal::in_group(&manifest, &self.name))
    }

    fn scale(&self, space: &Space<'_>, replicas: u32) -> Result<()> {
        let patch = json!({ "spec": { "replicas": replicas } }).to_string();
        space
            .cluster()
            .run(&[
                "patch",
                "proxygroup",
                &self.name,
                "--type=merge",
                "--patch",
                &patch,
            ])
            .map(drop)
    }

    /// Waits until so many replicas run, each of them a host that serves, and nothing else is on the tailnet.
    fn settles(&self, space: &Space<'_>, replicas: usize) -> Result<()> {
        let workload = format!("statefulset/{}", self.name);
        wait::until("the StatefulSet", FIRST_ANSWER, || {
            space.cluster().run(&["get", &workload, "--namespace", NAMESPACE])
        })?;
        let status = [
            "rollout",
            "status",
            &workload,
            "--namespace",
            NAMESPACE,
            "--timeout=180s",
        ];
        wait::until("the hosts to serve", SETTLED, || {
            space.cluster().run(&status)?;
            let pods = (space.cluster()).list(
                "pod",
                NAMESPACE,
                &format!("postern.dev/proxy-group={}", self.name),
            )?;
            ensure!(pods.len() == replicas, "there are {} pods", pods.len());
            let devices = self.devices()?;
            ensure!(devices.len() == replicas, "on the tailnet there are {devices:?}");
            let object =
                (space.cluster().get("tailnetservice", &space.namespace, "ha")?).context("it is gone")?;
            ensure!(
                object["status"]["hosts"] == replicas,
                "its status is {}",
                object["status"]
            );
            Ok(())
        })
    }

    /// Names of the hosts on the tailnet.
    fn devices(&self) -> Result<Vec<String>> {
        let mine = |device: &Value| {
            let name = device["name"].as_str()?;
            name.starts_with(&format!("{}-", self.name))
                .then(|| name.to_owned())
        };
        Ok(Control.devices()?.iter().filter_map(mine).collect())
    }

    /// What control did with the routes, oldest first: the time, the host, and whether clients were sent there.
    fn moves(&self) -> Result<Vec<(u64, String, bool)>> {
        let moves = Control.call("GET", "/admin/moves", None)?;
        let mine = |moved: &Value| {
            let node = moved["node"].as_str()?;
            let routed = moved["routes"]
                .as_array()
                .is_some_and(|routes| !routes.is_empty());
            let time = moved["ms"].as_u64()?;
            node.starts_with(&format!("{}-", self.name))
                .then(|| (time, node.to_owned(), routed))
        };
        Ok(moves.as_array().into_iter().flatten().filter_map(mine).collect())
    }

    /// When clients were sent elsewhere; the first time they were sent anywhere doesn't count.
    fn switches(&self) -> Result<Vec<u64>> {
        const SAME: u64 = 1000;
        let mut switches: Vec<u64> = Vec::new();
        for (time, ..) in self.moves()?.into_iter().skip(1) {
            if switches.last().is_none_or(|last| time - last > SAME) {
                switches.push(time);
            }
        }
        Ok(switches)
    }

    /// The pod that clients are sent to.
    fn primary(&self) -> Result<String> {
        let moves = self.moves()?;
        let (_, node, _) = moves
            .iter()
            .rev()
            .find(|(.., routed)| *routed)
            .context("no host has clients")?;
        let ordinal = node
            .trim_start_matches(&format!("{}-", self.name))
            .split('-')
            .next();
        Ok(format!("{}-{}", self.name, ordinal.unwrap_or_default()))
    }

    /// Waits until nothing of it is left, on the tailnet or here.
    fn gone(&self, space: &Space<'_>) -> Result<()> {
        wait::until("the group to go", SETTLED, || {
            ensure!(
                space
                    .cluster()
                    .get("proxygroup", NAMESPACE, &self.name)?
                    .is_none(),
                "it is still there"
            );
            let devices = self.devices()?;
            ensure!(devices.is_empty(), "{devices:?} are on the tailnet");
            Ok(())
        })?;
        nothing_left(space, &self.name)
    }
}

/// Ends a pod's proxy without a word.
fn kill(pod: &str) -> Result<()> {
    let argument = format!("--pod\0{pod}\0");
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(cmdline) = fs::read_to_string(entry.path().join("cmdline")) else {
            continue;
        };
        let pid = entry.file_name().to_string_lossy().parse().ok();
        if let (true, Some(pid)) = (cmdline.contains(&argument), pid.and_then(Pid::from_raw)) {
            return kill_process(pid, Signal::KILL).context("cannot kill the proxy");
        }
    }
    bail!("no proxy of pod {pod} runs")
}
