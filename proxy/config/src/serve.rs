//! The `serve.json` of Tailscale's container (Go: `ipn/serve.go`), turned into our own model.
//!
//! A key's host may be `${TS_CERT_DOMAIN}`, as usual there: the name's own domain, and within a Service the
//! Service's. Foreground sections are of no meaning outside of `tailscaled`. What Go passes over in silence is said in [`Serve::warnings`].

mod json;
mod target;
mod web;

use std::collections::{BTreeMap, BTreeSet};

use self::json::{ServeConfig, TcpPortHandler, WebServerConfig};
use crate::{
    funnel,
    group::{Listener, Protocol, ProxyProtocol, Tcp},
};

/// Stands for the name's own domain: in hosts of routes, and in texts and redirects, where the proxy replaces
/// it.
pub const CERT_DOMAIN: &str = "${TS_CERT_DOMAIN}";

/// What a `serve.json` says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Serve {
    /// Ports of the name.
    pub listeners: Vec<Listener>,
    /// Ports of Services, by `svc:NAME`.
    pub services: BTreeMap<String, Vec<Listener>>,
    /// Ports that are on Funnel, with the hosts that `AllowFunnel` names; [`CERT_DOMAIN`] is the own one.
    pub funnel: BTreeMap<u16, BTreeSet<String>>,
    /// What has no effect and why, for people.
    pub warnings: Vec<String>,
}

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
pub fn parse(json: &str) -> Result<Serve, ServeError> {
    let config: ServeConfig = serde_json::from_str(json)?;
    let mut warnings = Vec::new();
    let listeners = listeners(
        "",
        config.tcp.unwrap_or_default(),
        config.web.unwrap_or_default(),
        &mut warnings,
    )?;
    let mut services = BTreeMap::new();
    for (name, service) in config.services.unwrap_or_default() {
        let at = format!("Services[{name:?}]");
        if !name.strip_prefix("svc:").is_some_and(is_label) {
            return Err(field(at, "a service is named svc: and a DNS label"));
        }
        if service.tun {
            return Err(field(
                format!("{at}.Tun"),
                "there is no network interface here: list the service's ports in TCP",
            ));
        }
        let (tcp, mut web) = (service.tcp.unwrap_or_default(), service.web.unwrap_or_default());
        for (key, _) in web.extract_if(.., |key, _| !is_of_service(key, &name)) {
            warnings.push(format!(
                "{at}.Web[{key:?}] is never reached: a Service answers to its own name, {}.TAILNET.ts.net",
                name.trim_start_matches("svc:")
            ));
        }
        services.insert(name, self::listeners(&format!("{at}."), tcp, web, &mut warnings)?);
    }
    let mut on_funnel: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
    let allowed = config.allow_funnel.unwrap_or_default();
    for (key, _) in allowed.into_iter().filter(|(_, on)| *on) {
        let at = format!("AllowFunnel[{key:?}]");
        let (host, port) = web::host_port(&at, &key)?;
        if !funnel::PORTS.contains(&port) {
            return Err(field(at, "Funnel has the ports 443, 8443 and 10000"));
        }
        match listeners.iter().find(|listener| listener.port == port) {
            None => warnings.push(format!(
                "{at}: TCP has no port {port}, so nothing is there to be shown"
            )),
            Some(listener) if !speaks_tls(&listener.protocol) => {
                return Err(field(at, "Funnel needs HTTPS, or TCPForward"));
            }
            Some(_) => {
                warnings.push(format!(
                    "{at}: everybody on the internet reaches what this port serves, unless POSTERN_FUNNEL_KEYS has a lock for it"
                ));
                on_funnel.entry(port).or_default().insert(host);
            }
        }
    }
    Ok(Serve {
        listeners,
        services,
        funnel: on_funnel,
        warnings,
    })
}

/// Whether a key of a Service's `Web` is for its own name, as Go's always are; here the placeholder stands for it.
fn is_of_service(key: &str, name: &str) -> bool {
    let first = key.split(['.', ':']).next().unwrap_or_default();
    key.starts_with(CERT_DOMAIN)
        || (name.strip_prefix("svc:")).is_some_and(|own| own.eq_ignore_ascii_case(first))
}

/// Plain TCP may carry TLS of the backend's own.
fn speaks_tls(protocol: &Protocol) -> bool {
    match protocol {
        Protocol::Https(_)
        | Protocol::Tcp(_)
        | Protocol::TlsTerminatedTcp(_)
        | Protocol::IdentityProvider(_) => true,
        Protocol::Http(_) | Protocol::RedirectToHttps { .. } => false,
    }
}

fn listeners(
    at: &str,
    tcp: BTreeMap<String, TcpPortHandler>,
    web: BTreeMap<String, WebServerConfig>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Listener>, ServeError> {
    let mut web = web::by_port(at, web)?;
    let mut listeners: Vec<Listener> = Vec::new();
    for (key, handler) in tcp {
        let at = format!("{at}TCP[{key:?}]");
        let port: u16 = key
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| field(&at, "the key has to be a port"))?;
        if listeners.iter().any(|other| other.port == port) {
            return Err(field(&at, "the same port has another key"));
        }
        let hosts = web.remove(&port).unwrap_or_default();
        if handler.tcp_forward.is_empty() && hosts.is_empty() {
            warnings.push(format!("{at}: Web has no HOST:{port}, so every request gets 404"));
        }
        let protocol = protocol(&at, handler, hosts)?;
        listeners.push(Listener { port, protocol });
    }
    for (port, hosts) in web {
        let hosts: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        let hosts = hosts.join(", ");
        warnings.push(format!(
            "{at}Web of port {port} ({hosts}) is never reached: add {at}TCP[\"{port}\"] with \"HTTPS\": true or \"HTTP\": true"
        ));
    }
    Ok(listeners)
}

fn protocol(at: &str, handler: TcpPortHandler, hosts: Vec<web::Host>) -> Result<Protocol, ServeError> {
    match (handler.https, handler.http, handler.tcp_forward.as_str()) {
        (true, false, "") => Ok(Protocol::Https(web::http(hosts)?)),
        (false, true, "") => Ok(Protocol::Http(web::http(hosts)?)),
        (false, false, target) if !target.is_empty() => {
            let tcp = Tcp {
                backend: target::stream_target(&format!("{at}.TCPForward"), target)?,
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

/// RFC 1123, as names on the tailnet are.
pub fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn field(at: impl Into<String>, reason: impl Into<String>) -> ServeError {
    ServeError::Field {
        field: at.into(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests;
