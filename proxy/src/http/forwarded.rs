//! What the backend learns about the client's side of the proxy, and the loop guard. All of it is set,
//! never appended to: we are the edge.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Sets `X-Forwarded-For`, `-Host` and, over TLS alone, `-Proto` (Go: `addProxyForwardedHeaders`).
pub fn set(headers: &mut HeaderMap, client: IpAddr, authority: &str, tls: bool) {
    insert(headers, FOR, &client.to_string());
    insert(headers, HOST, authority);
    if tls {
        headers.insert(PROTO, HeaderValue::from_static("https"));
    }
}

/// Counts our passages in the field that [`mark`] writes; to be read before owned fields are stripped.
/// A client that forges it only locks itself out.
pub fn passages(headers: &HeaderMap) -> usize {
    headers
        .get_all(HOPS)
        .iter()
        .filter_map(|v| v.to_str().ok()?.parse::<usize>().ok())
        .max()
        .unwrap_or_default()
}

/// Adds one to what [`passages`] found. Not `Via`: its presence makes nginx stop compressing.
pub fn mark(headers: &mut HeaderMap, passages: usize) {
    headers.insert(HOPS, HeaderValue::from(passages + 1));
}

/// More passages than this are a loop. A chain of apps behind names may be honest; a loop never ends.
pub const MAX_PASSAGES: usize = 8;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOPS: HeaderName = HeaderName::from_static("postern-hops");

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Addresses and checked authorities are always header values.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_is_told_and_passages_counted() {
        let mut headers = HeaderMap::new();
        set(&mut headers, [100, 64, 0, 7].into(), "app:8443", false);
        assert_eq!(headers["x-forwarded-for"], "100.64.0.7");
        assert_eq!(headers["x-forwarded-host"], "app:8443");
        assert!(!headers.contains_key("x-forwarded-proto"));
        assert_eq!(passages(&headers), 0);
        mark(&mut headers, 2);
        assert_eq!(passages(&headers), 3);
    }
}
