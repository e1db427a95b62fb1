//! The engine's task: one round after the other, each of them short, so that connections get their turn.
//!
//! A round: what others left for it, flush, one batch from the socket and the relays, the flows that these
//! touched, timers, and what path selection wants done.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::Ordering::{AcqRel, Relaxed, Release},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use smoltcp::time::Instant as TcpInstant;
use tokio::{
    sync::{mpsc, watch},
    time::Sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    DropReason, TcpStream,
    flow::{Flow, Stage},
    inbound::{Inbox, Origin},
    shared::{Mail, Shared},
    view::View,
    wheel::Wheel,
};
use crate::{
    derp::{DerpClients, DerpEvent},
    derp_map::RegionId,
    magicsock::{Output, Route},
    netmap::Netmap,
    state::RecentPeer,
    udp::RecvBuffers,
    wg::Peer,
};

/// gotatun's timers want 4 calls a second.
const WIREGUARD_TICK: u64 = 250;
/// How often interfaces are listed and the ends of keys are looked at, in ms.
const HOUSEKEEPING: u64 = 30_000;
/// Packets from relays in one round.
const DERP_BATCH: usize = 64;

pub(super) struct Task {
    inbox: Inbox,
    shared: Arc<Shared>,
    derp: DerpClients,
    derp_events: mpsc::Receiver<DerpEvent>,
    /// Relay regions that path selection wants, home first.
    regions: Vec<RegionId>,
    /// Peers of our predecessor that have not been greeted yet; then those that have not answered yet.
    recent: Vec<RecentPeer>,
    greeted: Vec<Arc<Peer>>,
    buffers: RecvBuffers,
    mail: Mail,
    wheel: Wheel<Arc<Flow>>,
    due: Vec<(u64, Arc<Flow>)>,
    sleep: Pin<Box<Sleep>>,
    next_tick: u64,
    next_housekeeping: u64,
}

impl Task {
    pub(super) fn new(
        shared: Arc<Shared>,
        derp: DerpClients,
        derp_events: mpsc::Receiver<DerpEvent>,
        recent: Vec<RecentPeer>,
    ) -> Self {
        Self {
            inbox: Inbox::new(shared.clone()),
            shared,
            derp,
            derp_events,
            regions: Vec::new(),
            recent,
            greeted: Vec::new(),
            buffers: RecvBuffers::new(),
            mail: Mail::default(),
            wheel: Wheel::new(),
            due: Vec::new(),
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            next_tick: 0,
            next_housekeeping: 0,
        }
    }

