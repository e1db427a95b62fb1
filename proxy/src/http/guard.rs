//! Refuses requests that two programs could read differently, before anything looks at them.
//!
//! hyper has parsed the message already; what it leaves to us (measured with hyper 1.12): several, empty
//! or odd `Host` fields, an absolute target that disagrees with `Host`, odd transfer codings, `CONNECT`,
//! and every confusion of paths. See [`crate::route::Path`] for the last.

use http::{HeaderMap, Method, Uri, Version, header, request};

use crate::route::{Host, Path, PathError};

/// What a request that passed is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Its host.
    pub host: Host,
    /// Host and port as the client wrote them; for `X-Forwarded-Host` and the backend's `Host`.
    pub authority: String,
    /// Its path.
    pub path: Path,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// `CONNECT` would make us a forward proxy; `TRACE` would show identity headers to scripts.
    #[error("this method is not served here")]
    Method,
    /// Only exactly one `chunked` is understood by all (RFC 9112, section 6.1).
    #[error("transfer coding other than chunked")]
    TransferEncoding,
    /// Missing, doubled, or more than host and port (RFC 9112, section 3.2).
    #[error("exactly one valid Host is needed")]
    Host,
    /// The target's authority and `Host` name different hosts.
    #[error("Host differs from the request target")]
    HostMismatch,
    /// See [`PathError`].
    #[error("{0}")]
    Path(#[from] PathError),
    /// The loop guard found us several times on the request's way.
    #[error("the request has come through this proxy before")]
    Loop,
    /// The connection's certificate isn't for this host.
    #[error("this connection is not for that host")]
    Misdirected,
}

impl Rejection {
    /// For the label of a metric.
    pub fn label(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::TransferEncoding => "transfer_encoding",
            Self::Host => "host",
            Self::HostMismatch => "host_mismatch",
            Self::Path(_) => "path",
            Self::Loop => "loop",
            Self::Misdirected => "misdirected",
        }
    }
}

/// Checks a request's head.
///
/// # Errors
/// See [`Rejection`].
pub fn check(head: &request::Parts) -> Result<Admitted, Rejection> {
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return Err(Rejection::Method);
    }
    transfer_encoding(&head.headers, head.version)?;
    let (host, authority) = host(&head.uri, &head.headers)?;
    let path = Path::parse(head.uri.path())?;
    Ok(Admitted {
        host,
        authority,
        path,
    })
}

fn transfer_encoding(headers: &HeaderMap, version: Version) -> Result<(), Rejection> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(one), None)
            if version == Version::HTTP_11 && one.as_bytes().eq_ignore_ascii_case(b"chunked") =>
        {
            Ok(())
        }
        _ => Err(Rejection::TransferEncoding),
    }
}

/// The target's authority (absolute form, or `:authority`) and the `Host` field: at least one, and both
/// the same where both are there.
fn host(uri: &Uri, headers: &HeaderMap) -> Result<(Host, String), Rejection> {
    let mut fields = headers.get_all(header::HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (None, _) => None,
        (Some(one), None) => Some(one.to_str().map_err(|_| Rejection::Host)?),
        _ => return Err(Rejection::Host),
    };
    let parse = |text: &str| Host::parse(text).map_err(|_| Rejection::Host);
    match (uri.authority().map(|a| a.as_str()), field) {
        (None, None) => Err(Rejection::Host),
        (Some(text), None) | (None, Some(text)) => Ok((parse(text)?, text.to_owned())),
        (Some(target), Some(field)) => {
            let host = parse(target)?;
            if parse(field)? == host {
                Ok((host, target.to_owned()))
            } else {
                Err(Rejection::HostMismatch)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn one_host_is_needed_and_the_target_has_to_agree() {
        let ok = check(&head("GET", "/x?y", &[("host", "App.example:8443")])).unwrap();
        assert_eq!(ok.host.as_str(), "app.example");
        assert_eq!(ok.authority, "App.example:8443");
        for (uri, headers, why) in [
            ("/", &[][..], Rejection::Host),
            ("/", &[("host", "")], Rejection::Host),
            ("/", &[("host", "a"), ("host", "a")], Rejection::Host),
            ("/", &[("host", "u@a")], Rejection::Host),
            ("/", &[("host", "a/b")], Rejection::Host),
            ("http://a/", &[("host", "b")], Rejection::HostMismatch),
            ("http://u@a/", &[("host", "a")], Rejection::Host),
        ] {
            assert_eq!(check(&head("GET", uri, headers)), Err(why), "{uri} {headers:?}");
        }
        assert!(check(&head("GET", "http://A:80/", &[("host", "a")])).is_ok());
    }

    #[test]
    fn only_plain_chunked_is_understood() {
        let te = |values: &[&str]| {
            let mut headers = vec![("host", "a")];
            headers.extend(values.iter().map(|v| ("transfer-encoding", *v)));
            check(&head("POST", "/", &headers))
        };
        assert!(te(&["chunked"]).is_ok());
        assert!(te(&["Chunked"]).is_ok());
        for bad in [
            &["gzip, chunked"][..],
            &["chunked, chunked"],
            &["chunked", "chunked"],
            &["identity"],
            &["x"],
        ] {
            assert_eq!(te(bad), Err(Rejection::TransferEncoding), "{bad:?}");
        }
    }

    #[test]
    fn methods_that_are_about_the_proxy_are_refused() {
        for method in ["CONNECT", "TRACE"] {
            assert_eq!(
                check(&head(method, "/", &[("host", "a")])),
                Err(Rejection::Method)
            );
        }
    }
}
