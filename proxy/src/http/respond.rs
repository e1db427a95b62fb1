//! Every failure and what the client gets for it: one place.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use super::{guard::Rejection, request_id::RequestId};
use crate::route::PathError;

/// Why a request is answered by us instead of the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The guard refused it.
    #[error("{0}")]
    Rejected(#[from] Rejection),
    /// No route for host and path.
    #[error("nothing is served at this path")]
    NoRoute,
    /// The access rules don't let the caller in.
    #[error("access denied")]
    Denied,
    /// No key, or one that is none.
    #[error("a key is needed")]
    Unauthorized {
        /// A password would do, for which a browser can ask.
        passwords: bool,
    },
    /// The caller's quota is used up.
    #[error("too many requests")]
    TooManyRequests {
        /// Seconds until it makes sense to come again.
        retry_after: u32,
    },
    /// The body is larger than the route allows.
    #[error("the request body is too large")]
    BodyTooLarge,
    /// The client stopped sending.
    #[error("the request body did not arrive in time")]
    BodyTimeout,
    /// The configured backend can't be used or has no address.
    #[error("the backend is not available")]
    Unavailable,
    /// No connection to the backend, or it broke, or its answer isn't HTTP.
    #[error("the backend could not be reached")]
    BadGateway,
    /// The backend didn't answer in time.
    #[error("the backend did not answer in time")]
    GatewayTimeout,
}

impl Failure {
    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Rejected(rejection) => match rejection {
                Rejection::Method => StatusCode::METHOD_NOT_ALLOWED,
                Rejection::TransferEncoding => StatusCode::NOT_IMPLEMENTED,
                Rejection::Host | Rejection::HostMismatch | Rejection::Path(_) => StatusCode::BAD_REQUEST,
                Rejection::Loop => StatusCode::LOOP_DETECTED,
                Rejection::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            },
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Self::TooManyRequests { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::BadGateway => StatusCode::BAD_GATEWAY,
            Self::GatewayTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// For logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Rejected(rejection) => rejection.label(),
            Self::NoRoute => "no_route",
            Self::Denied => "denied",
            Self::Unauthorized { .. } => "unauthorized",
            Self::TooManyRequests { .. } => "too_many_requests",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::Unavailable => "unavailable",
            Self::BadGateway => "bad_gateway",
            Self::GatewayTimeout => "gateway_timeout",
        }
    }

    /// Whether the rest of the connection can't be trusted: its framing or its host is in doubt, or a body
    /// is still on its way.
    fn closes(self) -> bool {
        match self {
            Self::Rejected(_) | Self::BodyTooLarge | Self::BodyTimeout => true,
            Self::NoRoute
            | Self::Denied
            | Self::Unauthorized { .. }
            | Self::TooManyRequests { .. }
            | Self::Unavailable
            | Self::BadGateway
            | Self::GatewayTimeout => false,
        }
    }

    /// The gRPC status (<https://grpc.github.io/grpc/core/md_doc_http-grpc-status-mapping.html>).
    fn grpc_status(self) -> u8 {
        match self {
            Self::Rejected(_) | Self::BodyTimeout => 13,
            Self::NoRoute => 12,
            Self::Denied => 7,
            Self::Unauthorized { .. } => 16,
            Self::TooManyRequests { .. } | Self::BodyTooLarge => 8,
            Self::Unavailable | Self::BadGateway => 14,
            Self::GatewayTimeout => 4,
        }
    }

    /// The answer, in the language that the client speaks.
    pub fn response(self, request_id: &RequestId, grpc: bool, http1: bool) -> Response<Full<Bytes>> {
        let text = format!("{self}\n");
        let mut response = Response::new(Full::new(if grpc {
            Bytes::new()
        } else {
            Bytes::from(text.clone())
        }));
        let headers = response.headers_mut();
        headers.insert(RequestId::HEADER, request_id.value());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if grpc {
            // Trailers-only: a client library reads nothing else.
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(u16::from(self.grpc_status())));
            if let Ok(message) = HeaderValue::from_str(text.trim_end()) {
                headers.insert("grpc-message", message);
            }
            return response;
        }
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        match self {
            Self::Unavailable => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            }
            Self::TooManyRequests { retry_after } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
            }
            Self::Unauthorized { passwords } => {
                headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                if passwords {
                    let basic = HeaderValue::from_static("Basic realm=\"Funnel\", charset=\"UTF-8\"");
                    headers.append(header::WWW_AUTHENTICATE, basic);
                }
            }
            Self::Rejected(Rejection::Method) => {
                headers.insert(
                    header::ALLOW,
                    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
                );
            }
            _ => {}
        }
        if self.closes() && http1 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        *response.status_mut() = self.status();
        response
    }
}

impl From<PathError> for Failure {
    fn from(error: PathError) -> Self {
        Self::Rejected(error.into())
    }
}

/// Whether a request or response is gRPC's.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .and_then(|v| v.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn grpc_gets_its_own_status() {
        let id = RequestId::new(SystemTime::UNIX_EPOCH);
        let response = Failure::Denied.response(&id, true, false);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "7");
        assert_eq!(response.headers()["x-request-id"], id.value());
        let mut headers = HeaderMap::new();
        for (value, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(is_grpc(&headers), is, "{value}");
        }
    }
}
