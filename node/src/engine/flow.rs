//! A TCP connection of a peer: the TCP machine, who waits for it, and where it stands in its life.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
};

use bytes::BytesMut;
use parking_lot::Mutex;
use smoltcp::time::Instant;
use tokio::sync::mpsc;

use super::TcpStream;
use crate::{
    netstack::{packet::FlowKey, tcp::Tcp},
    wg::Peer,
};

/// The part of the send buffer that is used until the peer has shown that it drains it quickly…
const TX_LIMIT_MIN: usize = 128 << 10;
/// …and the most of it that is used for such a peer. Long paths have more: see [`Tcp::send_demand`].
const TX_LIMIT_MAX: usize = 1 << 20;
/// A full buffer that empties within this many milliseconds doubles the limit.
const QUICK_DRAIN: i64 = 50;
/// Memory of empty buffers is given back after this many milliseconds without traffic.
const RELEASE_AFTER: i64 = 2_000;
/// A connection that its owner has dropped may linger this many milliseconds for the peer to finish it.
const LINGER: i64 = 60_000;

/// A connection.
pub(super) struct Flow {
    pub(super) key: FlowKey,
    pub(super) peer: Arc<Peer>,
    /// Sequence number of the peer's SYN; `None` when we opened the connection.
    pub(super) opened_by: Option<u32>,
    /// It was opened to a Tailscale Service's address: it goes on when we host the service no more.
    pub(super) to_service: bool,
    pub(super) conn: Mutex<Conn>,
    /// In the engine's list of flows to poll.
    pub(super) dirty: AtomicBool,
    /// Earliest time in ms for which the timer wheel holds this flow; 0: it isn't to be held.
    pub(super) timer: AtomicU64,
}

/// The part of a flow that is behind its lock.
pub(super) struct Conn {
    pub(super) tcp: Tcp,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) stage: Stage,
    /// Data was written that no egress has seen.
    pub(super) tx_pending: bool,
    /// Bytes read since the peer could last hear about the new window.
    pub(super) read_since_egress: usize,
    /// Time of the last packet, in ms.
    active: i64,
    tx_limit: usize,
    full_since: i64,
    /// Counts against the bounds of connections until it has ended.
    open: Option<[Guard; 2]>,
}

/// Where a connection stands in its life.
pub(super) enum Stage {
    /// The peer opens it; it goes to this listener.
    Accepting {
        listener: mpsc::Sender<TcpStream>,
        /// Counts against the bounds of half-open connections.
        _half_open: [Guard; 2],
    },
    /// We open it.
    Dialling,
    /// Somebody has it.
    Owned,
    /// Its owner has dropped it, at this time in ms; the engine finishes it alone.
    Orphan { since: i64 },
    /// Nothing more may be sent: the peer is gone, or has forgotten this connection.
    Dead,
}

/// One of a bounded number.
pub(super) struct Guard(Arc<AtomicUsize>);

