//! Answers: every kind that there is, with the headers that go with it.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::error::{Code, Error};

/// A whole answer.
pub(crate) type Answer = Response<Bytes>;

/// JSON that nobody may keep: it may be about somebody (RFC 6749, section 5.1).
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let bytes = serde_json::to_vec(body).unwrap_or_else(|_| b"{}".to_vec());
    let mut answer = plain(status, "application/json", bytes);
    set(&mut answer, header::CACHE_CONTROL, "no-store");
    set(&mut answer, header::PRAGMA, "no-cache");
    answer
}

/// JSON that is the same for all.
pub(crate) fn public_json(body: &impl Serialize) -> Answer {
    let mut answer = json(StatusCode::OK, body);
    answer.headers_mut().remove(header::PRAGMA);
    // Rotation keeps keys published for much longer.
    set(&mut answer, header::CACHE_CONTROL, "public, max-age=300");
    answer
}

/// An error in JSON (RFC 6749, section 5.2).
pub(crate) fn error(error: &Error) -> Answer {
    json(error.code.status(), error)
}

/// An error of somebody who should have shown a token (RFC 6750, section 3).
pub(crate) fn bearer_error(error: &Error) -> Answer {
    let mut answer = self::error(error);
    let description: String = error
        .description
        .chars()
        .filter(|c| !"\"\\".contains(*c))
        .collect();
    let challenge = format!(
        "Bearer error=\"{}\", error_description=\"{description}\"",
        error.code.as_str()
    );
    set(&mut answer, header::WWW_AUTHENTICATE, &challenge);
    answer
}

/// An error of a client that has shown a password (RFC 6749, section 5.2).
pub(crate) fn basic_error(error: &Error) -> Answer {
    let mut answer = self::error(error);
    if error.code == Code::InvalidClient {
        set(&mut answer, header::WWW_AUTHENTICATE, "Basic realm=\"postern\"");
    }
    answer
}

/// A page for people. There are no scripts, nothing from elsewhere, and no frame around it.
pub(crate) fn page(status: StatusCode, html: String) -> Answer {
    let mut answer = plain(status, "text/html; charset=utf-8", html.into_bytes());
    // `form-action` is not set: browsers apply it to the redirect that answers a form too, and where that leads
    // to, and to what that leads, is the client's matter. The pages have no markup but our own.
    let policy = "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'";
    set(&mut answer, header::CONTENT_SECURITY_POLICY, policy);
    set(&mut answer, header::X_FRAME_OPTIONS, "DENY");
    set(&mut answer, header::CACHE_CONTROL, "no-store");
    // With `no-referrer` browsers would send `Origin: null` with our own forms.
    set(&mut answer, header::REFERRER_POLICY, "same-origin");
    set(
        &mut answer,
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    );
    answer
}

/// On to somewhere else, by GET.
pub(crate) fn redirect(location: &str) -> Answer {
    let mut answer = plain(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", Vec::new());
    set(&mut answer, header::LOCATION, location);
    set(&mut answer, header::CACHE_CONTROL, "no-store");
    set(&mut answer, header::REFERRER_POLICY, "no-referrer");
    answer
}

/// Nothing but a status.
pub(crate) fn empty(status: StatusCode) -> Answer {
    plain(status, "text/plain; charset=utf-8", Vec::new())
}

/// Another method is wanted.
pub(crate) fn wrong_method(allowed: &'static str) -> Answer {
    let text = format!("the method has to be one of {allowed}");
    let mut answer = error(&Code::InvalidRequest.because(text));
    *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    set(&mut answer, header::ALLOW, allowed);
    answer
}

/// The style sheet.
pub(crate) fn style(css: &'static str) -> Answer {
    let mut answer = plain(StatusCode::OK, "text/css; charset=utf-8", css.as_bytes().to_vec());
    set(&mut answer, header::CACHE_CONTROL, "public, max-age=3600");
    answer
}

/// Sets a header; a value that can't be one is left out.
pub(crate) fn set(answer: &mut Answer, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

fn plain(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Bytes::from(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    answer
}
