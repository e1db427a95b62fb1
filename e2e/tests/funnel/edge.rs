//! The edge of Funnel, which in production is not ours.

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use postern_e2e::client::Seen;
use postern_e2e::control::Control;
use postern_e2e::lab::DOMAIN;
use postern_e2e::{command, tailnet, wait};
use serde_json::json;

use super::SAID;
use crate::first_light::{Running, tempdir};
use crate::space::Space;

/// A Go node in the place of Funnel's edge.
pub(crate) struct Edge {
    name: String,
    /// The one of Funnel's that clients ask for.
    port: u16,
    listen: String,
    process: Option<Running>,
}

/// What somebody on the internet got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
    pub(super) body: String,
}

impl Edge {
    pub(crate) fn start(space: &Space<'_>) -> Result<Self> {
        Self::of_port(space, 443, "127.0.0.1")
    }

    /// For clients of another port, who connect to that address of the machine.
    pub(super) fn of_port(space: &Space<'_>, port: u16, ip: &str) -> Result<Self> {
        let name = space.name(&format!("edge-{port}"));
        // The port is free again when the edge wants it, and nobody is given it twice in a row.
        let listen = TcpListener::bind((ip, 0))?.local_addr()?.to_string();
        let mut edge = tailnet::peer(&space.env.lab, &space.env.helpers, "edge");
        edge.args(["-hostname", &name, "-authkey", "tskey-auth-carol"]);
        edge.args(["-listen", &listen, "-target-port", &port.to_string(), "-dir"]);
        edge.arg(tempdir(&name)).stdout(Stdio::null());
        let process = Running::start(&mut edge)?;
        wait::until("the edge to listen", SAID, || {
            TcpStream::connect(&listen).map(drop).context(listen.clone())
        })?;
        Ok(Self {
            name,
            port,
            listen,
            process: Some(process),
        })
    }

    /// Gives it the capability, or takes it.
    pub(super) fn may(&self, may: bool) -> Result<()> {
        let path = format!("/admin/nodes/{}/ingress-cap", self.name);
        Control.call("PUT", &path, Some(&json!(may))).map(drop)
    }

    /// Where clients on the internet connect to.
    pub(crate) fn address(&self) -> &str {
        &self.listen
    }

    pub(crate) fn get(&self, space: &Space<'_>, name: &str, path: &str, headers: &[&str]) -> Result<Answer> {
        let from = if self.listen.starts_with('[') {
            "::1"
        } else {
            "127.0.0.1"
        };
        self.ask(space, from, name, path, headers, None)
    }

    /// A request from an address, a POST where it has a body; an error where the edge wasn't let in.
    pub(super) fn ask(
        &self,
        space: &Space<'_>,
        from: &str,
        name: &str,
        path: &str,
        headers: &[&str],
        body: Option<&str>,
    ) -> Result<Answer> {
        let host = format!("{name}.{DOMAIN}");
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--include",
            "--http1.1",
            "--max-time",
            "10",
        ]);
        curl.args(["--interface", from, "--cacert"])
            .arg(tailnet::issuing_root(&space.env.lab));
        curl.args(["--connect-to", &format!("{host}:{}:{}", self.port, self.listen)]);
        for header in headers.iter().filter(|header| !header.is_empty()) {
            curl.args(["--header", header]);
        }
        if let Some(body) = body {
            curl.args(["--data", body]);
        }
        let text = command::output(curl.arg(format!("https://{host}:{}{path}", self.port)))?;
        let (head, body) = text.split_once("\r\n\r\n").context("no head")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok(Answer {
            status,
            body: body.to_owned(),
            text,
        })
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        drop(self.process.take());
        let _ = std::fs::remove_dir_all(tempdir(&self.name));
        // A device that nobody will delete otherwise.
        let _ = Control.call("DELETE", &format!("/admin/nodes/{}", self.name), None);
    }
}

impl Answer {
    pub(crate) fn seen(&self) -> Result<Seen> {
        serde_json::from_str(&self.body).with_context(|| format!("not the backend's echo: {}", self.text))
    }
}
