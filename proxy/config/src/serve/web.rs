//! A port's hosts and their handlers as routes (Go: `getServeHandler`).

use std::collections::BTreeMap;

use super::{
    CERT_DOMAIN, ServeError, field,
    json::{HttpHandler, WebServerConfig},
    target,
};
use crate::group::{Backend, Http, Identity, IdentityHeaders, Limits, PathMatch, Route, Timeouts};

/// A host's handlers, with the JSON path of their key.
pub(super) struct Host {
    at: String,
    pub(super) name: String,
    handlers: BTreeMap<String, HttpHandler>,
}

/// Hosts by their port, those of ports that nobody listens on among them.
pub(super) fn by_port(
    at: &str,
    web: BTreeMap<String, WebServerConfig>,
) -> Result<BTreeMap<u16, Vec<Host>>, ServeError> {
    let mut ports: BTreeMap<u16, Vec<Host>> = BTreeMap::new();
    for (key, config) in web {
        let at = format!("{at}Web[{key:?}]");
        let (name, port) = host_port(&at, &key)?;
        ports.entry(port).or_default().push(Host {
            at,
            name,
            handlers: config.handlers.unwrap_or_default(),
        });
    }
    Ok(ports)
}

/// `HOST:PORT`, lower case but for the placeholder.
pub(super) fn host_port(at: &str, key: &str) -> Result<(String, u16), ServeError> {
    let (host, port) = key
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok().filter(|port| *port != 0)?)))
        .filter(|(host, _)| !host.is_empty())
        .ok_or_else(|| field(at, "the key has to be HOST:PORT"))?;
    let host = if host == CERT_DOMAIN {
        host.to_owned()
    } else {
        host.trim_end_matches('.').to_ascii_lowercase()
    };
    Ok((host, port))
}

pub(super) fn http(hosts: Vec<Host>) -> Result<Http, ServeError> {
    let mut routes = Vec::new();
    for Host { at, name, handlers } in hosts {
        let mounts: Vec<String> = handlers.keys().cloned().collect();
        for (mount, handler) in handlers {
            let at = format!("{at}.Handlers[{mount:?}]");
            if !mount.starts_with('/') {
                return Err(field(at, "the path has to start with a slash"));
            }
            let app_capabilities = handler.accept_app_caps.clone().unwrap_or_default();
            let backend = backend(&at, handler)?;
            let stripped = match &backend {
                Backend::Address { .. } | Backend::Unix { .. } => mount != "/",
                // A file is at its mount alone, a directory below it.
                Backend::Files { .. } => true,
                _ => false,
            };
            // Beside `/foo/` the mount `/foo` is for that path alone.
            let path = if mounts.contains(&format!("{mount}/")) {
                PathMatch::Exact(encoded(&mount))
            } else {
                PathMatch::Prefix(encoded(&mount))
            };
            routes.push(Route {
                host: Some(name.clone()),
                path,
                replace_prefix: stripped.then(String::new),
                backend,
                app_capabilities: Some(app_capabilities.into_iter().collect()),
                access: None,
                funnel: false,
                limits: Limits::default(),
                timeouts: Timeouts::default(),
            });
        }
    }
    Ok(Http {
        routes,
        identity: Identity {
            headers: IdentityHeaders::Tailscale,
            app_capabilities: Vec::new(),
        },
    })
}

/// Go's order: text, redirect, path, proxy.
fn backend(at: &str, handler: HttpHandler) -> Result<Backend, ServeError> {
    if !handler.text.is_empty() {
        return Ok(Backend::Text { text: handler.text });
    }
    if !handler.redirect.is_empty() {
        return target::redirect(&format!("{at}.Redirect"), &handler.redirect);
    }
    if !handler.path.is_empty() {
        if !handler.path.starts_with('/') {
            return Err(field(format!("{at}.Path"), "has to be an absolute path"));
        }
        return Ok(Backend::Files { path: handler.path });
    }
    if handler.proxy.is_empty() {
        return Err(field(at, "one of Proxy, Path, Text and Redirect is needed"));
    }
    target::proxy_target(&format!("{at}.Proxy"), &handler.proxy)
}

/// Go compares mounts with decoded paths, we with encoded ones (RFC 3986, `pchar`).
fn encoded(mount: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte);
    let mut out = String::with_capacity(mount.len());
    for byte in mount.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