    pub(super) async fn run(
        mut self,
        mut netmap: watch::Receiver<Option<Arc<Netmap>>>,
        cancel: CancellationToken,
    ) {
        netmap.mark_changed();
        let mut following = true;
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                changed = netmap.changed(), if following => {
                    // A control session that has ended leaves us its last netmap.
                    following = changed.is_ok();
                    let netmap = netmap.borrow_and_update().clone();
                    if let Some(netmap) = netmap {
                        self.apply(netmap);
                    }
                }
                never = poll_fn(|cx| self.round(cx)) => match never {},
            }
        }
        self.shared.close();
    }

    fn round(&mut self, cx: &mut Context<'_>) -> Poll<Infallible> {
        let shared = self.shared.clone();
        shared.begin_round(cx.waker());
        let now = shared.now();
        self.read_mail(now);
        shared.udp.flush();
        let derp = self.receive_derp(cx, now);
        let inbox = &mut self.inbox;
        let udp = shared.udp.poll_recv(cx, &mut self.buffers, |from, datagram| {
            inbox.datagram(now, Origin::Udp(from), datagram);
        });
        for flow in std::mem::take(&mut self.inbox.touched) {
            flow.dirty.store(false, Release);
            self.poll_flow(&flow, now);
        }
        self.run_timers(now);
        self.follow_paths();
        shared.udp.poll_blocked(cx);
        if derp || udp.is_ready() {
            cx.waker().wake_by_ref();
        }
        self.sleep_until_next(now, cx);
        Poll::Pending
    }

    fn read_mail(&mut self, now: TcpInstant) {
        std::mem::swap(&mut self.mail, &mut *self.shared.mail.lock());
        if let Some(key) = self.mail.node_key.take() {
            self.shared.paths.lock().set_node_key(key.public());
            self.shared.peers.set_key(&key);
            self.derp.set_key(key);
        }
        for (at, flow) in self.mail.timers.drain(..) {
            self.wheel.insert(at, flow);
        }
        for (region, to, packet) in std::mem::take(&mut self.mail.derp) {
            let sent = self.derp.send(region, to, packet);
            let stats = &self.shared.stats;
            let counter = if sent {
                &stats.tx_derp
            } else {
                &stats.tx_derp_dropped
            };
            counter.fetch_add(1, Relaxed);
        }
        for flow in std::mem::take(&mut self.mail.dirty) {
            flow.dirty.store(false, Release);
            self.poll_flow(&flow, now);
        }
    }

    /// After ingress, a write or a timer: egress, wake the owner, next deadline, end of life.
    fn poll_flow(&mut self, flow: &Arc<Flow>, now: TcpInstant) {
        let (wakers, listener, at, over) = self.shared.drive(flow, |conn, out| {
            conn.end_orphan(now);
            conn.egress(now, out);
            let opened = matches!(conn.stage, Stage::Accepting { .. }) && conn.tcp.is_synchronized();
            let listener = match opened.then(|| std::mem::replace(&mut conn.stage, Stage::Owned)) {
                Some(Stage::Accepting { listener, .. }) => {
                    conn.tcp.opened();
                    Some(listener)
                }
                _ => None,
            };
            let over = conn.tcp.is_over();
            if over {
                conn.tcp.release();
            } else {
                conn.release_if_idle(now);
            }
            (conn.wakers(), listener, conn.next_visit(now), over)
        });
        wakers.into_iter().flatten().for_each(Waker::wake);
        if let Some(listener) = listener {
            self.shared.stats.flows.fetch_add(1, Relaxed);
            let stream = TcpStream::new(self.shared.clone(), flow.clone());
            if let Err(refused) = listener.try_send(stream) {
                self.shared.stats.count_drop(DropReason::AcceptQueueFull);
                flow.conn.lock().tcp.abort();
                drop(refused);
            }
        }
        if over {
            self.shared.remove(flow);
        } else {
            self.shared.arm(flow, at);
        }
    }

    fn receive_derp(&mut self, cx: &mut Context<'_>, now: TcpInstant) -> bool {
        for _ in 0..DERP_BATCH {
            let Poll::Ready(Some(event)) = self.derp_events.poll_recv(cx) else {
                return false;
            };
            match event {
                DerpEvent::Packet { region, from, packet } => {
                    self.shared.stats.rx_derp.fetch_add(1, Relaxed);
                    self.inbox.datagram(now, Origin::Derp(region, from), &packet);
                }
                DerpEvent::PeerGone { region, peer } => {
                    self.shared
                        .paths
                        .lock()
                        .on_peer_gone(Instant::now(), region, peer);
                }
                DerpEvent::State { region, connected } => {
                    self.shared
                        .paths
                        .lock()
                        .on_derp_state(Instant::now(), region, connected);
                    if connected {
                        // What was said before there was a relay is lost.
                        self.greet_again();
                    }
                }
            }
        }
        true
    }

    fn run_timers(&mut self, now: TcpInstant) {
        let ms = now.total_millis() as u64;
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(ms, &mut due);
        for (at, flow) in due.drain(..) {
            // An earlier entry may have taken over.
            if flow
                .timer
                .compare_exchange(at, u64::MAX, AcqRel, Relaxed)
                .is_err()
            {
                continue;
            }
            if at > ms {
                self.shared.arm(&flow, Some(TcpInstant::from_millis(at as i64)));
            } else {
                self.poll_flow(&flow, now);
            }
        }
        self.due = due;
        if ms >= self.next_tick && !self.shared.peers.is_idle() {
            self.next_tick = ms + WIREGUARD_TICK;
            self.shared
                .peers
                .tick(|peer, packet| self.shared.send_sealed(peer, &[packet]));
        }
        if ms >= self.next_housekeeping {
            self.next_housekeeping = ms + HOUSEKEEPING;
            self.list_interfaces();
            self.drop_strangers();
        }
    }

    fn list_interfaces(&self) {
        match if_addrs::get_if_addrs() {
            Ok(interfaces) => {
                let addrs: Vec<IpAddr> = interfaces.iter().map(if_addrs::Interface::ip).collect();
                self.shared.paths.lock().set_interfaces(Instant::now(), &addrs);
            }
            Err(error) => tracing::info!(%error, "Interface addresses not readable"),
        }
    }

    /// Carries out what path selection wants.
    fn follow_paths(&mut self) {
        let now = Instant::now();
        {
            let mut paths = self.shared.paths.lock();
            if paths.timeout(now).is_some_and(|wait| wait.is_zero()) {
                paths.on_timeout(now);
            }
        }
        loop {
            let output = self.shared.paths.lock().poll_output();
            match output {
                None => return,
                Some(Output::Udp { to, datagram }) => {
                    if !self.shared.derp_only {
                        self.shared.udp.queue(to, std::iter::once(datagram.as_ref()));
                        self.shared.wake_engine();
                    }
                }
                Some(Output::Derp { region, to, packet }) => {
                    self.shared.queue_derp(region, to, packet);
                    self.shared.wake_engine();
                }
                Some(Output::Regions(regions)) => {
                    self.regions = regions;
                    self.connect_derp();
                }
                Some(Output::Endpoints(endpoints)) => {
                    self.shared.local.send_if_modified(|local| {
                        let changed = local.endpoints != endpoints;
                        local.endpoints = endpoints;
                        changed
                    });
                }
                Some(Output::NetInfo(net_info)) => {
                    self.shared.local.send_if_modified(|local| {
                        let changed = local.net_info != net_info;
                        local.net_info = net_info;
                        changed
                    });
                }
                Some(Output::Path { peer, path }) => tracing::debug!(%peer, ?path, "Path to peer changed"),
            }
        }
    }

    fn connect_derp(&mut self) {
        if let Some(view) = self.shared.view.load_full() {
            self.derp.set_regions(&view.netmap.derp, &self.regions);
        }
    }

    /// Takes over a netmap.
    fn apply(&mut self, netmap: Arc<Netmap>) {
        let view = Arc::new(View::new(netmap.clone()));
        let old = self.shared.view.swap(Some(view.clone()));
        self.drop_strangers();
        self.shared.paths.lock().set_netmap(Instant::now(), &netmap);
        if old.is_some_and(|old| old.netmap.derp != netmap.derp) {
            self.connect_derp();
        }
        self.greet(&view);
    }

    /// Ends the sessions and flows of peers that are gone, and flows whose addresses are no longer theirs or ours.
    fn drop_strangers(&self) {
        let Some(view) = self.shared.view.load_full() else {
            return;
        };
        let gone = self.shared.peers.retain(|key| view.peer(key));
        for peer in &gone {
            tracing::debug!(peer = %peer.key, "Peer removed");
        }
        self.shared.kill_flows(|flow| {
            let ours = flow.key.local.ip();
            !(view.is_own(ours) || self.shared.listeners.has_address(ours))
                || !flow.peer.may_send_from(flow.key.remote.ip())
                || gone.iter().any(|peer| Arc::ptr_eq(peer, &flow.peer))
        });
    }

    /// Starts handshakes with the peers that our predecessor served last: they would wait up to 5 s before they
    /// try again on their own.
    fn greet(&mut self, view: &View) {
        for recent in std::mem::take(&mut self.recent) {
            let Some(node) = view.peer(&recent.key) else {
                continue;
            };
            let peer = self.shared.peers.peer(&node);
            if let Some(addr) = recent.addr {
                peer.set_addr(addr);
            }
            self.say_hello(&peer, false);
            self.greeted.push(peer);
        }
    }

    fn greet_again(&mut self) {
        for peer in std::mem::take(&mut self.greeted) {
            if peer.seen().at.is_none() {
                self.say_hello(&peer, true);
                self.greeted.push(peer);
            }
        }
    }

    fn say_hello(&self, peer: &Arc<Peer>, again: bool) {
        let Some(hello) = self.shared.peers.initiate(peer, again) else {
            return;
        };
        let route = self.shared.route(peer);
        let remembered = Route {
            udp: peer.seen().addr.filter(|addr| Some(*addr) != route.udp),
            derp: None,
        };
        let hello = [hello];
        self.shared.send_by(route, peer, &hello);
        self.shared.send_by(remembered, peer, &hello);
    }

    fn sleep_until_next(&mut self, now: TcpInstant, cx: &mut Context<'_>) {
        let ms = now.total_millis() as u64;
        let busy = !self.wheel.is_empty() || !self.shared.peers.is_idle();
        let mut next = self.next_housekeeping;
        if busy {
            next = next.min(self.next_tick.max(ms)).min(ms + WIREGUARD_TICK);
        }
        next = next.min(self.wheel.next(WIREGUARD_TICK).unwrap_or(u64::MAX));
        let paths = self.shared.paths.lock().timeout(Instant::now());
        let wait = paths
            .unwrap_or(Duration::MAX)
            .min(Duration::from_millis(next.saturating_sub(ms)))
            .max(Duration::from_millis(1));
        let until = tokio::time::Instant::now() + wait;
        // Setting the timer again costs a little; leave it alone while it fires early enough.
        if self.sleep.is_elapsed() || self.sleep.deadline() > until + Duration::from_millis(1) {
            self.sleep.as_mut().reset(until);
        }
        if self.sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}
