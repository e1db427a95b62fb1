//! UDP over the tailnet: sockets, and which datagrams are answers (Go: `tsnet.Server.ListenPacket`).

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ahash::AHashMap;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::{DropReason, EPHEMERAL_PORTS, listener::closed, shared::Shared};
use crate::{
    filter::Inbound,
    netstack::udp::{self, Datagram},
};

/// Datagrams that wait to be read; further ones are dropped and counted.
const RECEIVE_QUEUE: usize = 256;
/// Conversations that we started and whose answers are let in (Go: `filter.lruMax`).
const MAX_STARTED: usize = 512;

/// A UDP socket on the tailnet.
///
/// Datagrams up to [`UdpSocket::MAX_PAYLOAD`] bytes are never fragmented; larger ones are refused. What waits to be
/// read is bounded: datagrams that come faster than they are read are lost, as with any UDP.
pub struct UdpSocket {
    shared: Arc<Shared>,
    local: SocketAddr,
    remote: Option<SocketAddr>,
    queue: tokio::sync::Mutex<mpsc::Receiver<Datagram>>,
}

impl UdpSocket {
    /// What fits into a datagram of either family, in bytes.
    pub const MAX_PAYLOAD: usize = 1232;

    pub(super) fn bind(
        shared: &Arc<Shared>,
        local: SocketAddr,
        remote: Option<SocketAddr>,
    ) -> io::Result<Self> {
        let view = shared.view.load_full();
        if !local.ip().is_unspecified() && !view.is_some_and(|view| view.is_ours(local.ip())) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let (local, queue) = shared.packets.bind(local)?;
        Ok(Self {
            shared: shared.clone(),
            local,
            remote,
            queue: queue.into(),
        })
    }

    /// Where it is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whom it talks to alone.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// The next datagram: its length and its sender, authenticated by WireGuard. What doesn't fit into `buf` is
    /// lost. Cancel safe.
    ///
    /// # Errors
    /// `NotConnected` once the node is closed.
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let mut queue = self.queue.lock().await;
        loop {
            let datagram = queue.recv().await.ok_or_else(closed)?;
            if self.remote.is_some_and(|remote| remote != datagram.from) {
                continue;
            }
            let len = datagram.payload.len().min(buf.len());
            buf[..len].copy_from_slice(&datagram.payload[..len]);
            return Ok((len, datagram.from));
        }
    }

    /// The next datagram of the only peer. Cancel safe.
    ///
    /// # Errors
    /// As [`UdpSocket::recv_from`].
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.recv_from(buf).await?.0)
    }

    /// Sends a datagram. It is queued at once; whether it arrives nobody knows.
    ///
    /// # Errors
    /// `InvalidInput` when it is too large or of another family, `HostUnreachable` when nobody has the address,
    /// `AddrNotAvailable` when our address is no longer ours, `NotConnected` once the node is closed.
    pub fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        let shared = &self.shared;
        if shared.is_closed() {
            return Err(closed());
        }
        let unreachable = || io::Error::from(io::ErrorKind::HostUnreachable);
        let view = shared.view.load_full().ok_or_else(unreachable)?;
        let from = match self.local.ip() {
            ip if ip.is_unspecified() => view.source_for(to.ip()),
            ip => Some(ip).filter(|ip| view.is_ours(*ip)),
        };
        let from = SocketAddr::new(from.ok_or(io::ErrorKind::AddrNotAvailable)?, self.local.port());
        let packet = udp::packet(from, to, payload).ok_or_else(|| {
            let most = udp::max_payload(to.ip());
            let why = format!(
                "a datagram from {from} to {to} holds at most {most} bytes, not {}",
                payload.len()
            );
            io::Error::new(io::ErrorKind::InvalidInput, why)
        })?;
        // A Service's go to its other host while nobody has a socket for it here, as connections do.
        if view.is_own(to.ip()) || (view.service(to.ip()).is_some() && shared.packets.takes(to)) {
            // Straight into the socket's queue, which bounds what waits.
            let payload = Bytes::copy_from_slice(payload);
            let len = payload.len();
            if let Err(reason) = shared.packets.deliver(Datagram { from, to, payload }) {
                shared.stats.count_drop(reason);
            }
            return Ok(len);
        }
        let node = view.peer_for(to.ip()).ok_or_else(unreachable)?;
        let node = view.peer(&node.key).ok_or_else(unreachable)?;
        shared.packets.note_started(from, to, shared.now().total_millis());
        shared.send(&shared.peers.peer(&node), vec![packet]);
        Ok(payload.len())
    }

    /// Sends a datagram to the only peer.
    ///
    /// # Errors
    /// As [`UdpSocket::send_to`]; `NotConnected` when the socket has no only peer.
    pub fn send(&self, payload: &[u8]) -> io::Result<usize> {
        let to = self.remote.ok_or(io::ErrorKind::NotConnected)?;
        self.send_to(payload, to)
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.shared.packets.release(self.local);
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket")
            .field("local", &self.local)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// The sockets of a node by where they are bound.
type Sockets = AHashMap<SocketAddr, mpsc::Sender<Datagram>>;

/// All UDP sockets of a node.
#[derive(Default)]
pub(super) struct Packets {
    sockets: RwLock<Sockets>,
    /// When we last sent from the one address to the other.
    started: Mutex<AHashMap<(SocketAddr, SocketAddr), i64>>,
}

impl Packets {
    fn bind(&self, local: SocketAddr) -> io::Result<(SocketAddr, mpsc::Receiver<Datagram>)> {
        let mut sockets = self.sockets.write();
        let local = match local.port() {
            0 => (0..64)
                .map(|_| SocketAddr::new(local.ip(), fastrand::u16(EPHEMERAL_PORTS)))
                .find(|local| !sockets.contains_key(local))
                .ok_or(io::ErrorKind::AddrNotAvailable)?,
            _ => local,
        };
        if sockets.contains_key(&local) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (sender, queue) = mpsc::channel(RECEIVE_QUEUE);
        sockets.insert(local, sender);
        Ok((local, queue))
    }

    fn release(&self, local: SocketAddr) {
        self.sockets.write().remove(&local);
    }

    /// Remembers whom we talk to; the conversation that was silent longest is forgotten for a new one.
    fn note_started(&self, from: SocketAddr, to: SocketAddr, now: i64) {
        let mut started = self.started.lock();
        if started.len() >= MAX_STARTED && !started.contains_key(&(from, to)) {
            let oldest = started.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key);
            oldest.and_then(|key| started.remove(&key));
        }
        started.insert((from, to), now);
    }

    /// We talked to its sender first: the packet filter lets the answer in.
    pub(super) fn is_answer(&self, datagram: &Inbound) -> bool {
        self.started.lock().contains_key(&(datagram.dst, datagram.src))
    }

    /// Hands over to whom it is for.
    pub(super) fn deliver(&self, datagram: Datagram) -> Result<(), DropReason> {
        let sockets = self.sockets.read();
        let socket = socket_at(&sockets, datagram.to).ok_or(DropReason::NoSocket)?;
        socket.try_send(datagram).map_err(|_| DropReason::PacketQueueFull)
    }

    /// A socket takes what is for this address.
    fn takes(&self, to: SocketAddr) -> bool {
        socket_at(&self.sockets.read(), to).is_some()
    }

    /// Ends all sockets.
    pub(super) fn close(&self) {
        self.sockets.write().clear();
    }
}

/// The one on this very address, else the one on all of the family.
fn socket_at(sockets: &Sockets, to: SocketAddr) -> Option<&mpsc::Sender<Datagram>> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    sockets.get(&to).or_else(|| sockets.get(&(any, to.port()).into()))
}
