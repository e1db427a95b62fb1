//! The identity provider on a machine of its own, before relying parties and a browser that nobody here wrote.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::control::Control;
use postern_e2e::relying_party::{self, RelyingParty};
use postern_e2e::{command, product, tailnet, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::first_light::{Running, tempdir};
use crate::runner::Test;
use crate::space::{FIRST_ANSWER, Space, url};

pub(crate) const TESTS: &[Test] = &[
    Test::beside("openid_client_logs_in_whom_whois_names", protocol),
    Test::beside("a_directory_of_tsidp_goes_on_with_the_same_answers", takeover),
    Test::alone("a_person_logs_in_by_chromium_and_manages_clients", browser),
];

/// What alice may do, and what is said of her.
fn grant() -> Value {
    json!({
        "allow_dcr": true, "allow_admin_ui": true,
        "extraClaims": { "groups": ["lab"], "floor": "third" }, "includeInUserInfo": true,
    })
}

fn protocol(space: &Space<'_>) -> Result<()> {
    let provider = Provider::start(space, space.name("idp"), Some("tskey-auth-tagged"))?;
    grant_alice(space, &provider.name)?;
    admits_alice(&provider.name)?;
    let seen = provider.script(space, "protocol.mjs", &[])?;
    speaks_as_it_should(space, &provider.name, &seen)
}

/// What `protocol.mjs` has seen of the provider with that name.
pub(crate) fn speaks_as_it_should(space: &Space<'_>, name: &str, seen: &Value) -> Result<()> {
    let issuer = url(name);
    ensure!(seen["server"]["issuer"] == issuer, "it is {}", seen["server"]);
    same(
        "who was asked for consent",
        &seen["asked"],
        &json!([true, false, true, false]),
    )?;
    let device = space.device("alice-laptop")?;
    for (claim, value) in [
        ("iss", json!(issuer)),
        ("email", json!("alice@example.com")),
        ("email_verified", json!(true)),
        ("name", json!("Alice Example")),
        ("preferred_username", json!("alice")),
        ("groups", json!(["lab"])),
        ("floor", json!("third")),
        ("node", device["name"].clone()),
        ("nid", device["id"].clone()),
        ("addresses", device["addresses"].clone()),
        ("key", device["key"].clone()),
    ] {
        same(claim, &seen["claims"][claim], &value)?;
    }
    for claim in ["sub", "name", "email", "preferred_username", "groups", "floor"] {
        same(
            &format!("userinfo {claim}"),
            &seen["userinfo"][claim],
            &seen["claims"][claim],
        )?;
    }
    for claim in ["sub", "email", "auth_time", "groups"] {
        same(
            &format!("refreshed {claim}"),
            &seen["refreshed"][claim],
            &seen["claims"][claim],
        )?;
    }
    same("bob's e-mail", &seen["bob"]["email"], &json!("bob@example.com"))?;
    same("bob's groups", &seen["bob"]["floor"], &Value::Null)?;
    for (what, value) in [
        ("tagged", json!("access_denied")),
        ("active", json!([true, false])),
        ("refreshAfterRevocation", json!("invalid_grant")),
        ("codeAgain", json!("invalid_grant")),
        ("activeAfterCodeAgain", json!(false)),
    ] {
        same(what, &seen[what], &value)?;
    }
    Ok(())
}

/// Tailscale's own program serves; then ours, on what it has left, without an auth key.
fn takeover(space: &Space<'_>) -> Result<()> {
    let name = space.name("tsidp");
    let folder = tempdir(&name);
    fs::create_dir_all(&folder)?;
    let log = File::create(folder.join("log"))?;
    let mut tsidp = tailnet::tsidp(&space.env.lab, &space.env.helpers);
    tsidp.args(["-allow-insecure-registration=false", "-hostname", &name, "-dir"]);
    tsidp
        .arg(folder.join("state"))
        .env("TS_AUTHKEY", "tskey-auth-tagged");
    let tsidp = Running::start(tsidp.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log))?;
    let mut provider = Provider {
        name,
        folder,
        process: Some(tsidp),
    };
    provider.answer(space)?;
    grant_alice(space, &provider.name)?;
    let redirect_uri = "https://app.example.com/callback";
    let client: Value = {
        let created = Fetch {
            method: "POST".into(),
            body: format!("name=Grafana&redirect_uri={redirect_uri}"),
            ..Fetch::get("alice", format!("{}/clients/new", url(&provider.name)))
        };
        let created = created
            .header("Content-Type", "application/x-www-form-urlencoded")
            .send()?;
        serde_json::from_str(&created.body).with_context(|| format!("tsidp said {}", created.body))?
    };
    let text = |key: &str| client[key].as_str().unwrap_or_default();
    let known = [
        ("CLIENT_ID", text("client_id")),
        ("CLIENT_SECRET", text("client_secret")),
        ("REDIRECT_URI", redirect_uri),
    ];
    let gos = wait::until("the grant in tsidp's tokens", FIRST_ANSWER, || {
        let gos = provider.script(space, "known.mjs", &known)?;
        ensure!(
            gos["claims"]["floor"] == "third",
            "the claims are {}",
            gos["claims"]
        );
        Ok(gos)
    })?;
    let device = space.device(&provider.name)?;
    if let Some(tsidp) = provider.process.take() {
        tsidp.end(Signal::INT)?;
    }

    provider.run(space, None)?;
    provider.answer(space)?;
    let ours = provider.script(space, "known.mjs", &known)?;
    for field in ["stableID", "name", "addresses", "key"] {
        same(field, &space.device(&provider.name)?[field], &device[field])?;
    }
    if let Some(ours) = provider.process.take() {
        ours.end(Signal::TERM)?;
    }
    let compared = compare(&ours, &gos)?;
    space.note(format!("{compared} values compared"));
    Ok(())
}

