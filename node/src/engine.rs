//! The data plane: one task that owns the UDP socket, decrypts, filters, demultiplexes to flows and runs
//! the timers. The connection that writes does its own TCP egress and sealing, under its flow's lock.
//! (Design H of the measured prototype; `current_thread` runtimes are what it is made for.)

use std::{
    collections::BTreeSet,
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    flow::{Conn, Flow, Stage},
    listener::{Bind, Door, closed},
    shared::Shared,
    task::Task,
    view::View,
};
pub use self::{
    listener::TcpListener,
    packet::UdpSocket,
    ping::{PingKind, Pong},
    stats::{DropReason, Stats},
    stream::TcpStream,
};
use crate::{
    control::LocalState,
    derp::DerpClients,
    key::{DiscoPrivate, NodePrivate, NodePublic},
    magicsock::{Magicsock, MagicsockConfig, Path},
    netmap::Netmap,
    netstack::{
        packet::FlowKey,
        tcp::{Share, Tcp},
    },
    proxy::Outbound,
    state::HandOver,
    udp::{Udp, UdpReceiver},
};

mod flow;
mod inbound;
mod listener;
mod packet;
mod ping;
mod resolver;
mod shared;
mod stats;
mod stream;
mod tai64n;
mod task;
mod view;
mod wheel;

/// A connection that we open has to be up within this time.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Local ports of connections that we open.
const EPHEMERAL_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;
/// Events of relays that wait for the engine.
const DERP_QUEUE: usize = 1024;
/// Peers that a successor greets.
const MAX_RECENT_PEERS: usize = 256;

/// How to start the data plane.
#[derive(Debug)]
pub struct EngineConfig {
    /// The WireGuard key.
    pub node_key: NodePrivate,
    /// UDP port to bind; 0: the one of the predecessor, else any. When it is taken, any other is used.
    pub udp_port: u16,
    /// Announced as they are.
    pub static_endpoints: Vec<SocketAddr>,
    /// Never use UDP.
    pub derp_only: bool,
    /// The way to relays.
    pub outbound: Outbound,
    /// What the predecessor left.
    pub hand_over: HandOver,
}

impl EngineConfig {
    /// Any UDP port, no predecessor, and nothing in the way.
    pub fn new(node_key: NodePrivate) -> Self {
        Self {
            node_key,
            udp_port: 0,
            static_endpoints: Vec::new(),
            derp_only: false,
            outbound: Outbound::default(),
            hand_over: HandOver::default(),
        }
    }
}

/// What there is to say about the traffic with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// How it is reached.
    pub path: Path,
    /// Bytes of packets sent in its tunnel, since the tunnel was made.
    pub tx_bytes: u64,
    /// Bytes of packets received.
    pub rx_bytes: u64,
    /// When it was sent something last.
    pub last_send: Option<Timestamp>,
    /// When the last handshake ended.
    pub last_handshake: Option<Timestamp>,
    /// It has a tunnel now.
    pub is_live: bool,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            path: Path::None,
            tx_bytes: 0,
            rx_bytes: 0,
            last_send: None,
            last_handshake: None,
            is_live: false,
        }
    }
}

/// A handle on the data plane. Clones share it.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    disco_key: DiscoPrivate,
    /// When our predecessors sent their newest handshake initiation.
    initiated_before: Option<SystemTime>,
}

impl Engine {
    /// Binds the socket and starts the engine's task on the current runtime, owned by `tasks` and ended by
    /// `cancel`. Until the first netmap nothing is accepted. What it learns about the network goes to `local`
    /// (fields `disco`, `endpoints`, `net_info`); its `peer_api` ports are let in past the packet filter.
    ///
    /// # Errors
    /// When no UDP socket can be had, or no randomness.
    pub fn start(
        config: EngineConfig,
        netmap: watch::Receiver<Option<Arc<Netmap>>>,
        local: watch::Sender<LocalState>,
        tasks: &TaskTracker,
        cancel: CancellationToken,
    ) -> io::Result<Self> {
        let initiated_before = config.hand_over.newest_tai64n.as_deref();
        let initiated_before = initiated_before.and_then(tai64n::decode);
        tai64n::warn_of_a_clock_set_back(initiated_before, SystemTime::now());
        let stats = Arc::<Stats>::default();
        let (udp, receiver) = bind(config.udp_port, config.hand_over.udp_port, &stats)?;
        let addresses = task::interfaces();
        let disco_key = match config.hand_over.disco_key_at(udp.port(), &addresses) {
            Some(key) => key.clone(),
            None => DiscoPrivate::generate()?,
        };
        let paths = MagicsockConfig {
            disco: disco_key.clone(),
            node: config.node_key.public(),
            port: udp.port(),
            static_endpoints: config.static_endpoints,
            derp_only: config.derp_only,
        };
        let disco = disco_key.public();
        local.send_if_modified(|local| local.disco.replace(disco) != Some(disco));
        let shared = Shared::new(
            udp,
            &config.node_key,
            Magicsock::new(paths, Instant::now()),
            local,
            stats,
            config.derp_only,
            config.hand_over.recent_peers,
        );
        let (events, derp_events) = mpsc::channel(DERP_QUEUE);
        let derp = DerpClients::new(
            config.node_key,
            config.outbound,
            events,
            tasks.clone(),
            cancel.clone(),
        );
        let (stun_hosts, hosts_to_find) = watch::channel(Vec::new());
        tasks.spawn(resolver::run(shared.clone(), hosts_to_find, cancel.clone()));
        let task = Task::new(shared.clone(), receiver, derp, derp_events, stun_hosts);
        tasks.spawn(task.run(netmap, cancel));
        Ok(Self {
            shared,
            disco_key,
            initiated_before,
        })
    }

