//! `serve TARGET` and `funnel TARGET`: a serve.json in a few words (Go: `tailscale serve`).

use clap::Args;
use postern_proxy_config::serve::{self, CERT_DOMAIN, Serve, ServeError};
use serde_json::json;

use super::{NodeArgs, Process};

pub(super) const SERVE_HELP: &str = "\
Targets:
  3000                          http://127.0.0.1:3000
  localhost:3000, http://…      HTTP
  https://…, https+insecure://… TLS, verified or only encrypted
  unix:/run/app.sock            HTTP over a unix socket
  /srv/files                    a file, or what is in a directory
  text:hello                    this text

Examples:
  postern-proxy serve 3000                          https://NAME.TAILNET.ts.net/
  postern-proxy serve --https 8443 --set-path /api localhost:8080
  postern-proxy serve --tcp 5432 localhost:5432     bytes
  postern-proxy serve --tls-terminated-tcp 5433 localhost:5432

The node is called like this machine (--hostname changes that) and keeps its identity in --state-dir. Without an
auth key in TS_AUTHKEY a URL to log in at is printed.";

pub(super) const FUNNEL_HELP: &str = "\
Everybody on the internet reaches the target. Funnel has the ports 443, 8443 and 10000, and the tailnet's policy
has to allow it for this node. Targets and flags are those of `serve`; see `postern-proxy serve --help`.

Example:
  postern-proxy funnel 3000";

/// What to serve, and how.
#[derive(Debug, Args)]
pub struct Foreground {
    /// What to serve, and where.
    #[command(flatten)]
    pub targets: Targets,
    /// The node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The process.
    #[command(flatten)]
    pub process: Process,
}

/// One target at one place.
#[derive(Debug, Clone, Args)]
pub struct Targets {
    /// A port, host:port, URL, unix:PATH, absolute path, or text:TEXT.
    pub target: String,
    /// HTTPS on this port; 443 if nothing else is said.
    #[arg(long, value_name = "PORT", group = "listener")]
    pub https: Option<u16>,
    /// Plain HTTP on this port.
    #[arg(long, value_name = "PORT", group = "listener")]
    pub http: Option<u16>,
    /// Bytes on this port.
    #[arg(long, value_name = "PORT", group = "listener")]
    pub tcp: Option<u16>,
    /// Bytes inside of TLS on this port.
    #[arg(long, value_name = "PORT", group = "listener")]
    pub tls_terminated_tcp: Option<u16>,
    /// The path at which the target stands; it is taken off before the target sees it.
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub set_path: String,
    /// Capabilities to pass on, e.g. `example.com/cap/x`.
    #[arg(long, value_name = "CAPS", value_delimiter = ',')]
    pub accept_app_caps: Vec<String>,
    /// Tell a TCP target the client's address by the PROXY protocol of this version.
    #[arg(long, value_name = "1|2")]
    pub proxy_protocol: Option<u8>,
}

impl Targets {
    /// The serve.json that says the same, with its text.
    ///
    /// # Errors
    /// As [`serve::parse`], where something doesn't fit together.
    pub fn to_serve(&self, funnel: bool) -> Result<(Serve, String), ServeError> {
        let target = self.target.as_str();
        let stream = |port: u16, terminate: &str| {
            let target = match target.bytes().all(|b| b.is_ascii_digit()) {
                true => format!("127.0.0.1:{target}"),
                false => target.trim_start_matches("tcp://").to_owned(),
            };
            let version = self.proxy_protocol.unwrap_or_default();
            let handler = json!({"TCPForward": target, "TerminateTLS": terminate, "ProxyProtocol": version});
            (port, handler, json!({}))
        };
        let web = |port: u16, kind: &str| {
            let handler = if let Some(text) = target.strip_prefix("text:") {
                json!({"Text": text})
            } else if target.starts_with('/') {
                json!({"Path": target})
            } else {
                json!({"Proxy": target, "AcceptAppCaps": self.accept_app_caps})
            };
            let mount = if self.set_path.starts_with('/') {
                self.set_path.clone()
            } else {
                format!("/{}", self.set_path)
            };
            let host = format!("{CERT_DOMAIN}:{port}");
            (
                port,
                json!({kind: true}),
                json!({host: {"Handlers": {mount: handler}}}),
            )
        };
        let (port, tcp, web) = match self {
            Self { http: Some(port), .. } => web(*port, "HTTP"),
            Self { tcp: Some(port), .. } => stream(*port, ""),
            Self {
                tls_terminated_tcp: Some(port),
                ..
            } => stream(*port, CERT_DOMAIN),
            Self { https, .. } => web(https.unwrap_or(443), "HTTPS"),
        };
        let host = format!("{CERT_DOMAIN}:{port}");
        let mut config = json!({"TCP": {port.to_string(): tcp}, "Web": web});
        if funnel {
            config["AllowFunnel"] = json!({host: true});
        }
        let text = config.to_string();
        Ok((serve::parse(&text)?, text))
    }

