//! What is asked on the way to an auth key, and what the answers mean.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::{AuthKey, Grant, OAuthClient, Secret, Token, WorkloadIdentity, set};

/// A request that names its server.
#[derive(Debug)]
pub(crate) struct Ask {
    /// What it is for, for people.
    pub(crate) what: &'static str,
    pub(crate) method: Method,
    pub(crate) url: String,
    /// Names and values.
    pub(crate) headers: Vec<(&'static str, Secret)>,
    pub(crate) body: Option<Secret>,
}

impl OAuthClient {
    /// The client's secret for a token (RFC 6749 §4.4.2). The secret says who the client is; Go names a client
    /// too, which nobody reads.
    pub(crate) fn ask_token(&self) -> Ask {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", "some-client-id"),
            ("client_secret", self.secret.expose()),
        ];
        Ask::form(
            "get a token for the OAuth client",
            format!("{}/api/v2/oauth/token", self.base_url),
            &form,
        )
    }
}

impl WorkloadIdentity {
    /// The platform's token for one of control's; `server` is the control server's URL.
    pub(crate) fn ask_token(&self, server: &str, id_token: &Secret) -> Ask {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", ""),
            ("client_id", &self.client_id),
            ("jwt", id_token.expose()),
        ];
        let url = format!("{}/api/v2/oauth/token-exchange", server.trim_end_matches('/'));
        Ask::form("exchange the ID token", url, &form)
    }
}

impl Ask {
    pub(super) fn get(what: &'static str, url: String) -> Self {
        Self {
            what,
            method: Method::GET,
            url,
            headers: Vec::new(),
            body: None,
        }
    }

    pub(super) fn form(what: &'static str, url: String, fields: &[(&str, &str)]) -> Self {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        Self {
            what,
            method: Method::POST,
            url,
            headers: vec![("content-type", Secret::new("application/x-www-form-urlencoded"))],
            body: Some(Secret::new(form.finish())),
        }
    }

    /// A one-time key for a node with these tags.
    pub(crate) fn auth_key(base_url: &str, token: &Secret, grant: Grant, tags: &[String]) -> Self {
        let body = json!({"capabilities": {"devices": {"create": {
            "reusable": false, "ephemeral": grant.ephemeral, "preauthorized": grant.preauthorized, "tags": tags,
        }}}});
        let user = Zeroizing::new(format!("{}:", token.expose()));
        Self {
            what: "make an auth key",
            method: Method::POST,
            url: format!("{}/api/v2/tailnet/-/keys", base_url.trim_end_matches('/')),
            headers: vec![
                ("content-type", Secret::new("application/json")),
                (
                    "authorization",
                    Secret::new(format!("Basic {}", STANDARD.encode(user.as_bytes()))),
                ),
            ],
            body: Some(Secret::new(body.to_string())),
        }
    }

    /// GitHub's token of a workflow run, when the environment is one
    /// (<https://docs.github.com/actions/reference/security/oidc>).
    pub(crate) fn github_token(audience: &str, variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let set = set(variable);
        let url = set("ACTIONS_ID_TOKEN_REQUEST_URL")?;
        let token = Secret::new(set("ACTIONS_ID_TOKEN_REQUEST_TOKEN")?);
        let separator = if url.contains('?') { '&' } else { '?' };
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("audience", audience.trim());
        let url = format!("{url}{separator}{}", query.finish());
        Some(Self {
            headers: vec![
                ("authorization", Secret::new(format!("Bearer {}", token.expose()))),
                ("accept", Secret::new("application/json")),
            ],
            ..Self::get("get an ID token from GitHub Actions", url)
        })
    }

    /// The token of the service account of a machine in Google's cloud.
    pub(crate) fn google_token(audience: &str) -> Self {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query
            .append_pair("audience", audience.trim())
            .append_pair("format", "full");
        let url = format!(
            "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/identity?{}",
            query.finish()
        );
        Self {
            headers: vec![("metadata-flavor", Secret::new("Google"))],
            ..Self::get("get an ID token from Google's metadata server", url)
        }
    }
}

/// `None` when the answer is no token.
pub(crate) fn access_token(body: &[u8]) -> Option<Secret> {
    let token: Token = serde_json::from_slice(body).ok()?;
    (!token.access_token.expose().is_empty()).then_some(token.access_token)
}

/// `None` when the answer is no key.
pub(crate) fn minted_key(body: &[u8]) -> Option<AuthKey> {
    #[derive(Deserialize)]
    struct Minted {
        key: Secret,
    }
    let minted: Minted = serde_json::from_slice(body).ok()?;
    (!minted.key.expose().is_empty()).then(|| AuthKey::new(minted.key.expose()))
}

/// GitHub wraps its token in JSON, Google doesn't. `None` when there is none.
pub(crate) fn id_token(body: &[u8]) -> Option<Secret> {
    #[derive(Deserialize)]
    struct Wrapped {
        value: Secret,
    }
    let token = match serde_json::from_slice::<Wrapped>(body) {
        Ok(wrapped) => wrapped.value,
        Err(_) => Secret::new(std::str::from_utf8(body).ok()?.trim()),
    };
    // A JWT is three parts of base64url.
    (token.expose().split('.').count() == 3).then_some(token)
}
