//! `-debug-all-requests`: requests as the log may show them. tsidp writes everything; here what could be used is
//! left out: a value is shown only if it is known to be harmless.

use http::{HeaderValue, header, request};

/// Parameters that anybody may see.
const HARMLESS: [&str; 19] = [
    "acr_values",
    "audience",
    "client_id",
    "code_challenge_method",
    "decision",
    "display",
    "grant_type",
    "kind",
    "max_age",
    "prompt",
    "redirect_uri",
    "redirect_uris",
    "requested_token_type",
    "resource",
    "response_mode",
    "response_type",
    "scope",
    "subject_token_type",
    "token_type_hint",
];
/// Headers that anybody may see.
const HARMLESS_HEADERS: [header::HeaderName; 7] = [
    header::ACCEPT,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::ORIGIN,
    header::ACCESS_CONTROL_REQUEST_METHOD,
    header::USER_AGENT,
];

/// One line.
pub(super) fn shown(head: &request::Parts, body: &[u8]) -> String {
    let mut line = format!("{} {}", head.method, head.uri.path());
    if let Some(query) = head.uri.query() {
        line.push_str(&format!(" query[{}]", parameters(query.as_bytes())));
    }
    for (name, value) in &head.headers {
        let value = match HARMLESS_HEADERS.contains(name) {
            true => String::from_utf8_lossy(value.as_bytes()).into_owned(),
            false => format!("({} bytes)", value.len()),
        };
        line.push_str(&format!(" {name}={value:?}"));
    }
    let content_type = head.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if content_type.is_some_and(|value| value.starts_with(b"application/x-www-form-urlencoded")) {
        line.push_str(&format!(" form[{}]", parameters(body)));
    } else if !body.is_empty() {
        line.push_str(&format!(" body({} bytes)", body.len()));
    }
    line
}

fn parameters(text: &[u8]) -> String {
    let pairs = form_urlencoded::parse(text).map(|(name, value)| match HARMLESS.contains(&&*name) {
        true => format!("{name}={value:?}"),
        // Whatever stands in front of a `=`, a name is short.
        false => format!(
            "{:?}=({} bytes)",
            name.chars().take(32).collect::<String>(),
            value.len()
        ),
    });
    pairs.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn nothing_that_could_be_used_is_shown() {
        let request = Request::post("/token?code=SECRET&state=SECRET&scope=openid")
            .header(header::AUTHORIZATION, "Basic SECRET")
            .header(header::COOKIE, "__Host-postern-idp=SECRET")
            .header(header::REFERER, "https://a/?code=SECRET")
            .header("x-any", "SECRET")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let (head, ()) = request.body(()).unwrap().into_parts();
        let body =
            b"grant_type=refresh_token&client_id=app&client_secret=SECRET&refresh_token=SECRET&code=SECRET\
                     &code_verifier=SECRET&subject_token=SECRET&token=SECRET";
        let line = shown(&head, body);
        assert!(!line.contains("SECRET"), "{line}");
        for part in [
            "POST /token",
            "scope=\"openid\"",
            "client_id=\"app\"",
            "\"refresh_token\"=(6 bytes)",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
        let (head, ()) = Request::post("/register").body(()).unwrap().into_parts();
        assert!(shown(&head, b"{\"x\":\"SECRET\"}").ends_with("body(14 bytes)"));
    }
}
