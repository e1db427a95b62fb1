//! From a credential to an auth key: sends what [`crate::credential`] says.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{
    AuthKey,
    connection::{beginning, http1_exchange},
    dial::Dial,
    error::SessionError,
    register,
    session::late,
    url::Origin,
};
use crate::credential::{self, Ask, Credential, IdToken, Secret, WorkloadIdentity};

mod platform;

/// All requests together.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The key to log in with; a new one each time, unless it was made beforehand.
pub(super) async fn auth_key(
    dialer: &dyn Dial,
    server: &Origin,
    credential: &Credential,
    tags: &[String],
) -> Result<AuthKey, SessionError> {
    let made = async {
        let (base_url, token, grant) = match credential {
            Credential::AuthKey(key) => return Ok(key.clone()),
            Credential::OAuth(client) => {
                let base_url = client.base_url().to_owned();
                (base_url, ask(dialer, client.ask_token()).await?, client.grant())
            }
            Credential::WorkloadIdentity(identity) => {
                let token = id_token(dialer, identity).await?;
                let asked = identity.ask_token(&server.to_string(), &token);
                (server.to_string(), ask(dialer, asked).await?, identity.grant())
            }
        };
        let token = credential::access_token(&token).ok_or_else(|| nothing("the answer holds no token"))?;
        let made = ask(dialer, Ask::auth_key(&base_url, &token, grant, tags)).await?;
        credential::minted_key(&made).ok_or_else(|| nothing("the answer holds no auth key"))
    };
    timeout(TIMEOUT, made)
        .await
        .unwrap_or_else(late("make an auth key", TIMEOUT))
}

async fn id_token(dialer: &dyn Dial, identity: &WorkloadIdentity) -> Result<Secret, SessionError> {
    match identity.token() {
        IdToken::Text(token) => Ok(token.clone()),
        IdToken::File(path) => {
            let token = read("the ID token", path).await?;
            credential::id_token(token.expose().as_bytes()).ok_or_else(|| {
                SessionError::Refused(format!(
                    "read the ID token {}: it is no JSON Web Token",
                    path.display()
                ))
            })
        }
        IdToken::Audience(audience) => {
            platform::id_token(dialer, audience, |name| std::env::var(name).ok()).await
        }
    }
}

/// A secret in a file, which may be another one each time.
async fn read(what: &str, path: &Path) -> Result<Secret, SessionError> {
    let text = tokio::fs::read_to_string(path).await.map(Zeroizing::new);
    let refused = |error| SessionError::Refused(format!("read {what} {}: {error}", path.display()));
    Ok(Secret::new(text.map_err(refused)?.trim()))
}

async fn ask(dialer: &dyn Dial, ask: Ask) -> Result<Bytes, SessionError> {
    let refused = |reason: String| SessionError::Refused(format!("{}: {reason}", ask.what));
    let uri: Uri = ask
        .url
        .parse()
        .map_err(|_| refused("the URL makes no sense".to_owned()))?;
    let origin = Origin::of(&uri).ok_or_else(|| refused("expected an http or https URL".to_owned()))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(ask.method).uri(path);
    for (name, value) in &ask.headers {
        let mut value =
            HeaderValue::from_str(value.expose()).map_err(|e| SessionError::Body(e.to_string()))?;
        value.set_sensitive(true);
        request = request.header(*name, value);
    }
    let body = ask.body.as_ref().map_or_else(Bytes::new, |body| {
        Bytes::copy_from_slice(body.expose().as_bytes())
    });
    let (status, answer) = http1_exchange(dialer, &origin, request, body).await?;
    match status {
        StatusCode::OK => Ok(answer),
        status if register::is_refusal(status) && status != StatusCode::TOO_MANY_REQUESTS => Err(refused(
            format!("{origin} answered {status}: {}", beginning(&answer)),
        )),
        status => Err(SessionError::Answer {
            what: ask.what,
            status,
            text: beginning(&answer),
        }),
    }
}

fn nothing(reason: &str) -> SessionError {
    SessionError::Body(reason.to_owned())
}
