//! An MCP server whose callers the identity provider knows, and a client that nobody here wrote.

use std::fs;

use anyhow::{Context, Result, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::lab::DOMAIN;
use postern_e2e::relying_party::RelyingParty;
use postern_e2e::{command, tailnet, wait};
use serde_json::{Value, json};

use crate::examples::Example;
use crate::first_light::tempdir;
use crate::identity::{admits_alice, give_alice};
use crate::provider::{READY, back_channel, way_inside};
use crate::runner::Test;
use crate::space::{FIRST_ANSWER, Space, condition, url};

pub(crate) const TESTS: &[Test] = &[Test::beside(
    "the_example_mcp_server_takes_tokens_that_were_made_for_it",
    example,
)];

const LOGIN: &str = "mcp-login";
const OTHER: &str = "https://other.example.com/mcp";

/// `examples/mcp-server`, filled in as its README says.
fn example(space: &Space<'_>) -> Result<()> {
    let example = Example::new(space, "mcp-server", "mcp")?;
    example.apply(&example.read("provider.yaml", &[])?)?;
    let ready = |object: &Value| condition(object, "Ready").is_some_and(|(status, ..)| status == "True");
    let provider = space
        .cluster()
        .wait("identityprovider", "mcp", LOGIN, READY, ready)?;
    let address = way_inside(space, back_channel(&provider)?)?;
    let address = address.split(':').next().unwrap_or_default();
    let blanks = [("192.0.2.1", address), ("tailnet-name.ts.net", DOMAIN)];
    let manifest = with_roots(space, &example.read("server.yaml", &blanks)?)?;
    example.apply(&manifest)?;

    let server = format!("{}/mcp", url("notes"));
    let grant =
        json!({ "allow_dcr": true, "users": ["*"], "resources": [server, OTHER], "allow_admin_ui": true });
    give_alice(space, LOGIN, &grant)?;
    admits_alice(LOGIN)?;
    wait::until("the server", FIRST_ANSWER, || {
        let status = Fetch::get("alice", &server).send()?.status;
        ensure!(status == 401, "status {status}");
        Ok(())
    })
    .with_context(|| {
        let said = ["logs", "deployment/notes", "--namespace=mcp", "--tail=15"];
        space
            .cluster()
            .run(&said)
            .unwrap_or_else(|error| format!("{error:#}"))
    })?;
    let party = RelyingParty::of(&space.env.lab)?;
    let mut script = party.script(&space.env.lab, "mcp.mjs", &url(LOGIN))?;
    let seen = command::output(script.env("SERVER", &server).env("OTHER", OTHER))?;
    let seen = serde_json::from_str(&seen).with_context(|| seen.clone())?;
    is_as_it_should_be(&seen, &server).with_context(|| format!("the client saw {seen:#}"))
}

fn is_as_it_should_be(seen: &Value, server: &str) -> Result<()> {
    ensure!(
        seen["stopped"] == "UnauthorizedError" && seen["asked"] == true,
        "nobody was asked"
    );
    ensure!(
        seen["resource"] == server && seen["challenge"] == "S256",
        "the client asked for something else"
    );
    let audience = seen["audience"].as_array().cloned();
    let audience = audience.unwrap_or_else(|| vec![seen["audience"].clone()]);
    ensure!(audience.contains(&json!(server)), "the audience is {audience:?}");
    ensure!(
        seen["tools"] == json!(["whoami"]) && seen["whoami"] == seen["subject"],
        "the server takes the client for somebody else"
    );
    let shown = |token: &str| (seen["shown"][token][0].clone(), seen["shown"][token][1].clone());
    ensure!(shown("own").0 == 200, "its own token isn't taken");
    let found = format!(
        "resource_metadata=\"{}/.well-known/oauth-protected-resource/mcp\"",
        server.trim_end_matches("/mcp")
    );
    for token in ["nothing", "other", "none", "id"] {
        let (status, challenge) = shown(token);
        let challenge = challenge.as_str().unwrap_or_default();
        ensure!(
            status == 401 && challenge.starts_with("Bearer ") && challenge.contains(&found),
            "whoever shows {token} gets {status}: {challenge}"
        );
    }
    Ok(())
}

/// The manifest for a cluster whose certificates come from the lab's own authority.
fn with_roots(space: &Space<'_>, manifest: &str) -> Result<String> {
    let folder = tempdir(&space.name("mcp"));
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("server.yaml"), manifest)?;
    fs::copy(tailnet::issuing_root(&space.env.lab), folder.join("roots.pem"))?;
    fs::write(folder.join("kustomization.yaml"), OVERLAY)?;
    let mut kubectl = space.cluster().kubectl();
    let manifest = command::output(kubectl.arg("kustomize").arg(&folder))?;
    fs::remove_dir_all(&folder)?;
    Ok(manifest)
}

const OVERLAY: &str = "resources: [server.yaml]
configMapGenerator:
- name: lab-roots
  namespace: mcp
  files: [roots.pem]
patches:
- target: { kind: Deployment }
  patch: |
    apiVersion: apps/v1
    kind: Deployment
    metadata: { name: notes }
    spec:
      template:
        spec:
          containers:
          - name: notes
            env:
            - { name: NODE_EXTRA_CA_CERTS, value: /lab/roots.pem }
            volumeMounts: [{ name: lab, mountPath: /lab }]
          volumes:
          - { name: lab, configMap: { name: lab-roots } }
";
