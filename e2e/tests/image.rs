//! The image needs nothing of its surroundings.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::product::NAMESPACE;
use postern_e2e::{command, tailnet, wait};

use crate::runner::Test;
use crate::space::{Space, url};

pub(crate) const TESTS: &[Test] = &[
    Test::beside(
        "the_image_runs_with_a_read_only_root_and_a_foreign_uid",
        foreign_uid,
    ),
    Test::beside("the_image_brings_the_roots_of_public_authorities", public_roots),
];

/// A public server's chain and a moment of its life, from the tests of Go's own `crypto/x509`.
const PUBLIC_NAME: &str = "www.google.com";
const PUBLIC_MOMENT: &str = "2023-02-28T20:24:52Z";
const AFTER_ITS_END: &str = "2040-01-01T00:00:00Z";

/// As a sidecar in a pod of its own: no `/tmp`, a uid that no file knows, nothing writable but the state.
fn foreign_uid(space: &Space<'_>) -> Result<()> {
    let image = proxy_image(space)?;
    let name = space.name("image");
    let roots = std::fs::read_to_string(space.env.lab.pki().join("trust.pem"))?;
    let roots: String = roots.lines().map(|line| format!("    {line}\n")).collect();
    let serve = r#"{"TCP":{"443":{"HTTPS":true}},"Web":{"${TS_CERT_DOMAIN}:443":{"Handlers":{"/":{"Text":"from afar"}}}}}"#;
    space.cluster().apply(&format!(
        r#"apiVersion: v1
kind: ConfigMap
metadata: {{ name: serve, namespace: {namespace} }}
data:
  serve.json: '{serve}'
  roots.pem: |
{roots}---
apiVersion: v1
kind: Pod
metadata: {{ name: alone, namespace: {namespace} }}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 5
  securityContext:
    runAsNonRoot: true
    runAsUser: 123456
    runAsGroup: 123457
    fsGroup: 123457
    seccompProfile: {{ type: RuntimeDefault }}
  containers:
  - name: proxy
    image: {image}
    imagePullPolicy: Never
    args: [run]
    env:
    - {{ name: TS_AUTHKEY, value: tskey-auth-tagged }}
    - {{ name: TS_HOSTNAME, value: {name} }}
    - {{ name: TS_STATE_DIR, value: /state }}
    - {{ name: TS_SERVE_CONFIG, value: /serve/serve.json }}
    - {{ name: TS_CONTROL_URL, value: "{control}" }}
    - {{ name: TS_DEBUG_ACME_DIRECTORY_URL, value: "{acme}" }}
    - {{ name: SSL_CERT_FILE, value: /serve/roots.pem }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {{ drop: [ALL] }}
    resources: {{ requests: {{ cpu: 50m }}, limits: {{ memory: 128Mi }} }}
    volumeMounts: [{{ name: state, mountPath: /state }}, {{ name: serve, mountPath: /serve }}]
  volumes:
  - {{ name: state, emptyDir: {{ medium: Memory, sizeLimit: 4Mi }} }}
  - {{ name: serve, configMap: {{ name: serve }} }}
"#,
        namespace = space.namespace,
        control = tailnet::control_https_url(),
        acme = tailnet::acme_directory(),
    ))?;
    space.answer(&url(&name)).with_context(|| {
        let said = space
            .cluster()
            .run(&["logs", "alone", "--namespace", &space.namespace, "--tail=15"]);
        format!(
            "the pod said {}",
            said.unwrap_or_else(|error| format!("{error:#}"))
        )
    })?;
    let body = Fetch::get("alice", url(&name)).send()?.body;
    ensure!(body == "from afar", "it says {body:.100}");
    Ok(())
}

/// Nothing but the image and a chain: no network is asked, no root is mounted.
fn public_roots(space: &Space<'_>) -> Result<()> {
    let image = proxy_image(space)?;
    let chain: String = public_chain()?
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect();
    let judge = |pod: &str, moment: &str| {
        format!(
            r#"---
apiVersion: v1
kind: Pod
metadata: {{ name: {pod}, namespace: {namespace} }}
spec:
  automountServiceAccountToken: false
  restartPolicy: Never
  securityContext: {{ runAsNonRoot: true, runAsUser: 123456, seccompProfile: {{ type: RuntimeDefault }} }}
  containers:
  - name: proxy
    image: {image}
    imagePullPolicy: Never
    args: [trust, /chain/chain.pem, --name, {PUBLIC_NAME}, --at, "{moment}"]
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {{ drop: [ALL] }}
    resources: {{ requests: {{ cpu: 50m }} }}
    volumeMounts: [{{ name: chain, mountPath: /chain }}]
  volumes: [{{ name: chain, configMap: {{ name: chain }} }}]
"#,
            namespace = space.namespace,
        )
    };
    space.cluster().apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: chain, namespace: {} }}\ndata:\n  chain.pem: |\n{chain}{}{}",
        space.namespace,
        judge("then", PUBLIC_MOMENT),
        judge("later", AFTER_ITS_END),
    ))?;
    for (pod, phase, words) in [
        ("then", "Succeeded", "believed"),
        ("later", "Failed", "certificate expired"),
    ] {
        wait::until(&format!("pod {pod} to end"), Duration::from_secs(30), || {
            let seen = space
                .cluster()
                .get("pod", &space.namespace, pod)?
                .context("no such pod")?;
            let seen = &seen["status"]["phase"];
            ensure!(seen == "Succeeded" || seen == "Failed", "it is {seen}");
            Ok(())
        })?;
        let said = space
            .cluster()
            .run(&["logs", pod, "--namespace", &space.namespace])?;
        let pod = space
            .cluster()
            .get("pod", &space.namespace, pod)?
            .context("no such pod")?;
        ensure!(
            pod["status"]["phase"] == phase && said.contains(words),
            "{}: {said}",
            pod["status"]["phase"]
        );
    }
    Ok(())
}

/// The image of the group's pods.
fn proxy_image(space: &Space<'_>) -> Result<String> {
    space.app()?; // so that the group's pod is there, which names the image
    let pod = space
        .cluster()
        .get("pod", NAMESPACE, "default-0")?
        .context("there is no proxy pod")?;
    let image = pod["spec"]["containers"][0]["image"].as_str();
    Ok(image.context("it has no image")?.to_owned())
}

/// Leaf and intermediate; the root is left out, for the image to know.
fn public_chain() -> Result<String> {
    let root = command::output(Command::new("go").args(["env", "GOROOT"]))?;
    let source = Path::new(root.trim()).join("src/crypto/x509/verify_test.go");
    let text = std::fs::read_to_string(&source)
        .with_context(|| format!("cannot read {} for a public chain", source.display()))?;
    ["googleLeaf", "gtsIntermediate"]
        .map(|name| {
            let start = text.split_once(&format!("const {name} = `")).context(name)?.1;
            let (pem, _) = start.split_once('`').context(name)?;
            Ok(format!("{}\n", pem.trim()))
        })
        .into_iter()
        .collect()
}
