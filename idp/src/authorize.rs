//! The authorization endpoint: who is there, may this client know it, and off with a code.
//!
//! 1. Client and redirect URI have to be known before anything is sent anywhere; until then errors are pages.
//! 2. The request is parsed; from here errors go to the client ([`request`]).
//! 3. Whois says who is there; nobody and tagged machines can't log in ([`decide`]).
//! 4. Has the user consented, and recently enough? Then a code; else the consent page.
//! 5. The form of the page comes back, is checked and kept, and the code goes to the client.

mod code;
mod decide;
mod request;

use http::{HeaderMap, Method};
use serde::{Deserialize, Serialize};

pub(crate) use code::AuthorizationCode;
use decide::Verdict;
pub(crate) use request::{Refusal, Request, resources};

use crate::{
    answer::{self, Answer},
    browser::Browser,
    client::{Client, Origin},
    consent::{self, Consents},
    error::{Code, Error},
    identify::{NodeId, Peer, User, UserId},
    keys::{KeySet, Purpose},
    pages,
    params::Params,
    provider::{Arrival, Provider, route::Asked},
    redirect,
    scope::Scope,
    session::SessionId,
    state,
};

/// What a user is asked to consent to, sealed into the page: nothing is kept here meanwhile.
#[derive(Debug, Serialize, Deserialize)]
struct Pending {
    request: Request,
    user: UserId,
    node: NodeId,
    expires: i64,
}

const CONSENT_FORM: &str = "consent";

impl Provider {
    /// `GET` or `POST /authorize` (OpenID Connect Core, section 3.1.2.1).
    pub(crate) async fn authorize(&self, asked: Asked<'_>) -> Answer {
        let params = match asked.head.method {
            Method::GET | Method::HEAD => {
                Params::parse(asked.head.uri.query().unwrap_or_default().as_bytes())
            }
            Method::POST => asked.form(),
            _ => return answer::wrong_method("GET, HEAD, POST"),
        };
        let answered = async {
            let params = params?;
            let peer = self.visitor(asked)?;
            let (id, client) = self.known_client(&params, asked.now).await?;
            self.pursue(asked, &params, &id, &client, &peer).await
        };
        answered.await.unwrap_or_else(|refusal| self.refuse(&refusal))
    }

    /// `POST /consent`: the form of the consent page.
    pub(crate) async fn consent(&self, asked: Asked<'_>) -> Answer {
        if asked.head.method != Method::POST {
            return answer::wrong_method("POST");
        }
        self.decided(asked)
            .await
            .unwrap_or_else(|refusal| self.refuse(&refusal))
    }

    /// The peer, where one can be known.
    fn visitor(&self, asked: Asked<'_>) -> Result<Peer, Error> {
        match asked.arrival {
            Arrival::Tailnet { .. } => self.peer(asked.arrival).ok_or_else(|| {
                Code::AccessDenied
                    .because("this device is not known on the tailnet; is its login still good?")
            }),
            Arrival::Funnel | Arrival::BackChannel => Err(Code::AccessDenied
                .because("logging in works from a device on the tailnet only: connect to it and try again")),
        }
    }

    /// The client, and that the redirect URI is one of its own.
    async fn known_client(&self, params: &Params, now: i64) -> Result<(String, Client), Error> {
        let redirect_uri = params.required("redirect_uri")?;
        let id = params.required("client_id")?;
        let client = self.client(id, now).await?.ok_or_else(|| {
            Code::UnauthorizedClient.because("client_id names no client that is registered here")
        })?;
        if !client.redirects_to(redirect_uri) {
            let text = format!(
                "redirect_uri {redirect_uri} is not registered for the client {}; it has to be equal to the last character",
                client.title(id)
            );
            return Err(Code::InvalidRequest.because(text));
        }
        Ok((id.to_owned(), client))
    }

    async fn pursue(
        &self,
        asked: Asked<'_>,
        params: &Params,
        id: &str,
        client: &Client,
        peer: &Peer,
    ) -> Result<Answer, Refusal> {
        let issuer = &self.config.issuer;
        let request = Request::parse(params, id, client, issuer)?;
        let (user, request) = decide::admit(request, client, peer, issuer)?;
        let consents: Consents =
            self.documents(&request, state::read(&*self.store, consent::key(user.id)).await)?;
        let consent = consents.get(user.id, id, asked.now);
        let keys = self.documents(&request, self.keys().await)?;
        match decide::verdict(&request, consent, issuer, asked.now)? {
            Verdict::Grant { auth_time } => {
                let sent = self.send_code(&request, user.id, peer.machine.id, auth_time, &keys, asked.now);
                self.documents(&request, sent)
            }
            Verdict::Ask => {
                let page = self.ask(asked.headers(), request, client, peer, user, &keys, asked.now);
                Ok(page?)
            }
        }
    }

