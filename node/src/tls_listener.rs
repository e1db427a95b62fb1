//! TLS ended at a listener, with the certificates of the node's names (Go: `tsnet.Server.ListenTLS`).

use std::{
    fmt,
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use rustls::{ServerConfig, server::Acceptor};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::LazyConfigAcceptor;
pub use tokio_rustls::server::TlsStream;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::{
    cert::CertStore,
    engine::{TcpListener, TcpStream},
    funnel::{FunnelListener, FunnelStream},
    node::Certificate,
    tls,
};

/// From the connection to the client's first message, and for the rest of the handshake.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at a time; further connections wait in the listener's queue.
const MAX_HANDSHAKES: usize = 256;
/// Connections that wait to be accepted.
const ACCEPT_QUEUE: usize = 64;

/// Accepts connections and ends TLS, whose bytes are then read and written in the clear.
///
/// A handshake for a name whose certificate isn't there yet waits until it is issued, up to a minute.
pub struct TlsListener<S> {
    streams: mpsc::Receiver<TlsStream<S>>,
    _task: AbortOnDropHandle<()>,
}

/// Which names a listener ends TLS for.
pub(crate) type Names = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Where connections come from.
pub(crate) trait Source: Send + 'static {
    /// What it accepts.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The next one; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Option<Self::Stream>> + Send;
}

impl Source for TcpListener {
    type Stream = TcpStream;
    fn next(&mut self) -> impl Future<Output = Option<TcpStream>> + Send {
        self.accept()
    }
}

impl Source for FunnelListener {
    type Stream = FunnelStream;
    fn next(&mut self) -> impl Future<Output = Option<FunnelStream>> + Send {
        self.accept()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsListener<S> {
    pub(crate) fn new(
        source: impl Source<Stream = S>,
        names: Names,
        certs: CertStore,
        tasks: &TaskTracker,
    ) -> Self {
        let (sender, streams) = mpsc::channel(ACCEPT_QUEUE);
        let handshakes = Arc::new(Handshakes {
            names,
            certs,
            config: Mutex::default(),
        });
        Self {
            streams,
            _task: AbortOnDropHandle::new(tasks.spawn(run(source, handshakes, sender))),
        }
    }

    /// The next connection after its handshake; `None` when the node is closed. Failed handshakes are logged and
    /// passed over. Cancel safe.
    pub async fn accept(&mut self) -> Option<TlsStream<S>> {
        self.streams.recv().await
    }
}

impl<S> fmt::Debug for TlsListener<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsListener").finish_non_exhaustive()
    }
}

async fn run<T: Source>(
    mut source: T,
    handshakes: Arc<Handshakes>,
    sender: mpsc::Sender<TlsStream<T::Stream>>,
) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            stream = source.next(), if running.len() < MAX_HANDSHAKES => {
                let Some(stream) = stream else { break };
                let (handshakes, sender) = (handshakes.clone(), sender.clone());
                running.spawn(async move {
                    match handshakes.finish(stream).await {
                        Ok(stream) => drop(sender.send(stream).await),
                        Err(error) => tracing::debug!(%error, "TLS handshake failed"),
                    }
                });
            }
            Some(_) = running.join_next() => {}
        }
    }
    while running.join_next().await.is_some() {}
}

struct Handshakes {
    names: Names,
    certs: CertStore,
    /// Of the certificate that was used last: it keeps the keys of session tickets.
    config: Mutex<Option<(Arc<Certificate>, Arc<ServerConfig>)>>,
}

impl Handshakes {
    async fn finish<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let start = timeout(HELLO_TIMEOUT, hello).await??;
        let name = start.client_hello().server_name().map(str::to_ascii_lowercase);
        let name = name.ok_or_else(|| io::Error::other("the client names no server"))?;
        let name = name.trim_end_matches('.');
        if !(self.names)(name) {
            return Err(io::Error::other(format!("{name:?} is not served here")));
        }
        // It has a limit of its own.
        let certificate = self.certs.get(name).await.map_err(io::Error::other)?;
        let config = self.config(certificate).map_err(io::Error::other)?;
        timeout(HELLO_TIMEOUT, start.into_stream(config)).await?
    }

    fn config(&self, certificate: Arc<Certificate>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut known = self.config.lock();
        if let Some((of, config)) = &*known
            && Arc::ptr_eq(of, &certificate)
        {
            return Ok(config.clone());
        }
        let config = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(certificate.chain.clone(), certificate.key.clone_key())?;
        let config = Arc::new(config);
        *known = Some((certificate, config.clone()));
        Ok(config)
    }
}

/// A stream with TLS ended here, or as it came.
#[derive(Debug)]
pub enum MaybeTls<S> {
    /// As it came.
    Plain(S),
    /// What was inside of TLS.
    Tls(Box<TlsStream<S>>),
}

impl<S> MaybeTls<S> {
    /// The connection below.
    pub fn get_ref(&self) -> &S {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for MaybeTls<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MaybeTls<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