/// What differs from one token to the next.
const OF_THE_TOKEN: &[&str] = &["exp", "iat", "nbf", "jti", "nonce"];
/// What tsidp says of itself, but does not do.
const NEVER_DONE: &[&str] = &["id_token", "tags", "user"];

/// Everything that Go's said, ours says too: how many things that were.
fn compare(ours: &Value, gos: &Value) -> Result<usize> {
    let mut compared = 0;
    // One audience may stand alone (RFC 7519, section 4.1.3).
    let list = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    for part in ["claims", "userinfo"] {
        for (claim, value) in gos[part].as_object().context("Go's provider said nothing")? {
            if !OF_THE_TOKEN.contains(&claim.as_str()) {
                let (ours, gos) = (list(&ours[part][claim]), list(value));
                same(&format!("{part} {claim}"), &ours.into(), &gos.into())?;
                compared += 1;
            }
        }
    }
    for key in list(&gos["keys"]) {
        ensure!(
            list(&ours["keys"]).contains(&key),
            "the key {key} is not among {}",
            ours["keys"]
        );
        compared += 1;
    }
    for (field, value) in gos["server"]
        .as_object()
        .context("Go's provider has no metadata")?
    {
        let ours = &ours["server"][field];
        match value {
            Value::Array(items) => {
                for item in items
                    .iter()
                    .filter(|item| !NEVER_DONE.contains(&item.as_str().unwrap_or_default()))
                {
                    ensure!(list(ours).contains(item), "{field}: {item} is not among {ours}");
                    compared += 1;
                }
            }
            _ => {
                same(field, ours, value)?;
                compared += 1;
            }
        }
    }
    Ok(compared)
}

fn browser(space: &Space<'_>) -> Result<()> {
    let provider = Provider::start(space, space.name("idp"), Some("tskey-auth-tagged"))?;
    grant_alice(space, &provider.name)?;
    admits_alice(&provider.name)?;
    let pictures = space.env.lab.logs().join("pictures");
    fs::create_dir_all(&pictures)?;
    let path = |path: PathBuf| path.display().to_string();
    let pki = space.env.lab.pki();
    let seen = provider.script(
        space,
        "browser.mjs",
        &[
            ("CHROMIUM", &path(relying_party::chromium().to_owned())),
            ("PICTURES", &path(pictures)),
            ("APP_CERTIFICATE", &path(pki.join("server.pem"))),
            ("APP_KEY", &path(pki.join("server.key"))),
        ],
    )?;
    same("what the browser complained about", &seen["problems"], &json!([]))?;
    same("declined", &seen["declined"]["error"], &json!("access_denied"))?;
    for login in ["claims", "silent", "program"] {
        same(login, &seen[login]["email"], &json!("alice@example.com"))?;
    }
    same(
        "both secrets",
        &seen["replaced"],
        &json!([true, seen["claims"]["sub"], seen["claims"]["sub"]]),
    )?;
    same(
        "what frames show",
        &seen["framed"],
        &json!(["https://app.example.com/framed"]),
    )?;
    for (what, texts) in [
        ("created", &["is there"][..]),
        (
            "consent",
            &["Grafana", "app.example.com", "alice@example.com", "alice-laptop"],
        ),
        ("wrongRedirect", &["can't go on", "https://evil.example/callback"]),
        ("nowhere", &["Nothing here"]),
        ("forged", &["not sent from a page of this provider"]),
        ("deleted", &["is deleted"]),
        ("afterDeletion", &["names no client"]),
    ] {
        let said = seen[what].as_str().unwrap_or_default();
        for text in texts {
            ensure!(said.contains(text), "{what}: {text:?} is not in {said:?}");
        }
    }
    same(
        "warnings",
        &json!(seen["warnings"].as_array().map(Vec::len)),
        &json!(2),
    )?;
    same(
        "clients",
        &json!(seen["list"].as_array().map(Vec::len)),
        &json!(2),
    )
}

