//! What a client asks for at the authorization endpoint.

use serde::{Deserialize, Serialize};

use crate::{
    client::{Client, Kind},
    consent::Wanted,
    error::{Code, Error},
    identify::{NodeId, UserId},
    issuer::Issuer,
    params::Params,
    redirect,
    scope::Scopes,
    session::Login,
};

/// A request whose client and redirect URI belong together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) client: String,
    pub(crate) redirect_uri: String,
    state: Option<String>,
    pub(crate) scopes: Scopes,
    pub(crate) nonce: Option<String>,
    /// PKCE with S256.
    pub(crate) challenge: Option<String>,
    pub(crate) resources: Vec<String>,
    pub(crate) prompt: Prompt,
    /// Seconds since the user confirmed who is there.
    pub(crate) max_age: Option<i64>,
}

/// Whether the user is to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Prompt {
    /// If there is need.
    IfNeeded,
    /// In any case: `login`, `consent`, `select_account`.
    Always,
    /// `none`.
    Never,
}

/// Why a login doesn't go on, and who is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The user, on a page.
    Page(Error),
    /// The client, at this URL.
    Redirect(String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Page(error)
    }
}

/// Texts that come back to the client unchanged may be so long: a code beside them has to fit into a URL.
const LONGEST: usize = 2048;
const MOST_RESOURCES: usize = 10;

impl Request {
    /// Reads the parameters; `client` has the `redirect_uri` that is among them.
    pub(crate) fn parse(
        params: &Params,
        client_id: &str,
        client: &Client,
        issuer: &Issuer,
    ) -> Result<Self, Refusal> {
        let mut request = Self {
            client: client_id.to_owned(),
            redirect_uri: params.required("redirect_uri")?.to_owned(),
            state: None,
            scopes: Scopes::default(),
            nonce: None,
            challenge: None,
            resources: Vec::new(),
            prompt: Prompt::IfNeeded,
            max_age: None,
        };
        request
            .read(params, client)
            .map_err(|error| request.refuse(issuer, &error))?;
        Ok(request)
    }

    fn read(&mut self, params: &Params, client: &Client) -> Result<(), Error> {
        self.state = short(params, "state")?;
        if params.one("request")?.is_some() {
            return Err(Code::RequestNotSupported.because("request objects are not supported"));
        }
        if params.one("request_uri")?.is_some() {
            return Err(Code::RequestUriNotSupported.because("request_uri is not supported"));
        }
        match params.required("response_type")? {
            "code" => {}
            _ => return Err(Code::UnsupportedResponseType.because("response_type has to be code")),
        }
        if !matches!(params.one("response_mode")?, None | Some("query")) {
            return Err(Code::InvalidRequest.because("response_mode has to be query"));
        }
        self.scopes = Scopes::parse(params.one("scope")?);
        self.nonce = short(params, "nonce")?;
        self.challenge = challenge(params, client)?;
        self.resources = resources(params)?;
        self.prompt = prompt(params.one("prompt")?)?;
        self.max_age = match params.one("max_age")? {
            None => None,
            Some(text) => Some(
                text.parse()
                    .ok()
                    .filter(|age| (0..=i64::from(u32::MAX)).contains(age))
                    .ok_or_else(|| Code::InvalidRequest.because("max_age has to be a number of seconds"))?,
            ),
        };
        Ok(())
    }

    /// The URL of an answer with these parameters, and with those that every answer has: the client's `state`,
    /// and whose answer it is (RFC 9207).
    pub(crate) fn answer(&self, issuer: &Issuer, parameters: &[(&str, &str)]) -> String {
        let mut all = parameters.to_vec();
        all.extend(self.state.as_deref().map(|state| ("state", state)));
        all.push(("iss", issuer.as_str()));
        redirect::with_query(&self.redirect_uri, &all)
    }

    /// Tells the client.
    pub(crate) fn refuse(&self, issuer: &Issuer, error: &Error) -> Refusal {
        let parameters = [
            ("error", error.code.as_str()),
            ("error_description", &*error.description),
        ];
        Refusal::Redirect(self.answer(issuer, &parameters))
    }

    /// What consent is needed for.
    pub(crate) fn wanted<'a>(&'a self, place: &'a str) -> Wanted<'a> {
        Wanted {
            place,
            scopes: &self.scopes,
            resources: &self.resources,
        }
    }

    pub(crate) fn login(&self, user: UserId, node: NodeId, auth_time: i64) -> Login {
        Login {
            client: self.client.clone(),
            user,
            node,
            scopes: self.scopes.clone(),
            resources: self.resources.clone(),
            auth_time,
        }
    }
}

fn short(params: &Params, name: &str) -> Result<Option<String>, Error> {
    let value = params.one(name)?;
    if value.is_some_and(|value| value.len() > LONGEST) {
        return Err(Code::InvalidRequest.because(format!("{name} is longer than {LONGEST} bytes")));
    }
    Ok(value.map(str::to_owned))
}

/// RFC 7636, with what RFC 9700 (section 2.1.1) and OAuth 2.1 make of it: S256 alone, and public clients can't do
/// without.
fn challenge(params: &Params, client: &Client) -> Result<Option<String>, Error> {
    let method = params.one("code_challenge_method")?;
    let Some(challenge) = params.one("code_challenge")? else {
        return match (client.kind, method) {
            (Kind::Confidential, None) => Ok(None),
            (Kind::Public, _) => {
                Err(Code::InvalidRequest.because("code_challenge is required: this client has no secret"))
            }
            (Kind::Confidential, Some(_)) => Err(Code::InvalidRequest.because("code_challenge is missing")),
        };
    };
    if method != Some("S256") {
        return Err(Code::InvalidRequest.because("code_challenge_method has to be S256"));
    }
    let is_hash = challenge.len() == 43
        && challenge
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if !is_hash {
        return Err(Code::InvalidRequest.because("code_challenge is not the base64url of a SHA-256"));
    }
    Ok(Some(challenge.to_owned()))
}

