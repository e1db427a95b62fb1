//! Where a proxy is, and who we are to it.

use std::{fmt, str::FromStr};

use http::Uri;
use zeroize::Zeroizing;

/// `http://[USER:PASSWORD@]HOST[:PORT]` or `https://…`. It may hold a password: its `Debug` prints none.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    https: bool,
    host: String,
    port: u16,
    /// `USER:PASSWORD`, decoded.
    user: Option<Zeroizing<String>>,
}

/// The text is no proxy's URL; it isn't repeated, since it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyUrlError {
    /// Neither a URL nor `HOST:PORT`.
    #[error("not a proxy's URL: expected http://HOST:PORT or https://HOST:PORT")]
    NoUrl,
    /// Such as `socks5`.
    #[error("only http:// and https:// proxies are supported")]
    Scheme,
}

impl ProxyUrl {
    pub(crate) fn is_https(&self) -> bool {
        self.https
    }

    /// Without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_ref().map(|user| user.as_str())
    }
}

impl FromStr for ProxyUrl {
    type Err = ProxyUrlError;

    /// Without a scheme it is an `http` proxy, as in Go.
    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(ProxyUrlError::Scheme),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let uri: Uri = format!("http://{place}/")
            .parse()
            .map_err(|_| ProxyUrlError::NoUrl)?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let default = if https { 443 } else { 80 };
        let port = match place
            .rsplit_once(']')
            .map_or(place, |(_, after)| after)
            .rsplit_once(':')
        {
            Some((_, "")) | None => default,
            Some((_, port)) => port.parse().map_err(|_| ProxyUrlError::NoUrl)?,
        };
        if host.is_empty() || port == 0 {
            return Err(ProxyUrlError::NoUrl);
        }
        Ok(Self {
            https,
            host: host.to_owned(),
            port,
            user: user.and_then(credentials),
        })
    }
}

/// A user without a password is not named at all, as in Go (`tshttpproxy.GetAuthHeader`).
fn credentials(text: &str) -> Option<Zeroizing<String>> {
    let (user, password) = text.split_once(':')?;
    let decode = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8().ok()?;
        Some(Zeroizing::new(decoded.into_owned()))
    };
    let (user, password) = (decode(user)?, decode(password)?);
    (!user.is_empty()).then(|| Zeroizing::new(format!("{}:{}", *user, *password)))
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
