//! Authorization codes: everything that is needed to redeem them is sealed into them.

use aws_lc_rs::error::Unspecified;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Code, Error},
    keys::{KeySet, Purpose},
    secret::s256,
    session::{Login, SessionId},
};

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AuthorizationCode {
    /// Of the session that redeeming it makes.
    pub(crate) id: SessionId,
    pub(crate) login: Login,
    pub(crate) redirect_uri: String,
    pub(crate) challenge: Option<String>,
    pub(crate) nonce: Option<String>,
    pub(crate) expires: i64,
}

impl AuthorizationCode {
    /// As the client gets it.
    pub(crate) fn seal(&self, keys: &KeySet) -> Result<String, Unspecified> {
        keys.seal(Purpose::Code, self)
    }

    /// Reads what a client shows, and checks that it is shown by the one it was made for. Whether it comes a
    /// second time only the store can tell.
    pub(crate) fn open(
        keys: &KeySet,
        text: &str,
        client: &str,
        redirect_uri: Option<&str>,
        verifier: Option<&str>,
        now: i64,
    ) -> Result<Self, Error> {
        let refuse = |text: &'static str| Err(Code::InvalidGrant.because(text));
        let Some(code) = keys.open::<Self>(Purpose::Code, text) else {
            return refuse("the code is unknown");
        };
        if code.login.client != client {
            return refuse("the code was made for another client");
        }
        if code.expires <= now {
            return refuse("the code has expired");
        }
        if redirect_uri != Some(&code.redirect_uri) {
            return refuse("redirect_uri is not the one of the authorization request");
        }
        match (&code.challenge, verifier) {
            (None, None) => {}
            (Some(_), None) => return Err(Code::InvalidRequest.because("code_verifier is required")),
            // Somebody has taken the challenge away (RFC 9700, section 4.8.2).
            (None, Some(_)) => return refuse("code_verifier without a code_challenge"),
            (Some(challenge), Some(verifier)) => {
                if !is_verifier(verifier) || s256(verifier) != *challenge {
                    return refuse("code_verifier does not belong to the code_challenge");
                }
            }
        }
        Ok(code)
    }
}

/// RFC 7636, section 4.1.
fn is_verifier(text: &str) -> bool {
    (43..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{keys::fixture, scope::Scopes};

    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

    #[test]
    fn a_code_is_for_one_client_place_and_verifier_and_not_for_long() {
        let keys = fixture();
        let code = AuthorizationCode {
            id: SessionId::new(1, "app").unwrap(),
            login: Login {
                client: "app".to_owned(),
                user: 1,
                node: 2,
                scopes: Scopes::parse(None),
                resources: Vec::new(),
                auth_time: 0,
            },
            redirect_uri: "https://a/cb".to_owned(),
            challenge: Some(s256(VERIFIER)),
            nonce: None,
            expires: 60,
        };
        let sealed = code.seal(keys).unwrap();
        let open = |client: &str, uri: &str, verifier: Option<&str>, now| {
            AuthorizationCode::open(keys, &sealed, client, Some(uri), verifier, now).map_err(|e| e.code)
        };
        let good = Some(VERIFIER);
        assert_eq!(open("app", "https://a/cb", good, 59), Ok(code.clone()));
        assert_eq!(open("other", "https://a/cb", good, 59), Err(Code::InvalidGrant));
        assert_eq!(open("app", "https://a/cb/", good, 59), Err(Code::InvalidGrant));
        assert_eq!(open("app", "https://a/cb", good, 60), Err(Code::InvalidGrant));
        assert_eq!(open("app", "https://a/cb", None, 59), Err(Code::InvalidRequest));
        for verifier in [
            "short".to_owned(),
            "a".repeat(129),
            format!("{}!", "a".repeat(43)),
            "a".repeat(43),
        ] {
            assert_eq!(
                open("app", "https://a/cb", Some(&verifier), 59),
                Err(Code::InvalidGrant),
                "{verifier}"
            );
        }
        let without = AuthorizationCode {
            challenge: None,
            ..code
        };
        let sealed = without.seal(keys).unwrap();
        let open = |verifier: Option<&str>| {
            AuthorizationCode::open(keys, &sealed, "app", Some("https://a/cb"), verifier, 0)
                .map_err(|e| e.code)
        };
        assert!(open(None).is_ok());
        assert_eq!(open(good), Err(Code::InvalidGrant));
    }
}
