//! Headscale itself, and its clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_e2e::lab::NODE_IP;
use postern_e2e::product::NAMESPACE;
use postern_e2e::{command, control, tailnet, wait};
use serde_json::Value;

use super::{CLIENTS, EXAMPLE, SUFFIX};
use crate::examples;
use crate::first_light::{Running, tempdir};
use crate::space::Space;

const PORT: u16 = 9930;

/// A Headscale beside the lab's control server, on the same relay, with Go clients of its own.
#[derive(Debug)]
pub(super) struct Headscale {
    program: PathBuf,
    folder: PathBuf,
    server: Option<Running>,
    _clients: Option<Running>,
}

impl Headscale {
    pub(super) fn start(space: &Space<'_>, names: &[String]) -> Result<Self> {
        let program = tailnet::headscale(&space.env.lab)?;
        ensure!(
            program.exists(),
            "Headscale is not built: `cargo lab test` does that"
        );
        let folder = tempdir(&space.name("headscale"));
        fs::create_dir_all(&folder)?;
        write_configuration(&folder)?;
        certificate(&folder, names)?;
        let mut headscale = Self {
            program,
            folder,
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

    pub(super) fn serve(&mut self) -> Result<()> {
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

    pub(super) fn stop(&mut self) {
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
    pub(super) fn node(&self, name: &str) -> Result<Option<(String, String)>> {
        let nodes: Value = serde_json::from_str(&self.cli(&["nodes", "list", "--output", "json"])?)?;
        let nodes = nodes.as_array().into_iter().flatten();
        Ok(nodes
            .filter(|node| node["name"] == name || node["given_name"] == name)
            .map(|node| (node["id"].to_string(), node["ip_addresses"].to_string()))
            .next())
    }

    /// The example as it stands, with what its README says.
    pub(super) fn example(&self, space: &Space<'_>) -> Result<String> {
        let auth_key = self.key(&["preauthkeys", "create", "--reusable", "--tags", "tag:k8s"])?;
        let api_key = self.key(&["apikeys", "create"])?;
        examples::read(
            &space.env.lab.tree.join("examples/headscale/headscale.yaml"),
            &[
                ("authkey: CHANGE-ME", &format!("authkey: \"{auth_key}\"")),
                ("apikey: CHANGE-ME", &format!("apikey: \"{api_key}\"")),
                (
                    "https://headscale.example.com",
                    &format!("http://{NODE_IP}:{PORT}"),
                ),
            ],
        )
    }

    /// An Ingress and a TailnetIngress with one certificate of their own. The second asks for what there isn't, too.
    pub(super) fn names(&self, space: &Space<'_>, name: &str, own_kind: &str) -> Result<String> {
        let indented = |file: &str| -> Result<String> {
            let text = fs::read_to_string(self.folder.join(file))?;
            Ok(text.lines().map(|line| format!("    {line}\n")).collect())
        };
        Ok(format!(
            r#"apiVersion: v1
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
  annotations: {{ postern.dev/proxy-group: {EXAMPLE} }}
spec:
  ingressClassName: postern
  defaultBackend: {{ service: {{ name: app, port: {{ number: 80 }} }} }}
  tls: [{{ hosts: [{name}.{SUFFIX}], secretName: own }}]
---
apiVersion: postern.dev/v1alpha1
kind: TailnetIngress
metadata: {{ name: {own_kind}, namespace: {namespace} }}
spec:
  proxyGroupName: {EXAMPLE}
  backend: {{ service: {{ name: app, port: 80 }} }}
  tls: [{{ hosts: [{own_kind}.{SUFFIX}], secretName: own }}]
  funnel: {{ unauthenticated: true }}
"#,
            namespace = space.namespace,
            certificate = indented("tls.crt")?,
            key = indented("tls.key")?,
        ))
    }

    pub(super) fn log(&self) -> String {
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
fn certificate(folder: &Path, names: &[String]) -> Result<()> {
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