/// RFC 8707, section 2: absolute URIs without fragment.
pub(crate) fn resources(params: &Params) -> Result<Vec<String>, Error> {
    let mut resources: Vec<String> = Vec::new();
    for resource in params.all("resource") {
        let is_uri = resource.len() <= 500
            && !resource.contains('#')
            && resource.bytes().all(|b| b.is_ascii_graphic())
            && resource
                .split_once(':')
                .is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
        if !is_uri {
            return Err(Code::InvalidTarget.because("resource has to be an absolute URI without fragment"));
        }
        if !resources.iter().any(|known| known == resource) {
            resources.push(resource.to_owned());
        }
    }
    if resources.len() > MOST_RESOURCES {
        return Err(Code::InvalidTarget.because(format!("more than {MOST_RESOURCES} resources")));
    }
    Ok(resources)
}

fn prompt(text: Option<&str>) -> Result<Prompt, Error> {
    let mut words = text
        .unwrap_or_default()
        .split(' ')
        .filter(|word| !word.is_empty())
        .peekable();
    if words.peek().is_none() {
        return Ok(Prompt::IfNeeded);
    }
    let words: Vec<&str> = words.collect();
    if words == ["none"] {
        return Ok(Prompt::Never);
    }
    if words.contains(&"none") {
        return Err(Code::InvalidRequest.because("prompt=none can't be with others"));
    }
    // Unknown values are left out (OpenID Connect Core, section 3.1.2.1 leaves this to us).
    let asks = words
        .iter()
        .any(|word| matches!(*word, "login" | "consent" | "select_account"));
    Ok(if asks { Prompt::Always } else { Prompt::IfNeeded })
}

#[cfg(test)]
#[expect(clippy::unwrap_in_result, reason = "what a test sets up is there")]
mod tests {
    use super::*;

    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    fn parse(kind: Kind, query: &str) -> Result<Request, String> {
        let client = Client {
            kind,
            ..Client::default()
        };
        let issuer = Issuer::new("idp.example.ts.net", 443).unwrap();
        let query = format!("redirect_uri=https://a/cb&state=s&{query}");
        let params = Params::parse(query.as_bytes()).unwrap();
        Request::parse(&params, "app", &client, &issuer).map_err(|refusal| match refusal {
            Refusal::Redirect(location) => location,
            Refusal::Page(error) => panic!("{error}"),
        })
    }

    fn server(query: &str) -> Result<Request, String> {
        parse(Kind::Confidential, query)
    }

    #[test]
    fn errors_go_to_the_client_with_its_state_and_our_name() {
        for (query, code) in [
            ("", "invalid_request"),
            ("response_type=token", "unsupported_response_type"),
            ("response_type=code&response_mode=fragment", "invalid_request"),
            ("response_type=code&request=x", "request_not_supported"),
            ("response_type=code&request_uri=x", "request_uri_not_supported"),
            ("response_type=code&max_age=x", "invalid_request"),
            ("response_type=code&max_age=-1", "invalid_request"),
            ("response_type=code&prompt=none+login", "invalid_request"),
            ("response_type=code&nonce=1&nonce=2", "invalid_request"),
            ("response_type=code&resource=/x", "invalid_target"),
            ("response_type=code&resource=https://a/%23f", "invalid_target"),
        ] {
            let location = server(query).unwrap_err();
            assert!(
                location.starts_with(&format!("https://a/cb?error={code}&")),
                "{query}: {location}"
            );
            assert!(
                location.ends_with("&state=s&iss=https%3A%2F%2Fidp.example.ts.net"),
                "{location}"
            );
        }
    }

    #[test]
    fn public_clients_need_pkce_and_plain_is_refused() {
        let s256 = format!("response_type=code&code_challenge={CHALLENGE}&code_challenge_method=S256");
        assert_eq!(
            parse(Kind::Public, &s256).unwrap().challenge.as_deref(),
            Some(CHALLENGE)
        );
        assert!(parse(Kind::Public, "response_type=code").is_err());
        assert_eq!(server("response_type=code").unwrap().challenge, None);
        for bad in [
            format!("code_challenge={CHALLENGE}"),
            format!("code_challenge={CHALLENGE}&code_challenge_method=plain"),
            "code_challenge=short&code_challenge_method=S256".to_owned(),
            "code_challenge_method=S256".to_owned(),
        ] {
            assert!(server(&format!("response_type=code&{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_unknown_is_ignored() {
        let request =
            server("response_type=code&display=page&ui_locales=de&acr_values=1&foo=bar&prompt=create");
        let request = request.unwrap();
        assert_eq!((request.prompt, request.max_age), (Prompt::IfNeeded, None));
        let request = server(
            "response_type=code&prompt=login&max_age=0&scope=openid+address&resource=urn:x&resource=urn:x",
        );
        let request = request.unwrap();
        assert_eq!((request.prompt, request.max_age), (Prompt::Always, Some(0)));
        assert_eq!(request.resources, ["urn:x"]);
        assert_eq!(request.scopes.to_string(), "openid address");
    }
}
