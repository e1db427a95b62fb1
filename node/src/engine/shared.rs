//! What the engine's task, listeners and streams share.
//!
//! Locks are taken in this order: peers to greet, a flow's connection, the peer's session, path selection or outbox. Wakers
//! are called with none of them held.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    task::Waker,
    time,
};

use ahash::AHashMap;
use arc_swap::ArcSwapOption;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use smoltcp::time::Instant;
use tokio::sync::watch;

use super::{
    Stats,
    flow::{Conn, Flow, Guard},
    listener::Listeners,
    packet::Packets,
    ping::Pings,
    view::View,
};
use crate::{
    control::LocalState,
    derp_map::RegionId,
    key::{NodePrivate, NodePublic},
    magicsock::{Magicsock, Route},
    netstack::{packet::FlowKey, tcp::Pool},
    state::RecentPeer,
    udp::Udp,
    wg::{Peer, Peers},
};

/// Connections of one node at a time. An idle one holds about a KiB.
const MAX_FLOWS: usize = 16_384;
/// One peer may not take what the others need.
pub(super) const MAX_FLOWS_PER_PEER: usize = MAX_FLOWS / 4 * 3;
/// Bytes that the buffers of all connections of a node may hold.
const MEMORY: usize = 128 << 20;
/// Packets that wait for the engine to hand them to a relay.
const MAX_DERP_QUEUE: usize = 1024;
/// Refused ports that are remembered: for a hint in the log, not for a port scan.
const MAX_REFUSED: usize = 32;

pub(super) struct Shared {
    pub(super) udp: Udp,
    pub(super) peers: Peers,
    /// Peers of our predecessor that have not been greeted yet: who they are now, the first netmap says.
    pub(super) ungreeted: Mutex<Vec<RecentPeer>>,
    pub(super) paths: Mutex<Magicsock>,
    pub(super) flows: Mutex<AHashMap<FlowKey, Arc<Flow>>>,
    pub(super) memory: Arc<Pool>,
    pub(super) open_flows: Arc<AtomicUsize>,
    pub(super) listeners: Arc<Listeners>,
    pub(super) packets: Packets,
    pub(super) half_open: Arc<AtomicUsize>,
    pub(super) pings: Pings,
    pub(super) view: ArcSwapOption<View>,
    pub(super) local: watch::Sender<LocalState>,
    pub(super) stats: Arc<Stats>,
    /// Ports that somebody asked for and nobody listens on, a bounded number of them.
    pub(super) refused: watch::Sender<BTreeSet<u16>>,
    pub(super) mail: Mutex<Mail>,
    /// Packets for relays.
    pub(super) derp_queue: Mutex<VecDeque<(RegionId, NodePublic, Bytes)>>,
    pub(super) derp_only: bool,
    closed: AtomicBool,
    engine: Mutex<Option<Waker>>,
    engine_awake: AtomicBool,
    start: time::Instant,
}

/// What others leave for the engine's next round.
#[derive(Default)]
pub(super) struct Mail {
    /// Flows with data that nobody has made segments of, or without an owner.
    pub(super) dirty: Vec<Arc<Flow>>,
    /// New entries for the timer wheel.
    pub(super) timers: Vec<(u64, Arc<Flow>)>,
    /// Packets of connections to ourselves; TCP's windows bound them.
    pub(super) own: Vec<(Arc<Peer>, BytesMut)>,
    /// The node logged in with this key.
    pub(super) node_key: Option<NodePrivate>,
}

impl Shared {
    pub(super) fn new(
        udp: Udp,
        node_key: &NodePrivate,
        paths: Magicsock,
        local: watch::Sender<LocalState>,
        stats: Arc<Stats>,
        derp_only: bool,
        recent_peers: Vec<RecentPeer>,
    ) -> Arc<Self> {
        Arc::new(Self {
            udp,
            peers: Peers::new(node_key),
            ungreeted: Mutex::new(recent_peers),
            paths: Mutex::new(paths),
            flows: Mutex::default(),
            memory: Pool::new(MEMORY),
            open_flows: Arc::default(),
            listeners: Listeners::new(),
            packets: Packets::default(),
            half_open: Arc::default(),
            pings: Pings::default(),
            view: ArcSwapOption::empty(),
            local,
            stats,
            refused: watch::Sender::default(),
            mail: Mutex::default(),
            derp_queue: Mutex::default(),
            derp_only,
            closed: AtomicBool::new(false),
            engine: Mutex::default(),
            engine_awake: AtomicBool::new(false),
            start: time::Instant::now(),
        })
    }

    /// One more connection; `None` when there are too many, in all or of this peer.
    pub(super) fn count_flow(&self, peer: &Peer) -> Option<[Guard; 2]> {
        Some([
            Guard::take(&peer.open_flows, MAX_FLOWS_PER_PEER)?,
            Guard::take(&self.open_flows, MAX_FLOWS)?,
        ])
    }

    /// The time as the TCP machine counts it.
    pub(super) fn now(&self) -> Instant {
        Instant::from_micros(self.start.elapsed().as_micros() as i64)
    }

    /// Peers that a successor should greet. Our predecessor's are among them until WireGuard has given up on them:
    /// if we end before they have answered, they still wait.
    pub(super) fn recent_peers(&self) -> Vec<RecentPeer> {
        // Held, because who is greeted becomes a live peer.
        let ungreeted = self.ungreeted.lock();
        let live = self.peers.live().into_iter().filter_map(|peer| {
            let seen = peer.seen();
            Some(RecentPeer {
                key: peer.key,
                addr: seen.addr,
                seen: seen.at?,
            })
        });
        ungreeted.iter().cloned().chain(live).collect()
    }

