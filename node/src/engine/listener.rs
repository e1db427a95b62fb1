//! Who accepts connections on which address and port.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ahash::AHashMap;
use parking_lot::RwLock;
use tokio::sync::mpsc;

use super::TcpStream;

/// Established connections that wait to be accepted; beyond it no SYN is answered.
const ACCEPT_QUEUE: usize = 256;

/// What a listener takes connections to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Bind {
    /// All of the node's own addresses.
    Own,
    /// This address.
    Addr(IpAddr),
    /// The addresses of a Tailscale Service, whichever they are when a connection comes.
    Service(Arc<str>),
}

/// Where, and the port.
type Place = (Bind, u16);

/// What becomes of somebody who opens a connection.
pub(super) enum Door {
    /// It goes to this listener.
    Open(mpsc::Sender<TcpStream>),
    /// Nobody listens: the SYN is refused.
    Closed,
    /// A service that we host no more. The SYN is dropped: repeated, it finds the host that has taken over.
    Moved,
}

/// A listener on this port of the own addresses takes what has no listener of its own.
const ANY_PORT: u16 = 0;

/// Accepts connections.
pub struct TcpListener {
    queue: mpsc::Receiver<TcpStream>,
    place: Place,
    listeners: Arc<Listeners>,
}

impl TcpListener {
    /// The next established connection; `None` when the node is closed. Cancel safe.
    pub async fn accept(&mut self) -> Option<TcpStream> {
        self.queue.recv().await
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.listeners.remove(&self.place);
    }
}

impl std::fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpListener")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// All listeners of a node; `None` once it is closed.
pub(super) struct Listeners(RwLock<Option<AHashMap<Place, mpsc::Sender<TcpStream>>>>);

impl Listeners {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(RwLock::new(Some(AHashMap::default()))))
    }

    pub(super) fn add(self: &Arc<Self>, bind: Bind, port: u16) -> io::Result<TcpListener> {
        let place = (bind, port);
        let mut listeners = self.0.write();
        let listeners = listeners.as_mut().ok_or_else(closed)?;
        if listeners.contains_key(&place) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (sender, queue) = mpsc::channel(ACCEPT_QUEUE);
        listeners.insert(place.clone(), sender);
        Ok(TcpListener {
            queue,
            place,
            listeners: self.clone(),
        })
    }

    /// Who takes connections to `to`, which may be an address of `service`: the listener on exactly this address
    /// comes first. A service's ports are its own: what listens on the node's addresses is not reached by it.
    pub(super) fn door(&self, to: SocketAddr, service: Option<&Arc<str>>) -> Door {
        let listeners = self.0.read();
        let Some(listeners) = listeners.as_ref() else {
            return Door::Closed;
        };
        let bind = service.map_or(Bind::Own, |name| Bind::Service(name.clone()));
        let found = listeners
            .get(&(Bind::Addr(to.ip()), to.port()))
            .or_else(|| listeners.get(&(bind.clone(), to.port())))
            .or_else(|| {
                listeners
                    .get(&(Bind::Own, ANY_PORT))
                    .filter(|_| service.is_none())
            });
        match found {
            Some(listener) => Door::Open(listener.clone()),
            None if service.is_none() || listeners.keys().any(|(at, _)| *at == bind) => Door::Closed,
            None => Door::Moved,
        }
    }

    /// Somebody listens on this very address: it is one of ours even if the netmap doesn't list it as the
    /// node's (a Tailscale Service's).
    pub(super) fn has_address(&self, ip: IpAddr) -> bool {
        self.0
            .read()
            .as_ref()
            .is_some_and(|l| l.keys().any(|(at, _)| *at == Bind::Addr(ip)))
    }

    /// Ends all `accept`s, now and later.
    pub(super) fn close(&self) {
        *self.0.write() = None;
    }

    fn remove(&self, place: &Place) {
        if let Some(listeners) = self.0.write().as_mut() {
            listeners.remove(place);
        }
    }
}

pub(super) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the node is closed")
}
