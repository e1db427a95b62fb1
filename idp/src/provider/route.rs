//! Which path is answered by what, and where.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header, request};
use jiff::Timestamp;

use super::{Arrival, Provider};
use crate::{
    answer::{self, Answer},
    discovery,
    error::{Code, Error},
    pages,
    params::Params,
};

/// Larger bodies are not read; no request of ours is near it.
pub const LARGEST_BODY: usize = 64 * 1024;

/// A request with what its answer depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) arrival: Arrival,
    pub(crate) head: &'a request::Parts,
    pub(crate) body: &'a Bytes,
    /// Seconds since 1970.
    pub(crate) now: i64,
}

impl Asked<'_> {
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The parameters of a form in the body.
    pub(crate) fn form(&self) -> Result<Params, Error> {
        let content_type = self
            .headers()
            .get(header::CONTENT_TYPE)
            .map(HeaderValue::as_bytes);
        let is_form = content_type.is_some_and(|value| {
            let essence = value.split(|b| *b == b';').next().unwrap_or_default();
            essence
                .trim_ascii()
                .eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
        });
        if !is_form {
            return Err(Code::InvalidRequest.because("the body has to be application/x-www-form-urlencoded"));
        }
        Params::parse(self.body)
    }
}

impl Provider {
    /// Answers a request. The host has read the body, up to [`LARGEST_BODY`], and has made sure that `Host` is
    /// the issuer's. It also says where the request came in, and is the only one who can.
    pub async fn handle(&self, arrival: Arrival, request: Request<Bytes>, now: Timestamp) -> Answer {
        let (head, body) = request.into_parts();
        if body.len() > LARGEST_BODY {
            let mut answer = answer::error(&Code::InvalidRequest.because("the body is too large"));
            *answer.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            return answer;
        }
        let asked = Asked {
            arrival,
            head: &head,
            body: &body,
            now: now.as_second(),
        };
        let mut answer = self.route(asked).await;
        if head.method == Method::HEAD {
            answer.body_mut().clear();
        }
        answer
    }

    async fn route(&self, asked: Asked<'_>) -> Answer {
        let path = asked.head.uri.path();
        match path {
            "/.well-known/openid-configuration" | "/.well-known/oauth-authorization-server" => {
                with_cors(asked, "GET, HEAD, OPTIONS", async || {
                    let registration = self.config.registration.enabled && is_tailnet(asked.arrival);
                    answer::public_json(&discovery::metadata(&self.config, registration))
                })
                .await
            }
            "/.well-known/oauth-protected-resource" => {
                with_cors(asked, "GET, HEAD, OPTIONS", async || {
                    let issuer = &self.config.issuer;
                    answer::public_json(&discovery::protected_resource(issuer, issuer.as_str(), None))
                })
                .await
            }
            "/.well-known/jwks.json" => {
                with_cors(asked, "GET, HEAD, OPTIONS", async || match self.keys().await {
                    Ok(keys) => answer::public_json(&keys.jwks()),
                    Err(error) => answer::error(&error),
                })
                .await
            }
            "/token" => with_cors(asked, "POST, OPTIONS", async || self.token(asked).await).await,
            "/revoke" => with_cors(asked, "POST, OPTIONS", async || self.revoke(asked).await).await,
            "/introspect" => with_cors(asked, "POST, OPTIONS", async || self.introspect(asked).await).await,
            "/userinfo" => with_cors(asked, "GET, POST, OPTIONS", async || self.user_info(asked).await).await,
            "/register" => self.register(asked).await,
            "/authorize" => self.authorize(asked).await,
            "/consent" => self.consent(asked).await,
            "/style.css" => answer::style(pages::STYLE),
            "/" | "/new" => self.admin(asked, path).await,
            _ if path.starts_with("/edit/") => self.admin(asked, path).await,
            _ => pages::not_found(self.config.issuer.as_str()),
        }
    }
}

fn is_tailnet(arrival: Arrival) -> bool {
    matches!(arrival, Arrival::Tailnet { .. })
}

/// For what pages of other origins may call too. Nothing there depends on who is asking, only on what is shown:
/// a code, a token, a secret. So any origin is as good as none.
async fn with_cors(asked: Asked<'_>, methods: &'static str, serve: impl AsyncFnOnce() -> Answer) -> Answer {
    let mut answer = match &asked.head.method {
        &Method::OPTIONS => {
            let mut answer = answer::empty(StatusCode::NO_CONTENT);
            answer::set(&mut answer, header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            // `*` doesn't cover this one (Fetch, CORS-safelisting).
            answer::set(
                &mut answer,
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "*, Authorization",
            );
            answer::set(&mut answer, header::ACCESS_CONTROL_MAX_AGE, "3600");
            answer
        }
        method if methods.split(", ").any(|allowed| allowed == method.as_str()) => serve().await,
        _ => answer::wrong_method(methods),
    };
    answer::set(&mut answer, header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    answer::set(
        &mut answer,
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        "WWW-Authenticate",
    );
    answer
}
