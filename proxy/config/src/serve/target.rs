//! Where handlers send requests and bytes.

use std::net::Ipv6Addr;

use super::{CERT_DOMAIN, ServeError, field};
use crate::group::{Backend, Scheme};

pub(super) fn redirect(at: &str, text: &str) -> Result<Backend, ServeError> {
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
pub(super) fn proxy_target(at: &str, text: &str) -> Result<Backend, ServeError> {
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

pub(super) fn stream_target(at: &str, text: &str) -> Result<Backend, ServeError> {
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
