//! Services (`svc:`): their definitions at the coordination service, whose they are, and that they are served.

mod hosts;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postern_e2e::control::{ADMIN_PORT, http};
use postern_e2e::lab::NODE_IP;
use postern_e2e::product::NAMESPACE;
use postern_e2e::tailnet::OAUTH_CLIENT;
use postern_e2e::wait;
use serde_json::{Value, json};

use crate::runner::{Test, seconds};
use crate::space::{Space, condition};

pub(crate) const TESTS: &[Test] = &[
    Test::beside("a_service_is_defined_as_it_is_applied_and_goes_with_it", defined),
    Test::beside("a_service_of_another_cluster_is_joined_only_when_shared", shared),
    Test::beside(
        "a_service_is_reached_by_name_on_every_port_once_it_is_approved",
        hosts::reached,
    ),
    Test::alone(
        "of_a_service_on_two_replicas_only_requests_at_a_switch_fail",
        hosts::switched,
    ),
];

const SAID: Duration = Duration::from_secs(30);
const OWNERS: &str = "tailscale.com/owner-references";

fn defined(space: &Space<'_>) -> Result<()> {
    space.deploy("app")?;
    let name = space.name("db");
    let service = format!("svc:{name}");
    let api = Api::open()?;
    apply(space, "older", &name, 5432)?;
    let object = wait_for(space, "older", "Defined", "Defined", "100.")?;
    let definition = api.definition(&service)?.context("it is not defined")?;
    ensure!(
        definition["ports"] == json!(["tcp:443", "tcp:5432"]) && definition["tags"] == json!(["tag:k8s"]),
        "it is defined as {definition}"
    );
    ensure!(
        definition["addrs"] == object["status"]["addresses"],
        "the status has {}",
        object["status"]
    );
    let owners: Value = serde_json::from_str(definition["annotations"][OWNERS].as_str().unwrap_or_default())?;
    let cluster = space.cluster().get("namespace", "", "kube-system")?;
    let cluster = cluster.context("there is no kube-system")?;
    let us = &cluster["metadata"]["uid"];
    ensure!(
        owners["ownerRefs"] == json!([{ "operatorID": us }]),
        "the owners are {owners}, this cluster is {us}"
    );

    // A change of ports is written, with the addresses as they are.
    apply(space, "older", &name, 5433)?;
    wait::until("the changed ports", SAID, || {
        let changed = api.definition(&service)?.context("it is gone")?;
        ensure!(
            changed["ports"] == json!(["tcp:443", "tcp:5433"]) && changed["addrs"] == definition["addrs"],
            "it is {changed}"
        );
        Ok(())
    })?;
    // One name has one owner in a cluster, whatever the kind.
    apply(space, "younger", &name, 5432)?;
    wait_for(space, "younger", "Accepted", "NameTaken", "older")?;

    delete(space, "younger")?;
    ensure!(api.definition(&service)?.is_some(), "it went with another object");
    let start = Instant::now();
    delete(space, "older")?;
    ensure!(api.definition(&service)?.is_none(), "it is still defined");
    space.note(format!("gone after {}", seconds(start.elapsed())));
    nothing_left(space, &name)
}

fn shared(space: &Space<'_>) -> Result<()> {
    let name = space.name("pool");
    let service = format!("svc:{name}");
    let theirs = json!({ "ownerRefs": [{ "operatorID": "nOTHER" }] }).to_string();
    let api = Api::open()?;
    api.put(&json!({
        "name": service,
        "ports": ["tcp:443", "tcp:5432"],
        "annotations": { OWNERS: theirs, "theirs": "too" },
    }))?;
    let before = api.definition(&service)?;
    apply(space, "joins", &name, 5432)?;
    wait_for(space, "joins", "Defined", "OwnedElsewhere", "spec.shared")?;
    ensure!(api.definition(&service)? == before, "it was changed");
    space.cluster().run(&[
        "patch",
        "tailnetservice",
        "joins",
        "--type=merge",
        "--patch",
        r#"{"spec":{"shared":true}}"#,
        "--namespace",
        &space.namespace,
    ])?;
    wait_for(space, "joins", "Defined", "Defined", "100.")?;
    let joined = api.definition(&service)?.context("it is gone")?;
    let owners = joined["annotations"][OWNERS].as_str().unwrap_or_default();
    ensure!(
        owners.matches("operatorID").count() == 2 && owners.contains("nOTHER"),
        "its owners are {owners}"
    );
    delete(space, "joins")?;
    ensure!(
        api.definition(&service)? == before,
        "the other cluster's is not as it was"
    );
    api.delete(&service)
}