fn same(what: &str, ours: &Value, expected: &Value) -> Result<()> {
    ensure!(ours == expected, "{what} is {ours}, not {expected}");
    Ok(())
}

/// Gives alice's device the usual grant towards the device with that name, which learns it a moment later.
pub(crate) fn grant_alice(space: &Space<'_>, name: &str) -> Result<()> {
    give_alice(space, name, &grant())
}

/// Gives alice's device that grant.
pub(crate) fn give_alice(space: &Space<'_>, name: &str, grant: &Value) -> Result<()> {
    let addresses = |device: &str| Ok::<_, anyhow::Error>(space.device(device)?["addresses"].clone());
    let rules = json!([{
        "SrcIPs": addresses("alice-laptop")?,
        "CapGrant": [{ "Dsts": addresses(name)?, "CapMap": { "tailscale.com/cap/tsidp": [grant] } }],
    }]);
    Control
        .call("PUT", &format!("/admin/nodes/{name}/grants"), Some(&rules))
        .map(drop)
}

/// Waits until alice may see the admin pages.
pub(crate) fn admits_alice(name: &str) -> Result<()> {
    wait::until("the grant", FIRST_ANSWER, || {
        let page = Fetch::get("alice", url(name)).send()?;
        ensure!(page.status == 200, "the admin page answers {}", page.status);
        Ok(())
    })
}

/// A provider in the lab's network namespace, with its directory.
struct Provider {
    name: String,
    folder: PathBuf,
    process: Option<Running>,
}

impl Provider {
    fn start(space: &Space<'_>, name: String, auth_key: Option<&str>) -> Result<Self> {
        let mut provider = Self {
            folder: tempdir(&name),
            name,
            process: None,
        };
        provider.run(space, auth_key)?;
        provider.answer(space)?;
        Ok(provider)
    }

    fn run(&mut self, space: &Space<'_>, auth_key: Option<&str>) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut proxy = Command::new(product::program(&space.env.lab, "postern-proxy"));
        proxy
            .env_clear()
            .args(["idp", "-enable-sts", "-hostname", &self.name]);
        proxy.arg("-dir").arg(self.folder.join("state"));
        proxy.args(["-login-server", &tailnet::control_url()]);
        proxy.envs(auth_key.map(|key| ("TS_AUTHKEY", key)));
        proxy
            .env("TS_DEBUG_ACME_DIRECTORY_URL", tailnet::acme_directory())
            .env("SSL_CERT_FILE", space.env.lab.pki().join("trust.pem"));
        proxy.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(Running::start(&mut proxy)?);
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn answer(&self, space: &Space<'_>) -> Result<()> {
        let metadata = format!("{}/.well-known/openid-configuration", url(&self.name));
        space
            .answer_within(&metadata, FIRST_ANSWER)
            .map(drop)
            .with_context(|| self.said())
    }

    /// What a script has seen of it.
    fn script(&self, space: &Space<'_>, name: &str, environment: &[(&str, &str)]) -> Result<Value> {
        let lab = &space.env.lab;
        let mut script = RelyingParty::of(lab)?.script(lab, name, &url(&self.name))?;
        let said = command::output(script.envs(environment.iter().copied())).with_context(|| self.said())?;
        serde_json::from_str(&said).with_context(|| format!("{name} said {said}"))
    }

    fn said(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        format!("the provider said\n{}", command::tail(&log, 15))
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        drop(self.process.take());
        let _ = fs::remove_dir_all(&self.folder);
    }
}
