//! New connections to backends.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::{TcpStream, UnixStream, lookup_host};

use super::{Place, Security, Target, Version};
use crate::tailnet::Stream;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No answer in time.
    #[error("connect to {0}: no answer in time")]
    Timeout(String),
    /// Refused, unreachable, unknown.
    #[error("connect to {0}")]
    Io(String, #[source] io::Error),
}

impl ConnectError {
    /// Whether such a timeout is among the causes of `error`.
    pub fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
        std::iter::successors(Some(error), |e| e.source())
            .any(|e| matches!(e.downcast_ref(), Some(Self::Timeout(_))))
    }
}

/// A connection to a backend.
pub struct Dialled {
    /// The bytes.
    pub stream: Stream,
    /// Our end of it; unix sockets have none.
    pub local: Option<SocketAddr>,
}

/// Connects without TLS.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(target: &Target) -> Result<Dialled, ConnectError> {
    let dialling = async {
        let tcp = match &target.place {
            Place::Addresses(addresses) => first_of(addresses.iter().copied()).await?,
            Place::Host(host) => first_of(lookup_host(&**host).await?).await?,
            Place::Unix(path) => {
                let stream = Box::new(UnixStream::connect(path).await?);
                return Ok(Dialled { stream, local: None });
            }
        };
        let local = tcp.local_addr().ok();
        let stream = Box::new(tcp);
        Ok(Dialled { stream, local })
    };
    match tokio::time::timeout(target.connect_timeout, dialling).await {
        Ok(done) => done.map_err(|e: io::Error| ConnectError::Io(target.place.to_string(), e)),
        Err(_) => Err(ConnectError::Timeout(target.place.to_string())),
    }
}

async fn first_of(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Ready-made TLS configurations.
#[derive(Debug)]
pub(super) struct TlsConfigs {
    verified: [Arc<ClientConfig>; 2],
    unverified: [Arc<ClientConfig>; 2],
}

impl TlsConfigs {
    pub(super) fn new() -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder =
            || ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let verified = builder()?
            .with_root_certificates(postern_node::tls::roots(&[]))
            .with_no_client_auth();
        let unverified = builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(NoVerification(provider.clone())))
            .with_no_client_auth();
        let with_alpn = |config: &ClientConfig, http2: bool| {
            let mut config = config.clone();
            if http2 {
                config.alpn_protocols.push(b"h2".to_vec());
            }
            config.alpn_protocols.push(b"http/1.1".to_vec());
            Arc::new(config)
        };
        Ok(Self {
            verified: [with_alpn(&verified, false), with_alpn(&verified, true)],
            unverified: [with_alpn(&unverified, false), with_alpn(&unverified, true)],
        })
    }
}

/// For the pool.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    target: Arc<Target>,
    tls: Option<Arc<ClientConfig>>,
}

impl Connector {
    pub(super) fn new(target: Target, configs: &TlsConfigs) -> Self {
        let http2 = usize::from(target.version != Version::Http1);
        let tls = match target.security {
            Security::Plain => None,
            Security::Verified => Some(configs.verified[http2].clone()),
            Security::Unverified => Some(configs.unverified[http2].clone()),
        };
        Self {
            target: Arc::new(target),
            tls,
        }
    }

    async fn connect(self) -> Result<Established, ConnectError> {
        let plain = connect(&self.target).await?.stream;
        let Some(config) = self.tls else {
            return Ok(Established {
                io: TokioIo::new(plain),
                http2: false,
            });
        };
        let place = self.target.place.to_string();
        let name = server_name(&self.target.place)
            .ok_or_else(|| ConnectError::Io(place.clone(), io::Error::other("no name to verify")))?;
        let handshake = tokio_rustls::TlsConnector::from(config).connect(name, plain);
        let tls = tokio::time::timeout(self.target.connect_timeout, handshake)
            .await
            .map_err(|_| ConnectError::Timeout(place.clone()))?
            .map_err(|e| ConnectError::Io(place, e))?;
        let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Established {
            io: TokioIo::new(Box::new(tls)),
            http2,
        })
    }
}

fn server_name(place: &Place) -> Option<ServerName<'static>> {
    match place {
        Place::Addresses(addresses) => Some(ServerName::IpAddress(addresses.first()?.ip().into())),
        Place::Host(host) => {
            let (name, _port) = host.rsplit_once(':')?;
            let bare = name.trim_start_matches('[').trim_end_matches(']');
            ServerName::try_from(bare.to_owned()).ok()
        }
        Place::Unix(_) => None,
    }
}

impl tower::Service<http::Uri> for Connector {
    type Response = Established;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<Established, ConnectError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    /// The URI has the client's authority and doesn't decide where we connect.
    fn call(&mut self, _uri: http::Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// A connection for the pool.
pub(super) struct Established {
    io: TokioIo<Stream>,
    http2: bool,
}

impl Connection for Established {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if self.http2 {
            connected.negotiated_h2()
        } else {
            connected
        }
    }
}

impl hyper::rt::Read for Established {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Established {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

/// `https+insecure`: the user has asked for encryption without authentication.
#[derive(Debug)]
struct NoVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
