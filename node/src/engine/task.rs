//! The engine's task: one round after the other, each of them short, so that connections get their turn.
//!
//! A round: what others left for it, flush, one batch from the socket and the relays, the flows that these
//! touched, timers, and what path selection wants done.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
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
    wheel::Wheel,
};
use crate::{
    derp::{DerpClients, DerpEvent},
    derp_map::RegionId,
    netmap::Netmap,
    udp::UdpReceiver,
    wg::Peer,
};

mod netmap;
mod paths;

pub(super) use paths::interfaces;

/// gotatun's timers want 4 calls a second.
const WIREGUARD_TICK: u64 = 250;
/// Who doesn't answer our greeting is greeted again after this time, in ms, and then after twice the pause before. WireGuard
/// itself waits for 5 s, from when on it is left to it.
const GREETING_PAUSE: u64 = 250;
const LAST_GREETING_PAUSE: u64 = 2_000;
/// How far ahead the next entry of the timer wheel is looked for, in ms.
const WHEEL_HORIZON: u64 = 250;
/// How often interfaces are listed, in ms.
const HOUSEKEEPING: u64 = 30_000;

pub(super) struct Task {
    inbox: Inbox,
    shared: Arc<Shared>,
    udp: UdpReceiver,
    derp: DerpClients,
    derp_events: mpsc::Receiver<DerpEvent>,
    /// Relay regions that path selection wants, home first.
    regions: Vec<RegionId>,
    /// Names of STUN servers that somebody has to look up.
    stun_hosts: watch::Sender<Vec<String>>,
    /// Peers of our predecessor that have been greeted and haven't answered: when to greet them again, in ms, and the pause
    /// after that.
    greeted: Vec<(u64, u64, Arc<Peer>)>,
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
        udp: UdpReceiver,
        derp: DerpClients,
        derp_events: mpsc::Receiver<DerpEvent>,
        stun_hosts: watch::Sender<Vec<String>>,
    ) -> Self {
        Self {
            inbox: Inbox::new(shared.clone()),
            shared,
            udp,
            derp,
            derp_events,
            regions: Vec::new(),
            stun_hosts,
            greeted: Vec::new(),
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
    }

    fn round(&mut self, cx: &mut Context<'_>) -> Poll<Infallible> {
        let shared = self.shared.clone();
        shared.begin_round(cx.waker());
        let now = shared.now();
        self.read_mail(now);
        shared.udp.flush();
        let derp = self.receive_derp(cx, now);
        let inbox = &mut self.inbox;
        let udp = self.udp.poll_recv(cx, |from, datagram| {
            inbox.datagram(now, Origin::Udp(from), datagram);
        });
        for flow in std::mem::take(&mut self.inbox.touched) {
            flow.dirty.store(false, Release);
            self.poll_flow(&flow, now);
        }
        self.run_timers(now);
        self.follow_paths();
        self.feed_relays();
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
        for (peer, packet) in self.mail.own.drain(..) {
            self.inbox.own_packet(now, &peer, &packet);
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
                Some(Stage::Accepting { listener, .. }) => Some(listener),
                _ => None,
            };
            let over = conn.tcp.is_over();
            if over {
                conn.end();
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
            flow.disarm();
        } else {
            self.shared.arm(flow, at);
        }
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
                .tick(|peer, packet| self.shared.send_sealed(peer, vec![packet]));
            self.greet_again(ms);
        }
        if ms >= self.next_housekeeping {
            self.next_housekeeping = ms + HOUSEKEEPING;
            self.list_interfaces();
        }
    }

    fn sleep_until_next(&mut self, now: TcpInstant, cx: &mut Context<'_>) {
        let ms = now.total_millis() as u64;
        let mut next = self.next_housekeeping;
        if !self.shared.peers.is_idle() {
            next = next.min(self.next_tick);
        }
        if !self.wheel.is_empty() {
            next = next.min(self.wheel.next(WHEEL_HORIZON).unwrap_or(ms + WHEEL_HORIZON));
        }
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

/// However the task ends, everybody who waits for it finds out.
impl Drop for Task {
    fn drop(&mut self) {
        self.shared.close();
    }
}
