//! Token exchange (RFC 8693): a server that was given a token gets one for a server behind it.
//!
//! tsidp lets any peer exchange any token. Here the client shows its secret, and the token has to have been given
//! to it: made for it, or for a resource that it stands for.

use serde_json::{Value, json};

use super::{Proven, Tokens};
use crate::{
    claims::{AccessToken, Audience},
    client::Kind,
    error::{Code, Error},
    grant::Grants,
    provider::Provider,
    scope::Scopes,
    session::Login,
};

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// A chain of actors may be so long.
const LONGEST_CHAIN: usize = 8;

impl Provider {
    pub(super) async fn exchange(&self, proven: Proven<'_>) -> Result<Tokens, Error> {
        let Proven {
            id,
            client,
            params,
            keys,
            now,
        } = proven;
        if client.kind == Kind::Public {
            return Err(Code::UnauthorizedClient.because("a client without secret can't exchange tokens"));
        }
        if params.required("subject_token_type")? != ACCESS_TOKEN {
            return Err(Code::InvalidRequest.because("unsupported subject_token_type"));
        }
        if params
            .one("requested_token_type")?
            .is_some_and(|wanted| wanted != ACCESS_TOKEN)
        {
            return Err(Code::InvalidRequest.because("unsupported requested_token_type"));
        }
        let mut audiences: Vec<&str> = params.all("audience").chain(params.all("resource")).collect();
        audiences.dedup();
        if audiences.is_empty() {
            return Err(Code::InvalidRequest.because("audience is required"));
        }
        let subject = self
            .live_token(keys, params.required("subject_token")?, now)
            .await?
            .filter(|token| concerns(token, id, &client.resources))
            .ok_or_else(|| Code::InvalidGrant.because("invalid subject token"))?;
        let actor = match params.one("actor_token")? {
            None => None,
            Some(text) => {
                if params
                    .one("actor_token_type")?
                    .is_some_and(|kind| kind != ACCESS_TOKEN)
                {
                    return Err(Code::InvalidRequest.because("unsupported actor_token_type"));
                }
                let actor = self.live_token(keys, text, now).await?;
                let actor = actor.filter(|token| concerns(token, id, &client.resources));
                let actor =
                    actor.ok_or_else(|| Code::InvalidRequest.because("invalid or expired actor_token"))?;
                Some(act(&actor)?)
            }
        };

        let login = Login {
            client: subject.client_id.clone(),
            user: subject.uid,
            node: subject.nid,
            scopes: subject.scope.clone(),
            resources: Vec::new(),
            auth_time: subject.auth_time,
        };
        let original = self.client(&subject.client_id, now).await?;
        let original = original.ok_or_else(|| Code::InvalidGrant.because("invalid subject token"))?;
        let (peer, user) = self.still_there(&login, &original)?;
        let allowed = Grants::of(&peer).resources(&user.login, audiences);
        if allowed.is_empty() {
            return Err(Code::AccessDenied.because("access denied for requested audience"));
        }
        let scopes = match params.one("scope")? {
            None => login.scopes.clone(),
            Some(wanted) => login.scopes.narrowed_to(&Scopes::parse(Some(wanted))),
        };
        let login = Login { scopes, ..login };
        let audience = Audience::of_access(id, &allowed);
        let act = actor.or(subject.act);
        let access_token = self.access_token(keys, id, &login, audience, &subject.sid, act, now)?;
        tracing::info!(client = id, user = user.id, "Token exchanged");
        Ok(Tokens {
            access_token,
            token_type: "Bearer",
            expires_in: self.config.lifetimes.token,
            scope: login.scopes,
            id_token: None,
            refresh_token: None,
            issued_token_type: Some(ACCESS_TOKEN),
        })
    }
}

/// Whether a token is any business of a client: made by it, for it, or for a resource that it stands for.
pub(crate) fn concerns(token: &AccessToken, client: &str, resources: &[String]) -> bool {
    token.client_id == client
        || token
            .aud
            .iter()
            .any(|audience| audience == client || resources.iter().any(|resource| resource == audience))
}

/// RFC 8693, section 4.1.
fn act(actor: &AccessToken) -> Result<Value, Error> {
    let mut length = 1;
    let mut inner = actor.act.as_ref();
    while let Some(value) = inner {
        length += 1;
        inner = value.get("act");
    }
    if length > LONGEST_CHAIN {
        return Err(Code::InvalidRequest.because("the chain of actors is too long"));
    }
    let mut act = json!({ "sub": actor.sub, "client_id": actor.client_id });
    if let (Some(inner), Some(object)) = (&actor.act, act.as_object_mut()) {
        object.insert("act".to_owned(), inner.clone());
    }
    Ok(act)
}
