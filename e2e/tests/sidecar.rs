//! The same proxy without Kubernetes: beside a process on loopback, set up as the usual container is.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_e2e::client::{Fetch, Fetched};
use postern_e2e::{product, tailnet, wait};
use rustix::process::{Pid, Signal, kill_process};

use crate::first_light::{Running, streamed, tempdir};
use crate::runner::Test;
use crate::space::{FIRST_ANSWER, Space, url};

pub(crate) const TESTS: &[Test] = &[
    Test::beside("a_sidecar_streams_as_the_usual_container_would", streams),
    Test::beside("a_changed_serve_json_is_served_and_a_broken_one_is_not", reloads),
    Test::beside("a_restarted_sidecar_is_the_same_node", restarts),
];

/// A serve.json as people have it.
const SERVE: &str = r#"{
  "TCP": { "443": { "HTTPS": true } },
  "Web": { "${TS_CERT_DOMAIN}:443": { "Handlers": { "/": { "Proxy": "http://127.0.0.1:PORT" } } } }
}"#;

fn streams(space: &Space<'_>) -> Result<()> {
    let sidecar = Sidecar::start(space, "ollama", 9981)?;
    let url = url(&sidecar.name);
    sidecar.answer(space)?;
    for query in ["n=4&ms=300", "n=4&ms=300&sse=1"] {
        let fetched = Fetch::get("alice", format!("{url}/stream?{query}")).send()?;
        streamed(&fetched, 4, 300).context(query)?;
    }
    let seen = Fetch::get("bob", format!("{url}/api/tags")).send()?.seen()?;
    ensure!(
        seen.header("Tailscale-User-Login") == ["bob@example.com"],
        "the app saw {:?}",
        seen.headers
    );
    Ok(())
}

fn reloads(space: &Space<'_>) -> Result<()> {
    let sidecar = Sidecar::start(space, "reload", 9982)?;
    let url = url(&sidecar.name);
    sidecar.answer(space)?;
    sidecar.write(&SERVE.replace(r#""Proxy": "http://127.0.0.1:PORT""#, r#""Text": "changed""#))?;
    wait::until("the changed serve.json", Duration::from_secs(5), || {
        let body = Fetch::get("alice", &url).send()?.body;
        ensure!(body == "changed", "it says {body:.100}");
        Ok(())
    })?;
    sidecar.write("{ not json")?;
    wait::throughout("the last good serve.json", Duration::from_secs(3), || {
        let body = Fetch::get("alice", &url).send()?.body;
        ensure!(body == "changed", "it says {body:.100}");
        Ok(())
    })?;
    let log = fs::read_to_string(&sidecar.log)?;
    ensure!(
        log.contains("serve.json"),
        "the log does not name the file that it refused"
    );
    Ok(())
}

fn restarts(space: &Space<'_>) -> Result<()> {
    let mut sidecar = Sidecar::start(space, "again", 9983)?;
    sidecar.answer(space)?;
    let identity = |space: &Space<'_>, name: &str| -> Result<(String, String)> {
        let device = space.device(name)?;
        Ok((device["stableID"].to_string(), device["addresses"].to_string()))
    };
    let before = identity(space, &sidecar.name)?;
    sidecar.restart(space)?;
    let start = std::time::Instant::now();
    sidecar.answer(space)?;
    space.note(format!(
        "answered {} after the restart",
        crate::runner::seconds(start.elapsed())
    ));
    let after = identity(space, &sidecar.name)?;
    ensure!(before == after, "it was {before:?} and is {after:?}");
    Ok(())
}

/// A proxy and its application, two processes in the lab's network namespace.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) name: String,
    pub(crate) folder: std::path::PathBuf,
    pub(crate) log: std::path::PathBuf,
    proxy: Option<Running>,
    _app: Running,
}

impl Sidecar {
    fn start(space: &Space<'_>, name: &str, port: u16) -> Result<Self> {
        let mut sidecar = Self::prepare(space, name, port)?;
        sidecar.run(space)?;
        Ok(sidecar)
    }

    /// All but the proxy.
    pub(crate) fn prepare(space: &Space<'_>, name: &str, port: u16) -> Result<Self> {
        let name = space.name(name);
        let folder = tempdir(&name);
        fs::create_dir_all(folder.join("state"))?;
        let mut app = Command::new(space.env.helpers.program("backend"));
        let app = Running::start(
            app.args(["-addr", &format!("127.0.0.1:{port}")])
                .stdin(Stdio::null()),
        )?;
        let sidecar = Self {
            log: folder.join("log"),
            name,
            folder,
            proxy: None,
            _app: app,
        };
        sidecar.write(&SERVE.replace("PORT", &port.to_string()))?;
        Ok(sidecar)
    }

    pub(crate) fn run(&mut self, space: &Space<'_>) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut proxy = Command::new(product::program(&space.env.lab, "postern-proxy"));
        proxy.arg("run").env_clear();
        proxy
            .env("TS_AUTHKEY", "tskey-auth-tagged")
            .env("TS_STATE_DIR", self.folder.join("state"))
            .env("TS_HOSTNAME", &self.name)
            .env("TS_SERVE_CONFIG", self.folder.join("serve.json"))
            .env(
                "TS_EXTRA_ARGS",
                format!("--login-server={}", tailnet::control_url()),
            )
            .env("TS_DEBUG_ACME_DIRECTORY_URL", tailnet::acme_directory())
            .env("SSL_CERT_FILE", space.env.lab.pki().join("trust.pem"))
            .env("POSTERN_ADMIN_PORT", "0");
        proxy.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.proxy = Some(Running::start(&mut proxy)?);
        Ok(())
    }

    /// Ends it as a container runtime would, and starts it again.
    pub(crate) fn restart(&mut self, space: &Space<'_>) -> Result<()> {
        if let Some(mut running) = self.proxy.take() {
            let pid = i32::try_from(running.0.id())
                .ok()
                .and_then(Pid::from_raw)
                .context("no pid")?;
            kill_process(pid, Signal::TERM)?;
            wait::until("the proxy to end by itself", Duration::from_secs(30), || {
                running.0.try_wait()?.context("it still runs")
            })?;
        }
        self.run(space)
    }

    fn write(&self, serve: &str) -> Result<()> {
        let path = self.folder.join("serve.json");
        let fresh = Path::new(&self.folder).join("serve.json.new");
        fs::write(&fresh, serve)?;
        fs::rename(fresh, path).context("cannot write serve.json")
    }

    pub(crate) fn answer(&self, space: &Space<'_>) -> Result<Fetched> {
        space
            .answer_within(&url(&self.name), FIRST_ANSWER)
            .with_context(|| {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                format!("the proxy said\n{}", postern_e2e::command::tail(&log, 15))
            })
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        drop(self.proxy.take());
        let _ = fs::remove_dir_all(&self.folder);
    }
}