    /// What people open, or connect to, for a node of this name.
    pub fn url(&self, fqdn: &str) -> String {
        match self {
            Self { http: Some(80), .. } => format!("http://{fqdn}{}", self.set_path),
            Self { http: Some(port), .. } => format!("http://{fqdn}:{port}{}", self.set_path),
            Self { tcp: Some(port), .. } => format!("tcp://{fqdn}:{port}"),
            Self {
                tls_terminated_tcp: Some(port),
                ..
            } => format!("tls://{fqdn}:{port}"),
            Self {
                https: None | Some(443),
                ..
            } => format!("https://{fqdn}{}", self.set_path),
            Self {
                https: Some(port), ..
            } => format!("https://{fqdn}:{port}{}", self.set_path),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use postern_proxy_config::group::{Backend, Protocol};

    use super::*;
    use crate::args::{Cli, Command};

    fn targets(words: &[&str]) -> Targets {
        let all = ["postern-proxy", "serve"].iter().chain(words);
        match Cli::try_parse_from(all).map(|cli| cli.command) {
            Ok(Command::Serve(foreground)) => foreground.targets,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    #[test]
    fn a_target_is_served_where_the_flags_say() {
        for (words, port, url) in [
            (&["3000"][..], 443, "https://a.ts.net/"),
            (&["--https", "8443", "3000"], 8443, "https://a.ts.net:8443/"),
            (&["--http=80", "3000"], 80, "http://a.ts.net/"),
            (
                &["--set-path", "/api", "localhost:1"],
                443,
                "https://a.ts.net/api",
            ),
            (&["--tcp", "5432", "5432"], 5432, "tcp://a.ts.net:5432"),
            (
                &["--tls-terminated-tcp", "5433", "tcp://localhost:1"],
                5433,
                "tls://a.ts.net:5433",
            ),
        ] {
            let targets = targets(words);
            let (serve, _) = targets.to_serve(false).unwrap();
            assert_eq!(serve.listeners.len(), 1, "{words:?}");
            assert_eq!(serve.listeners[0].port, port, "{words:?}");
            assert!(serve.warnings.is_empty(), "{words:?}: {:?}", serve.warnings);
            assert_eq!(targets.url("a.ts.net"), url, "{words:?}");
        }
    }

    #[test]
    fn targets_are_what_they_look_like() {
        let backend = |target: &str| {
            let (serve, _) = targets(&[target]).to_serve(false).unwrap();
            match &serve.listeners[0].protocol {
                Protocol::Https(http) => http.routes[0].backend.clone(),
                other => panic!("{other:?}"),
            }
        };
        assert!(matches!(backend("3000"), Backend::Address { address, .. } if address == "127.0.0.1:3000"));
        assert!(matches!(backend("/srv/x"), Backend::Files { path } if path == "/srv/x"));
        assert!(matches!(backend("text:hi"), Backend::Text { text } if text == "hi"));
        assert!(matches!(backend("unix:/run/a"), Backend::Unix { path } if path == "/run/a"));
        let (serve, _) = targets(&["--tcp", "1", "5432"]).to_serve(false).unwrap();
        let Protocol::Tcp(tcp) = &serve.listeners[0].protocol else {
            panic!()
        };
        assert!(matches!(&tcp.backend, Backend::Address { address, .. } if address == "127.0.0.1:5432"));
    }

    #[test]
    fn funnel_is_said_and_has_its_ports() {
        let (serve, _) = targets(&["3000"]).to_serve(true).unwrap();
        assert!(serve.funnel.contains_key(&443));
        assert!(targets(&["--https", "444", "3000"]).to_serve(true).is_err());
        assert!(targets(&["--http", "443", "3000"]).to_serve(true).is_err());
        assert!(targets(&["ftp://x"]).to_serve(false).is_err());
    }
}