    /// Somebody asked for a port where nobody listens.
    pub(super) fn note_refused(&self, port: u16) {
        self.refused
            .send_if_modified(|ports| ports.len() < MAX_REFUSED && ports.insert(port));
    }

    /// Runs `f` on the flow's connection, then seals and queues the packets that it made, all under the
    /// flow's lock so that they keep their order.
    pub(super) fn drive<R>(&self, flow: &Flow, f: impl FnOnce(&mut Conn, &mut Vec<BytesMut>) -> R) -> R {
        let mut out = Vec::new();
        let mut conn = flow.conn.lock();
        let result = f(&mut conn, &mut out);
        self.send(&flow.peer, out);
        result
    }

    /// Seals packets and queues the datagrams; the engine flushes them at the end of its round.
    pub(super) fn send(&self, peer: &Arc<Peer>, packets: Vec<BytesMut>) {
        if packets.is_empty() {
            return;
        }
        if peer.is_self() {
            let own = packets.into_iter().map(|packet| (peer.clone(), packet));
            self.mail.lock().own.extend(own);
            return self.wake_engine();
        }
        let mut sealed = Vec::with_capacity(packets.len());
        self.peers.seal(peer, packets, &mut sealed);
        self.send_sealed(peer, sealed);
    }

    /// Queues datagrams for `peer` on the way that path selection names.
    pub(super) fn send_sealed(&self, peer: &Arc<Peer>, datagrams: Vec<Bytes>) {
        if datagrams.is_empty() {
            return;
        }
        let route = self.route(peer);
        if route == Route::default() {
            self.stats.tx_no_route.fetch_add(datagrams.len() as u64, Relaxed);
        }
        self.send_by(route, peer, datagrams);
    }

    pub(super) fn send_by(&self, route: Route, peer: &Peer, datagrams: Vec<Bytes>) {
        if let Some(region) = route.derp {
            for datagram in &datagrams {
                self.queue_derp(region, peer.key, datagram.clone());
            }
        }
        if let Some(to) = route.udp.filter(|_| !self.derp_only) {
            self.udp.queue(to, datagrams);
        }
        self.wake_engine();
    }

    /// Queues a packet for a relay; the engine hands it over in its next round.
    pub(super) fn queue_derp(&self, region: RegionId, to: NodePublic, packet: Bytes) {
        let mut queue = self.derp_queue.lock();
        if queue.len() < MAX_DERP_QUEUE {
            queue.push_back((region, to, packet));
        } else {
            self.stats.tx_derp_dropped.fetch_add(1, Relaxed);
        }
    }

    /// Where packets for `peer` go. While path selection knows no way, the address from which the peer was
    /// heard last (or that a predecessor handed over) is worth a try.
    pub(super) fn route(&self, peer: &Peer) -> Route {
        let route = self.paths.lock().route(time::Instant::now(), &peer.key);
        if route == Route::default() && !self.derp_only {
            return Route {
                udp: peer.seen().addr,
                derp: None,
            };
        }
        route
    }

    /// Makes sure that the engine's task runs once more.
    pub(super) fn wake_engine(&self) {
        if !self.engine_awake.swap(true, AcqRel)
            && let Some(waker) = self.engine.lock().as_ref()
        {
            waker.wake_by_ref();
        }
    }

    /// The engine begins a round: what happens from now on wakes it again.
    pub(super) fn begin_round(&self, waker: &Waker) {
        let mut engine = self.engine.lock();
        if !engine.as_ref().is_some_and(|w| w.will_wake(waker)) {
            *engine = Some(waker.clone());
        }
        self.engine_awake.store(false, Release);
    }

    /// Lets the engine look at this flow in its next round.
    pub(super) fn mark_dirty(&self, flow: &Arc<Flow>) {
        if !flow.dirty.swap(true, AcqRel) && !self.is_closed() {
            self.mail.lock().dirty.push(flow.clone());
        }
        self.wake_engine();
    }

    /// Makes sure that the timer wheel visits `flow` at its next deadline.
    pub(super) fn arm(&self, flow: &Arc<Flow>, at: Option<Instant>) {
        let Some(at) = at else { return };
        let at = (at.total_millis() as u64).max(1); // 0 is for those that have ended
        if flow.timer.fetch_min(at, AcqRel) > at && !self.is_closed() {
            self.mail.lock().timers.push((at, flow.clone()));
            self.wake_engine();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Acquire)
    }

    /// Takes a flow out, unless another has taken its place.
    pub(super) fn remove(&self, flow: &Arc<Flow>) {
        let mut flows = self.flows.lock();
        if flows.get(&flow.key).is_some_and(|f| Arc::ptr_eq(f, flow)) {
            flows.remove(&flow.key);
        }
    }

    /// Ends the flows of which `ends` says so, without a word to their peers.
    pub(super) fn kill_flows(&self, ends: impl Fn(&Flow) -> bool) {
        let mut killed = Vec::new();
        self.flows.lock().retain(|_, flow| {
            let ends = ends(flow);
            if ends {
                killed.push(flow.clone());
            }
            !ends
        });
        for flow in killed {
            flow.kill();
        }
    }

    /// The engine has ended: everybody who waits finds out.
    pub(super) fn close(&self) {
        self.closed.store(true, Release);
        self.listeners.close();
        self.packets.close();
        self.kill_flows(|_| true);
        self.udp.close();
        *self.mail.lock() = Mail::default();
        *self.engine.lock() = None;
    }
}
