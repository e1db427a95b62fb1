//! Funnel: listeners that the internet reaches (Go: `tsnet.Server.ListenFunnel`, `ipn/serve.go`).
//!
//! A client on the internet asks a Funnel ingress node of the coordination service for this node's name; the ingress
//! node passes the undecrypted bytes on through our PeerAPI. TLS ends here: the ingress node sees no plaintext.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use parking_lot::RwLock;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{mpsc, watch},
};

use crate::{
    control::LocalState,
    engine::{TcpListener, TcpStream},
    netmap::Netmap,
    peerapi::request::Ingress,
    tls_listener::Sender,
    wg::network,
};

mod access;

pub use access::FunnelError;
pub(crate) use access::check;

/// Connections from the internet that wait to be accepted; further ones are refused.
const ACCEPT_QUEUE: usize = 256;

/// From where a Funnel listener takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunnelMode {
    /// From the internet only.
    FunnelOnly,
    /// From the internet and from the tailnet.
    Both,
}

/// Accepts connections from the internet, before TLS.
#[derive(Debug)]
pub struct FunnelListener {
    host: String,
    queue: Option<mpsc::Receiver<FunnelStream>>,
    tailnet: Option<TcpListener>,
    open: Open,
}

impl FunnelListener {
    /// The name that clients ask for: the only one that TLS may be ended for.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.open.port
    }

    /// The next connection; `None` when the node is closed. Cancel safe.
    pub async fn accept(&mut self) -> Option<FunnelStream> {
        loop {
            tokio::select! {
                stream = recv(self.queue.as_mut()), if self.queue.is_some() => match stream {
                    Some(stream) => return Some(stream),
                    None => self.queue = None,
                },
                stream = accept(self.tailnet.as_mut()), if self.tailnet.is_some() => match stream {
                    Some(stream) => return Some(FunnelStream::from_tailnet(stream)),
                    None => self.tailnet = None,
                },
                else => return None,
            }
        }
    }
}

async fn recv(queue: Option<&mut mpsc::Receiver<FunnelStream>>) -> Option<FunnelStream> {
    queue?.recv().await
}

async fn accept(listener: Option<&mut TcpListener>) -> Option<TcpStream> {
    listener?.accept().await
}

/// The Funnel listeners of a node.
#[derive(Debug, Clone)]
pub(crate) struct Funnels {
    ports: Arc<RwLock<Ports>>,
    local: watch::Sender<LocalState>,
}

#[derive(Debug, Default)]
struct Ports {
    queues: BTreeMap<u16, mpsc::Sender<FunnelStream>>,
    /// Funnel may be wanted later.
    prepared: bool,
    closed: bool,
}

/// A port's place among the Funnel listeners.
#[derive(Debug)]
struct Open {
    port: u16,
    funnels: Funnels,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.funnels.change(|ports| drop(ports.queues.remove(&self.port)));
    }
}

impl Funnels {
    pub(crate) fn new(local: watch::Sender<LocalState>) -> Self {
        Self {
            ports: Arc::default(),
            local,
        }
    }

    /// Opens `port` of `host` to the internet, and where `tailnet` is given to the tailnet too.
    pub(crate) fn listen(
        &self,
        host: String,
        port: u16,
        tailnet: Option<TcpListener>,
    ) -> io::Result<FunnelListener> {
        let (sender, queue) = mpsc::channel(ACCEPT_QUEUE);
        self.change(|ports| {
            if ports.closed {
                return Err(io::ErrorKind::NotConnected);
            }
            if ports.queues.contains_key(&port) {
                return Err(io::ErrorKind::AddrInUse);
            }
            ports.queues.insert(port, sender);
            Ok(())
        })?;
        Ok(FunnelListener {
            host,
            queue: Some(queue),
            tailnet,
            open: Open {
                port,
                funnels: self.clone(),
            },
        })
    }

    /// Whether control should prepare Funnel although no listener is open.
    pub(crate) fn prepare(&self, wanted: bool) {
        self.change(|ports| ports.prepared = wanted);
    }

    /// Who takes connections from the internet to `host` and `port`. Only the node's own name is ever on Funnel.
    pub(crate) fn find(&self, netmap: &Netmap, host: &str, port: u16) -> Option<mpsc::Sender<FunnelStream>> {
        let ours = access::host(netmap)?;
        let queue = self.ports.read().queues.get(&port).cloned()?;
        ours.eq_ignore_ascii_case(host).then_some(queue)
    }

    /// Ends all listeners' connections from the internet, now and later.
    pub(crate) fn close(&self) {
        let mut ports = self.ports.write();
        ports.closed = true;
        ports.queues.clear();
    }

    /// Changes the listeners and tells control what became of them.
    fn change<R>(&self, change: impl FnOnce(&mut Ports) -> R) -> R {
        let mut ports = self.ports.write();
        let result = change(&mut ports);
        let enabled = !ports.queues.is_empty();
        // The one implies the other, and Go never sends both.
        let prepare = ports.prepared && !enabled;
        self.local.send_if_modified(|local| {
            let changed = (local.ingress_enabled, local.wire_ingress) != (enabled, prepare);
            (local.ingress_enabled, local.wire_ingress) = (enabled, prepare);
            changed
        });
        result
    }
}

/// A connection from the internet or, where the listener takes these too, from the tailnet; before TLS.
#[derive(Debug)]
pub struct FunnelStream {
    stream: TcpStream,
    /// Bytes that came with the ingress node's request.
    early: Bytes,
    ingress: Option<Ingress>,
}

impl FunnelStream {
    pub(crate) fn from_internet(stream: TcpStream, early: Bytes, ingress: Ingress) -> Self {
        Self {
            stream,
            early,
            ingress: Some(ingress),
        }
    }

    fn from_tailnet(stream: TcpStream) -> Self {
        Self {
            stream,
            early: Bytes::new(),
            ingress: None,
        }
    }

    /// It comes from the internet: nothing is known about who is there.
    pub fn is_funnel(&self) -> bool {
        self.ingress.is_some()
    }

    /// The client: on the internet as the ingress node says, or on the tailnet, authenticated by WireGuard.
    pub fn peer_addr(&self) -> SocketAddr {
        match &self.ingress {
            Some(ingress) => ingress.client,
            None => self.stream.peer_addr(),
        }
    }

    /// Whom a client's connections count for.
    pub(crate) fn sender(&self) -> Sender {
        match &self.ingress {
            Some(ingress) => Sender::Internet(network(ingress.client.ip())),
            None => Sender::Peer(self.stream.peer_key()),
        }
    }

    /// The name that the client asked for, if it comes from the internet.
    pub fn host(&self) -> Option<&str> {
        self.ingress.as_ref().map(|ingress| ingress.host.as_str())
    }

    /// Our address that was reached. From the internet it is the PeerAPI's.
    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr()
    }
}

impl AsyncRead for FunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let len = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early[..len]);
        self.early.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