    /// Errors of ours go to the client too, once it is known.
    fn documents<T, E: Into<Error>>(&self, request: &Request, result: Result<T, E>) -> Result<T, Refusal> {
        result.map_err(|error| request.refuse(&self.config.issuer, &error.into()))
    }

    #[expect(clippy::too_many_arguments, reason = "a page shows all of them")]
    fn ask(
        &self,
        headers: &HeaderMap,
        request: Request,
        client: &Client,
        peer: &Peer,
        user: &User,
        keys: &KeySet,
        now: i64,
    ) -> Result<Answer, Error> {
        let browser = Browser::meet(headers)?;
        let pending = Pending {
            user: user.id,
            node: peer.machine.id,
            expires: now + self.config.lifetimes.consent_page,
            request,
        };
        let request = &pending.request;
        let template = pages::Consent {
            issuer: self.config.issuer.as_str(),
            client: client.title(&request.client),
            place: &redirect::place(&request.redirect_uri),
            on_loopback: redirect::is_on_loopback(&request.redirect_uri),
            unknown_origin: client.origin == Origin::Dynamic,
            login: &user.login,
            name: &user.name,
            machine: &peer.machine.name,
            learns: request.scopes.iter().filter_map(Scope::in_words).collect(),
            resources: &request.resources,
            request: &keys.seal(Purpose::Consent, &pending)?,
            token: &browser.form_token(keys, CONSENT_FORM),
        };
        let mut page = pages::page(http::StatusCode::OK, &template);
        browser.remember(&mut page);
        Ok(page)
    }

    async fn decided(&self, asked: Asked<'_>) -> Result<Answer, Refusal> {
        let params = asked.form()?;
        let keys = self.keys().await?;
        let issuer = &self.config.issuer;
        Browser::check(asked.headers(), &params, issuer, &keys, CONSENT_FORM)?;
        let peer = self.visitor(asked)?;
        let pending: Option<Pending> = keys.open(Purpose::Consent, params.required("request")?);
        let Some(pending) = pending.filter(|pending| pending.expires > asked.now) else {
            let text = "this page has been open for too long; start again at the application";
            return Err(Code::InvalidRequest.because(text).into());
        };
        let Pending {
            request, user, node, ..
        } = pending;
        if peer.machine.id != node || peer.user.as_ref().is_none_or(|now| now.id != user) {
            let text = "this page was made for somebody else; start again at the application";
            return Err(Code::AccessDenied.because(text).into());
        }
        // The client may have been changed or deleted meanwhile.
        let client = self.client(&request.client, asked.now).await?;
        let Some(client) = client.filter(|client| client.redirects_to(&request.redirect_uri)) else {
            return Err(Code::UnauthorizedClient
                .because("the client is no longer registered")
                .into());
        };
        let (_, request) = decide::admit(request, &client, &peer, issuer)?;
        if params.one("decision")? != Some("allow") {
            return Err(request.refuse(issuer, &Code::AccessDenied.because("the user has declined")));
        }
        let place = redirect::place(&request.redirect_uri);
        let kept = state::change(
            &*self.store,
            consent::key(user),
            asked.now,
            |consents: &mut Consents| {
                consents.add(user, &request.client, request.wanted(&place), asked.now);
            },
        );
        self.documents(&request, kept.await)?;
        let sent = self.send_code(&request, user, node, asked.now, &keys, asked.now);
        self.documents(&request, sent)
    }

    fn send_code(
        &self,
        request: &Request,
        user: UserId,
        node: NodeId,
        auth_time: i64,
        keys: &KeySet,
        now: i64,
    ) -> Result<Answer, Error> {
        let code = AuthorizationCode {
            id: SessionId::new(user, &request.client)?,
            login: request.login(user, node, auth_time),
            redirect_uri: request.redirect_uri.clone(),
            challenge: request.challenge.clone(),
            nonce: request.nonce.clone(),
            expires: now + self.config.lifetimes.code,
        };
        tracing::info!(user, client = request.client, "Login");
        let sealed = code.seal(keys)?;
        Ok(answer::redirect(
            &request.answer(&self.config.issuer, &[("code", &sealed)]),
        ))
    }

    fn refuse(&self, refusal: &Refusal) -> Answer {
        match refusal {
            Refusal::Page(error) => {
                pages::error(self.config.issuer.as_str(), "This login can't go on", error)
            }
            Refusal::Redirect(location) => answer::redirect(location),
        }
    }
}