    /// Accepts TCP connections to `port` on all own addresses (`addr` `None`) or on one address, which may be
    /// a Tailscale Service's. Several listeners on one (address, port) are refused. Port 0 of the own addresses
    /// stands for every port that has no other listener.
    ///
    /// # Errors
    /// `AddrInUse`.
    pub fn listen(&self, addr: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
        self.shared
            .listeners
            .add(addr.map_or(Bind::Own, Bind::Addr), port)
    }

    /// Accepts TCP connections to `port` on the addresses of a Tailscale Service (`svc:…`), as soon as and as
    /// long as control lets this node host it.
    ///
    /// # Errors
    /// `AddrInUse`.
    pub fn listen_service(&self, service: &str, port: u16) -> io::Result<TcpListener> {
        self.shared.listeners.add(Bind::Service(service.into()), port)
    }

    /// Binds a UDP socket to one of our addresses (a Service's too), or to all of a family (`0.0.0.0`, `::`).
    /// Port 0: any that is free.
    ///
    /// # Errors
    /// `AddrInUse`; `AddrNotAvailable` when the address isn't ours.
    pub fn bind_udp(&self, local: SocketAddr) -> io::Result<UdpSocket> {
        UdpSocket::bind(&self.shared, local, None)
    }

    /// A UDP socket that talks to this tailnet address alone.
    ///
    /// # Errors
    /// `HostUnreachable` when nobody has the address.
    pub fn connect_udp(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let view = self.shared.view.load_full();
        let from = view.filter(|view| view.is_ours(to.ip()) || view.peer_for(to.ip()).is_some());
        let from = from.and_then(|view| view.source_for(to.ip()));
        let from = from.ok_or(io::ErrorKind::HostUnreachable)?;
        UdpSocket::bind(&self.shared, (from, 0).into(), Some(to))
    }

    /// Opens a TCP connection to a tailnet address.
    ///
    /// # Errors
    /// As `connect(2)`: refused, timed out (10 s), unreachable (no peer has this address).
    pub async fn dial(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let stream = self.connect(to)?;
        let opened = tokio::time::timeout(DIAL_TIMEOUT, opened(&stream)).await;
        opened.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.shared.stats.flows.fetch_add(1, Relaxed);
        Ok(stream)
    }

    /// How a peer is reached at the moment.
    pub fn path(&self, peer: &NodePublic) -> Path {
        self.shared.paths.lock().path(Instant::now(), peer)
    }

    /// How a peer is reached, and what went to and from it.
    pub fn traffic(&self, peer: &NodePublic) -> Traffic {
        let (now, at) = (Instant::now(), Timestamp::now());
        let (path, last_send) = {
            let paths = self.shared.paths.lock();
            (paths.path(now, peer), paths.last_send(peer))
        };
        let before = |ago: Duration| at.checked_sub(ago).unwrap_or(at);
        let live = self.shared.peers.live_peer(peer);
        let (tx_bytes, rx_bytes, handshake) = live.as_ref().map_or((0, 0, None), |live| live.counters());
        Traffic {
            path,
            tx_bytes,
            rx_bytes,
            last_send: last_send.map(|sent| before(now.saturating_duration_since(sent))),
            last_handshake: handshake.map(before),
            is_live: live.is_some(),
        }
    }

    /// Ports that peers asked for and nobody listens on: the first few, as they come.
    pub fn refused_ports(&self) -> watch::Receiver<BTreeSet<u16>> {
        self.shared.refused.subscribe()
    }

    /// What is known about our own place in the network.
    pub fn local(&self) -> LocalState {
        self.shared.local.borrow().clone()
    }

    /// What a successor needs, as of now.
    pub fn hand_over(&self) -> HandOver {
        let mut recent_peers = self.shared.recent_peers();
        recent_peers.sort_by_key(|peer| std::cmp::Reverse(peer.seen));
        recent_peers.truncate(MAX_RECENT_PEERS);
        let newest_initiation = self.shared.peers.newest_initiation().max(self.initiated_before);
        HandOver {
            disco_key: Some(self.disco_key.clone()),
            udp_port: Some(self.shared.udp.port()),
            addresses: self.shared.paths.lock().interfaces().to_vec(),
            newest_tai64n: newest_initiation.and_then(tai64n::encode),
            recent_peers,
        }
    }

