//! The issuer: the URL that everything of the provider is below.

use std::fmt;

use http::Uri;

/// `https://host[:port]`, without path and without slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    url: String,
    host: String,
}

/// It is no issuer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no issuer: expected https://HOST or https://HOST:PORT, without path")]
pub struct NotAnIssuer(String);

impl Issuer {
    /// For this host name (no dot at its end) and port.
    ///
    /// # Errors
    /// When it makes no URL.
    pub fn new(host: &str, port: u16) -> Result<Self, NotAnIssuer> {
        let host = host.to_ascii_lowercase();
        let url = match port {
            443 => format!("https://{host}"),
            port => format!("https://{host}:{port}"),
        };
        let is_host = !host.is_empty()
            && !host.ends_with('.')
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
        if !is_host || url.parse::<Uri>().is_err() {
            return Err(NotAnIssuer(url));
        }
        Ok(Self { url, host })
    }

    /// The URL; also what browsers call the origin.
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// The host without port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The URL of a path of ours.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// Host, and port unless it is HTTPS's own: what `Host` says.
    pub fn authority(&self) -> &str {
        self.url.strip_prefix("https://").unwrap_or(&self.url)
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_a_host_and_a_port() {
        let issuer = Issuer::new("IdP.example.ts.net", 443).unwrap();
        assert_eq!(issuer.as_str(), "https://idp.example.ts.net");
        assert_eq!(issuer.at("/token"), "https://idp.example.ts.net/token");
        let issuer = Issuer::new("idp.example.ts.net", 8443).unwrap();
        assert_eq!(
            (issuer.authority(), issuer.host()),
            ("idp.example.ts.net:8443", "idp.example.ts.net")
        );
        for bad in ["", "a b", "a/b", "idp.", "a@b", "[::1]"] {
            assert!(Issuer::new(bad, 443).is_err(), "{bad}");
        }
    }
}
