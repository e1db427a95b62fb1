//! TLS ended at a listener, with the certificates of the node's names (Go: `tsnet.Server.ListenTLS`).

use std::{
    collections::VecDeque,
    fmt,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ahash::AHashMap;
use parking_lot::Mutex;
use rustls::{ServerConfig, server::Acceptor};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::LazyConfigAcceptor;
pub use tokio_rustls::server::TlsStream;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::{
    cert::{CertStore, Certificate},
    engine::{TcpListener, TcpStream},
    error::Error,
    funnel::{FunnelListener, FunnelStream},
    key::NodePublic,
    netmap::Netmap,
    tls,
};

/// From the connection to the client's first message, and for the rest of the handshake.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at a time. For one more, the oldest of whoever has the most of them ends: nobody keeps others out by
/// connections on which nothing is said.
const MAX_HANDSHAKES: usize = 256;
/// Connections that wait to be accepted.
const ACCEPT_QUEUE: usize = 64;

/// Accepts connections and ends TLS, whose bytes are then read and written in the clear.
///
/// A handshake for a name whose certificate isn't there yet waits until it is issued, up to a minute. Dropping it frees
/// the port at once.
pub struct TlsListener<S> {
    streams: mpsc::Receiver<TlsStream<S>>,
    port: Arc<dyn Close>,
    _task: AbortOnDropHandle<()>,
}

/// Whether there can be a name to end TLS for. Before the first netmap nobody knows.
pub(crate) fn check(netmap: Option<&Netmap>) -> Result<(), Error> {
    match netmap {
        Some(netmap) if netmap.cert_domains.is_empty() => Err(Error::NoHttps),
        _ => Ok(()),
    }
}

/// Which names a listener ends TLS for.
pub(crate) type Names = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Who opens connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Sender {
    /// A node of the tailnet.
    Peer(NodePublic),
    /// Somebody on the internet.
    Internet(IpAddr),
}

/// Where connections come from.
pub(crate) trait Source: Send + 'static {
    /// What it accepts.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The next one; `None` at the end. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Option<(Sender, Self::Stream)>> + Send;
}

impl Source for TcpListener {
    type Stream = TcpStream;
    async fn next(&mut self) -> Option<(Sender, TcpStream)> {
        let stream = self.accept().await?;
        Some((Sender::Peer(stream.peer_key()), stream))
    }
}

impl Source for FunnelListener {
    type Stream = FunnelStream;
    async fn next(&mut self) -> Option<(Sender, FunnelStream)> {
        let stream = self.accept().await?;
        Some((stream.sender(), stream))
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
        let port = Arc::new(Port(Mutex::new(Some(source))));
        let run = run(port.clone(), handshakes, sender);
        let source = port.clone();
        // Nobody may be there to take the streams: the node's end doesn't wait for that.
        let task = async move {
            closed.run_until_cancelled(run).await;
            source.close();
        };
        Self {
            streams,
            port,
            _task: AbortOnDropHandle::new(tasks.spawn(task)),
        }
    }

    /// The next connection after its handshake; `None` when the node is closed. Failed handshakes are logged and
    /// passed over. Cancel safe.
    pub async fn accept(&mut self) -> Option<TlsStream<S>> {
        self.streams.recv().await
    }
}

impl<S> Drop for TlsListener<S> {
    fn drop(&mut self) {
        self.port.close();
    }
}

impl<S> fmt::Debug for TlsListener<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsListener").finish_non_exhaustive()
    }
}

/// A source until it is closed: a task that is aborted may hold its own for some time yet.
struct Port<T>(Mutex<Option<T>>);

impl<T: Source> Port<T> {
    async fn next(&self) -> Option<(Sender, T::Stream)> {
        poll_fn(|cx| match &mut *self.0.lock() {
            Some(source) => pin!(source.next()).poll(cx),
            None => Poll::Ready(None),
        })
        .await
    }
}

