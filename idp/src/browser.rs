//! What a browser has to show before a form of ours changes anything.
//!
//! All applications of a tailnet are same-site to a browser, so `SameSite` defends nothing, and who is asking is
//! known without any cookie. So every form needs three things: an `Origin` that is exactly ours, a `__Host-`
//! cookie that no other host can have set, and a token in the form that belongs to the cookie.

use aws_lc_rs::error::Unspecified;
use http::{HeaderMap, HeaderValue, header};

use crate::{
    answer::Answer,
    error::{Code, Error},
    issuer::Issuer,
    keys::KeySet,
    params::Params,
    secret::{Secret, random},
};

const COOKIE: &str = "__Host-postern-idp";

/// A browser, as it is known by its cookie.
#[derive(Debug, Clone)]
pub(crate) struct Browser {
    cookie: Secret,
    is_new: bool,
}

impl Browser {
    /// By its cookie, or a new one.
    pub(crate) fn meet(headers: &HeaderMap) -> Result<Self, Unspecified> {
        if let Some(cookie) = cookie(headers) {
            return Ok(Self {
                cookie: Secret::from(cookie.to_owned()),
                is_new: false,
            });
        }
        Ok(Self {
            cookie: Secret::from(random::<18>()?),
            is_new: true,
        })
    }

    /// The token for forms on a page that is about `what`.
    pub(crate) fn form_token(&self, keys: &KeySet, what: &str) -> String {
        keys.mac(&format!("form {what} {}", self.cookie.expose()))
    }

    /// Gives the browser its cookie with a page.
    pub(crate) fn remember(&self, answer: &mut Answer) {
        let text = format!(
            "{COOKIE}={}; Path=/; Secure; HttpOnly; SameSite=Lax",
            self.cookie.expose()
        );
        if self.is_new
            && let Ok(value) = HeaderValue::from_str(&text)
        {
            answer.headers_mut().insert(header::SET_COOKIE, value);
        }
    }

    /// Checks a form that was sent from a page of ours about `what`; its token is the parameter `token`.
    pub(crate) fn check(
        headers: &HeaderMap,
        params: &Params,
        issuer: &Issuer,
        keys: &KeySet,
        what: &str,
    ) -> Result<(), Error> {
        let refuse = |text: &'static str| Err(Code::AccessDenied.because(text));
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let ours = |origin: &HeaderValue| origin.as_bytes() == issuer.as_str().as_bytes();
        if !origins.next().is_some_and(ours) || origins.next().is_some() {
            return refuse("the form was not sent from a page of this provider");
        }
        let Some(cookie) = cookie(headers) else {
            return refuse(
                "the browser has not sent its cookie; allow cookies for this provider and try again",
            );
        };
        let expected = format!("form {what} {cookie}");
        if !keys.is_mac(&expected, params.one("token")?.unwrap_or_default()) {
            return refuse("the form was made for another browser or page; go back and load the page again");
        }
        Ok(())
    }
}

/// The value of our cookie, if it is one that we could have set.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter();
    let mut pairs = all
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    let value = pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))?;
    let is_ours = value.len() == 24
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    is_ours.then_some(value)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::keys::fixture;

    #[test]
    fn a_form_needs_origin_cookie_and_token() {
        let keys = fixture();
        let issuer = Issuer::new("idp.example.ts.net", 443).unwrap();
        let browser = Browser::meet(&HeaderMap::new()).unwrap();
        let mut answer = Answer::new(Bytes::new());
        browser.remember(&mut answer);
        let set = answer.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
        assert!(set.starts_with("__Host-") && set.contains("; Secure") && set.contains("; HttpOnly"));
        let cookie = format!("other=1; {}", set.split(';').next().unwrap());

        let check = |origin: &[&str], cookie: &str, token: &str| {
            let mut headers = HeaderMap::new();
            for origin in origin {
                headers.append(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
            }
            headers.insert(header::COOKIE, HeaderValue::from_str(cookie).unwrap());
            let params = Params::parse(format!("token={token}").as_bytes()).unwrap();
            Browser::check(&headers, &params, &issuer, keys, "x").is_ok()
        };
        let ours = "https://idp.example.ts.net";
        let token = browser.form_token(keys, "x");
        assert!(check(&[ours], &cookie, &token));
        for origin in [
            &[][..],
            &["null"],
            &["https://app.example.ts.net"],
            &["http://idp.example.ts.net"],
            &["https://idp.example.ts.net:8443"],
            &["https://idp.example.ts.net/"],
            &[ours, "https://evil.example"],
        ] {
            assert!(!check(origin, &cookie, &token), "{origin:?}");
        }
        assert!(!check(&[ours], "other=1", &token));
        assert!(!check(&[ours], &cookie, &browser.form_token(keys, "y")));
        assert!(!check(&[ours], &cookie, ""));
        let stranger = Browser::meet(&HeaderMap::new()).unwrap();
        assert!(!check(&[ours], &cookie, &stranger.form_token(keys, "x")));
    }

    #[test]
    fn a_browser_keeps_its_cookie() {
        let mut headers = HeaderMap::new();
        let value = format!("__Host-postern-idp={}", "a".repeat(24));
        headers.insert(header::COOKIE, HeaderValue::from_str(&value).unwrap());
        let browser = Browser::meet(&headers).unwrap();
        let mut answer = Answer::new(Bytes::new());
        browser.remember(&mut answer);
        assert!(answer.headers().is_empty());
        assert_eq!(format!("{:?}", browser.cookie), "[redacted]");
    }
}
