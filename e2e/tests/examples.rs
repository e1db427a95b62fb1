//! The folders of `examples/`, applied as they stand. Images that the lab can't pull are stand-ins that speak the same
//! API; secrets are filled in where a README says so.

mod login;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::control::Control;
use postern_e2e::lab::DOMAIN;
use postern_e2e::product::{self, NAMESPACE};
use postern_e2e::relying_party::RelyingParty;
use postern_e2e::{app, command, tailnet, wait};

use crate::first_light::{streamed, tempdir};
use crate::runner::Test;
use crate::space::{FIRST_ANSWER, Space, condition, url};

pub(crate) const TESTS: &[Test] = &[
    Test::beside("every_example_is_accepted_by_the_api_server", accepted),
    Test::beside("the_example_first_ingress_works", first_ingress),
    Test::beside(
        "the_example_model_servers_streams_to_those_who_may",
        model_servers,
    ),
    Test::beside("the_example_ha_service_is_served_by_two_replicas", ha_service),
    Test::beside("the_example_network_policy_names_the_proxies", network_policy),
    Test::beside("the_example_livebook_knows_its_visitor", livebook),
    Test::beside("the_example_identity_provider_is_found", identity_provider),
    Test::beside(
        "the_example_identity_provider_with_app_logs_its_user_in",
        login::with_app,
    ),
    Test::beside("the_example_compose_sidecar_serves", compose),
];

/// Images that examples name, and the program that takes their place.
const STAND_INS: &[(&str, &str)] = &[
    ("docker.io/grafana/grafana", "grafana"),
    ("docker.io/ollama/ollama", "ollama"),
    ("ghcr.io/ggml-org/llama.cpp", "llama-server"),
    ("ghcr.io/open-webui/open-webui", "open-webui"),
    ("docker.io/traefik/whoami", "whoami"),
    ("ghcr.io/livebook-dev/livebook", "livebook"),
];
const PROXY: &str = "ghcr.io/postern-dev/postern-proxy";
/// Built by the reader, of a script beside the manifests.
const SCRIPT: (&str, &str) = ("registry.example.com/notes-mcp", "mcp-server/server/server.mjs");

/// A folder of `examples/` and the namespaces that it has in the cluster while the test lasts.
pub(crate) struct Example<'a> {
    space: &'a Space<'a>,
    folder: PathBuf,
    namespace: &'a str,
}

impl<'a> Example<'a> {
    /// Makes the namespace as the README says.
    pub(crate) fn new(space: &'a Space<'_>, folder: &str, namespace: &'a str) -> Result<Self> {
        let folder = space.env.lab.tree.join("examples").join(folder);
        let readme = fs::read_to_string(folder.join("README.md"))?;
        ensure!(
            readme.contains(&format!("kubectl create namespace {namespace};")),
            "the README doesn't say how to make the namespace {namespace}"
        );
        space.cluster().apply(&app::namespace(namespace))?;
        Ok(Self {
            space,
            folder,
            namespace,
        })
    }

    /// A file, with what its reader is told to fill in.
    pub(crate) fn read(&self, file: &str, filled_in: &[(&str, &str)]) -> Result<String> {
        read(&self.folder.join(file), filled_in)
    }

    /// Loads the images that a manifest names, and applies it.
    pub(crate) fn apply(&self, manifest: &str) -> Result<()> {
        load_images(self.space, manifest)?;
        self.space.cluster().apply(manifest)
    }

    fn apply_files(&self, files: &[&str]) -> Result<()> {
        files
            .iter()
            .try_for_each(|file| self.apply(&self.read(file, &[])?))
    }
}

impl Drop for Example<'_> {
    fn drop(&mut self) {
        let gone = ["delete", "namespace", self.namespace, "--wait=false"];
        let _ = self.space.cluster().run(&gone);
    }
}

/// A manifest of an example, with what its reader is told to fill in.
pub(crate) fn read(path: &Path, filled_in: &[(&str, &str)]) -> Result<String> {
    let file = || path.display().to_string();
    let mut text = fs::read_to_string(path).with_context(file)?;
    for (blank, value) in filled_in {
        ensure!(text.contains(blank), "{} has no {blank}", file());
        text = text.replace(blank, value);
    }
    Ok(text)
}

/// Takes the device of an earlier run away, whose state went with its pod: the name is the example's own.
fn forget(name: &str) -> Result<()> {
    if Control.device(name)?.is_some() {
        Control.call("DELETE", &format!("/admin/nodes/{name}"), None)?;
    }
    Ok(())
}

