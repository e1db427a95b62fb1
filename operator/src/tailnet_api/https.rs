//! One request, one connection: a management API is asked a few times an hour.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{Error, SecretText};

/// For a whole request.
const TIMEOUT: Duration = Duration::from_secs(15);
/// A list of 10,000 devices has about 10 MiB.
const BODY_LIMIT: usize = 32 << 20;
/// The API's words are shown to people.
const MESSAGE_LIMIT: usize = 300;

/// A management API that can't be reached.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// Not a URL that can be asked.
    #[error("{0:?} is not a URL of http or https")]
    Url(String),
    /// No connection.
    #[error("connect to {authority}: {source}")]
    Connect {
        /// Host and port.
        authority: String,
        /// Why.
        source: std::io::Error,
    },
    /// The server's certificate, or anything else of TLS.
    #[error("TLS to {authority}: {source}")]
    Tls {
        /// Host and port.
        authority: String,
        /// Why.
        source: std::io::Error,
    },
    /// The exchange broke.
    #[error("ask {authority}: {message}")]
    Exchange {
        /// Host and port.
        authority: String,
        /// Why.
        message: String,
    },
    /// No answer.
    #[error("ask {authority}: no answer within {} s", TIMEOUT.as_secs())]
    TimedOut {
        /// Host and port.
        authority: String,
    },
}

/// A server and whom to believe that it is it.
pub(super) struct Https {
    base: String,
    tls: Arc<ClientConfig>,
}

/// What to send.
pub(super) enum Body<'a> {
    /// Nothing.
    None,
    /// JSON.
    Json(&'a Value),
    /// A form, encoded already.
    Form(String),
}

/// An answer that isn't an error.
pub(super) struct Answer {
    what: &'static str,
    body: Bytes,
}

impl Https {
    pub(super) fn new(base: &str, ca_bundle: Option<&str>) -> Self {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        // What can't be parsed trusts nothing more; the Tailnet's condition says so.
        for certificate in CertificateDer::pem_slice_iter(ca_bundle.unwrap_or_default().as_bytes()).flatten()
        {
            if let Err(error) = roots.add(certificate) {
                tracing::warn!(%error, "A certificate of a Tailnet's CA bundle can't be used");
            }
        }
        let tls =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("the provider has the default versions")
                .with_root_certificates(roots)
                .with_no_client_auth();
        Self {
            base: base.to_owned(),
            tls: Arc::new(tls),
        }
    }

    /// Asks. Answers from 400 on are errors with the API's words.
    pub(super) async fn ask(
        &self,
        what: &'static str,
        method: Method,
        path: &str,
        token: Option<&SecretText>,
        body: Body<'_>,
    ) -> Result<Answer, Error> {
        let url = format!("{}{path}", self.base);
        let (status, body) = self.exchange(&url, method, token, body).await?;
        if status.is_success() {
            return Ok(Answer { what, body });
        }
        let message = message(&body);
        let status = status.as_u16();
        Err(match status {
            401 | 403 => Error::Refused {
                what,
                status,
                message,
            },
            _ => Error::Failed {
                what,
                status,
                message,
            },
        })
    }

    async fn exchange(
        &self,
        url: &str,
        method: Method,
        token: Option<&SecretText>,
        body: Body<'_>,
    ) -> Result<(StatusCode, Bytes), HttpsError> {
        let uri: Uri = url.parse().map_err(|_| HttpsError::Url(url.to_owned()))?;
        let host = uri
            .host()
            .ok_or_else(|| HttpsError::Url(url.to_owned()))?
            .to_owned();
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(HttpsError::Url(url.to_owned())),
        };
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let authority = format!("{host}:{port}");
        let request = request(&uri, method, token, body).map_err(|_| HttpsError::Url(url.to_owned()))?;

        let exchange = async {
            let connect = |source| HttpsError::Connect {
                authority: authority.clone(),
                source,
            };
            let stream = TcpStream::connect((host.trim_matches(['[', ']']), port))
                .await
                .map_err(connect)?;
            if !tls {
                return send(stream, request, &authority).await;
            }
            let failed = |source| HttpsError::Tls {
                authority: authority.clone(),
                source,
            };
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                .map_err(|error| failed(std::io::Error::other(error)))?;
            let stream = TlsConnector::from(Arc::clone(&self.tls))
                .connect(name, stream)
                .await
                .map_err(failed)?;
            send(stream, request, &authority).await
        };
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(result) => result,
            Err(_) => Err(HttpsError::TimedOut { authority }),
        }
    }
}

impl Answer {
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|source| Error::Answer {
            what: self.what,
            source,
        })
    }
}

fn request(
    uri: &Uri,
    method: Method,
    token: Option<&SecretText>,
    body: Body<'_>,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(
            header::HOST,
            uri.authority().map_or("", http::uri::Authority::as_str),
        )
        .header(
            header::USER_AGENT,
            concat!("postern-operator/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::ACCEPT, "application/json");
    if let Some(token) = token {
        let mut value = header::HeaderValue::try_from(format!("Bearer {}", token.expose()))?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    match body {
        Body::None => request.body(Full::default()),
        Body::Json(json) => request
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(json.to_string())),
        Body::Form(form) => request
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::from(form)),
    }
}

async fn send<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    authority: &str,
) -> Result<(StatusCode, Bytes), HttpsError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broke = |error: &dyn std::fmt::Display| HttpsError::Exchange {
        authority: authority.to_owned(),
        message: error.to_string(),
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broke(&error))?;
    let ask = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| broke(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, BODY_LIMIT)
            .collect()
            .await
            .map_err(|error| broke(&error))?;
        Ok((head.status, body.to_bytes()))
    };
    // The connection lives as long as its one question.
    tokio::pin!(ask);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        answer = &mut ask => answer,
        end = &mut connection => match end {
            Ok(()) => ask.await,
            Err(error) => Err(broke(&error)),
        },
    }
}

fn message(body: &[u8]) -> String {
    let json = serde_json::from_slice::<Value>(body).ok();
    let text = json
        .as_ref()
        .and_then(|json| json.get("message").or_else(|| json.get("error"))?.as_str());
    let mut text = text.map_or_else(|| String::from_utf8_lossy(body).trim().to_owned(), str::to_owned);
    text.truncate(text.floor_char_boundary(MESSAGE_LIMIT));
    text
}
