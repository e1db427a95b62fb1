//! The same line on the other coordination server, which has no certificate API and another management API.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postern_e2e::client::{Fetch, Fetched};
use postern_e2e::lab::NODE_IP;
use postern_e2e::product::NAMESPACE;
use postern_e2e::{command, control, tailnet, wait};
use serde_json::Value;

use crate::first_light::{Running, tempdir};
use crate::removal::in_group;
use crate::runner::{Test, seconds};
use crate::services;
use crate::space::{FIRST_ANSWER, Space, condition};

pub(crate) const TESTS: &[Test] = &[Test::beside(
    "the_line_works_on_headscale_with_an_own_certificate",
    line,
)];

const PORT: u16 = 9930;
const CLIENTS: &str = "127.0.0.1:9931";
const SUFFIX: &str = "hs.lab";

/// Promised for every recovery.
const BACK: Duration = Duration::from_secs(30);

fn line(space: &Space<'_>) -> Result<()> {
    let name = space.name("hs");
    let own_kind = format!("{name}-ti");
    let url = format!("https://{name}.{SUFFIX}/x");
    let mut headscale = Headscale::start(space, &[&name, &own_kind])?;
    space.deploy("app")?;
    space
        .cluster()
        .apply(&headscale.manifest(space, &name, &own_kind)?)?;
    shows_the_caller(space, &headscale, &url)?;
    answer("alice", &format!("https://{own_kind}.{SUFFIX}/x"), FIRST_ANSWER)
        .context("by the TailnetIngress")?;
    says_what_headscale_lacks(space, &headscale)?;
    survives_its_pod(space, &headscale, &name, &url)?;

    headscale.stop();
    let served = wait::throughout("the name without Headscale", Duration::from_secs(8), || {
        let fetched = Fetch::get("alice", &url).send_by(CLIENTS)?;
        ensure!(fetched.status == 200, "status {}", fetched.status);
        Ok(())
    });
    headscale.serve()?;
    served?;
    // A node that registers now shows whether news from Headscale arrive again.
    let restored = Instant::now();
    answer("newcomer", &url, BACK).context("after the return of Headscale")?;
    space.note(format!(
        "a new client served {} after its return",
        seconds(restored.elapsed())
    ));

    space.delete_ingress(&name)?;
    space.cluster().run(&[
        "delete",
        "tailnetingress",
        &own_kind,
        "--namespace",
        &space.namespace,
        "--timeout=30s",
    ])?;
    wait::until("Headscale to forget the nodes", BACK, || {
        for name in [&name, &own_kind] {
            ensure!(headscale.node(name)?.is_none(), "{name} is still there");
        }
        Ok(())
    })?;
    space
        .cluster()
        .run(&["delete", "proxygroup,tailnet", &headscale.group, "--wait=false"])?;
    space
        .cluster()
        .run(&["delete", "secret", &headscale.group, "--namespace", NAMESPACE])
        .map(drop)
}

fn shows_the_caller(space: &Space<'_>, headscale: &Headscale, url: &str) -> Result<()> {
    let applied = Instant::now();
    let fetched = answer("alice", url, FIRST_ANSWER).with_context(|| headscale.log())?;
    let seen = fetched.seen()?;
    for (header, value) in [
        ("Tailscale-User-Login", "alice@example.com"),
        ("Tailscale-User-Name", "Alice Example"),
    ] {
        ensure!(
            seen.header(header) == [value],
            "{header} is {:?}, not {value:?}",
            seen.header(header)
        );
    }
    space.note(format!(
        "first answer after {}, {}",
        seconds(applied.elapsed()),
        fetched.path
    ));
    Ok(())
}

fn says_what_headscale_lacks(space: &Space<'_>, headscale: &Headscale) -> Result<()> {
    let tailnet = space.cluster().wait(
        "tailnet",
        NAMESPACE,
        &headscale.group,
        Duration::from_secs(15),
        |tailnet| condition(tailnet, "Ready").is_some_and(|(status, ..)| status == "True"),
    )?;
    let https = condition(&tailnet, "HTTPSAvailable");
    ensure!(
        https.is_some_and(|(status, reason, _)| (status, reason) == ("False", "CertificateRequired")),
        "HTTPSAvailable is {https:?}"
    );
    let services = condition(&tailnet, "ServicesAvailable");
    ensure!(
        services.is_some_and(|(status, reason, _)| (status, reason) == ("False", "ServicesUnavailable")),
        "ServicesAvailable is {services:?}"
    );
    let manifest = services::manifest(space, "svc", &space.name("svc"), 5432);
    space.cluster().apply(&in_group(&manifest, &headscale.group))?;
    services::wait_for(space, "svc", "Accepted", "ServicesUnavailable", "TailnetIngress")?;
    space
        .cluster()
        .run(&[
            "delete",
            "tailnetservice",
            "svc",
            "--namespace",
            &space.namespace,
            "--timeout=20s",
        ])
        .map(drop)
}

