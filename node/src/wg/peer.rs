//! One WireGuard peer.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use gotatun::noise::Tunn;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::{key::NodePublic, netmap::Node, netstack::tcp::Pool};

/// Bytes that the buffers of a peer's TCP connections may hold.
const MEMORY: usize = 64 << 20;

/// A peer with its session, if it has one.
pub(crate) struct Peer {
    pub(crate) key: NodePublic,
    /// TCP connections of this peer that are not established yet.
    pub(crate) half_open: Arc<AtomicUsize>,
    /// Its TCP connections.
    pub(crate) open_flows: Arc<AtomicUsize>,
    /// What the buffers of its TCP connections may hold.
    pub(crate) memory: Arc<Pool>,
    pub(super) session: Mutex<Session>,
    node: ArcSwap<Node>,
    /// It is this very node: packets for it go nowhere.
    is_self: bool,
    active: AtomicBool,
    seen: Mutex<Seen>,
}

pub(super) struct Session {
    pub(super) tunn: Tunn,
    /// Our indices that are, or were lately, in the index map.
    pub(super) indices: Vec<u32>,
    /// Packets wait inside for a session.
    pub(super) waiting: bool,
}

/// When and where the peer was heard last.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// The last authenticated packet, to about a second.
    pub(crate) at: Option<Timestamp>,
    /// The address from which an authenticated packet came last.
    pub(crate) addr: Option<SocketAddr>,
}

impl Peer {
    pub(super) fn new(node: Arc<Node>, tunn: Tunn, is_self: bool) -> Self {
        Self {
            key: node.key,
            is_self,
            half_open: Arc::default(),
            open_flows: Arc::default(),
            memory: Pool::new(MEMORY),
            session: Mutex::new(Session {
                tunn,
                indices: Vec::new(),
                waiting: false,
            }),
            node: ArcSwap::new(node),
            active: AtomicBool::new(true),
            seen: Mutex::default(),
        }
    }

    /// The netmap's node.
    pub(crate) fn node(&self) -> Arc<Node> {
        self.node.load_full()
    }

    /// It is this very node.
    pub(crate) fn is_self(&self) -> bool {
        self.is_self
    }

    /// Whether WireGuard accepts packets with this inner source from the peer.
    pub(crate) fn may_send_from(&self, ip: IpAddr) -> bool {
        self.node.load().allowed_ips.iter().any(|net| net.contains(&ip))
    }

    /// Data bytes sent and received, and how long ago the last handshake was.
    pub(crate) fn counters(&self) -> (u64, u64, Option<std::time::Duration>) {
        let (handshake, tx, rx, ..) = self.session.lock().tunn.stats();
        (tx as u64, rx as u64, handshake)
    }

    pub(crate) fn seen(&self) -> Seen {
        *self.seen.lock()
    }

    /// Notes an authenticated packet, or what a predecessor knew of the last one. `true` when its address is news, or the
    /// last time was a second ago.
    pub(crate) fn note_seen(&self, now: Timestamp, from: Option<SocketAddr>) -> bool {
        let mut seen = self.seen.lock();
        let news = from.is_some() && from != seen.addr
            || seen
                .at
                .is_none_or(|at| now.duration_since(at).as_millis().abs() >= 1000);
        if news {
            seen.at = Some(now);
            seen.addr = from.or(seen.addr);
        }
        news
    }

    /// New keys are wanted after a second, and asked for again after half of one.
    #[cfg(test)]
    pub(crate) fn age_quickly(&self) {
        use std::time::Duration;
        let (session, answer) = (Duration::from_secs(1), Duration::from_millis(500));
        self.session
            .lock()
            .tunn
            .dangerously_set_timer_params(gotatun::noise::TimerParams {
                rekey_after_time: session..=session,
                rekey_timeout: answer..=answer,
                ..Default::default()
            });
    }

    pub(super) fn set_node(&self, node: Arc<Node>) {
        self.node.store(node);
    }

    pub(super) fn set_active(&self) {
        self.active.store(true, Relaxed);
    }

    pub(super) fn set_idle(&self) {
        self.active.store(false, Relaxed);
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.load(Relaxed)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
