//! The coordination server's admin API: what a test may look at and do to the tailnet.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::NODE_IP;

/// Control protocol and API v2, plain HTTP.
pub const CONTROL_PORT: u16 = 9911;
/// Admin API, on loopback of the lab's namespace and on the node's address.
pub const ADMIN_PORT: u16 = 9912;
/// Control protocol and API v2 behind TLS, certificate by the lab's own authority.
pub const HTTPS_PORT: u16 = 9913;
/// ACME directory (Pebble).
pub const ACME_PORT: u16 = 14000;

/// The admin API, called from inside the lab's network namespace.
#[derive(Debug, Clone, Default)]
pub struct Control;

impl Control {
    /// Every device that the server knows.
    pub fn devices(&self) -> Result<Vec<Value>> {
        match self.call("GET", "/admin/nodes", None)? {
            Value::Array(devices) => Ok(devices),
            other => bail!("expected a list of devices, got {other}"),
        }
    }

    /// The device whose tailnet name is `NAME.SUFFIX`.
    pub fn device(&self, name: &str) -> Result<Option<Value>> {
        let wanted = format!("{name}.");
        Ok(self.devices()?.into_iter().find(|device| {
            device["name"]
                .as_str()
                .is_some_and(|name| name.starts_with(&wanted))
        }))
    }

    /// One request; the answer's JSON, null where it has none.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        http(method, &format!("http://{NODE_IP}:{ADMIN_PORT}{path}"), body)
    }
}

/// A request with a JSON body to a server of the lab, by curl.
pub fn http(method: &str, url: &str, body: Option<&Value>) -> Result<Value> {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail-with-body",
        "--max-time",
        "120",
        "--request",
        method,
        url,
    ]);
    let text = match body {
        Some(body) => crate::command::output_of_input(curl.args(["--data-binary", "@-"]), &body.to_string())?,
        None => crate::command::output(&mut curl)?,
    };
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text)
        .with_context(|| format!("{method} {url} answered {}", crate::command::tail(&text, 3)))
}
