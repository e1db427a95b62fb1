//! The LocalAPI of Tailscale's daemon: what programs beside us ask `tailscaled.sock` (Go: `ipn/localapi`).
//!
//! Whoever may connect may ask who is behind an address and what the tailnet looks like, as with the daemon.
//! What hands out a private key is for our own user alone, whom the kernel names (`SO_PEERCRED`), and for
//! holders of the password of the TCP form. Nothing here changes anything.
//!
//! Invariant: never in pods that the operator makes, since it shows every peer of every name.

mod json;
mod nodes;
mod password;
mod status;
mod whois;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::whois::Found;
pub use self::{nodes::Nodes, password::Password};
use crate::{
    local::{Client, Socket},
    upstream::Forwarded,
};

/// `Host` of requests over the unix socket; a browser can't be led to send it.
pub const HOST: &str = "local-tailscaled.sock";
/// Where the container has its socket if nobody says otherwise.
pub const SOCKET: &str = "/tmp/tailscaled.sock";
/// The capability version that the node announces.
const CAPABILITY_VERSION: &str = "113";

/// What is answered, and from what.
#[derive(Debug)]
pub struct LocalApi {
    nodes: Arc<Nodes>,
    forwarded: Arc<Forwarded>,
    serve_config: watch::Receiver<Option<String>>,
    /// The user that we are.
    uid: u32,
}

/// What a request may do beside reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rights {
    keys: bool,
}

/// Parameters of a request; of two with one name the first counts, as in Go.
#[derive(Debug, Default)]
struct Query(BTreeMap<String, String>);

impl Query {
    fn parse(query: &str) -> Self {
        let mut all = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            all.entry(name.into_owned()).or_insert_with(|| value.into_owned());
        }
        Self(all)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// What goes back.
#[derive(Debug)]
struct Answer(Response<Full<Bytes>>);

impl Answer {
    /// An error or a word, as Go's `http.Error` writes it.
    fn text(status: StatusCode, text: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", format!("{text}\n"))
    }

