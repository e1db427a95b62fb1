//! Redirect URIs: where answers may be sent.

use http::Uri;

/// Schemes that a browser acts upon by itself.
const FORBIDDEN: [&str; 12] = [
    "about",
    "blob",
    "chrome",
    "chrome-extension",
    "data",
    "file",
    "filesystem",
    "ftp",
    "javascript",
    "mailto",
    "vbscript",
    "view-source",
];
/// Longer ones are mistakes, and would make answers too long for servers.
const LONGEST: usize = 2000;

/// Checks what somebody wants to register: an absolute URI without fragment (RFC 6749, section 3.1.2). The error
/// is a sentence for people.
///
/// `https` with a host; `http` for loopback alone, since a code that passes in clear can be taken; and the
/// private schemes of installed programs (RFC 8252, section 7.1).
pub(crate) fn check(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > LONGEST {
        return Err("it is empty or too long");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("it has white space or characters that have to be percent-encoded");
    }
    if text.contains('#') {
        return Err("a fragment (#…) is not allowed");
    }
    let (scheme, rest) = text.split_once(':').ok_or("it is no absolute URI")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if !is_scheme || rest.is_empty() {
        return Err("it is no absolute URI");
    }
    let scheme = scheme.to_ascii_lowercase();
    if FORBIDDEN.contains(&scheme.as_str()) {
        return Err("this scheme is not allowed");
    }
    if scheme == "http" || scheme == "https" {
        let uri: Uri = text.parse().map_err(|_| "it is no valid URL")?;
        let authority = uri.authority().ok_or("the host is missing")?;
        if authority.host().is_empty() {
            return Err("the host is missing");
        }
        if authority.as_str().contains('@') {
            return Err("a user name in it is not allowed");
        }
        if scheme == "http" && !is_loopback(authority.host()) {
            return Err("http is for loopback addresses alone; use https");
        }
    }
    Ok(())
}

/// Host and port of a URL, or the scheme of a program's own URI.
pub(crate) fn place(uri: &str) -> String {
    let authority = uri.parse::<Uri>().ok().and_then(|uri| match uri.scheme_str() {
        Some("http" | "https") => uri.authority().map(ToString::to_string),
        _ => None,
    });
    authority.unwrap_or_else(|| {
        let scheme = uri.split_once(':').map_or(uri, |(scheme, _)| scheme);
        format!("{scheme}:")
    })
}

/// Whether an answer for `registered` may go to `requested`: equal to the last character, except that a
/// program on loopback takes any free port (RFC 8252, section 7.3; `localhost` too, as MCP clients need it).
pub(crate) fn matches(registered: &str, requested: &str) -> bool {
    if registered == requested {
        return true;
    }
    match (
        without_loopback_port(registered),
        without_loopback_port(requested),
    ) {
        (Some(a), Some(b)) => a == b && check(requested).is_ok(),
        _ => false,
    }
}

/// Whether answers to it stay on the user's machine.
pub(crate) fn is_on_loopback(uri: &str) -> bool {
    without_loopback_port(uri).is_some()
}

/// Host, and all that follows the port, of an `http` URI on loopback.
fn without_loopback_port(uri: &str) -> Option<(&str, &str)> {
    let rest = uri.strip_prefix("http://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(end);
    let host = match authority.rsplit_once(':') {
        Some((host, port))
            if port.starts_with(|c: char| c.is_ascii_digit()) && port.parse::<u16>().is_ok() =>
        {
            host
        }
        _ => authority,
    };
    is_loopback(host).then_some((host, after))
}

fn is_loopback(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

/// The URI with parameters added to what query it has.
pub(crate) fn with_query(uri: &str, parameters: &[(&str, &str)]) -> String {
    let separator = match uri.split_once('?') {
        None => "?",
        Some((_, "")) => "",
        Some(_) => "&",
    };
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(parameters);
    format!("{uri}{separator}{}", query.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_registered() {
        for good in [
            "https://app.example.com/cb",
            "https://pve.lan:8006",
            "http://localhost/callback",
            "http://127.0.0.1:8080/cb?x=1",
            "http://[::1]/cb",
            "com.example.app://callback",
            "myapp:///callback",
            "com.example.app:/cb",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "https:///x",
            "example.com/x",
            "/cb",
            "https://a/#f",
            "https://a/ b",
            "https://a/\u{e9}",
            "http://grafana.lan/cb",
            "https://user@evil.example/cb",
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            "data:text/html,x",
            "1a:x",
            "https:",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn matching_is_exact_but_for_the_port_on_loopback() {
        let same = "https://a.example/cb?x=1";
        assert!(matches(same, same));
        for other in [
            "https://a.example/cb",
            "https://a.example/cb?x=1&y=2",
            "https://A.example/cb?x=1",
            "https://a.example:443/cb?x=1",
            "https://a.example/cb/?x=1",
            "http://a.example/cb?x=1",
        ] {
            assert!(!matches(same, other), "{other}");
        }
        assert!(matches(
            "http://localhost/callback",
            "http://localhost:49152/callback"
        ));
        assert!(matches("http://127.0.0.1:1/cb?x", "http://127.0.0.1/cb?x"));
        assert!(matches("http://[::1]:1/cb", "http://[::1]:65535/cb"));
        for (registered, requested) in [
            ("http://localhost/cb", "http://127.0.0.1:1/cb"),
            ("http://localhost/cb", "https://localhost:1/cb"),
            ("http://localhost/cb", "http://localhost:1/cb2"),
            ("http://localhost/cb", "http://localhost:1@evil.example/cb"),
            ("http://localhost/cb", "http://localhost.evil.example:1/cb"),
            ("http://localhost/cb", "http://localhost:1:2/cb"),
            ("http://localhost/cb", "http://localhost:99999/cb"),
            ("http://a.lan:1/cb", "http://a.lan:2/cb"),
        ] {
            assert!(!matches(registered, requested), "{requested}");
        }
    }

    #[test]
    fn a_query_is_kept() {
        let parameters = [("code", "a b"), ("state", "{\"x\":1}&")];
        assert_eq!(
            with_query("https://a/cb", &parameters),
            "https://a/cb?code=a+b&state=%7B%22x%22%3A1%7D%26"
        );
        assert!(with_query("https://a/cb?x=1", &parameters).starts_with("https://a/cb?x=1&code="));
        assert!(with_query("https://a/cb?", &parameters).starts_with("https://a/cb?code="));
    }

    #[test]
    fn users_are_shown_where_the_answer_goes() {
        assert_eq!(place("https://pve.lan:8006"), "pve.lan:8006");
        assert_eq!(place("com.example.app:/cb"), "com.example.app:");
        assert_eq!(place("myapp://callback"), "myapp:");
    }
}