/// What is in the cluster already; two tests may want one image.
static LOADED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn load_images(space: &Space<'_>, manifest: &str) -> Result<()> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let images = manifest
        .lines()
        .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("image: "));
    for image in images {
        // As the runtime spells it.
        let host = image.split('/').next().is_some_and(|first| first.contains('.'));
        let reference = if host {
            image.to_owned()
        } else {
            format!("docker.io/{image}")
        };
        let Some((repository, _)) = reference.rsplit_once(':') else {
            bail!("{image} has no tag: what is pulled would change from day to day");
        };
        if loaded.contains(&reference) {
            continue;
        }
        let lab = &space.env.lab;
        if repository == PROXY {
            let program = product::program(lab, "postern-proxy");
            product::stand_in(lab, &reference, &program, "postern-proxy")?;
        } else if repository == SCRIPT.0 {
            let script = lab.tree.join("examples").join(SCRIPT.1);
            RelyingParty::of(lab)?.stand_in(lab, &reference, &script)?;
        } else {
            let Some((_, entry)) = STAND_INS.iter().find(|(name, _)| *name == repository) else {
                bail!("there is no stand-in for {repository}");
            };
            product::stand_in(lab, &reference, &space.env.helpers.program("backend"), entry)?;
        }
        loaded.insert(reference);
    }
    Ok(())
}

/// All of them, also what can't be applied beside the lab's own objects.
fn accepted(space: &Space<'_>) -> Result<()> {
    let mut count = 0;
    for folder in fs::read_dir(space.env.lab.tree.join("examples"))?.flatten() {
        if !folder.file_type()?.is_dir() {
            continue;
        }
        let readme = fs::read_to_string(folder.path().join("README.md"))
            .with_context(|| format!("{}: README.md", folder.path().display()))?;
        ensure!(
            readme.lines().count() <= 60,
            "{}: the README is longer than a page",
            folder.path().display()
        );
        for file in fs::read_dir(folder.path())?.flatten() {
            let path = file.path();
            let name = file.file_name();
            if path.extension().is_none_or(|kind| kind != "yaml") || name == "compose.yaml" {
                continue;
            }
            // The lab has a Tailnet `default` already, on another server. Namespaces are the reader's to make.
            let manifest = fs::read_to_string(&path)?.replace("name: default", "name: example");
            let manifest = in_namespace(&manifest, &space.namespace);
            let mut kubectl = space.cluster().kubectl();
            kubectl.args(["apply", "--server-side", "--dry-run=server", "--validate=strict"]);
            kubectl.args(["--filename", "-"]);
            let said = command::output_of_input(&mut kubectl, &manifest)
                .with_context(|| path.display().to_string())?;
            count += said.lines().count();
        }
    }
    space.note(format!("{count} objects"));
    Ok(())
}

/// All but Postern's own objects in that namespace: theirs are the reader's to make.
fn in_namespace(manifest: &str, namespace: &str) -> String {
    let mut parts = manifest.split("namespace: ");
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find([' ', ',', '}', '\n']).unwrap_or(part.len());
        let (old, rest) = part.split_at(end);
        let new = if old == NAMESPACE { old } else { namespace };
        all += &format!("namespace: {new}{rest}");
    }
    all
}

fn first_ingress(space: &Space<'_>) -> Result<()> {
    let example = Example::new(space, "first-ingress", "monitoring")?;
    example.apply_files(&["app.yaml", "ingress.yaml"])?;
    let seen = space.answer(&url("grafana"))?.seen()?;
    ensure!(seen.app == "grafana", "{} answers", seen.app);
    ensure!(
        seen.header("Tailscale-User-Login") == ["alice@example.com"],
        "the app saw {:?}",
        seen.headers
    );
    Ok(())
}