fn survives_its_pod(space: &Space<'_>, headscale: &Headscale, name: &str, url: &str) -> Result<()> {
    let before = headscale
        .node(name)?
        .context("Headscale does not know the node")?;
    let pod = format!("{}-0", headscale.group);
    space.cluster().kill_pod(NAMESPACE, &pod)?;
    let killed = Instant::now();
    answer("alice", url, BACK).context("after the kill of the pod")?;
    space.note(format!("answered {} after the kill", seconds(killed.elapsed())));
    let after = headscale
        .node(name)?
        .context("Headscale has forgotten the node")?;
    ensure!(before == after, "it was {before:?} and is {after:?}");
    Ok(())
}

fn answer(client: &str, url: &str, bound: Duration) -> Result<Fetched> {
    wait::until(url, bound, || {
        let fetched = Fetch {
            timeout_ms: Some(3000),
            ..Fetch::get(client, url)
        }
        .send_by(CLIENTS)?;
        ensure!(
            fetched.status == 200,
            "status {}: {:.200}",
            fetched.status,
            fetched.body
        );
        Ok(fetched)
    })
}

/// A Headscale beside the lab's control server, on the same relay, with Go clients of its own.
#[derive(Debug)]
struct Headscale {
    program: PathBuf,
    folder: PathBuf,
    group: String,
    server: Option<Running>,
    _clients: Option<Running>,
}

impl Headscale {
    fn start(space: &Space<'_>, names: &[&str]) -> Result<Self> {
        let program = tailnet::headscale(&space.env.lab)?;
        ensure!(
            program.exists(),
            "Headscale is not built: `cargo lab test` does that"
        );
        let group = format!("hs-{}", space.env.run);
        let folder = tempdir(&group);
        fs::create_dir_all(&folder)?;
        write_configuration(&folder)?;
        certificate(&folder, names)?;
        let mut headscale = Self {
            program,
            folder,
            group,
            server: None,
            _clients: None,
        };
        headscale.serve()?;
        headscale.cli(&[
            "users",
            "create",
            "alice",
            "--email",
            "alice@example.com",
            "--display-name",
            "Alice Example",
        ])?;
        let users = headscale.cli(&["users", "list", "--output", "json"])?;
        let users: Value = serde_json::from_str(&users)?;
        let id = users[0]["id"].as_u64().context("the user has no id")?.to_string();
        let key = headscale.key(&["preauthkeys", "create", "--user", &id, "--reusable"])?;
        let mut clients = tailnet::peer(&space.env.lab, &space.env.helpers, "clients");
        clients.args([
            "-control",
            &format!("http://{NODE_IP}:{PORT}"),
            "-listen",
            CLIENTS,
            "-key",
            &key,
        ]);
        clients
            .arg("-dir")
            .arg(headscale.folder.join("clients"))
            .arg("-ca")
            .arg(headscale.folder.join("tls.crt"));
        clients
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        headscale._clients = Some(Running::start(&mut clients)?);
        Ok(headscale)
    }

