//! The example `identity-provider-with-app`: an application's settings come from the Secret that is written for it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_e2e::command;
use postern_e2e::lab::DOMAIN;
use postern_e2e::product::NAMESPACE;
use postern_e2e::relying_party::RelyingParty;
use serde_json::{Value, json};

use super::Example;
use crate::space::{Space, condition, url};

const HERE: &str = "dashboards";
/// Pods of its own are started, and a certificate is issued.
const READY: Duration = Duration::from_secs(120);

pub(super) fn with_app(space: &Space<'_>) -> Result<()> {
    let example = Example::new(space, "identity-provider-with-app", HERE)?;
    let tailnet = ("your-tailnet.ts.net", DOMAIN);
    example.apply(&example.read("provider.yaml", &[])?)?;
    example.apply(&example.read("client.yaml", &[tailnet])?)?;
    let provider = ready(space, "identityprovider", "login")?;
    ready(space, "oidcclient", "grafana")?;
    let service = provider["status"]["backChannel"].as_str().unwrap_or_default();
    let service = service.strip_suffix(&format!(".{NAMESPACE}.svc"));
    let service = service.context("the status names no back channel")?;
    let service = space.cluster().get("service", NAMESPACE, service)?;
    let service = service.context("there is no Service")?;
    let address = service["spec"]["clusterIP"]
        .as_str()
        .context("it has no address")?;
    example.apply(&example.read("app.yaml", &[tailnet, ("10.96.0.99", address)])?)?;
    trust_the_lab(space)?;
    space.answer(&format!("{}/api/health", url(HERE)))?;

    let party = RelyingParty::of(&space.env.lab)?;
    let mut browser = party.script(&space.env.lab, "app.mjs", &url("login"))?;
    let said = command::output(browser.env("APP", url(HERE)))?;
    ensure!(
        said.trim() == "Welcome alice <alice@example.com>",
        "the application said {said}"
    );
    Ok(())
}

fn ready(space: &Space<'_>, kind: &str, name: &str) -> Result<Value> {
    space.cluster().wait(kind, HERE, name, READY, |object| {
        condition(object, "Ready").is_some_and(|(status, _, _)| status == "True")
    })
}

/// The lab's certificates are of an authority that no image knows.
fn trust_the_lab(space: &Space<'_>) -> Result<()> {
    let roots = fs::read_to_string(space.env.lab.pki().join("trust.pem"))?;
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "lab-roots", "namespace": HERE },
        "data": { "roots.pem": roots },
    });
    space.cluster().apply(&map.to_string())?;
    let patch = json!({ "spec": { "template": { "spec": {
        "containers": [{
            "name": "grafana",
            "env": [{ "name": "SSL_CERT_FILE", "value": "/lab/roots.pem" }],
            "volumeMounts": [{ "name": "lab", "mountPath": "/lab" }],
        }],
        "volumes": [{ "name": "lab", "configMap": { "name": "lab-roots" } }],
    } } } });
    let namespace = format!("--namespace={HERE}");
    space.cluster().run(&[
        "patch",
        "deployment",
        "grafana",
        &namespace,
        "--patch",
        &patch.to_string(),
    ])?;
    space
        .cluster()
        .run(&[
            "rollout",
            "status",
            "deployment",
            "grafana",
            &namespace,
            "--timeout=60s",
        ])
        .map(drop)
}
