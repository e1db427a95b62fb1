//! The endpoints for tokens that are there: userinfo, introspection, revocation.

use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    answer::{self, Answer},
    claims::{AccessToken, Subject},
    error::{Code, Error},
    grant::Grants,
    jwt,
    keys::KeySet,
    params::Params,
    provider::{Provider, route::Asked},
    scope::Scope,
    session::{RefreshToken, SessionId, Sessions},
    state,
    token::{client_error, concerns},
};

impl Provider {
    /// An access token of ours that is good now: its times, its session and its client say so.
    pub(crate) async fn live_token(
        &self,
        keys: &KeySet,
        text: &str,
        now: i64,
    ) -> Result<Option<AccessToken>, Error> {
        let Some(token) = jwt::verify::<AccessToken>(keys, jwt::Kind::Access, text) else {
            return Ok(None);
        };
        if token.iss != self.config.issuer.as_str() || token.exp <= now || token.nbf > now {
            return Ok(None);
        }
        let sessions: Sessions = state::read(&*self.store, token.sid.key()).await?;
        if sessions.get(&token.sid, now).is_none() || self.client(&token.client_id, now).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(token))
    }

    /// `GET` or `POST /userinfo` (OpenID Connect Core, section 5.3).
    pub(crate) async fn user_info(&self, asked: Asked<'_>) -> Answer {
        match self.described(asked).await {
            Ok(claims) => answer::json(StatusCode::OK, &claims),
            Err(error) => answer::bearer_error(&error),
        }
    }

    async fn described(&self, asked: Asked<'_>) -> Result<Value, Error> {
        let token = bearer(asked)?;
        let keys = self.keys().await?;
        let bad = || Code::InvalidToken.because("the token is not good, or no longer");
        let token = self.live_token(&keys, &token, asked.now).await?.ok_or_else(bad)?;
        if !token.scope.contains(Scope::Openid) {
            return Err(Code::InsufficientScope.because("the token has not the scope openid"));
        }
        let (peer, user) = self.again(token.nid, token.uid).ok_or_else(bad)?;
        let subject = Subject {
            issuer: &self.config.issuer,
            user: &user,
            machine: &peer.machine,
            grants: &Grants::of(&peer),
        };
        subject.user_info(&token.scope)
    }

    /// `POST /introspect` (RFC 7662): for the client that the token was given to, or was made for; to others
    /// every token is none.
    pub(crate) async fn introspect(&self, asked: Asked<'_>) -> Answer {
        match self.inspected(asked).await {
            Ok(Some(claims)) => answer::json(StatusCode::OK, &claims),
            Ok(None) => answer::json(StatusCode::OK, &json!({ "active": false })),
            Err(error) => client_error(asked, &error),
        }
    }

    async fn inspected(&self, asked: Asked<'_>) -> Result<Option<Value>, Error> {
        let params = asked.form()?;
        let (id, client) = self.proven_client(asked, &params).await?;
        let text = params.required("token")?;
        let keys = self.keys().await?;
        let Some(token) = self.live_token(&keys, text, asked.now).await? else {
            return Ok(None);
        };
        if !concerns(&token, &id, &client.resources) {
            return Ok(None);
        }
        let Some((peer, user)) = self.again(token.nid, token.uid) else {
            return Ok(None);
        };
        let subject = Subject {
            issuer: &self.config.issuer,
            user: &user,
            machine: &peer.machine,
            grants: &Grants::of(&peer),
        };
        let mut claims = subject.described(&token.scope);
        let told = serde_json::to_value(&token).unwrap_or_default();
        if let Value::Object(token) = told {
            claims.extend(token);
        }
        claims.insert("active".to_owned(), true.into());
        claims.insert("token_type".to_owned(), "Bearer".into());
        claims.insert("username".to_owned(), user.login.clone().into());
        Ok(Some(Value::Object(claims)))
    }

    /// `POST /revoke` (RFC 7009): ends the session of the token, and so all tokens of it.
    pub(crate) async fn revoke(&self, asked: Asked<'_>) -> Answer {
        match self.revoked(asked).await {
            Ok(()) => answer::json(StatusCode::OK, &json!({})),
            Err(error) => client_error(asked, &error),
        }
    }

    async fn revoked(&self, asked: Asked<'_>) -> Result<(), Error> {
        let params = asked.form()?;
        let (id, _) = self.proven_client(asked, &params).await?;
        let text = params.required("token")?;
        let keys = self.keys().await?;
        let session: Option<SessionId> = match RefreshToken::parse(&keys, text) {
            Some(token) => Some(token.session),
            None => jwt::verify::<AccessToken>(&keys, jwt::Kind::Access, text)
                .filter(|token| token.client_id == id)
                .map(|token| token.sid),
        };
        let Some(session) = session else { return Ok(()) };
        let ended = state::change(
            &*self.store,
            session.key(),
            asked.now,
            |sessions: &mut Sessions| {
                let is_own = sessions
                    .get(&session, asked.now)
                    .is_some_and(|session| session.login.client == id);
                if is_own {
                    sessions.end(&session);
                }
            },
        );
        ended.await?;
        Ok(())
    }
}

/// The token of a request, from its header or its form (RFC 6750, section 2); never from the query, which ends
/// in logs.
fn bearer(asked: Asked<'_>) -> Result<String, Error> {
    let missing = || Code::InvalidToken.because("there is no bearer token");
    if let Some(value) = asked.headers().get(header::AUTHORIZATION) {
        let value = value.to_str().map_err(|_| missing())?;
        let (scheme, token) = value.split_once(' ').ok_or_else(missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(missing());
        }
        return Ok(token.trim().to_owned());
    }
    if asked.head.method == Method::POST && !asked.body.is_empty() {
        let params: Params = asked.form()?;
        return params.one("access_token")?.map(str::to_owned).ok_or_else(missing);
    }
    Err(missing())
}
