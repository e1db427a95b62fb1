//! How a client shows who it is: `client_secret_basic`, `client_secret_post` or `none`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};

use super::{Client, Kind};
use crate::{
    error::{Code, Error},
    params::Params,
    secret::Secret,
};

/// What a request says about its client.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) id: String,
    secret: Option<Secret>,
}

impl Credentials {
    /// From the `Authorization` header or the form (RFC 6749, section 2.3.1).
    pub(crate) fn read(headers: &HeaderMap, params: &Params) -> Result<Self, Error> {
        let in_form = params.one("client_id")?;
        let secret = params
            .one("client_secret")?
            .map(|text| Secret::from(text.to_owned()));
        let Some((id, from_header)) = basic(headers)? else {
            let id = in_form.ok_or_else(|| Code::InvalidClient.because("client_id is required"))?;
            return Ok(Self {
                id: id.to_owned(),
                secret,
            });
        };
        if secret.is_some() || in_form.is_some_and(|other| other != id) {
            return Err(Code::InvalidRequest.because("the client authenticates in more than one way"));
        }
        Ok(Self {
            id,
            secret: from_header,
        })
    }

    /// Whether they are this client's.
    pub(crate) fn prove(&self, client: Option<&Client>, now: i64) -> Result<(), Error> {
        let wrong = || Code::InvalidClient.because("the client is unknown or its secret is wrong");
        let client = client.ok_or_else(wrong)?;
        let proven = match (client.kind, &self.secret) {
            (Kind::Public, None) => true,
            // Libraries that can't leave it out send any text.
            (Kind::Public, Some(_)) => client.secrets.is_empty(),
            (Kind::Confidential, None) => {
                return Err(Code::InvalidClient.because("client_secret is required"));
            }
            (Kind::Confidential, Some(secret)) => client.has_secret(secret.expose(), now),
        };
        proven.then_some(()).ok_or_else(wrong)
    }
}

/// Id and secret, each form-encoded before it was joined to the other and encoded again.
fn basic(headers: &HeaderMap) -> Result<Option<(String, Option<Secret>)>, Error> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let malformed = || Code::InvalidClient.because("the Authorization header is not understood");
    let value = value.to_str().map_err(|_| malformed())?;
    let (scheme, encoded) = value.split_once(' ').ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(malformed());
    }
    let decoded = STANDARD.decode(encoded.trim()).map_err(|_| malformed())?;
    let decoded = String::from_utf8(decoded).map_err(|_| malformed())?;
    let (id, secret) = decoded.split_once(':').ok_or_else(malformed)?;
    let secret = form_decoded(secret);
    let secret = (!secret.is_empty()).then(|| Secret::from(secret));
    Ok(Some((form_decoded(id), secret)))
}

fn form_decoded(text: &str) -> String {
    let mut pairs = form_urlencoded::parse(text.as_bytes());
    match pairs.next() {
        // As it is when it isn't one encoded word: not every client encodes.
        Some((word, rest)) if rest.is_empty() && pairs.next().is_none() => word.into_owned(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_in_result, reason = "what a test sets up is there")]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::{client::ClientSecret, secret::Hash};

    fn read(authorization: Option<&str>, form: &str) -> Result<(String, Option<String>), Code> {
        let mut headers = HeaderMap::new();
        if let Some(text) = authorization {
            let text = match text.split_once(' ') {
                Some(("Basic", pair)) => format!("Basic {}", STANDARD.encode(pair)),
                _ => text.to_owned(),
            };
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&text).unwrap());
        }
        let read = Credentials::read(&headers, &Params::parse(form.as_bytes()).unwrap());
        read.map(|c| (c.id, c.secret.map(|s| s.expose().to_owned())))
            .map_err(|error| error.code)
    }

    #[test]
    fn credentials_are_read_in_both_places_but_not_at_once() {
        let both = Ok(("app".to_owned(), Some("s3:cret".to_owned())));
        assert_eq!(read(Some("Basic app:s3:cret"), ""), both);
        assert_eq!(read(Some("Basic app:s3%3Acret"), "client_id=app"), both);
        assert_eq!(read(None, "client_id=app&client_secret=s3%3Acret"), both);
        assert_eq!(read(None, "client_id=app"), Ok(("app".to_owned(), None)));
        assert_eq!(read(Some("Basic app:"), ""), Ok(("app".to_owned(), None)));
        assert_eq!(read(None, ""), Err(Code::InvalidClient));
        assert_eq!(read(Some("Bearer x"), ""), Err(Code::InvalidClient));
        assert_eq!(read(Some("Basic app"), ""), Err(Code::InvalidClient));
        assert_eq!(
            read(Some("Basic app:x"), "client_id=b"),
            Err(Code::InvalidRequest)
        );
        assert_eq!(
            read(Some("Basic app:x"), "client_secret=x"),
            Err(Code::InvalidRequest)
        );
    }

    #[test]
    fn servers_need_their_secret_and_programs_have_none() {
        let prove = |client: Option<&Client>, secret: Option<&str>| {
            let credentials = Credentials {
                id: "app".to_owned(),
                secret: secret.map(|text| Secret::from(text.to_owned())),
            };
            credentials.prove(client, 0).is_ok()
        };
        let server = Client {
            secrets: vec![ClientSecret {
                hash: Hash::of("s"),
                expires: None,
            }],
            ..Client::default()
        };
        assert!(prove(Some(&server), Some("s")));
        assert!(!prove(Some(&server), Some("t")) && !prove(Some(&server), None));
        let program = Client {
            kind: Kind::Public,
            ..Client::default()
        };
        assert!(prove(Some(&program), None));
        assert!(!prove(None, None) && !prove(None, Some("s")));
        assert!(!prove(Some(&Client::default()), Some("")));
    }
}
