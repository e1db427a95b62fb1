//! The image needs nothing of its surroundings.

use anyhow::{Context, Result, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::product::NAMESPACE;
use postern_e2e::tailnet;

use crate::runner::Test;
use crate::space::{Space, url};

pub(crate) const TESTS: &[Test] = &[Test::beside(
    "the_image_runs_with_a_read_only_root_and_a_foreign_uid",
    foreign_uid,
)];

/// As a sidecar in a pod of its own: no `/tmp`, a uid that no file knows, nothing writable but the state.
fn foreign_uid(space: &Space<'_>) -> Result<()> {
    space.app()?; // so that the group's pod is there, which names the image
    let pod = space
        .cluster()
        .get("pod", NAMESPACE, "default-0")?
        .context("there is no proxy pod")?;
    let image = pod["spec"]["containers"][0]["image"]
        .as_str()
        .context("it has no image")?
        .to_owned();
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
    resources: {{ limits: {{ memory: 128Mi }} }}
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