trait Close: Send + Sync {
    fn close(&self);
}

impl<T: Send> Close for Port<T> {
    fn close(&self) {
        let source = self.0.lock().take();
        drop(source);
    }
}

async fn run<T: Source>(
    port: Arc<Port<T>>,
    handshakes: Arc<Handshakes>,
    streams: mpsc::Sender<TlsStream<T::Stream>>,
) {
    let mut running = JoinSet::new();
    // Oldest first.
    let mut senders: VecDeque<(Sender, AbortHandle)> = VecDeque::new();
    let mut finished: Option<TlsStream<T::Stream>> = None;
    loop {
        // A connection whose handshake is done is never given up for another: while it waits, none is begun.
        tokio::select! {
            biased;
            room = streams.reserve(), if finished.is_some() => match (room, finished.take()) {
                (Ok(room), Some(stream)) => room.send(stream),
                _ => return,
            },
            Some(ended) = running.join_next_with_id(), if finished.is_none() => {
                let (id, stream) = match ended {
                    Ok((id, stream)) => (id, stream),
                    Err(error) => (error.id(), None),
                };
                senders.retain(|(_, task)| task.id() != id);
                finished = stream;
            }
            next = port.next(), if finished.is_none() => {
                let Some((sender, stream)) = next else { break };
                if senders.len() == MAX_HANDSHAKES {
                    end_one(&mut senders);
                }
                let handshakes = handshakes.clone();
                let task = running.spawn(async move {
                    let done = handshakes.finish(stream).await;
                    done.inspect_err(|error| tracing::debug!(%error, "TLS handshake failed")).ok()
                });
                senders.push_back((sender, task));
            }
        }
    }
    while let Some(ended) = running.join_next().await {
        if let Ok(Some(stream)) = ended
            && streams.send(stream).await.is_err()
        {
            return;
        }
    }
}

