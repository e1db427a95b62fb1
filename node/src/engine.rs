//! The data plane: one task that owns the UDP socket, decrypts, filters, demultiplexes to flows and runs
//! the timers. The connection that writes does its own TCP egress and sealing, under its flow's lock.
//! (Design H of the measured prototype; `current_thread` runtimes are what it is made for.)

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    control::LocalState,
    key::{DiscoPrivate, NodePrivate, NodePublic},
    magicsock::Path,
    netmap::Netmap,
    state::HandOver,
};

/// How to start the data plane.
#[derive(Debug)]
pub struct EngineConfig {
    /// The WireGuard key.
    pub node_key: NodePrivate,
    /// The disco key (kept over restarts).
    pub disco_key: DiscoPrivate,
    /// UDP port to bind; 0: any. Taken from the hand-over state where the user names none; when it is
    /// taken, any other is used.
    pub udp_port: u16,
    /// Announced as they are.
    pub static_endpoints: Vec<SocketAddr>,
    /// Never use UDP.
    pub derp_only: bool,
    /// Trusted by TLS to relays.
    pub roots: Arc<rustls::RootCertStore>,
    /// What the predecessor left.
    pub hand_over: HandOver,
}

/// A handle on the data plane. Clones share it.
#[derive(Clone)]
pub struct Engine {
    // filled in by the implementation
}

impl Engine {
    /// Binds the socket and starts the engine's task on the current runtime, owned by `tasks` and ended by
    /// `cancel`. Until the first netmap nothing is accepted. What it learns about the network goes to `local`
    /// (fields `disco`, `endpoints`, `net_info`).
    ///
    /// # Errors
    /// When no UDP socket can be had.
    pub fn start(
        _config: EngineConfig,
        _netmap: watch::Receiver<Option<Arc<Netmap>>>,
        _local: watch::Sender<LocalState>,
        _tasks: &TaskTracker,
        _cancel: CancellationToken,
    ) -> std::io::Result<Self> {
        Err(std::io::Error::other("not there yet"))
    }

    /// Accepts TCP connections to `port` on all own addresses (`addr` `None`) or on one address, which may be
    /// a Tailscale Service's. Several listeners on one (address, port) are refused.
    ///
    /// # Errors
    /// `AddrInUse`.
    pub fn listen(&self, _addr: Option<IpAddr>, _port: u16) -> std::io::Result<TcpListener> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Opens a TCP connection to a tailnet address.
    ///
    /// # Errors
    /// As `connect(2)`: refused, timed out (10 s), unreachable (no peer has this address).
    pub async fn dial(&self, _to: SocketAddr) -> std::io::Result<TcpStream> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// How a peer is reached at the moment.
    pub fn path(&self, _peer: &NodePublic) -> Path {
        Path::None
    }

    /// What a successor needs, as of now.
    pub fn hand_over(&self) -> HandOver {
        HandOver::default()
    }

    /// The node logged in with a new key: WireGuard and relays start over with it.
    pub fn set_node_key(&self, _key: NodePrivate) {}
}

/// Accepts connections.
#[derive(Debug)]
pub struct TcpListener {
    // filled in by the implementation
}

impl TcpListener {
    /// The next established connection; `None` when the node is closed. Cancel safe.
    pub async fn accept(&mut self) -> Option<TcpStream> {
        None
    }
}

/// A TCP connection over the tailnet.
#[derive(Debug)]
pub struct TcpStream {
    // filled in by the implementation; implements AsyncRead + AsyncWrite with half-close
}

impl TcpStream {
    /// Our side.
    pub fn local_addr(&self) -> SocketAddr {
        SocketAddr::from(([0, 0, 0, 0], 0))
    }

    /// The peer's side: its tailnet address, authenticated by WireGuard.
    pub fn peer_addr(&self) -> SocketAddr {
        SocketAddr::from(([0, 0, 0, 0], 0))
    }

    /// The peer's WireGuard key.
    pub fn peer_key(&self) -> NodePublic {
        NodePublic::from_bytes([0; 32])
    }
}
