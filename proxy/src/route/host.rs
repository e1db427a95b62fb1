//! The host that a request is for.

use http::uri::Authority;

/// A host as routes and certificates know it: lower case, no port, no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host(String);

/// The text is no host, or has user information, a path or anything else beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host with at most a port")]
pub struct HostError;

impl Host {
    /// Reads the value of a `Host` field or an authority (RFC 9110, section 7.2).
    ///
    /// # Errors
    /// When it is empty or more than a host and a port.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        // User information would survive in what is sent on and is deprecated (RFC 9110, section 4.2.4).
        if text.contains('@') {
            return Err(HostError);
        }
        let authority: Authority = text.parse().map_err(|_| HostError)?;
        let host = authority.host();
        let after = text.strip_prefix(host).ok_or(HostError)?;
        let port_is_fine = match after.strip_prefix(':') {
            Some(port) => port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()),
            None => after.is_empty(),
        };
        let bare = host.strip_suffix('.').unwrap_or(host);
        if !port_is_fine || bare.is_empty() || bare.len() > 253 || !is_host(bare) {
            return Err(HostError);
        }
        Ok(Self(bare.to_ascii_lowercase()))
    }

    /// The host.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.contains("..")
                && !host.starts_with('.')
                && !host.ends_with('.')
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_get_one_form() {
        for (text, want) in [
            ("App.Example.TS.net", "app.example.ts.net"),
            ("app.example.ts.net.:443", "app.example.ts.net"),
            ("app:8443", "app"),
            ("app:", "app"),
            ("[fd7a::1]:443", "[fd7a::1]"),
            ("100.64.0.1", "100.64.0.1"),
        ] {
            assert_eq!(Host::parse(text).unwrap().as_str(), want);
        }
    }

    #[test]
    fn anything_more_than_a_host_is_refused() {
        for text in [
            "",
            ".",
            ":443",
            "user@app",
            "app/evil",
            "app:443:1",
            "app:x",
            "a b",
            "app,evil",
            "app%2eevil",
            "a..b",
            "a..",
            ".a",
            "[fd7a::1",
            "[x]",
            "app:443443443",
            "app?x",
            "app#x",
        ] {
            assert!(Host::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_twice_is_parsing_once(text in "[a-zA-Z0-9.\\-:\\[\\]@/]{0,24}") {
            if let Ok(once) = Host::parse(&text) {
                prop_assert_eq!(Host::parse(once.as_str()).unwrap(), once);
            }
        }
    }
}