/// A TailnetService of two ports: HTTPS, and one for bytes.
pub(crate) fn manifest(space: &Space<'_>, object: &str, name: &str, port: u16) -> String {
    format!(
        r#"apiVersion: postern.dev/v1alpha1
kind: TailnetService
metadata: {{ name: {object}, namespace: {namespace} }}
spec:
  service: svc:{name}
  ports:
  - {{ port: 443, backend: {{ service: {{ name: app, port: 80 }} }} }}
  - {{ port: {port}, protocol: TCP, backend: {{ service: {{ name: app, port: 80 }} }} }}
"#,
        namespace = space.namespace,
    )
}

fn apply(space: &Space<'_>, object: &str, name: &str, port: u16) -> Result<()> {
    space.cluster().apply(&manifest(space, object, name, port))
}

pub(crate) fn delete(space: &Space<'_>, object: &str) -> Result<()> {
    space
        .cluster()
        .run(&[
            "delete",
            "tailnetservice",
            object,
            "--namespace",
            &space.namespace,
            "--timeout=60s",
        ])
        .map(drop)
}

/// Waits for a condition's reason, with a message that names something.
pub(crate) fn wait_for(
    space: &Space<'_>,
    object: &str,
    kind: &str,
    reason: &str,
    named: &str,
) -> Result<Value> {
    space
        .cluster()
        .wait("tailnetservice", &space.namespace, object, SAID, |object| {
            condition(object, kind)
                .is_some_and(|(_, said, message)| said == reason && message.contains(named))
        })
        .with_context(|| format!("{kind} is not {reason}, naming {named:?}"))
}

/// Neither a Secret nor configuration nor rights name it.
fn nothing_left(space: &Space<'_>, name: &str) -> Result<()> {
    wait::until("nothing of it to be left", SAID, || {
        for kind in ["secret", "configmap", "role"] {
            let all = space
                .cluster()
                .run(&["get", kind, "--namespace", NAMESPACE, "--output", "json"])?;
            let list: Value = serde_json::from_str(&all)?;
            for item in list["items"].as_array().into_iter().flatten() {
                let text = if kind == "secret" {
                    item["metadata"]["name"].to_string()
                } else {
                    item.to_string()
                };
                ensure!(
                    !text.contains(name),
                    "{kind} {} names it",
                    item["metadata"]["name"]
                );
            }
        }
        Ok(())
    })
}

/// The management API, as another cluster's operator would use it.
pub(crate) struct Api(String);

impl Api {
    pub(crate) fn open() -> Result<Self> {
        let (id, secret) = OAUTH_CLIENT;
        let url = format!("http://{id}:{secret}@{NODE_IP}:{ADMIN_PORT}/api/v2/oauth/token");
        let answer = http("POST", &url, None)?;
        let token = answer["access_token"].as_str().context("no token")?;
        Ok(Self(format!(
            "http://{token}:@{NODE_IP}:{ADMIN_PORT}/api/v2/tailnet/-/vip-services"
        )))
    }

    pub(crate) fn definition(&self, service: &str) -> Result<Option<Value>> {
        let all = http("GET", &self.0, None)?;
        let mut found = all["vipServices"].as_array().into_iter().flatten();
        Ok(found.find(|known| known["name"] == service).cloned())
    }

    pub(crate) fn put(&self, definition: &Value) -> Result<()> {
        let name = definition["name"].as_str().context("no name")?;
        http("PUT", &format!("{}/{name}", self.0), Some(definition)).map(drop)
    }

    pub(crate) fn delete(&self, service: &str) -> Result<()> {
        http("DELETE", &format!("{}/{service}", self.0), None).map(drop)
    }
}
