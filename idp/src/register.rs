//! Dynamic client registration (RFC 7591), for peers whom the policy grants `allow_dcr`.

use http::{HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::{
    answer::{self, Answer},
    client::{self, Client, ClientSecret, Clients, Kind, Origin},
    error::{Code, Error},
    grant::Grants,
    keys::Algorithm,
    provider::{Arrival, Config, Provider, route::Asked},
    redirect,
    secret::{Hash, Secret, random},
    state,
};

/// Client metadata (RFC 7591, section 2) as far as it means something here; the rest is ignored, as section 2
/// wants.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    redirect_uris: Vec<String>,
    token_endpoint_auth_method: Option<String>,
    grant_types: Option<Vec<String>>,
    response_types: Option<Vec<String>>,
    client_name: Option<String>,
    application_type: Option<String>,
    id_token_signed_response_alg: Option<String>,
}

/// RFC 7591, section 3.2.1.
#[derive(Serialize)]
struct Registered<'a> {
    client_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret: Option<&'a str>,
    client_id_issued_at: i64,
    /// 0: never. Required when there is a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret_expires_at: Option<i64>,
    redirect_uris: &'a [String],
    token_endpoint_auth_method: &'a str,
    grant_types: [&'static str; 2],
    response_types: [&'static str; 1],
    #[serde(skip_serializing_if = "str::is_empty")]
    client_name: &'a str,
    application_type: &'a str,
    id_token_signed_response_alg: &'static str,
}

/// More than any client has.
const MOST_REDIRECTS: usize = 20;
const LONGEST_NAME: usize = 100;

impl Provider {
    /// `POST /register`.
    pub(crate) async fn register(&self, asked: Asked<'_>) -> Answer {
        let origin = asked.headers().get(header::ORIGIN);
        let mut answer = match asked.head.method {
            Method::OPTIONS => answer::empty(StatusCode::NO_CONTENT),
            Method::POST => self
                .registered(asked)
                .await
                .unwrap_or_else(|error| answer::error(&error)),
            _ => answer::wrong_method("POST, OPTIONS"),
        };
        // Unlike elsewhere who is asking counts here, and a browser on the tailnet asks for any page that it
        // shows. So other origins get an answer only where a developer's tool on the same machine asks.
        if let Some(origin) = origin.filter(|origin| self.is_trusted(origin))
            && let Ok(origin) = origin.to_str()
        {
            answer::set(&mut answer, header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            answer::set(&mut answer, header::ACCESS_CONTROL_ALLOW_METHODS, "POST, OPTIONS");
            answer::set(
                &mut answer,
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "*, Authorization",
            );
        }
        answer::set(&mut answer, header::VARY, "Origin");
        answer
    }

    fn is_trusted(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        origin == self.config.issuer.as_str() || redirect::is_on_loopback(origin)
    }

    async fn registered(&self, asked: Asked<'_>) -> Result<Answer, Error> {
        if !matches!(asked.arrival, Arrival::Tailnet { .. }) {
            return Err(Code::AccessDenied.because("registration is for peers of the tailnet"));
        }
        if asked
            .headers()
            .get(header::ORIGIN)
            .is_some_and(|origin| !self.is_trusted(origin))
        {
            return Err(Code::AccessDenied.because("pages of other origins can't register clients"));
        }
        if !self.config.registration.enabled {
            return Err(Code::AccessDenied.because("registration is not enabled"));
        }
        let peer = self.peer(asked.arrival);
        if !peer.is_some_and(|peer| Grants::of(&peer).registration()) {
            let text = "the tailnet's policy does not grant you allow_dcr of tailscale.com/cap/tsidp";
            return Err(Code::AccessDenied.because(text));
        }
        let metadata: Metadata = serde_json::from_slice(asked.body).map_err(|error| {
            Code::InvalidRequest.because(format!("the body is no client metadata: {error}"))
        })?;
        let client = parse(&metadata, &self.config, asked.now)?;
        let (id, client, secret) = self.add_client(client, asked.now).await?;
        tracing::info!(client = id, name = client.name, "A client has registered itself");
        let method = match client.kind {
            Kind::Public => "none",
            Kind::Confidential => match metadata.token_endpoint_auth_method.as_deref() {
                Some("client_secret_post") => "client_secret_post",
                _ => "client_secret_basic",
            },
        };
        let registered = Registered {
            client_id: &id,
            client_secret: secret.as_ref().map(Secret::expose),
            client_id_issued_at: asked.now,
            client_secret_expires_at: secret.as_ref().map(|_| client.expires.unwrap_or(0)),
            redirect_uris: &client.redirect_uris,
            token_endpoint_auth_method: method,
            grant_types: ["authorization_code", "refresh_token"],
            response_types: ["code"],
            client_name: &client.name,
            application_type: metadata.application_type.as_deref().unwrap_or("web"),
            id_token_signed_response_alg: client.signing.as_str(),
        };
        Ok(answer::json(StatusCode::CREATED, &registered))
    }

    /// Stores a new client; one that can keep a secret gets one, which is in nobody's hands but the caller's.
    pub(crate) async fn add_client(
        &self,
        mut client: Client,
        now: i64,
    ) -> Result<(String, Client, Option<Secret>), Error> {
        let id = random::<18>()?;
        let secret = match client.kind {
            Kind::Public => None,
            Kind::Confidential => Some(Secret::generate()?),
        };
        client.secrets = secret
            .iter()
            .map(|secret| ClientSecret {
                hash: Hash::of(secret.expose()),
                expires: None,
            })
            .collect();
        let most = self.config.registration.most_per_shard;
        let stored = state::change(&*self.store, client::key(&id), now, |clients: &mut Clients| {
            let dynamic = clients.0.values().filter(|c| c.origin == Origin::Dynamic).count();
            let has_room = client.origin != Origin::Dynamic || dynamic < most;
            if has_room {
                clients.0.insert(id.clone(), client.clone());
            }
            has_room
        });
        if !stored.await? {
            return Err(Code::TemporarilyUnavailable.because("too many clients have registered themselves"));
        }
        Ok((id, client, secret))
    }
}

fn parse(metadata: &Metadata, config: &Config, now: i64) -> Result<Client, Error> {
    let wrong = |text: String| Code::InvalidClientMetadata.because(text);
    let kind = match metadata.token_endpoint_auth_method.as_deref() {
        None | Some("client_secret_basic" | "client_secret_post") => Kind::Confidential,
        Some("none") => Kind::Public,
        Some(other) => {
            return Err(wrong(format!(
                "token_endpoint_auth_method {other} is not supported"
            )));
        }
    };
    let code_only = |values: &Option<Vec<String>>, needed: &str| {
        values
            .as_ref()
            .is_none_or(|values| values.iter().any(|value| value == needed))
    };
    if !code_only(&metadata.response_types, "code") {
        return Err(wrong("response_types has to contain code".to_owned()));
    }
    if !code_only(&metadata.grant_types, "authorization_code") {
        return Err(wrong("grant_types has to contain authorization_code".to_owned()));
    }
    let signing = match metadata.id_token_signed_response_alg.as_deref() {
        None => config.signing,
        Some("ES256") => Algorithm::Es256,
        Some("RS256") => Algorithm::Rs256,
        Some(other) => {
            return Err(wrong(format!(
                "id_token_signed_response_alg {other} is not supported"
            )));
        }
    };
    let name = metadata.client_name.clone().unwrap_or_default();
    if name.chars().count() > LONGEST_NAME {
        return Err(wrong(format!(
            "client_name is longer than {LONGEST_NAME} characters"
        )));
    }
    Ok(Client {
        name,
        redirect_uris: redirect_uris(&metadata.redirect_uris).map_err(|text| {
            match metadata.redirect_uris.is_empty() {
                true => wrong(text),
                false => Code::InvalidRedirectUri.because(text),
            }
        })?,
        kind,
        signing,
        origin: Origin::Dynamic,
        created: now,
        expires: config.registration.expire_after.map(|life| now + life),
        ..Client::default()
    })
}

/// What may be registered; the error is a sentence that names the one that may not.
pub(crate) fn redirect_uris(uris: &[String]) -> Result<Vec<String>, String> {
    if uris.is_empty() {
        return Err("redirect_uris is required".to_owned());
    }
    if uris.len() > MOST_REDIRECTS {
        return Err(format!("more than {MOST_REDIRECTS} redirect_uris"));
    }
    for uri in uris {
        redirect::check(uri).map_err(|reason| format!("the redirect URI {uri:?} can't be used: {reason}"))?;
    }
    let mut uris = uris.to_vec();
    uris.dedup();
    Ok(uris)
}
