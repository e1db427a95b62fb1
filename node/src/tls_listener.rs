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
    _task: AbortOnDropHandle<Option<()>>,
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
        let closed = certs.cancellation();
        let handshakes = Arc::new(Handshakes {
            names,
            certs,
            config: Mutex::default(),
        });
        // Nobody may be there to take the streams: the node's end doesn't wait for that.
        let task = async move { closed.run_until_cancelled(run(source, handshakes, sender)).await };
        Self {
            streams,
            _task: AbortOnDropHandle::new(tasks.spawn(task)),
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

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls_pki_types::ServerName;
    use tokio::io::DuplexStream;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        cert::SetDns,
        control::ControlError,
        proxy::Outbound,
        state::{MemoryStore, StateStore},
    };

    const NAME: &str = "web.example.ts.net";

    impl Source for mpsc::Receiver<DuplexStream> {
        type Stream = DuplexStream;
        fn next(&mut self) -> impl Future<Output = Option<DuplexStream>> + Send {
            self.recv()
        }
    }

    struct NoDns;

    impl SetDns for NoDns {
        fn set_dns<'a>(
            &'a self,
            _: &'a str,
            _: &'a str,
        ) -> Pin<Box<dyn Future<Output = Result<(), ControlError>> + Send + 'a>> {
            Box::pin(async { Err(ControlError::NoSession) })
        }
    }

    #[tokio::test]
    async fn connections_that_nobody_accepts_do_not_hold_up_the_end() {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let store = Arc::new(MemoryStore::default());
        let pair = [
            (format!("{NAME}.crt"), made.cert.pem().into_bytes()),
            (
                format!("{NAME}.key"),
                made.signing_key.serialize_pem().into_bytes(),
            ),
        ];
        store.write(pair.into()).await.unwrap();
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let directory = "https://127.0.0.1:1/dir".to_owned();
        let outbound = Outbound::default();
        let certs = CertStore::new(
            store,
            Arc::new(NoDns),
            directory,
            outbound,
            &tasks,
            cancel.clone(),
        );
        let (connections, source) = mpsc::channel(1);
        let mut listener = TlsListener::new(source, Arc::new(|name: &str| name == NAME), certs, &tasks);

        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let connector = tokio_rustls::TlsConnector::from(tls::client_config(roots));
        let mut clients = Vec::new();
        for _ in 0..ACCEPT_QUEUE + 3 {
            let (near, far) = tokio::io::duplex(1 << 14);
            connections.send(far).await.unwrap();
            let name = ServerName::try_from(NAME).unwrap();
            clients.push(connector.connect(name, near).await.unwrap());
        }
        let full = async {
            while listener.streams.len() < ACCEPT_QUEUE {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), full)
            .await
            .expect("the queue is full");

        drop(connections);
        cancel.cancel();
        tasks.close();
        timeout(Duration::from_secs(20), tasks.wait())
            .await
            .expect("no task is left");
        while listener.accept().await.is_some() {}
    }
}