impl Guard {
    /// `None` when `max` are taken.
    pub(super) fn take(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        count
            .fetch_update(Relaxed, Relaxed, |n| (n < max).then_some(n + 1))
            .ok()
            .map(|_| Self(count.clone()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Flow {
    pub(super) fn new(
        key: FlowKey,
        peer: Arc<Peer>,
        opened_by: Option<u32>,
        to_service: bool,
        conn: Conn,
    ) -> Arc<Self> {
        Arc::new(Self {
            key,
            peer,
            opened_by,
            to_service,
            conn: Mutex::new(conn),
            dirty: AtomicBool::new(false),
            timer: AtomicU64::new(u64::MAX),
        })
    }

    /// It has ended: no timer may hold it any more.
    pub(super) fn disarm(&self) {
        self.timer.store(0, Relaxed);
    }

    /// Ends the connection without a word to the peer. Whoever waits for it finds out.
    pub(super) fn kill(&self) {
        let wakers = {
            let mut conn = self.conn.lock();
            conn.stage = Stage::Dead;
            conn.tcp.abort();
            conn.end();
            [conn.reader.take(), conn.writer.take()]
        };
        self.disarm();
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Conn {
    pub(super) fn new(tcp: Tcp, stage: Stage, open: [Guard; 2], now: Instant) -> Self {
        Self {
            tx_limit: TX_LIMIT_MIN,
            tcp,
            reader: None,
            writer: None,
            stage,
            tx_pending: false,
            read_since_egress: 0,
            active: now.total_millis(),
            full_since: 0,
            open: Some(open),
        }
    }

    pub(super) fn ingress(&mut self, now: Instant, packet: &[u8], out: &mut Vec<BytesMut>) {
        if !matches!(self.stage, Stage::Dead) {
            self.active = now.total_millis();
            self.tcp.ingress(now, packet, out);
        }
    }

    pub(super) fn egress(&mut self, now: Instant, out: &mut Vec<BytesMut>) {
        self.tx_pending = false;
        self.read_since_egress = 0;
        if !matches!(self.stage, Stage::Dead) {
            self.tcp.egress(now, out);
        }
    }

    /// The owner has gone: close in order, or reset when it left data unread.
    pub(super) fn disown(&mut self, now: Instant) {
        self.reader = None;
        self.writer = None;
        if matches!(self.stage, Stage::Dead) {
            return;
        }
        self.stage = Stage::Orphan {
            since: now.total_millis(),
        };
        self.tcp.ack_at_once();
        self.tcp.close();
        self.end_orphan(now);
    }

    /// Nobody will read what an orphan receives, and it may not linger for ever: reset it.
    pub(super) fn end_orphan(&mut self, now: Instant) {
        if let Stage::Orphan { since } = self.stage
            && (self.tcp.has_unread() || now.total_millis() - since >= LINGER)
        {
            self.tcp.abort();
        }
    }

    /// When the engine must look at this flow again: TCP's own deadline, the release of unused memory, or the
    /// end of an orphan.
    pub(super) fn next_visit(&mut self, now: Instant) -> Option<Instant> {
        let release = self
            .tcp
            .holds_memory()
            .then(|| (self.active + RELEASE_AFTER + 1).max(now.total_millis() + RELEASE_AFTER / 2));
        let end = match self.stage {
            Stage::Orphan { since } => Some(since + LINGER),
            Stage::Dead => return None,
            _ => None,
        };
        let own = [release, end].into_iter().flatten().map(Instant::from_millis);
        own.chain(self.tcp.poll_at()).min()
    }

    /// Gives the memory of empty buffers back after a while without traffic.
    pub(super) fn release_if_idle(&mut self, now: Instant) {
        if self.tcp.holds_memory() && now.total_millis() - self.active >= RELEASE_AFTER {
            self.tcp.release();
            self.tx_limit = TX_LIMIT_MIN;
        }
    }

    /// How much of the send buffer is used.
    fn tx_limit(&self) -> usize {
        let wanted = self.tx_limit.max(self.tcp.send_demand());
        wanted.min(self.tcp.send_capacity())
    }

    /// TCP has ended, whoever still holds the stream.
    pub(super) fn end(&mut self) {
        self.tcp.release();
        self.open = None;
    }

    /// Room for the writer.
    pub(super) fn tx_room(&self) -> usize {
        self.tx_limit().saturating_sub(self.tcp.send_queue())
    }

    /// The writer waits for room.
    pub(super) fn wait_room(&mut self, waker: &Waker) {
        self.full_since = self.active;
        self.writer = Some(waker.clone());
    }

    /// Takes the wakers whose condition now holds. A writer is woken for a third of the buffer, not for every ACK; on a
    /// long path for less, or what is under way would become too little meanwhile.
    pub(super) fn wakers(&mut self) -> [Option<Waker>; 2] {
        let enough = self.tx_limit().min(TX_LIMIT_MAX) / 3;
        let writable = self.tx_room() >= enough || !self.tcp.may_send();
        if writable && self.writer.is_some() && self.active - self.full_since < QUICK_DRAIN {
            self.tx_limit = (self.tx_limit * 2).min(TX_LIMIT_MAX);
        }
        let reader = if self.tcp.is_readable() {
            self.reader.take()
        } else {
            None
        };
        let writer = if writable { self.writer.take() } else { None };
        [reader, writer]
    }
}
