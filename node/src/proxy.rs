//! HTTP proxies on the way out: which one, if any, and the tunnel through it (RFC 9110 §9.3.6).
//!
//! Everything that isn't UDP may go through one: control, relays, credentials, the certificate authority. The
//! environment is read as Go's `net/http` does (`golang.org/x/net/http/httpproxy`), with one difference: plain
//! HTTP is tunnelled too, since what the control protocol upgrades to is no HTTP.

use std::{
    fmt, io,
    pin::{Pin, pin},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::tls;

mod bypass;
mod url;

use bypass::Bypass;
pub use url::{ProxyUrl, ProxyUrlError};

/// Which proxy a node uses.
#[derive(Debug, Clone, Default)]
pub enum ProxyChoice {
    /// As `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say, or their lower-case forms.
    #[default]
    Environment,
    /// None.
    Direct,
    /// This one, for everything.
    Always(ProxyUrl),
}

/// The proxies by what is asked for.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    http: Option<ProxyUrl>,
    https: Option<ProxyUrl>,
    bypass: Bypass,
}

impl Proxies {
    /// What `choice` comes to; `variable` is the environment.
    ///
    /// A proxy of the environment that makes no sense is logged and left out, as in Go.
    pub fn new(choice: ProxyChoice, variable: impl Fn(&str) -> Option<String>) -> Self {
        let any = |upper: &str| {
            let read = |name: &str| variable(name).filter(|value| !value.is_empty());
            read(upper).or_else(|| read(&upper.to_ascii_lowercase()))
        };
        let proxy = |name: &str| {
            let parsed = any(name)?.parse();
            parsed
                .inspect_err(|error| tracing::warn!(variable = name, %error, "The proxy is not used"))
                .ok()
        };
        match choice {
            ProxyChoice::Direct => Self::default(),
            ProxyChoice::Always(url) => Self {
                http: Some(url.clone()),
                https: Some(url),
                bypass: Bypass::nothing(),
            },
            ProxyChoice::Environment => Self {
                http: proxy("HTTP_PROXY"),
                https: proxy("HTTPS_PROXY"),
                bypass: Bypass::parse(&any("NO_PROXY").unwrap_or_default()),
            },
        }
    }

    /// The proxy on the way to a server; `host` is a name, or an address without brackets.
    pub fn to(&self, https: bool, host: &str, port: u16) -> Option<&ProxyUrl> {
        let proxy = if https { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| !self.bypass.covers(host, port))
    }
}

/// The way to servers: whom TLS trusts, and which proxies are between.
#[derive(Debug, Clone)]
pub struct Outbound {
    tls: Arc<rustls::ClientConfig>,
    proxies: Arc<Proxies>,
}

impl Outbound {
    /// TLS verified against `roots`.
    pub fn new(roots: impl Into<Arc<rustls::RootCertStore>>, proxies: Proxies) -> Self {
        Self {
            tls: tls::client_config(roots),
            proxies: Arc::new(proxies),
        }
    }

    /// How TLS verifies servers.
    pub(crate) fn tls(&self) -> &Arc<rustls::ClientConfig> {
        &self.tls
    }

    /// A tunnel to a server; `None` when no proxy is between. The time that it takes is the caller's to bound.
    ///
    /// # Errors
    /// When the proxy can't be reached, or refuses; they name it, without its password.
    pub(crate) async fn tunnel(&self, https: bool, host: &str, port: u16) -> Option<io::Result<BoxStream>> {
        let proxy = self.proxies.to(https, host, port)?;
        let tunnel = open(proxy, host, port, &self.tls).await;
        Some(tunnel.map_err(|error| io::Error::new(error.kind(), format!("proxy {proxy}: {error}"))))
    }
}

impl Default for Outbound {
    /// Trusts nobody, and uses no proxy.
    fn default() -> Self {
        Self::new(rustls::RootCertStore::empty(), Proxies::default())
    }
}

/// A connection, whatever is below it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
pub(crate) type BoxStream = Box<dyn Stream>;

async fn open(
    proxy: &ProxyUrl,
    host: &str,
    port: u16,
    tls: &Arc<rustls::ClientConfig>,
) -> io::Result<BoxStream> {
    let tcp = TcpStream::connect((proxy.host(), proxy.port())).await?;
    tcp.set_nodelay(true)?;
    if !proxy.is_https() {
        return connect(proxy, host, port, tcp).await;
    }
    let name = ServerName::try_from(proxy.host().to_owned()).map_err(io::Error::other)?;
    let secured = TlsConnector::from(tls.clone()).connect(name, tcp).await?;
    connect(proxy, host, port, secured).await
}

async fn connect(
    proxy: &ProxyUrl,
    host: &str,
    port: u16,
    stream: impl Stream + 'static,
) -> io::Result<BoxStream> {
    let target = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let mut request = Request::connect(&target).header(header::HOST, &target);
    if let Some(value) = authorization(proxy) {
        request = request.header(header::PROXY_AUTHORIZATION, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        match response.status() {
            status if status.is_success() => hyper::upgrade::on(response).await.map_err(io::Error::other),
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(refused(
                "it wants another user name and password (407)".to_owned(),
            )),
            status => Err(refused(format!("it answered {status} to CONNECT {target}"))),
        }
    };
    // Boxed: else the compiler can't see that the whole is `Send` (rust-lang/rust#102211).
    let connection: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>> =
        Box::pin(connection.with_upgrades());
    let mut exchange = pin!(exchange);
    let upgraded = tokio::select! {
        biased;
        upgraded = &mut exchange => upgraded,
        _ = connection => exchange.await,
    };
    Ok(Box::new(TokioIo::new(upgraded?)))
}

fn refused(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, reason)
}

/// Basic authentication (RFC 7617).
fn authorization(proxy: &ProxyUrl) -> Option<HeaderValue> {
    let user = proxy.user()?;
    let encoded = Zeroizing::new(STANDARD.encode(user.as_bytes()));
    let value = Zeroizing::new(format!("Basic {}", *encoded));
    let mut value = HeaderValue::from_str(&value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl fmt::Display for ProxyUrl {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https() { "https" } else { "http" };
        if self.host().contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host(), self.port())
        } else {
            write!(f, "{scheme}://{}:{}", self.host(), self.port())
        }
    }
}

#[cfg(test)]
mod tests;
