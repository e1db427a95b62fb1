//! Fields that only we may set, and that a client therefore can't send: in any spelling.
//!
//! CGI, WSGI and PHP fold `-`, `_` and `.` into one variable name, so names are compared folded, and
//! names with `_` or `.` never pass at all: `Tailscale_User_Login` would be the app's
//! `HTTP_TAILSCALE_USER_LOGIN` as well.

use http::{HeaderMap, HeaderName};

/// Names that are ours.
const NAMES: [&str; 7] = [
    "forwarded",
    "x-real-ip",
    "x-request-id",
    // Some frameworks route by these instead of the path that was authorised.
    "x-original-url",
    "x-rewrite-url",
    // Framing is hyper's, from the body that it reads.
    "http2-settings",
    "x-original-host",
];

/// Whole families that are ours.
const PREFIXES: [&str; 3] = ["tailscale-", "x-forwarded-", "postern-"];

/// Removes them from a request's fields or trailers.
pub fn strip(headers: &mut HeaderMap) {
    let doomed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_owned(name.as_str()))
        .cloned()
        .collect();
    for name in doomed {
        headers.remove(name);
    }
}

/// Whether a client may not send this field; see the module.
pub fn is_owned(name: &str) -> bool {
    name.contains(['_', '.']) || {
        let folded = || name.bytes().map(fold);
        NAMES.iter().any(|owned| folded().eq(owned.bytes()))
            || PREFIXES
                .iter()
                .any(|prefix| name.len() >= prefix.len() && folded().take(prefix.len()).eq(prefix.bytes()))
    }
}

fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() {
        byte.to_ascii_lowercase()
    } else {
        b'-'
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_is_ours() {
        for name in [
            "tailscale-user-login",
            "Tailscale-User-Login",
            "tailscale_user_login",
            "tailscale.user.name",
            "tailscale-user_profile-pic",
            "tailscale~user!login",
            "x-forwarded-for",
            "X-Forwarded-User",
            "x_forwarded_for",
            "Forwarded",
            "x-real-ip",
            "X!Real!IP",
            "postern-hops",
            "any_thing",
        ] {
            assert!(is_owned(name), "{name}");
        }
        for name in [
            "host",
            "x-real-ips",
            "tailscale",
            "cookie",
            "authorization",
            "accept",
        ] {
            assert!(!is_owned(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_owned_name_survives(
            names in proptest::collection::vec(
                "(?i)(tailscale|x|postern)[-_.!~](user|forwarded|real|hops)[-_.!~]?(login|for|ip|name)?", 0..12),
        ) {
            let mut headers = HeaderMap::new();
            for name in &names {
                // Case-insensitive patterns make letters beyond ASCII, which no header name has.
                if let Ok(name) = name.parse::<HeaderName>() {
                    headers.append(name, HeaderValue::from_static("evil"));
                }
            }
            strip(&mut headers);
            for name in headers.keys() {
                let folded: String = name.as_str().bytes().map(|b| char::from(fold(b))).collect();
                prop_assert!(!folded.starts_with("tailscale-") && !folded.starts_with("x-forwarded-"));
                prop_assert!(folded != "x-real-ip" && !folded.starts_with("postern-"));
                prop_assert!(!name.as_str().contains(['_', '.']));
            }
        }
    }
}