    /// Indented by tabs, as Go's.
    fn json(value: &impl Serialize) -> Self {
        let mut out = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        match value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, format)) {
            Ok(()) => Self::new(StatusCode::OK, "application/json", out),
            Err(_) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, "JSON encoding error"),
        }
    }

    fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() = status;
        let content_type = HeaderValue::from_static(content_type);
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        Self(response)
    }

    /// What Go sets on every answer, against browsers.
    fn guarded(mut self) -> Response<Full<Bytes>> {
        let headers = self.0.headers_mut();
        for (name, value) in [
            ("tailscale-cap", CAPABILITY_VERSION),
            (
                "content-security-policy",
                "default-src 'none'; frame-ancestors 'none'; script-src 'none'; script-src-elem 'none'; script-src-attr 'none'",
            ),
            ("x-frame-options", "DENY"),
            ("x-content-type-options", "nosniff"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        self.0
    }
}

impl LocalApi {
    /// About these nodes, the clients of connections that `forwarded` knows, and the serve.json in use.
    pub fn new(
        nodes: Arc<Nodes>,
        forwarded: Arc<Forwarded>,
        serve_config: watch::Receiver<Option<String>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            nodes,
            forwarded,
            serve_config,
            uid: rustix::process::geteuid().as_raw(),
        })
    }

    /// Answers on a unix socket, or on a loopback port to those who know the password.
    pub fn serve(
        self: &Arc<Self>,
        socket: Socket,
        password: Option<Password>,
        tasks: &TaskTracker,
        end: CancellationToken,
    ) {
        let api = self.clone();
        let password = password.map(Arc::new);
        socket.serve(tasks, end, move |client, request| {
            let (api, password) = (api.clone(), password.clone());
            async move { api.answer(client, password.as_deref(), &request).await }
        });
    }

    async fn answer<B>(
        &self,
        client: Client,
        password: Option<&Password>,
        request: &Request<B>,
    ) -> Response<Full<Bytes>> {
        match self.rights(client, password, request.headers()) {
            Ok(rights) => self.route(rights, request).await.guarded(),
            Err((status, reason)) => Answer::text(status, reason).0,
        }
    }

    fn rights(
        &self,
        client: Client,
        password: Option<&Password>,
        headers: &HeaderMap,
    ) -> Result<Rights, (StatusCode, &'static str)> {
        let text = |name| {
            headers
                .get(name)
                .map_or("", |v: &HeaderValue| v.to_str().unwrap_or("?"))
        };
        let from_a_page = !text(header::REFERER).is_empty() || !text(header::ORIGIN).is_empty();
        if from_a_page || !is_host(text(header::HOST), password.is_some()) {
            return Err((StatusCode::FORBIDDEN, "invalid localapi request"));
        }
        if let Some(password) = password {
            return match password.admits(headers) {
                None => Err((StatusCode::UNAUTHORIZED, "auth required")),
                Some(false) => Err((StatusCode::FORBIDDEN, "bad password")),
                Some(true) => Ok(Rights { keys: true }),
            };
        }
        // Without a password there is always a user.
        let uid = client.uid.ok_or((StatusCode::FORBIDDEN, "auth required"))?;
        Ok(Rights {
            keys: uid == self.uid || uid == 0,
        })
    }

    async fn route<B>(&self, rights: Rights, request: &Request<B>) -> Answer {
        let path = request.uri().path();
        if path == "/" {
            return Answer::text(StatusCode::OK, "tailscaled");
        }
        let Some(what) = path.strip_prefix("/localapi/v0/") else {
            return Answer::text(StatusCode::NOT_FOUND, "404 page not found");
        };
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let reason = "only GET is answered: postern-proxy is changed by its configuration alone";
            return Answer::text(StatusCode::METHOD_NOT_ALLOWED, reason);
        }
        let query = Query::parse(request.uri().query().unwrap_or_default());
        match what {
            "whois" => self.whois(&query).await,
            "status" => self.status(&query),
            "cert-domains" => {
                let netmap = self.nodes.first().and_then(|node| node.netmap());
                Answer::json(&netmap.map_or_else(Vec::new, |netmap| netmap.cert_domains.clone()))
            }
            // The command line asks these for its `status` and `ip`.
            "serve-config" => self.serve_config(),
            "services" => self.services(),
            _ => match what.strip_prefix("cert/") {
                Some(_) if !rights.keys => Answer::text(StatusCode::FORBIDDEN, "cert access denied"),
                Some(domain) => self.certificate(domain, &query).await,
                None => Answer::text(
                    StatusCode::NOT_FOUND,
                    "postern-proxy answers whois, status, cert-domains and cert/DOMAIN",
                ),
            },
        }
    }

    /// The serve.json in use.
    fn serve_config(&self) -> Answer {
        match &*self.serve_config.borrow() {
            Some(json) => Answer::new(StatusCode::OK, "application/json", json.clone()),
            None => Answer::new(StatusCode::OK, "application/json", "null"),
        }
    }

    /// Services that control shows us, by name (Go: `serveServices`, `nodecap.ServicesPrefix`).
    fn services(&self) -> Answer {
        let netmap = self.nodes.first().and_then(|node| node.netmap());
        let caps = netmap.iter().flat_map(|netmap| &netmap.self_node.cap_map);
        let services: BTreeMap<String, &serde_json::value::RawValue> = caps
            .filter(|(cap, _)| cap.starts_with("services/"))
            .filter_map(|(_, values)| {
                let details = values.first()?;
                let named: Named = serde_json::from_str(details.get()).ok()?;
                Some((named.name, &**details))
            })
            .collect();
        Answer::json(&services)
    }

    /// A name's certificate, its key, or both (Go: `serveCert`).
    async fn certificate(&self, domain: &str, query: &Query) -> Answer {
        let Some(node) = self.nodes.first() else {
            return Answer::text(StatusCode::SERVICE_UNAVAILABLE, "no node is running");
        };
        let certificate = match node.certificate(domain).await {
            Ok(certificate) => certificate,
            Err(error) => return Answer::text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        };
        let chain = || {
            certificate
                .chain
                .iter()
                .map(|der| pem("CERTIFICATE", der))
                .collect::<String>()
        };
        let label = match &certificate.key {
            rustls_pki_types::PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            rustls_pki_types::PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        let key = || pem(label, certificate.key.secret_der());
        let text = match query.get("type") {
            None | Some("" | "crt" | "cert") => chain(),
            Some("key") => key(),
            // Go's order.
            Some("pair") => key() + &chain(),
            Some(_) => return Answer::text(StatusCode::BAD_REQUEST, "type must be 'cert', 'key' or 'pair'"),
        };
        Answer::new(StatusCode::OK, "text/plain", text)
    }
}

#[derive(serde::Deserialize)]
struct Named {
    #[serde(rename = "Name")]
    name: String,
}

/// The socket's own name, none, or with a password a loopback address (Go: `validHost`).
fn is_host(host: &str, has_password: bool) -> bool {
    if host.is_empty() || host == HOST {
        return true;
    }
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.parse::<u16>().is_ok())
        .map(|(name, _)| name.trim_start_matches('[').trim_end_matches(']'));
    has_password
        && name.is_some_and(|name| {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        })
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

#[cfg(test)]
mod tests;
