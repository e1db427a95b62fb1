//! A proxy beside its application, as the usual container would be.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_e2e::client::Fetched;
use postern_e2e::{command, product, tailnet, wait};
use rustix::process::Signal;

use super::SERVE;
use crate::first_light::{Running, tempdir};
use crate::space::{FIRST_ANSWER, Space, url};

/// A proxy and its application, two processes in the lab's network namespace.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) log: PathBuf,
    /// The application's.
    pub(super) port: u16,
    /// Where programs beside it reach the tailnet.
    way_out: String,
    /// Where it says how it is.
    pub(super) probes: String,
    /// Where the LocalAPI is beside its socket.
    pub(super) local_api: String,
    proxy: Option<Running>,
    _app: Running,
}

impl Sidecar {
    pub(super) fn start(space: &Space<'_>, name: &str, port: u16) -> Result<Self> {
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
            port,
            way_out: format!("localhost:{}", port + 1000),
            probes: format!("127.0.0.1:{}", port + 2000),
            local_api: format!("127.0.0.1:{}", port + 3000),
            proxy: None,
            _app: app,
        };
        sidecar.write(&SERVE.replace("PORT", &port.to_string()))?;
        Ok(sidecar)
    }

    pub(crate) fn run(&mut self, space: &Space<'_>) -> Result<()> {
        let proxy = self.command(space)?;
        self.start_as(proxy)
    }

    pub(super) fn start_as(&mut self, mut proxy: Command) -> Result<()> {
        self.proxy = Some(Running::start(&mut proxy)?);
        Ok(())
    }

    /// As the container would be set up.
    pub(super) fn command(&self, space: &Space<'_>) -> Result<Command> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut proxy = alone(space);
        proxy
            .arg("run")
            .env("TS_STATE_DIR", self.state())
            .env("TS_HOSTNAME", &self.name)
            .env("TS_SERVE_CONFIG", self.folder.join("serve.json"))
            .env("TS_SOCKET", self.socket())
            .env("TS_SOCKS5_SERVER", &self.way_out)
            .env("TS_OUTBOUND_HTTP_PROXY_LISTEN", &self.way_out)
            .env("TS_ENABLE_HEALTH_CHECK", "true")
            .env("TS_ENABLE_METRICS", "true")
            .env("TS_LOCAL_ADDR_PORT", &self.probes)
            .env("POSTERN_LOCAL_API", &self.local_api)
            .env("POSTERN_LOCAL_API_PASSWORD_FILE", self.folder.join("password"))
            .env("POSTERN_FORWARD_PORTS", self.port.to_string())
            .env(
                "POSTERN_FORWARD_AUTH",
                format!("unix:{}", self.folder.join("auth.sock").display()),
            );
        proxy.stdout(log.try_clone()?).stderr(log);
        Ok(proxy)
    }

    /// The volume.
    pub(super) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Where the LocalAPI is.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("tailscaled.sock")
    }

    /// Ends it as a container runtime would, and starts it again.
    pub(crate) fn restart(&mut self, space: &Space<'_>) -> Result<()> {
        if let Some(running) = self.proxy.take() {
            running.end(Signal::TERM)?;
        }
        self.run(space)
    }

    pub(super) fn write(&self, serve: &str) -> Result<()> {
        let path = self.folder.join("serve.json");
        let fresh = Path::new(&self.folder).join("serve.json.new");
        fs::write(&fresh, serve)?;
        fs::rename(fresh, path).context("cannot write serve.json")
    }

    /// Ends it as a container runtime would.
    pub(super) fn end(mut self) -> Result<()> {
        match self.proxy.take() {
            Some(running) => running.end(Signal::TERM),
            None => Ok(()),
        }
    }

    pub(crate) fn answer(&self, space: &Space<'_>) -> Result<Fetched> {
        let answer = space.answer_within(&url(&self.name), FIRST_ANSWER);
        answer.with_context(|| self.said())
    }

    /// What a program beside it gets of a tailnet's URL by its way out.
    pub(super) fn fetches(&self, space: &Space<'_>, protocol: &str, url: &str) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "20",
            "--cacert",
        ]);
        curl.arg(tailnet::issuing_root(&space.env.lab));
        curl.args(["--proxy", &format!("{protocol}://{}", self.way_out), url]);
        command::output(&mut curl)
    }

    /// Waits until the log has it.
    pub(super) fn says(&self, text: &str) -> Result<()> {
        wait::until(text, Duration::from_secs(10), || {
            let log = fs::read_to_string(&self.log)?;
            ensure!(log.contains(text), "the proxy said\n{}", command::tail(&log, 15));
            Ok(())
        })
    }

    /// The end of the log.
    pub(super) fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        format!("the proxy said\n{}", command::tail(&log, 15))
    }
}

/// The program where it runs without Kubernetes, on the lab's tailnet.
pub(super) fn alone(space: &Space<'_>) -> Command {
    let mut proxy = Command::new(product::program(&space.env.lab, "postern-proxy"));
    proxy.env_clear();
    proxy
        .env("TS_AUTHKEY", "tskey-auth-tagged")
        .env(
            "TS_EXTRA_ARGS",
            format!("--login-server={}", tailnet::control_url()),
        )
        .env("TS_DEBUG_ACME_DIRECTORY_URL", tailnet::acme_directory())
        .env("SSL_CERT_FILE", space.env.lab.pki().join("trust.pem"))
        .env("POSTERN_ADMIN_PORT", "0")
        .stdin(Stdio::null());
    proxy
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        drop(self.proxy.take());
        let _ = fs::remove_dir_all(&self.folder);
    }
}
