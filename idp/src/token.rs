//! The token endpoint: codes, refresh tokens and others' access tokens in, tokens out.

mod exchange;

pub(crate) use exchange::concerns;

use http::{StatusCode, header};
use serde::Serialize;
use serde_json::Value;

use crate::{
    answer::{self, Answer},
    authorize::{AuthorizationCode, resources},
    claims::{AccessToken, Audience, IdToken, Subject, sub},
    client::{Client, Credentials},
    error::{Code, Error},
    grant::Grants,
    identify::{Peer, User},
    jwt,
    keys::{Algorithm, KeySet},
    params::Params,
    provider::{Provider, route::Asked},
    scope::{Scope, Scopes},
    secret::random,
    session::{Login, NotGood, RefreshToken, SessionId, Sessions},
    state,
};

/// RFC 8693.
pub(crate) const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// RFC 6749, section 5.1.
#[derive(Serialize)]
struct Tokens {
    access_token: String,
    token_type: &'static str,
    expires_in: i64,
    scope: Scopes,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    /// RFC 8693, section 2.2.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_token_type: Option<&'static str>,
}

/// A client that has shown who it is, with what it wants.
#[derive(Clone, Copy)]
pub(crate) struct Proven<'a> {
    pub(crate) id: &'a str,
    pub(crate) client: &'a Client,
    pub(crate) params: &'a Params,
    pub(crate) keys: &'a KeySet,
    pub(crate) now: i64,
}

impl Provider {
    /// `POST /token`.
    pub(crate) async fn token(&self, asked: Asked<'_>) -> Answer {
        self.exchanged(asked)
            .await
            .unwrap_or_else(|error| client_error(asked, &error))
    }

    async fn exchanged(&self, asked: Asked<'_>) -> Result<Answer, Error> {
        let params = asked.form()?;
        let grant_type = params.required("grant_type")?;
        let known = match grant_type {
            "authorization_code" | "refresh_token" => true,
            EXCHANGE => self.config.token_exchange,
            _ => false,
        };
        if !known {
            return Err(Code::UnsupportedGrantType.because("this grant_type is not supported or not enabled"));
        }
        let (id, client) = self.proven_client(asked, &params).await?;
        let keys = self.keys().await?;
        let proven = Proven {
            id: &id,
            client: &client,
            params: &params,
            keys: &keys,
            now: asked.now,
        };
        let tokens = match grant_type {
            "authorization_code" => self.redeem(proven).await?,
            "refresh_token" => self.refresh(proven).await?,
            _ => self.exchange(proven).await?,
        };
        Ok(answer::json(StatusCode::OK, &tokens))
    }

    /// Who sends a request to an endpoint for clients.
    pub(crate) async fn proven_client(
        &self,
        asked: Asked<'_>,
        params: &Params,
    ) -> Result<(String, Client), Error> {
        let credentials = Credentials::read(asked.headers(), params)?;
        let client = self.client(&credentials.id, asked.now).await?;
        credentials
            .prove(client.as_ref(), asked.now)
            .inspect_err(|_| tracing::info!(client = credentials.id, "A client could not show who it is"))?;
        let id = credentials.id;
        client
            .map(|client| (id, client))
            .ok_or_else(|| Code::InvalidClient.because("the client is unknown or its secret is wrong"))
    }

    /// `grant_type=authorization_code`.
    async fn redeem(&self, proven: Proven<'_>) -> Result<Tokens, Error> {
        let Proven {
            params, keys, now, ..
        } = proven;
        let code = AuthorizationCode::open(
            keys,
            params.required("code")?,
            proven.id,
            params.one("redirect_uri")?,
            params.one("code_verifier")?,
            now,
        )?;
        let (peer, user) = self.still_there(&code.login, proven.client)?;
        let mut login = code.login.clone();
        let wanted = resources(params)?;
        if !wanted.is_empty() {
            login.resources = allowed(&Grants::of(&peer), &user, &login.resources, &wanted)?;
        }
        let lifetimes = &self.config.lifetimes;
        let begun = state::change(&*self.store, code.id.key(), now, |sessions: &mut Sessions| {
            sessions.begin(&code.id, &login, code.expires, lifetimes, now)
        });
        if !begun.await? {
            tracing::warn!(
                client = proven.id,
                user = user.id,
                "A code came a second time; its session is ended"
            );
            return Err(Code::InvalidGrant.because("the code was used before"));
        }
        let refresh = RefreshToken {
            session: code.id,
            counter: 0,
        };
        self.tokens(proven, &login, &peer, &user, &refresh, code.nonce.as_deref())
    }

