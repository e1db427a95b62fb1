//! Fields that concern one connection alone (RFC 9110, section 7.6.1).

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Beside these, every field that any `Connection` line names goes.
const FIELDS: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Strips a request, before our own fields are set: else `Connection: <our field>` would take them away.
/// `TE: trailers` stays, gRPC demands it. `Expect` is answered by us when the body is first read.
pub fn strip_request(headers: &mut HeaderMap) {
    let trailers = headers
        .get_all(header::TE)
        .iter()
        .any(|v| tokens(v).any(|t| t.eq_ignore_ascii_case("trailers")));
    strip(headers);
    headers.remove(header::EXPECT);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Strips a response. `Trailer` stays, so that the trailers that it announces can follow.
pub fn strip_response(headers: &mut HeaderMap) {
    strip(headers);
}

/// Whether a field of list syntax has this token, in any of its lines.
pub fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .any(|v| tokens(v).any(|t| t.eq_ignore_ascii_case(token)))
}

fn strip(headers: &mut HeaderMap) {
    // All lines: `HeaderMap::get` and `remove` look at the first one only.
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(tokens)
        .filter_map(|t| t.parse().ok())
        .collect();
    for name in named.iter().chain(&FIELDS) {
        headers.remove(name);
    }
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    // A value that isn't ASCII has no token that names a field.
    value
        .to_str()
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn every_connection_line_counts() {
        let mut headers = map(&[
            ("connection", "close, X-One"),
            ("connection", "x-two,, x-three "),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("x-three", "again"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
            ("te", "gzip, trailers"),
            ("expect", "100-continue"),
            ("x-four", "4"),
        ]);
        strip_request(&mut headers);
        headers.remove("http2-settings");
        assert_eq!(headers, map(&[("x-four", "4"), ("te", "trailers")]));
    }

    #[test]
    fn tokens_are_found_in_any_line_and_case() {
        let headers = map(&[("connection", "keep-alive"), ("connection", "foo, UPGRADE")]);
        assert!(has_token(&headers, header::CONNECTION, "upgrade"));
        assert!(!has_token(&headers, header::CONNECTION, "upgrad"));
    }
}