    /// The node logged in with a new key: WireGuard and relays start over with it.
    pub fn set_node_key(&self, key: NodePrivate) {
        self.shared.mail.lock().node_key = Some(key);
        self.shared.wake_engine();
    }

    /// Begins a handshake with a peer now: tests can't wait two minutes for it. `false`: one is under way, or there is
    /// no tunnel.
    #[cfg(any(test, feature = "bench"))]
    #[doc(hidden)]
    pub fn rekey(&self, peer: &NodePublic) -> bool {
        let peers = &self.shared.peers;
        let Some(peer) = peers.live_peer(peer) else {
            return false;
        };
        let Some(initiation) = peers.initiate(&peer) else {
            return false;
        };
        self.shared.send_sealed(&peer, vec![initiation]);
        true
    }

    /// Lets sessions with a peer grow old after a second instead of two minutes. `false`: there is no tunnel.
    #[cfg(test)]
    fn age_quickly(&self, peer: &NodePublic) -> bool {
        let peer = self.shared.peers.live_peer(peer);
        peer.inspect(|peer| peer.age_quickly()).is_some()
    }

    /// What the data plane has counted.
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// TCP connections that have not ended yet.
    pub fn open_flows(&self) -> usize {
        self.shared.open_flows.load(Relaxed)
    }

    /// Whether connections to this address of ours end here: a Service's go to its other host while nobody listens for it
    /// (Go: `handleLocalPackets`, `wgengine/netstack/netstack.go`).
    fn is_here(&self, view: &View, to: SocketAddr) -> bool {
        let service = view.service(to.ip());
        let hosted = || !matches!(self.shared.listeners.door(to, service), Door::Moved);
        view.is_own(to.ip()) || (service.is_some() && hosted())
    }

    fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        if self.shared.is_closed() {
            return Err(closed());
        }
        let unreachable = || io::Error::from(io::ErrorKind::HostUnreachable);
        let view = self.shared.view.load_full().ok_or_else(unreachable)?;
        let peer = if self.is_here(&view, to) {
            self.shared.peers.ourselves(&view.netmap.self_node)
        } else {
            let node = view.peer_for(to.ip()).ok_or_else(unreachable)?;
            let node = view.peer(&node.key).ok_or_else(unreachable)?;
            self.shared.peers.peer(&node)
        };
        let from = view.source_for(to.ip()).ok_or_else(unreachable)?;
        let now = self.shared.now();
        let open = self.shared.count_flow(&peer).ok_or(io::ErrorKind::OutOfMemory)?;
        let seed = getrandom::u64()?;
        let mut flows = self.shared.flows.lock();
        let key = (0..64)
            .map(|_| FlowKey {
                local: (from, fastrand::u16(EPHEMERAL_PORTS)).into(),
                remote: to,
            })
            .find(|key| !flows.contains_key(key))
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        let share = Share::new(peer.memory.clone(), self.shared.memory.clone());
        let tcp = Tcp::connecting(&key, share, now, seed).ok_or(io::ErrorKind::InvalidInput)?;
        let flow = Flow::new(key, peer, None, false, Conn::new(tcp, Stage::Dialling, open, now));
        flows.insert(key, flow.clone());
        drop(flows);
        self.shared.mark_dirty(&flow);
        Ok(TcpStream::new(self.shared.clone(), flow))
    }
}

/// Binds the port that the user named (0: none), else the predecessor's, else any. Somebody else may have it after a
/// restart, which costs peers a moment; but to one that is named, static endpoints and firewall rules may lead.
fn bind(named: u16, remembered: Option<u16>, stats: &Arc<Stats>) -> io::Result<(Udp, UdpReceiver)> {
    let wanted = if named == 0 {
        remembered.unwrap_or(0)
    } else {
        named
    };
    Udp::bind(wanted, stats.clone()).or_else(|error| {
        let (udp, receiver) = Udp::bind(0, stats.clone())?;
        if named != 0 {
            tracing::warn!(
                port = named,
                instead = udp.port(),
                %error,
                "The UDP port can't be had: peers that are told of it reach nobody there; find out who has it \
                 (`ss --udp --listening --numeric --processes`) and start again, or name another port"
            );
        }
        Ok((udp, receiver))
    })
}

/// Waits for the end of the handshake.
async fn opened(stream: &TcpStream) -> io::Result<()> {
    let flow = stream.flow();
    poll_fn(|cx| {
        let mut conn = flow.conn.lock();
        if matches!(conn.stage, Stage::Dead) {
            return Poll::Ready(Err(io::ErrorKind::HostUnreachable.into()));
        }
        if conn.tcp.is_synchronized() {
            conn.stage = Stage::Owned;
            return Poll::Ready(Ok(()));
        }
        if conn.tcp.is_over() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into()));
        }
        conn.writer = Some(cx.waker().clone());
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests;
