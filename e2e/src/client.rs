//! Requests through real Go tailnet clients, observed.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::control;
use crate::tailnet::CLIENTS;

/// One request over a new connection, by a lab user's client.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fetch {
    /// `alice`, `bob`, `carol`, or `tagged` for a device that belongs to nobody.
    #[serde(rename = "as")]
    pub user: String,
    pub url: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Sent as they are, casing and repetition included.
    pub headers: Vec<(String, String)>,
    pub trailers: Vec<(String, String)>,
    pub body: String,
    /// `h1`, `h2`, or `raw`: then `raw` is written as it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub proto: String,
    pub raw: String,
    /// Messages to send over a WebSocket, each answered by one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub web_socket: Vec<String>,
    #[serde(rename = "timeoutMS", skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Dial this instead of the URL's host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub addr: String,
}

/// What came back.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fetched {
    pub status: u16,
    pub proto: String,
    #[serde(default)]
    pub headers: Option<Vec<(String, String)>>,
    #[serde(default)]
    pub trailers: Option<Vec<(String, String)>>,
    /// The first MiB.
    pub body: String,
    pub bytes: usize,
    #[serde(default)]
    pub chunks: Option<Vec<Chunk>>,
    #[serde(default)]
    pub messages: Vec<String>,
    /// `direct ADDRESS` or `derp REGION`.
    pub path: String,
    pub cert: Option<Certificate>,
    pub timing_ms: Timing,
    #[serde(default)]
    pub error: Option<String>,
}

/// A piece of the body, when it came.
#[derive(Debug, Clone, Deserialize)]
pub struct Chunk {
    pub ms: u64,
    pub text: String,
}

/// The server's leaf certificate.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    pub names: Option<Vec<String>>,
    pub issuer: String,
    pub not_after: String,
}

/// Milliseconds since the start of the request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timing {
    pub dialed: Option<u64>,
    pub secured: Option<u64>,
    pub first_byte: Option<u64>,
    pub done: u64,
}

impl Fetch {
    /// A GET of that user.
    pub fn get(user: &str, url: impl Into<String>) -> Self {
        Self {
            user: user.to_owned(),
            url: url.into(),
            ..Self::default()
        }
    }

    /// With a further header line.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Does it; an exchange that failed on its way is an error.
    pub fn send(&self) -> Result<Fetched> {
        self.send_by(CLIENTS)
    }

    /// The same by other clients than the lab's, at that address.
    pub fn send_by(&self, clients: &str) -> Result<Fetched> {
        let fetched = self.try_send_by(clients)?;
        match fetched.error {
            Some(error) => anyhow::bail!("{} as {}: {error}", self.url, self.user),
            None => Ok(fetched),
        }
    }

    /// Does it; how far it came is in the result, with the error.
    pub fn try_send(&self) -> Result<Fetched> {
        self.try_send_by(CLIENTS)
    }

    fn try_send_by(&self, clients: &str) -> Result<Fetched> {
        let answer = control::http(
            "POST",
            &format!("http://{clients}/fetch"),
            Some(&serde_json::to_value(self)?),
        )?;
        serde_json::from_value(answer).context("the client's answer is not as expected")
    }
}

impl Fetched {
    /// The lab's backend says what it saw.
    pub fn seen(&self) -> Result<Seen> {
        serde_json::from_str(&self.body).with_context(|| {
            format!(
                "status {}, not the backend's echo: {:.300}",
                self.status, self.body
            )
        })
    }

    /// All values of a response header.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let lines = self.headers.iter().flatten();
        lines
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

/// Requests of a lab user that go on over kept connections until this is dropped.
#[derive(Debug)]
pub struct Steady(u64);

/// What became of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Steadied {
    pub requests: u64,
    /// Of those that were answered.
    pub slowest_ms: u64,
    pub failures: Vec<Failure>,
}

/// A request without an answer, or a connection that could not be made for one. Times are Unix milliseconds.
#[derive(Debug, Clone, Deserialize)]
pub struct Failure {
    pub connection: u64,
    pub started: u64,
    pub ended: u64,
    pub error: String,
}

impl Steady {
    /// Starts them, on so many connections.
    pub fn start(user: &str, url: &str, connections: u32) -> Result<Self> {
        let load = serde_json::json!({ "as": user, "url": url, "connections": connections });
        let id = control::http("POST", &format!("http://{CLIENTS}/steady"), Some(&load))?;
        id.as_u64().map(Self).context("the load has no number")
    }

    /// Ends them.
    pub fn end(&self) -> Result<Steadied> {
        let answer = control::http("DELETE", &format!("http://{CLIENTS}/steady/{}", self.0), None)?;
        serde_json::from_value(answer).context("the client's answer is not as expected")
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// A request as the backend saw it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Seen {
    #[serde(default)]
    pub app: String,
    pub method: String,
    pub uri: String,
    pub host: String,
    pub proto: String,
    pub headers: std::collections::BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub trailers: Option<std::collections::BTreeMap<String, Option<Vec<String>>>>,
    pub body: String,
}

impl Seen {
    /// All values of a header, whatever its casing.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let lines = self
            .headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name));
        lines
            .flat_map(|(_, values)| values.iter().map(String::as_str))
            .collect()
    }
}