    fn serve(&mut self) -> Result<()> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))?;
        let mut serve = Command::new(&self.program);
        serve
            .arg("--config")
            .arg(self.folder.join("config.yaml"))
            .arg("serve");
        serve.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.server = Some(Running::start(&mut serve)?);
        wait::until("Headscale to answer", Duration::from_secs(20), || {
            control::http("GET", &format!("http://{NODE_IP}:{PORT}/health"), None)
        })
        .map(drop)
    }

    fn stop(&mut self) {
        drop(self.server.take());
    }

    fn cli(&self, arguments: &[&str]) -> Result<String> {
        command::output(
            Command::new(&self.program)
                .arg("--config")
                .arg(self.folder.join("config.yaml"))
                .args(arguments),
        )
    }

    /// The key that a command of the CLI makes.
    fn key(&self, arguments: &[&str]) -> Result<String> {
        let said = self.cli(&[arguments, &["--expiration", "24h", "--output", "json"]].concat())?;
        let said: Value = serde_json::from_str(&said)?;
        let key = said["key"]
            .as_str()
            .or_else(|| said.as_str())
            .context("the CLI printed no key")?;
        Ok(key.to_owned())
    }

    /// ID and addresses of a node.
    fn node(&self, name: &str) -> Result<Option<(String, String)>> {
        let nodes: Value = serde_json::from_str(&self.cli(&["nodes", "list", "--output", "json"])?)?;
        let nodes = nodes.as_array().into_iter().flatten();
        Ok(nodes
            .filter(|node| node["name"] == name || node["given_name"] == name)
            .map(|node| (node["id"].to_string(), node["ip_addresses"].to_string()))
            .next())
    }

    /// An Ingress and a TailnetIngress with one certificate of their own.
    fn manifest(&self, space: &Space<'_>, name: &str, own_kind: &str) -> Result<String> {
        let auth_key = self.key(&["preauthkeys", "create", "--reusable", "--tags", "tag:k8s"])?;
        let api_key = self.key(&["apikeys", "create"])?;
        let indented = |file: &str| -> Result<String> {
            let text = fs::read_to_string(self.folder.join(file))?;
            Ok(text.lines().map(|line| format!("    {line}\n")).collect())
        };
        Ok(format!(
            r#"apiVersion: v1
kind: Secret
metadata: {{ name: {group}, namespace: {NAMESPACE} }}
stringData: {{ authkey: "{auth_key}", apikey: "{api_key}" }}
---
apiVersion: postern.dev/v1alpha1
kind: Tailnet
metadata: {{ name: {group} }}
spec:
  loginServer: http://{NODE_IP}:{PORT}
  credentials:
    authKey: {{ secretRef: {{ name: {group} }} }}
    headscaleAPIKey: {{ secretRef: {{ name: {group} }} }}
  # The key has it already; Headscale turns a node away that asks for it again.
  tags: ["tag:k8s"]
---
apiVersion: postern.dev/v1alpha1
kind: ProxyGroup
metadata: {{ name: {group} }}
spec: {{ tailnetRef: {{ name: {group} }} }}
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata: {{ name: own, namespace: {namespace} }}
stringData:
  tls.crt: |
{certificate}  tls.key: |
{key}---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{ name: certificates, namespace: {namespace} }}
rules: [{{ apiGroups: [""], resources: [secrets], verbs: [get] }}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{ name: certificates, namespace: {namespace} }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: Role, name: certificates }}
subjects: [{{ kind: ServiceAccount, name: postern-operator, namespace: {NAMESPACE} }}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {name}
  namespace: {namespace}
  annotations: {{ postern.dev/proxy-group: {group} }}
spec:
  ingressClassName: postern
  defaultBackend: {{ service: {{ name: app, port: {{ number: 80 }} }} }}
  tls: [{{ hosts: [{name}.{SUFFIX}], secretName: own }}]
---
apiVersion: postern.dev/v1alpha1
kind: TailnetIngress
metadata: {{ name: {own_kind}, namespace: {namespace} }}
spec:
  proxyGroupName: {group}
  backend: {{ service: {{ name: app, port: 80 }} }}
  tls: [{{ hosts: [{own_kind}.{SUFFIX}], secretName: own }}]
"#,
            group = self.group,
            namespace = space.namespace,
            certificate = indented("tls.crt")?,
            key = indented("tls.key")?,
        ))
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        format!("Headscale said\n{}", command::tail(&log, 8))
    }
}

impl Drop for Headscale {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn write_configuration(folder: &Path) -> Result<()> {
    let at = |file: &str| folder.join(file).display().to_string();
    fs::write(
        folder.join("config.yaml"),
        format!(
            r#"server_url: http://{NODE_IP}:{PORT}
listen_addr: {NODE_IP}:{PORT}
metrics_listen_addr: 127.0.0.1:0
grpc_listen_addr: 127.0.0.1:0
noise: {{ private_key_path: {noise} }}
prefixes: {{ v4: 100.80.0.0/16, v6: "fd7a:115c:a1e0:80::/64", allocation: sequential }}
derp: {{ server: {{ enabled: false }}, urls: [], paths: [{derp}], auto_update_enabled: false }}
disable_check_updates: true
node: {{ ephemeral: {{ inactivity_timeout: 30m }} }}
database: {{ type: sqlite, sqlite: {{ path: {database}, write_ahead_log: true }} }}
log: {{ level: info, format: text }}
policy: {{ mode: file, path: {policy} }}
dns:
  magic_dns: true
  base_domain: {SUFFIX}
  override_local_dns: false
  nameservers: {{ global: [], split: {{}} }}
  search_domains: []
  extra_records: []
unix_socket: {socket}
unix_socket_permission: "0700"
logtail: {{ enabled: false }}
"#,
            noise = at("noise.key"),
            derp = at("derp.yaml"),
            database = at("db.sqlite"),
            policy = at("policy.json"),
            socket = at("socket"),
        ),
    )?;
    fs::write(
        folder.join("derp.yaml"),
        format!(
            r#"regions:
  1:
    regionid: 1
    regioncode: lab
    regionname: Lab
    nodes:
    - {{ name: 1a, regionid: 1, hostname: {NODE_IP}, ipv4: {NODE_IP}, ipv6: none, stunport: 9978, derpport: 9943, insecurefortests: true }}
"#
        ),
    )?;
    let policy = r#"{ "tagOwners": { "tag:k8s": ["alice@"] }, "grants": [{ "src": ["*"], "dst": ["*"], "ip": ["*"] }] }"#;
    fs::write(folder.join("policy.json"), policy).context("cannot write the policy")
}

/// A certificate that is its own authority, for names of this tailnet.
fn certificate(folder: &Path, names: &[&str]) -> Result<()> {
    let names: Vec<String> = names.iter().map(|name| format!("DNS:{name}.{SUFFIX}")).collect();
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "30",
    ]);
    openssl.args([
        "-subj",
        "/CN=own",
        "-addext",
        &format!("subjectAltName={}", names.join(",")),
    ]);
    openssl
        .arg("-keyout")
        .arg(folder.join("tls.key"))
        .arg("-out")
        .arg(folder.join("tls.crt"));
    command::output(&mut openssl).map(drop)
}
