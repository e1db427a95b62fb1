//! The `serve.json` of Tailscale's container (Go: `ipn/serve.go`), turned into our own model.
//!
//! A key's host may be `${TS_CERT_DOMAIN}`, as usual there: the name's own domain. Funnel, Services and
//! file serving are refused by name; foreground sections are of no meaning outside of `tailscaled`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use serde::Deserialize;

use crate::group::{
    Backend, Http, Identity, IdentityHeaders, Limits, Listener, PathMatch, Protocol, ProxyProtocol, Route,
    Scheme, Tcp, Timeouts,
};

/// Stands for the name's own domain: in keys, and in texts and redirects, where the proxy replaces it.
pub const CERT_DOMAIN: &str = "${TS_CERT_DOMAIN}";

/// Why a `serve.json` is refused.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Not the JSON that it should be.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A field can't be used.
    #[error("{field}: {reason}")]
    Field {
        /// As a JSON path.
        field: String,
        /// What is wrong and what to do.
        reason: String,
    },
}

/// Reads a `serve.json`; an empty object serves nothing.
///
/// # Errors
/// Names the field that can't be used.
pub fn parse(json: &str) -> Result<Vec<Listener>, ServeError> {
    let config: ServeConfig = serde_json::from_str(json)?;
    if config.services.as_ref().is_some_and(|s| !s.is_empty()) {
        return Err(field("Services", "Tailscale Services are not supported yet"));
    }
    if let Some((key, _)) = config.allow_funnel.iter().flatten().find(|(_, on)| **on) {
        return Err(field(
            format!("AllowFunnel[{key:?}]"),
            "Funnel is not supported yet",
        ));
    }
    let mut web = by_port(config.web.unwrap_or_default())?;
    let mut listeners = Vec::new();
    for (key, handler) in config.tcp.unwrap_or_default() {
        let at = format!("TCP[{key:?}]");
        let port: u16 = key
            .parse()
            .ok()
            .filter(|p| *p != 0)
            .ok_or_else(|| field(&at, "the key has to be a port"))?;
        if listeners.iter().any(|other: &Listener| other.port == port) {
            return Err(field(&at, "the same port has another key"));
        }
        let protocol = protocol(&at, handler, web.remove(&port).unwrap_or_default())?;
        listeners.push(Listener { port, protocol });
    }
    Ok(listeners)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ServeConfig {
    #[serde(rename = "TCP")]
    tcp: Option<BTreeMap<String, TcpPortHandler>>,
    web: Option<BTreeMap<String, WebServerConfig>>,
    services: Option<BTreeMap<String, serde_json::Value>>,
    allow_funnel: Option<BTreeMap<String, bool>>,
    #[serde(rename = "Foreground")]
    _foreground: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TcpPortHandler {
    #[serde(rename = "HTTPS", default)]
    https: bool,
    #[serde(rename = "HTTP", default)]
    http: bool,
    #[serde(rename = "TCPForward", default)]
    tcp_forward: String,
    #[serde(rename = "TerminateTLS", default)]
    terminate_tls: String,
    #[serde(rename = "ProxyProtocol", default)]
    proxy_protocol: u8,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct WebServerConfig {
    handlers: Option<BTreeMap<String, HttpHandler>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
#[derive(Default)]
struct HttpHandler {
    path: String,
    proxy: String,
    text: String,
    redirect: String,
    accept_app_caps: Option<BTreeSet<String>>,
}

/// A host's handlers, with the JSON path of their key.
type Hosts = Vec<(String, String, BTreeMap<String, HttpHandler>)>;

fn by_port(web: BTreeMap<String, WebServerConfig>) -> Result<BTreeMap<u16, Hosts>, ServeError> {
    let mut ports: BTreeMap<u16, Hosts> = BTreeMap::new();
    for (key, config) in web {
        let at = format!("Web[{key:?}]");
        let (host, port) = key
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
            .ok_or_else(|| field(&at, "the key has to be HOST:PORT"))?;
        ports
            .entry(port)
            .or_default()
            .push((at, host, config.handlers.unwrap_or_default()));
    }
    Ok(ports)
}

fn protocol(at: &str, handler: TcpPortHandler, hosts: Hosts) -> Result<Protocol, ServeError> {
    match (handler.https, handler.http, handler.tcp_forward.as_str()) {
        (true, false, "") => Ok(Protocol::Https(http(hosts)?)),
        (false, true, "") => Ok(Protocol::Http(http(hosts)?)),
        (false, false, target) if !target.is_empty() => {
            let tcp = Tcp {
                backend: stream_target(&format!("{at}.TCPForward"), target)?,
                proxy_protocol: match handler.proxy_protocol {
                    0 => None,
                    1 => Some(ProxyProtocol::V1),
                    2 => Some(ProxyProtocol::V2),
                    _ => return Err(field(format!("{at}.ProxyProtocol"), "only 0, 1 and 2 are known")),
                },
                access: None,
            };
            Ok(if handler.terminate_tls.is_empty() {
                Protocol::Tcp(tcp)
            } else {
                Protocol::TlsTerminatedTcp(tcp)
            })
        }
        _ => Err(field(at, "exactly one of HTTPS, HTTP and TCPForward is needed")),
    }
}

fn http(hosts: Hosts) -> Result<Http, ServeError> {
    // One host is the name itself, by its full and its short form.
    let only = hosts.len() == 1;
    let mut routes = Vec::new();
    let mut caps: Option<BTreeSet<String>> = None;
    for (at, host, handlers) in hosts {
        let host = (!only && host != CERT_DOMAIN).then(|| host.to_ascii_lowercase());
        for (mount, handler) in handlers {
            let at = format!("{at}.Handlers[{mount:?}]");
            if !mount.starts_with('/') {
                return Err(field(at, "the path has to start with a slash"));
            }
            let proxies = !handler.proxy.is_empty() && handler.text.is_empty() && handler.redirect.is_empty();
            let accepted = handler.accept_app_caps.clone().unwrap_or_default();
            if proxies && caps.get_or_insert_with(|| accepted.clone()) != &accepted {
                return Err(field(
                    format!("{at}.AcceptAppCaps"),
                    "all handlers of a port have to accept the same",
                ));
            }
            let backend = backend(&at, handler)?;
            let stripped = matches!(backend, Backend::Address { .. } | Backend::Unix { .. }) && mount != "/";
            routes.push(Route {
                host: host.clone(),
                path: PathMatch::Prefix(mount),
                replace_prefix: stripped.then(String::new),
                backend,
                access: None,
                limits: Limits::default(),
                timeouts: Timeouts::default(),
            });
        }
    }
    Ok(Http {
        routes,
        identity: Identity {
            headers: IdentityHeaders::Tailscale,
            app_capabilities: caps.unwrap_or_default().into_iter().collect(),
        },
    })
}

/// Go's order: text, redirect, path, proxy.
fn backend(at: &str, handler: HttpHandler) -> Result<Backend, ServeError> {
    if !handler.text.is_empty() {
        return Ok(Backend::Text { text: handler.text });
    }
    if !handler.redirect.is_empty() {
        return redirect(&format!("{at}.Redirect"), &handler.redirect);
    }
    if !handler.path.is_empty() {
        return Err(field(
            format!("{at}.Path"),
            "files are not served: put a web server in front of them and use Proxy",
        ));
    }
    if handler.proxy.is_empty() {
        return Err(field(at, "one of Proxy, Text and Redirect is needed"));
    }
    proxy_target(&format!("{at}.Proxy"), &handler.proxy)
}

fn redirect(at: &str, text: &str) -> Result<Backend, ServeError> {
    let (status, location) = match text.split_once(':') {
        Some((code, rest)) if code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit()) => {
            let status = code
                .parse()
                .ok()
                .filter(|s| (300..400).contains(s))
                .ok_or_else(|| field(at, "the status has to be 300 to 399"))?;
            (status, rest)
        }
        _ => (302, text),
    };
    Ok(Backend::Redirect {
        status,
        location: location.to_owned(),
    })
}

/// Go: `expandProxyArg`.
fn proxy_target(at: &str, text: &str) -> Result<Backend, ServeError> {
    no_domain(at, text)?;
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Backend::Unix {
            path: path.to_owned(),
        });
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let (scheme, rest, default_port) = match text.split_once("://") {
        _ if digits => (Scheme::Http, format!("127.0.0.1:{text}"), 80),
        Some(("http", rest)) => (Scheme::Http, rest.to_owned(), 80),
        Some(("https", rest)) => (Scheme::Https, rest.to_owned(), 443),
        Some(("https+insecure", rest)) => (Scheme::HttpsInsecure, rest.to_owned(), 443),
        Some((other, _)) => {
            return Err(field(
                at,
                format!("the scheme {other} is not one of http, https, https+insecure, unix"),
            ));
        }
        None => (Scheme::Http, text.to_owned(), 80),
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => (&rest[..slash], &rest[slash..]),
        None => (rest.as_str(), ""),
    };
    if path.contains(['?', '#']) {
        return Err(field(at, "the target can't have a query"));
    }
    Ok(Backend::Address {
        address: with_port(authority, Some(default_port)).ok_or_else(|| field(at, "expected HOST:PORT"))?,
        scheme,
        path: if path == "/" {
            String::new()
        } else {
            path.to_owned()
        },
    })
}

fn stream_target(at: &str, text: &str) -> Result<Backend, ServeError> {
    no_domain(at, text)?;
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Backend::Unix {
            path: path.to_owned(),
        });
    }
    Ok(Backend::Address {
        address: with_port(text, None).ok_or_else(|| field(at, "expected HOST:PORT or unix:PATH"))?,
        scheme: Scheme::Http,
        path: String::new(),
    })
}

