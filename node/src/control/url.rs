//! Where a server is.

use std::fmt;

use http::Uri;

/// The text is no address of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{url}` is no server's URL: {reason}")]
pub(super) struct UrlError {
    url: String,
    reason: &'static str,
}

/// Scheme, host and port of an `http://` or `https://` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// TLS or not.
    pub(super) https: bool,
    /// A name, or an address without brackets.
    pub(super) host: String,
    /// TCP port.
    pub(super) port: u16,
}

impl Origin {
    /// The origin of the control server: a URL with nothing behind the port.
    pub(super) fn of_server(url: &str) -> Result<Self, UrlError> {
        let error = |reason| UrlError {
            url: url.to_owned(),
            reason,
        };
        let uri: Uri = url
            .trim()
            .parse()
            .map_err(|_| error("expected https://HOST or http://HOST:PORT"))?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(error("nothing may stand behind the host and port"));
        }
        Self::of(&uri).ok_or_else(|| error("expected https://HOST or http://HOST:PORT"))
    }

    /// The origin of any URL; `None` for other schemes, and where a user is named.
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host();
        let port = match authority.as_str().strip_prefix(host)? {
            "" if https => 443,
            "" => 80,
            port => port.strip_prefix(':')?.parse().ok()?,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || port == 0 {
            return None;
        }
        Some(Self {
            https,
            host: host.to_owned(),
            port,
        })
    }

    /// For the `Host` header and `:authority`: without the scheme's own port.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.https, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> (bool, String, u16, String) {
        let o = Origin::of_server(url).unwrap();
        (o.https, o.host.clone(), o.port, o.to_string())
    }

    #[test]
    fn servers_have_a_scheme_a_host_and_maybe_a_port() {
        let url = "https://controlplane.tailscale.com";
        let host = "controlplane.tailscale.com".to_owned();
        assert_eq!(origin(url), (true, host.clone(), 443, url.to_owned()));
        assert_eq!(origin(&format!(" {url}/ ")), (true, host, 443, url.to_owned()));
        assert_eq!(
            origin("http://[::1]:9911"),
            (false, "::1".to_owned(), 9911, "http://[::1]:9911".to_owned())
        );
        assert_eq!(origin("http://hs").2, 80);
    }

    #[test]
    fn anything_else_is_refused_with_its_text() {
        for url in [
            "",
            "example.com",
            "ftp://example.com",
            "https://",
            "https://u:p@example.com",
            "https://example.com/path",
            "https://example.com?q",
            "https://example.com:0",
            "https://example.com:99999",
            "https://exa mple.com",
        ] {
            let error = Origin::of_server(url).unwrap_err();
            assert!(error.to_string().contains(url), "{error}");
        }
    }
}