fn model_servers(space: &Space<'_>) -> Result<()> {
    let example = Example::new(space, "model-servers", "ai")?;
    example.apply_files(&["servers.yaml", "tailnet-ingress.yaml"])?;
    let url = url("models");
    let seen = space.answer(&url)?.seen()?;
    ensure!(seen.app == "open-webui", "{} answers", seen.app);
    let chat = |user: &str, path: &str| {
        let fetch = Fetch {
            method: "POST".into(),
            body: r#"{"stream":true,"messages":[]}"#.into(),
            ..Fetch::get(user, format!("{url}{path}"))
        };
        fetch.send()
    };
    for (path, last) in [
        ("/ollama/api/chat", r#""done":true}"#),
        ("/llama/v1/chat/completions", "data: [DONE]"),
    ] {
        let fetched = wait::until(path, FIRST_ANSWER, || {
            let fetched = chat("alice", path)?;
            ensure!(fetched.status == 200, "status {}", fetched.status);
            streamed(&fetched, 5, 300)?;
            Ok(fetched)
        })?;
        ensure!(
            fetched.body.trim_end().ends_with(last),
            "{path} ended with {:?}",
            fetched.body
        );
        let refused = chat("bob", path)?.status;
        ensure!(refused == 403, "{path} answered bob with {refused}");
    }
    Ok(())
}

fn ha_service(space: &Space<'_>) -> Result<()> {
    let example = Example::new(space, "ha-service", "status")?;
    example.apply_files(&["app.yaml", "service.yaml"])?;
    let result = on_two_replicas(space);
    // The group is nobody's but the example's. Without a Service it has no hosts.
    space.cluster().run(&[
        "delete",
        "tailnetservice",
        "status",
        "--namespace=status",
        "--timeout=60s",
    ])?;
    let no_hosts = wait::until("the hosts to go", FIRST_ANSWER, || {
        let devices = Control.devices()?;
        let hosts = devices.iter().filter_map(|device| device["name"].as_str());
        let hosts: Vec<_> = hosts
            .filter(|name| name.starts_with("ha-0-") || name.starts_with("ha-1-"))
            .collect();
        ensure!(hosts.is_empty(), "{hosts:?} are on the tailnet");
        let records = "postern.dev/proxy-group=ha,postern.dev/role=node";
        let records = space.cluster().list("secret", NAMESPACE, records)?;
        ensure!(records.is_empty(), "{} have a Secret", records.len());
        Ok(())
    });
    space
        .cluster()
        .run(&["delete", "proxygroup", "ha", "--timeout=60s"])?;
    result.and(no_hosts)
}

fn on_two_replicas(space: &Space<'_>) -> Result<()> {
    let seen = space.answer(&url("status"))?.seen()?;
    ensure!(
        seen.app == "whoami" && seen.header("Tailscale-User-Login") == ["alice@example.com"],
        "the app saw {seen:?}"
    );
    let object = space
        .cluster()
        .wait("tailnetservice", "status", "status", FIRST_ANSWER, |object| {
            object["status"]["hosts"] == 2
        })?;
    let (status, reason, _) = condition(&object, "Ready").context("no condition")?;
    ensure!(status == "True", "it is not ready: {reason}");
    let bytes = Fetch::get("bob", format!("http://status.{DOMAIN}:7000/")).send()?;
    ensure!(bytes.seen()?.app == "whoami", "over bytes: {}", bytes.body);
    Ok(())
}

/// The lab's network stores policies and filters nothing: what is proved is that the policy means the proxies.
fn network_policy(space: &Space<'_>) -> Result<()> {
    let example = Example::new(space, "network-policy", "shop")?;
    example.apply_files(&["shop.yaml"])?;
    let seen = space.answer(&url("shop"))?.seen()?;
    ensure!(seen.app == "whoami", "{} answers", seen.app);
    let policy = space.cluster().get("networkpolicy", "shop", "only-postern")?;
    let policy = policy.context("there is no policy")?;
    let from = &policy["spec"]["ingress"][0]["from"][0];
    let only = |selector: &serde_json::Value| -> Result<String> {
        let labels = selector["matchLabels"].as_object().context("no labels")?;
        let terms = labels
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
        Ok(terms.collect::<Vec<_>>().join(","))
    };
    let namespaces = space
        .cluster()
        .list("namespace", "", &only(&from["namespaceSelector"])?)?;
    ensure!(
        namespaces.len() == 1 && namespaces[0]["metadata"]["name"] == NAMESPACE,
        "it means other namespaces"
    );
    let selected = from["podSelector"]["matchLabels"].as_object();
    let selected = selected.context("no labels")?;
    // One list: pods of other tests come and go.
    let pods = space.cluster().list("pod", NAMESPACE, "")?;
    let names = |wanted: &dyn Fn(&serde_json::Value) -> bool| -> Vec<String> {
        pods.iter()
            .filter(|pod| wanted(&pod["metadata"]["labels"]))
            .map(|pod| pod["metadata"]["name"].to_string())
            .collect()
    };
    let let_in = names(&|labels| selected.iter().all(|(key, value)| labels[key] == *value));
    let proxies = names(&|labels| labels["app.kubernetes.io/name"] == "postern-proxy");
    ensure!(
        !proxies.is_empty() && let_in == proxies,
        "it lets in {let_in:?}, the proxies are {proxies:?}"
    );
    Ok(())
}

fn identity_provider(space: &Space<'_>) -> Result<()> {
    let example = Example::new(space, "identity-provider", "auth")?;
    example.apply_files(&["provider.yaml"])?;
    let metadata = format!("{}/.well-known/openid-configuration", url("idp"));
    let found: serde_json::Value = serde_json::from_str(&space.answer(&metadata)?.body)?;
    ensure!(found["issuer"] == url("idp"), "the issuer is {}", found["issuer"]);
    // What the README tells Grafana.
    for (field, path) in [
        ("authorization_endpoint", "/authorize"),
        ("token_endpoint", "/token"),
        ("userinfo_endpoint", "/userinfo"),
    ] {
        ensure!(
            found[field] == format!("{}{path}", url("idp")),
            "{field} is {}",
            found[field]
        );
    }
    Ok(())
}

fn livebook(space: &Space<'_>) -> Result<()> {
    forget("livebook")?;
    let example = Example::new(space, "livebook", "notes")?;
    // A cluster has volumes to hand out, the lab has this one; an earlier run that failed has left its own.
    let storage = space.env.lab.run.join("livebook-state");
    let no_volume = || {
        (space.cluster()).run(&[
            "delete",
            "persistentvolume",
            "livebook-state",
            "--ignore-not-found",
        ])
    };
    no_volume()?;
    let _ = fs::remove_dir_all(&storage);
    space.cluster().apply(&format!(
        r#"apiVersion: v1
kind: PersistentVolume
metadata: {{ name: livebook-state }}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {{ storage: 16Mi }}
  persistentVolumeReclaimPolicy: Retain
  claimRef: {{ namespace: notes, name: state-livebook-0 }}
  hostPath: {{ path: {}, type: DirectoryOrCreate }}
"#,
        storage.display()
    ))?;
    fs::create_dir_all(&storage)?;
    std::os::unix::fs::chown(&storage, Some(1000), Some(1000))?;
    let folder = tempdir(&space.name("livebook"));
    fs::create_dir_all(&folder)?;
    let manifest = example.read("livebook.yaml", &[("CHANGE-ME", "tskey-auth-tagged")])?;
    fs::write(folder.join("livebook.yaml"), &manifest)?;
    fs::copy(space.env.lab.pki().join("trust.pem"), folder.join("roots.pem"))?;
    fs::write(folder.join("kustomization.yaml"), lab_overlay())?;
    let mut kubectl = space.cluster().kubectl();
    let manifest = command::output(kubectl.arg("kustomize").arg(&folder))?;
    fs::remove_dir_all(&folder)?;
    example.apply(&manifest)?;
    let url = url("livebook");
    let greeted = space.answer(&url).with_context(|| {
        let logs = [
            "logs",
            "livebook-0",
            "--namespace=notes",
            "--all-containers",
            "--tail=15",
        ];
        let said = space.cluster().run(&logs);
        format!(
            "the pod said {}",
            said.unwrap_or_else(|error| format!("{error:#}"))
        )
    })?;
    ensure!(
        greeted.body.contains("<alice@example.com>"),
        "it says {:.200}",
        greeted.body
    );
    let forged = Fetch::get("bob", &url)
        .header("X-Forwarded-For", "100.64.0.1")
        .send()?;
    ensure!(
        forged.body.contains("<bob@example.com>"),
        "to bob, who says he is another, it says {:.200}",
        forged.body
    );
    drop(example);
    wait::until("the pod to be gone", Duration::from_secs(60), || {
        ensure!(space.cluster().list("pod", "notes", "")?.is_empty());
        Ok(())
    })?;
    no_volume()?;
    fs::remove_dir_all(storage).context("remove the volume")
}

/// The lab's coordination server and authorities in place of the public ones.
fn lab_overlay() -> String {
    format!(
        r#"resources: [livebook.yaml]
configMapGenerator:
- name: lab-roots
  namespace: notes
  files: [roots.pem]
patches:
- target: {{ kind: StatefulSet }}
  patch: |
    apiVersion: apps/v1
    kind: StatefulSet
    metadata: {{ name: livebook }}
    spec:
      template:
        spec:
          containers:
          - name: postern
            env:
            - {{ name: TS_CONTROL_URL, value: "{}" }}
            - {{ name: TS_DEBUG_ACME_DIRECTORY_URL, value: "{}" }}
            - {{ name: SSL_CERT_FILE, value: /lab/roots.pem }}
            volumeMounts: [{{ name: lab, mountPath: /lab }}]
          volumes:
          - {{ name: lab, configMap: {{ name: lab-roots }} }}
"#,
        tailnet::control_https_url(),
        tailnet::acme_directory(),
    )
}

/// As one pod: containers that share a network, started as the compose file and the `Dockerfile` say.
fn compose(space: &Space<'_>) -> Result<()> {
    forget("ollama")?;
    let folder = space.env.lab.tree.join("examples/compose-sidecar");
    let compose = fs::read_to_string(folder.join("compose.yaml"))?;
    let serve: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("config/serve.json"))?)?;
    let name = compose
        .lines()
        .find_map(|line| line.trim().strip_prefix("hostname: "))
        .context("no hostname")?;
    let environment: String = compose
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- TS_")?.split_once('='))
        .map(|(key, value)| {
            let value = match key {
                "AUTHKEY" => "tskey-auth-tagged".to_owned(),
                "EXTRA_ARGS" => format!("{value} --login-server={}", tailnet::control_https_url()),
                _ => value.to_owned(),
            };
            format!("    - {{ name: TS_{key}, value: \"{value}\" }}\n")
        })
        .collect();
    let images: Vec<&str> = compose
        .lines()
        .filter_map(|line| line.trim().strip_prefix("image: "))
        .filter_map(|image| image.split_whitespace().next())
        .collect();
    let &[proxy, ollama] = images.as_slice() else {
        bail!("the compose file has the images {images:?}");
    };
    let docker = fs::read_to_string(space.env.lab.tree.join("Dockerfile"))?;
    let arguments = docker
        .lines()
        .find_map(|line| line.strip_prefix("CMD "))
        .context("the Dockerfile has no CMD")?;
    let roots = fs::read_to_string(space.env.lab.pki().join("trust.pem"))?;
    let data = serde_json::json!({ "serve.json": serve.to_string(), "roots.pem": roots });
    let manifest = format!(
        r#"apiVersion: v1
kind: ConfigMap
metadata: {{ name: config, namespace: {namespace} }}
data: {data}
---
apiVersion: v1
kind: Pod
metadata: {{ name: compose, namespace: {namespace} }}
spec:
  hostname: {name}
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 5
  securityContext: {{ runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532, seccompProfile: {{ type: RuntimeDefault }} }}
  containers:
  - name: tailscale
    image: {proxy}
    args: {arguments}
    env:
{environment}    - {{ name: TS_DEBUG_ACME_DIRECTORY_URL, value: "{acme}" }}
    - {{ name: SSL_CERT_FILE, value: /config/roots.pem }}
    securityContext: {{ allowPrivilegeEscalation: false, capabilities: {{ drop: [ALL] }} }}
    resources: {{ requests: {{ cpu: 50m }} }}
    volumeMounts: [{{ name: tailscale, mountPath: /var/lib/tailscale }}, {{ name: config, mountPath: /config }}]
  - name: ollama
    image: {ollama}
    resources: {{ requests: {{ cpu: 50m }} }}
    securityContext: {{ allowPrivilegeEscalation: false, capabilities: {{ drop: [ALL] }} }}
  volumes:
  - {{ name: tailscale, emptyDir: {{}} }}
  - {{ name: config, configMap: {{ name: config }} }}
"#,
        namespace = space.namespace,
        acme = tailnet::acme_directory(),
    );
    load_images(space, &manifest)?;
    space.cluster().apply(&manifest)?;
    let seen = space
        .answer(&url(name))
        .with_context(|| {
            let logs = [
                "logs",
                "compose",
                "--namespace",
                &space.namespace,
                "--all-containers",
            ];
            let said = space.cluster().run(&logs);
            format!(
                "the pod said {}",
                said.unwrap_or_else(|error| format!("{error:#}"))
            )
        })?
        .seen()?;
    ensure!(seen.app == "ollama", "{} answers", seen.app);
    Ok(())
}
