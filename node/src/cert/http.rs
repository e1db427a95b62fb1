//! HTTP for the ACME library, over the node's own roots and crypto provider.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::proxy::Outbound;

/// A request and its answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Chains are a few KiB.
const MAX_BODY: usize = 1 << 20;
/// A pause that makes no sense (or an attack) is cut to this.
const MAX_PAUSE: SignedDuration = SignedDuration::from_hours(24 * 7);

/// One connection per request: a certificate takes about ten, twice in its life.
#[derive(Clone)]
pub(super) struct Client {
    outbound: Outbound,
    refused: Refused,
}

/// The `Retry-After` of the newest answer that refused something; the library doesn't hand it on.
#[derive(Debug, Clone, Default)]
pub(super) struct Refused(Arc<Mutex<Option<Timestamp>>>);

impl Refused {
    pub(super) fn retry_after(&self) -> Option<Timestamp> {
        *self.0.lock()
    }
}

impl Client {
    pub(super) fn new(outbound: Outbound) -> Self {
        Self {
            outbound,
            refused: Refused::default(),
        }
    }

    pub(super) fn refused(&self) -> Refused {
        self.refused.clone()
    }

    async fn exchange(self, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>, BoxError> {
        let (mut parts, body) = request.into_parts();
        let authority = parts.uri.authority().ok_or("the URL names no host")?.clone();
        if parts.uri.scheme_str() != Some("https") {
            return Err("the URL is not https".into());
        }
        let host = authority.host().trim_matches(['[', ']']);
        let port = authority.port_u16().unwrap_or(443);
        let stream = match self.outbound.tunnel(true, host, port).await {
            Some(tunnel) => tunnel?,
            None => {
                let tcp = TcpStream::connect((host, port)).await?;
                tcp.set_nodelay(true)?;
                Box::new(tcp)
            }
        };
        let tls = TlsConnector::from(self.outbound.tls().clone())
            .connect(ServerName::try_from(host.to_owned())?, stream)
            .await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;

        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = path.parse::<Uri>()?;
        parts.headers.insert(header::HOST, authority.as_str().parse()?);
        parts
            .headers
            .insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        let exchange = async move {
            let response = sender.send_request(Request::from_parts(parts, body)).await?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await?.to_bytes();
            Ok::<_, BoxError>(Response::from_parts(parts, Full::new(body)))
        };
        // The connection ends with the exchange; if it fails, so does the exchange, and says more.
        let (response, _) = tokio::join!(exchange, connection);
        let response = response?;
        if response.status().is_client_error() || response.status().is_server_error() {
            let value = response
                .headers()
                .get(header::RETRY_AFTER)
                .and_then(|value| value.to_str().ok());
            *self.refused.0.lock() = value.and_then(|value| retry_after(value, Timestamp::now()));
        }
        Ok(response)
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let exchange = tokio::time::timeout(TIMEOUT, self.clone().exchange(request));
        Box::pin(async move {
            let response = exchange.await.map_err(|elapsed| Error::Other(elapsed.into()))?;
            response.map(BytesResponse::from).map_err(Error::Other)
        })
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Seconds or an HTTP date (RFC 9110 §10.2.3).
fn retry_after(value: &str, now: Timestamp) -> Option<Timestamp> {
    let latest = now.saturating_add(MAX_PAUSE).ok()?;
    let at = match value.trim().parse::<i64>() {
        Ok(seconds) => now.saturating_add(SignedDuration::from_secs(seconds)).ok()?,
        Err(_) => jiff::fmt::rfc2822::parse(value.trim()).ok()?.timestamp(),
    };
    Some(at.min(latest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_read_in_both_forms_and_bounded() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let seconds = |value| retry_after(value, now).map(|at| at.duration_since(now).as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds("Fri, 15 Jan 2027 08:01:00 GMT"), Some(60));
        assert_eq!(seconds("99999999999"), Some(7 * 86_400));
        assert_eq!(seconds("soon"), None);
    }
}
