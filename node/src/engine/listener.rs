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

/// Address (`None`: all own ones) and port.
type Place = (Option<IpAddr>, u16);

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
        self.listeners.remove(self.place);
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

    pub(super) fn add(self: &Arc<Self>, addr: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
        let place = (addr, port);
        let mut listeners = self.0.write();
        let listeners = listeners.as_mut().ok_or_else(closed)?;
        if listeners.contains_key(&place) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (sender, queue) = mpsc::channel(ACCEPT_QUEUE);
        listeners.insert(place, sender);
        Ok(TcpListener {
            queue,
            place,
            listeners: self.clone(),
        })
    }

    /// The listener for connections to `to`: the one on exactly this address comes first.
    pub(super) fn get(&self, to: SocketAddr) -> Option<mpsc::Sender<TcpStream>> {
        let listeners = self.0.read();
        let listeners = listeners.as_ref()?;
        listeners
            .get(&(Some(to.ip()), to.port()))
            .or_else(|| listeners.get(&(None, to.port())))
            .cloned()
    }

    /// Somebody listens on this very address: it is one of ours even if the netmap doesn't list it as the
    /// node's (a Tailscale Service's).
    pub(super) fn has_address(&self, ip: IpAddr) -> bool {
        self.0
            .read()
            .as_ref()
            .is_some_and(|l| l.keys().any(|(addr, _)| *addr == Some(ip)))
    }

    /// Ends all `accept`s, now and later.
    pub(super) fn close(&self) {
        *self.0.write() = None;
    }

    fn remove(&self, place: Place) {
        if let Some(listeners) = self.0.write().as_mut() {
            listeners.remove(&place);
        }
    }
}

pub(super) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the node is closed")
}