/// Ends the oldest handshake of whoever has the most.
fn end_one(senders: &mut VecDeque<(Sender, AbortHandle)>) {
    let mut counts: AHashMap<Sender, usize> = AHashMap::new();
    for (sender, _) in &*senders {
        *counts.entry(*sender).or_default() += 1;
    }
    let most = counts.values().max();
    let oldest = senders.iter().position(|(sender, _)| counts.get(sender) == most);
    if let Some((sender, task)) = oldest.and_then(|at| senders.remove(at)) {
        tracing::debug!(?sender, "Too many TLS handshakes; the oldest is ended");
        task.abort();
    }
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
    use std::net::Ipv4Addr;

    use rustls::RootCertStore;
    use rustls_pki_types::ServerName;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        cert::SetDns,
        control::ControlError,
        key::NodePrivate,
        netmap::Merger,
        proxy::Outbound,
        state::{MemoryStore, StateStore},
        tailcfg::MapResponse,
    };

    const NAME: &str = "web.example.ts.net";

    const GREEDY: Sender = Sender::Internet(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    const HONEST: Sender = Sender::Internet(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)));
    const PATIENCE: Duration = Duration::from_secs(20);

    type Connection = (Sender, DuplexStream);

    impl Source for mpsc::Receiver<Connection> {
        type Stream = DuplexStream;
        fn next(&mut self) -> impl Future<Output = Option<Connection>> + Send {
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

    /// A listener with what is around it.
    struct World {
        listener: TlsListener<DuplexStream>,
        connections: mpsc::Sender<Connection>,
        connector: tokio_rustls::TlsConnector,
        tasks: TaskTracker,
        cancel: CancellationToken,
    }

    impl World {
        async fn start() -> Self {
            let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
            let key = made.signing_key.serialize_pem().into_bytes();
            let pair = [
                (format!("{NAME}.crt"), made.cert.pem().into_bytes()),
                (format!("{NAME}.key"), key),
            ];
            let store = Arc::new(MemoryStore::default());
            store.write(pair.into()).await.unwrap();
            let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
            let certs = CertStore::new(
                store,
                Arc::new(NoDns),
                "https://127.0.0.1:1/dir".to_owned(),
                Outbound::default(),
                &tasks,
                cancel.clone(),
            );
            let (connections, source) = mpsc::channel(1);
            let names: Names = Arc::new(|name: &str| name == NAME);
            let mut roots = RootCertStore::empty();
            roots.add(made.cert.der().clone()).unwrap();
            Self {
                listener: TlsListener::new(source, names, certs, &tasks),
                connections,
                connector: tls::client_config(roots).into(),
                tasks,
                cancel,
            }
        }

        /// Opens a connection, on which nothing is said yet.
        async fn open(&self, sender: Sender) -> DuplexStream {
            let (near, far) = tokio::io::duplex(1 << 14);
            let taken = timeout(PATIENCE, self.connections.send((sender, far)));
            taken.await.expect("it is taken").unwrap();
            near
        }

        async fn shake_hands(&self, near: DuplexStream) -> tokio_rustls::client::TlsStream<DuplexStream> {
            let name = ServerName::try_from(NAME).unwrap();
            let done = timeout(PATIENCE, self.connector.connect(name, near));
            done.await.expect("there is an answer").unwrap()
        }
    }

    #[tokio::test]
    async fn connections_that_nobody_accepts_do_not_hold_up_the_end() {
        let mut world = World::start().await;
        let mut clients = Vec::new();
        for _ in 0..ACCEPT_QUEUE + 1 {
            let near = world.open(HONEST).await;
            clients.push(world.shake_hands(near).await);
        }
        let full = async {
            while world.listener.streams.len() < ACCEPT_QUEUE {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, full).await.expect("the queue is full");

        world.cancel.cancel();
        world.tasks.close();
        timeout(PATIENCE, world.tasks.wait())
            .await
            .expect("no task is left");
        while world.listener.accept().await.is_some() {}
    }

    #[tokio::test]
    async fn silent_connections_keep_nobody_else_out() {
        let mut world = World::start().await;
        let mut silent = Vec::new();
        for _ in 0..MAX_HANDSHAKES {
            silent.push(world.open(GREEDY).await);
        }
        // Its own first connection has to go, the honest one's has not, however many more there are.
        let honest = world.open(HONEST).await;
        let ended = timeout(HELLO_TIMEOUT / 2, silent[0].read_u8()).await;
        assert!(ended.expect("the oldest is ended at once").is_err());
        for _ in 0..MAX_HANDSHAKES + 10 {
            silent.push(world.open(GREEDY).await);
        }
        let mut honest = world.shake_hands(honest).await;
        let mut accepted = timeout(PATIENCE, world.listener.accept()).await.unwrap().unwrap();
        accepted.write_all(b"x").await.unwrap();
        assert_eq!(honest.read_u8().await.unwrap(), b'x');
    }

    #[test]
    fn without_https_the_tailnet_has_nothing_to_end_tls_with() {
        let of = |domains: &[&str]| {
            let key = NodePrivate::generate().unwrap().public();
            let map = json!({"Node": {"ID": 1, "Key": key}, "DNSConfig": {"CertDomains": domains}});
            let map = MapResponse::from_json(map.to_string().as_bytes()).unwrap();
            Merger::default()
                .apply(map, jiff::Timestamp::now())
                .unwrap()
                .unwrap()
        };
        assert!(check(None).is_ok());
        assert!(check(Some(&of(&[NAME]))).is_ok());
        let error = check(Some(&of(&[]))).unwrap_err();
        assert!(error.to_string().contains("enable HTTPS"));
    }

    #[tokio::test]
    async fn a_port_is_free_as_soon_as_its_listener_is_dropped() {
        let world = World::start().await;
        let _silent = world.open(HONEST).await;
        drop(world.listener);
        assert!(world.connections.is_closed());
    }
}
