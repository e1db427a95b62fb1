//! The credential that the environment names, in tsnet's order.

use super::{AuthKey, Credential, CredentialError, IdToken, OAuthClient, Secret, WorkloadIdentity, set};

impl Credential {
    /// The credential of a program: `explicit`, or what the environment names: `TS_AUTHKEY`, `TS_AUTH_KEY`,
    /// `TS_CLIENT_SECRET`, or `TS_CLIENT_ID` with `TS_ID_TOKEN` or `TS_AUDIENCE`. `None`: somebody must log in.
    ///
    /// Values of the form `file:PATH` (Go's `tailscale up` has them too) are read; a token's file for every
    /// login anew, a key's now.
    ///
    /// # Errors
    /// When a variable makes no sense, or a file can't be read.
    pub fn choose(
        explicit: Option<&AuthKey>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, CredentialError> {
        let set = set(variable);
        if let Some(key) = explicit {
            return Self::key(key.expose()).map(Some);
        }
        for name in ["TS_AUTHKEY", "TS_AUTH_KEY"] {
            if let Some(key) = set(name) {
                return Self::key(read(name, Secret::new(key))?.expose()).map(Some);
            }
        }
        if let Some(secret) = set("TS_CLIENT_SECRET") {
            let secret = read("TS_CLIENT_SECRET", Secret::new(secret))?;
            return OAuthClient::parse(secret.expose()).map(|client| Some(Self::OAuth(client)));
        }
        let token = match (set("TS_ID_TOKEN"), set("TS_AUDIENCE")) {
            (Some(_), Some(_)) => {
                return Err(CredentialError::Incomplete(
                    "TS_ID_TOKEN and TS_AUDIENCE exclude each other",
                ));
            }
            (Some(token), None) => Some(match token.strip_prefix("file:") {
                Some(path) => IdToken::File(path.into()),
                None => IdToken::Text(Secret::new(token)),
            }),
            (None, Some(audience)) => Some(IdToken::Audience(audience)),
            (None, None) => None,
        };
        match (set("TS_CLIENT_ID"), token) {
            (Some(id), Some(token)) => {
                WorkloadIdentity::new(&id, token).map(|w| Some(Self::WorkloadIdentity(w)))
            }
            (Some(_), None) => Err(CredentialError::Incomplete(
                "TS_CLIENT_ID needs TS_ID_TOKEN or TS_AUDIENCE",
            )),
            (None, Some(_)) => Err(CredentialError::Incomplete(
                "TS_ID_TOKEN and TS_AUDIENCE need TS_CLIENT_ID",
            )),
            (None, None) => Ok(None),
        }
    }
}

fn read(name: &'static str, given: Secret) -> Result<Secret, CredentialError> {
    let Some(path) = given.expose().strip_prefix("file:") else {
        return Ok(given);
    };
    let text = std::fs::read_to_string(path).map_err(|error| CredentialError::File {
        name,
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Secret::new(text.trim()))
}