    /// `grant_type=refresh_token`. Everything about the user is looked up anew before the old token is used up.
    async fn refresh(&self, proven: Proven<'_>) -> Result<Tokens, Error> {
        let Proven {
            params, keys, now, ..
        } = proven;
        let refuse = |text: &'static str| Code::InvalidGrant.because(text);
        let token = RefreshToken::parse(keys, params.required("refresh_token")?)
            .ok_or_else(|| refuse("invalid refresh token"))?;
        let key = token.session.key();
        let sessions: Sessions = state::read(&*self.store, key).await?;
        let session = sessions
            .get(&token.session, now)
            .filter(|session| session.login.client == proven.id)
            .ok_or_else(|| refuse("invalid refresh token"))?;
        let mut login = session.login.clone();
        let (peer, user) = self.still_there(&login, proven.client)?;
        let grants = Grants::of(&peer);
        // What the policy no longer grants is gone, and what is asked for must have been agreed upon.
        if !login.resources.is_empty() {
            let agreed = login.resources.clone();
            login.resources = allowed(&grants, &user, &[], &agreed)?;
        }
        let wanted = resources(params)?;
        if !wanted.is_empty() {
            login.resources = allowed(&grants, &user, &login.resources, &wanted)?;
        }
        if let Some(scope) = params.one("scope")? {
            let wanted = Scopes::parse(Some(scope));
            login.scopes = login.scopes.narrowed_to(&wanted);
        }
        let lifetimes = &self.config.lifetimes;
        let rotated = state::change(&*self.store, key, now, |sessions: &mut Sessions| {
            sessions.refresh(&token.session, token.counter, proven.id, lifetimes, now)
        });
        let session = rotated.await?.map_err(|not_good| {
            if not_good == NotGood::Reused {
                tracing::warn!(
                    client = proven.id,
                    user = user.id,
                    "A refresh token was used a second time; its session is ended"
                );
            }
            refuse("invalid refresh token")
        })?;
        let refresh = RefreshToken {
            session: token.session,
            counter: session.counter,
        };
        self.tokens(proven, &login, &peer, &user, &refresh, None)
    }

    /// The user of a login, if the tailnet still knows him on that machine, and he may still use the client.
    pub(crate) fn still_there(&self, login: &Login, client: &Client) -> Result<(Peer, User), Error> {
        let gone = || Code::InvalidGrant.because("the user is no longer on the tailnet with this device");
        let (peer, user) = self.again(login.node, login.user).ok_or_else(gone)?;
        if !client.admits(&peer, &user) {
            return Err(Code::InvalidGrant.because("this user may no longer log in to this client"));
        }
        Ok((peer, user))
    }

    fn tokens(
        &self,
        proven: Proven<'_>,
        login: &Login,
        peer: &Peer,
        user: &User,
        refresh: &RefreshToken,
        nonce: Option<&str>,
    ) -> Result<Tokens, Error> {
        let Proven {
            id,
            client,
            keys,
            now,
            ..
        } = proven;
        let audience = Audience::of_access(id, &login.resources);
        let access_token = self.access_token(keys, id, login, audience, &refresh.session, None, now)?;
        let id_token = match login.scopes.contains(Scope::Openid) {
            false => None,
            true => {
                let token = IdToken {
                    client: id,
                    scopes: &login.scopes,
                    resources: &login.resources,
                    nonce,
                    auth_time: login.auth_time,
                    session: &refresh.session,
                    access_token: &access_token,
                    jti: &random::<16>()?,
                };
                let subject = Subject {
                    issuer: &self.config.issuer,
                    user,
                    machine: &peer.machine,
                    grants: &Grants::of(peer),
                };
                let claims = subject.id_token(token, self.config.lifetimes.token, now)?;
                Some(jwt::sign(keys.current(client.signing)?, jwt::Kind::Id, &claims)?)
            }
        };
        Ok(Tokens {
            access_token,
            token_type: "Bearer",
            expires_in: self.config.lifetimes.token,
            scope: login.scopes.clone(),
            id_token,
            refresh_token: Some(refresh.text(keys)),
            issued_token_type: None,
        })
    }

    #[expect(clippy::too_many_arguments, reason = "a token says all of it")]
    fn access_token(
        &self,
        keys: &KeySet,
        client: &str,
        login: &Login,
        audience: Audience,
        session: &SessionId,
        act: Option<Value>,
        now: i64,
    ) -> Result<String, Error> {
        let claims = AccessToken {
            iss: self.config.issuer.as_str().to_owned(),
            sub: sub(login.user),
            aud: audience,
            client_id: client.to_owned(),
            iat: now,
            nbf: AccessToken::not_before(now),
            exp: now + self.config.lifetimes.token,
            jti: random::<16>()?,
            auth_time: login.auth_time,
            scope: login.scopes.clone(),
            uid: login.user,
            nid: login.node,
            sid: session.clone(),
            act,
        };
        // Resource servers need not know more than one algorithm, and RFC 9068 (section 2.1) names this one.
        let key = keys.current(Algorithm::Rs256)?;
        Ok(jwt::sign(key, jwt::Kind::Access, &claims)?)
    }
}

/// Of the wanted resources those that the policy grants now; all have to be among the agreed ones, if there are
/// any.
fn allowed(grants: &Grants, user: &User, agreed: &[String], wanted: &[String]) -> Result<Vec<String>, Error> {
    let refuse = |text: &'static str| Err(Code::InvalidTarget.because(text));
    if !agreed.is_empty() && wanted.iter().any(|resource| !agreed.contains(resource)) {
        return refuse("requested resource not in original grant");
    }
    let allowed = grants.resources(&user.login, wanted.iter().map(String::as_str));
    if allowed.is_empty() {
        return refuse("the tailnet's policy grants none of the resources to this user");
    }
    Ok(allowed)
}

/// In the way in which the client spoke.
pub(crate) fn client_error(asked: Asked<'_>, error: &Error) -> Answer {
    if asked.headers().contains_key(header::AUTHORIZATION) {
        answer::basic_error(error)
    } else {
        answer::error(error)
    }
}