fn with_port(authority: &str, default: Option<u16>) -> Option<String> {
    let host_end = authority.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match authority[host_end..].rfind(':') {
        Some(colon) => {
            let (host, port) = authority.split_at(host_end + colon);
            (host, port[1..].parse().ok()?)
        }
        None => (authority, default?),
    };
    (is_host(host) && port != 0).then(|| format!("{host}:{port}"))
}

/// A name or an address, IPv6 in brackets.
fn is_host(host: &str) -> bool {
    let delimiter = |c: char| c.is_control() || c.is_whitespace() || ":/?#@[]\\".contains(c);
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains(delimiter),
    }
}

fn no_domain(at: &str, text: &str) -> Result<(), ServeError> {
    if text.contains(CERT_DOMAIN) {
        return Err(field(
            at,
            format!("{CERT_DOMAIN} is understood in keys of Web, in TerminateTLS, Text and Redirect"),
        ));
    }
    Ok(())
}

fn field(at: impl Into<String>, reason: impl Into<String>) -> ServeError {
    ServeError::Field {
        field: at.into(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_file_is_read() {
        let listeners = parse(
            r#"{
              "TCP": {"443": {"HTTPS": true}, "80": {"HTTP": true},
                      "5432": {"TCPForward": "localhost:5432", "ProxyProtocol": 2},
                      "5433": {"TCPForward": "unix:/run/x", "TerminateTLS": "${TS_CERT_DOMAIN}"}},
              "Web": {
                "${TS_CERT_DOMAIN}:443": {"Handlers": {
                  "/": {"Proxy": "http://127.0.0.1:11434", "AcceptAppCaps": ["example.com/cap/x"]},
                  "/api": {"Proxy": "3000", "AcceptAppCaps": ["example.com/cap/x"]},
                  "/text": {"Text": "hi"}}},
                "${TS_CERT_DOMAIN}:80": {"Handlers": {
                  "/": {"Redirect": "301:https://${TS_CERT_DOMAIN}${REQUEST_URI}"}}}
              },
              "AllowFunnel": {"${TS_CERT_DOMAIN}:443": false}, "Foreground": {}
            }"#,
        )
        .unwrap();
        insta::assert_yaml_snapshot!(listeners);
    }

    #[test]
    fn targets_follow_go() {
        let target = |text: &str| match proxy_target("x", text) {
            Ok(Backend::Address {
                address,
                scheme,
                path,
            }) => format!("{scheme:?} {address} {path}"),
            Ok(Backend::Unix { path }) => format!("unix {path}"),
            other => format!("{:?}", other.map_err(|e| e.to_string())),
        };
        for (text, want) in [
            ("3000", "Http 127.0.0.1:3000 "),
            ("localhost:3000", "Http localhost:3000 "),
            ("localhost", "Http localhost:80 "),
            ("http://a:1/b/", "Http a:1 /b/"),
            ("https://a", "Https a:443 "),
            ("https://a/", "Https a:443 "),
            ("https+insecure://[::1]:8443/x", "HttpsInsecure [::1]:8443 /x"),
            ("http://[::1]", "Http [::1]:80 "),
            ("unix:/run/app.sock", "unix /run/app.sock"),
        ] {
            assert_eq!(target(text), want, "{text}");
        }
        for bad in [
            "ftp://a",
            "http://",
            "http://a:0",
            "http://a:x",
            "http://u@a",
            "http://a/?x",
            "http://a?x:80",
            "http://::1",
            "http://]:80",
            "http://a b:80",
        ] {
            assert!(proxy_target("x", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (json, want) in [
            (r#"{"Services":{"svc:x":{}}}"#, "Services: "),
            (r#"{"AllowFunnel":{"a:443":true}}"#, r#"AllowFunnel["a:443"]: "#),
            (r#"{"TCP":{"x":{"HTTPS":true}}}"#, r#"TCP["x"]: "#),
            (
                r#"{"TCP":{"080":{"HTTP":true},"80":{"HTTP":true}}}"#,
                r#"TCP["80"]: the same port"#,
            ),
            (
                r#"{"TCP":{"80":{"TCPForward":"0.0.0.0/0:80"}}}"#,
                r#"TCP["80"].TCPForward: expected HOST:PORT"#,
            ),
            (r#"{"TCP":{"80":{}}}"#, r#"TCP["80"]: exactly one"#),
            (
                r#"{"TCP":{"80":{"HTTP":true}},"Web":{"a:80":{"Handlers":{"/":{"Path":"/srv"}}}}}"#,
                r#"Web["a:80"].Handlers["/"].Path: files"#,
            ),
            (r#"{"Web":{"a":{}}}"#, r#"Web["a"]: the key"#),
            (r#"{"Tcp":{}}"#, "unknown field `Tcp`"),
        ] {
            let error = parse(json).unwrap_err().to_string();
            assert!(error.starts_with(want), "{json}: {error}");
        }
        assert!(parse("{}").unwrap().is_empty());
        assert!(parse(r#"{"TCP":null,"Web":null}"#).unwrap().is_empty());
    }
}
