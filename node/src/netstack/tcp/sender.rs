//! The sending half: what waits, what is under way, when to send it again, and how much may be under way.
//!
//! Recovery is that of RFC 6675 with RACK-TLP finding the losses (RFC 8985); while it lasts, proportional rate
//! reduction paces it (RFC 6937). Timestamps (RFC 7323 §3) are not used: round trips are measured segment by
//! segment, and WireGuard has already dropped whatever is so old that it could be taken for something new.

use smoltcp::time::{Duration, Instant};

use super::{
    cubic::Cubic,
    queue::Queue,
    rtt::Rtt,
    scoreboard::{Delivered, Scoreboard},
};

mod transmit;

/// A tail-loss probe doesn't leave earlier than this: the other side delays its ACK.
const MIN_PROBE: Duration = Duration::from_millis(10);
/// How much longer a probe waits while a single segment is under way, since its ACK may be delayed. RFC 8985 §7.2 gives all
/// of them the worst case, which makes each lost answer of one segment cost 200 ms; but Go's stack delays no ACK.
const ACK_DELAY: Duration = Duration::from_millis(5);
/// Each needless probe doubles it up to this.
const MAX_ACK_DELAY: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Sender {
    queue: Queue,
    /// Position of the queue's first byte.
    first: u64,
    /// Oldest position that is not acknowledged, and the next one that was never sent.
    unacknowledged: u64,
    next: u64,
    /// A FIN follows the queue.
    fin: bool,
    /// The end of the other side's window, the largest it ever was, and the segment that told us.
    window_end: u64,
    max_window: u64,
    window_from: (u64, u64),
    segment: u64,
    sack: bool,
    board: Scoreboard,
    rtt: Rtt,
    cubic: Cubic,
    recovery: Option<Recovery>,
    undo: Option<Undo>,
    timers: Timers,
    probe: Option<Probe>,
    ack_delay: Duration,
    /// ACKs that repeat the last one: without SACK they stand for segments that arrived.
    repeated: u32,
    persist_backoff: u32,
    /// Send what fits the window even if it is little.
    forced: bool,
    /// The congestion window was what kept more from being sent.
    limited: bool,
    last_sent: Instant,
    /// When something was acknowledged last, or began to wait for it.
    progress: Instant,
}

/// A recovery lasts until everything is acknowledged that was under way when it began.
#[derive(Debug)]
struct Recovery {
    end: u64,
    /// `None` after a timeout: slow start decides then.
    reduction: Option<Reduction>,
}

/// How to take back what a recovery did to the congestion window: when everything that was taken for lost arrives
/// before it is sent again, or is acknowledged sooner than can be (after RFC 3522), or is reported to have arrived
/// twice (RFC 3708), nothing was lost, only late.
#[derive(Debug)]
struct Undo {
    from: u64,
    /// Bytes that were sent again, and perhaps had to be.
    doubtful: u64,
    before: Cubic,
}

/// Proportional rate reduction (RFC 6937).
#[derive(Debug)]
struct Reduction {
    flight: u64,
    delivered: u64,
    sent: u64,
    window: u64,
}

#[derive(Debug, Default)]
struct Timers {
    retransmit: Option<Instant>,
    /// When a segment that is late becomes one that is lost.
    reorder: Option<Instant>,
    probe: Option<Instant>,
    persist: Option<Instant>,
}

/// A tail-loss probe that is due or under way (RFC 8985 §7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    Due,
    Sent { end: u64, resent: bool },
}

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transmission {
    pub(super) start: u64,
    /// Bytes of data.
    pub(super) len: usize,
    pub(super) syn: bool,
    pub(super) fin: bool,
    /// It is the last one for now.
    pub(super) push: bool,
}

/// What an acknowledgement says, in positions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acknowledgement {
    /// Of the segment that carries it.
    pub(super) seq: u64,
    pub(super) until: u64,
    /// Bytes, from `until` on.
    pub(super) window: u64,
    pub(super) sacked: [Option<(u64, u64)>; 3],
    /// Without data, SYN or FIN.
    pub(super) bare: bool,
}

impl Sender {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            queue: Queue::default(),
            first: 1,
            unacknowledged: 0,
            next: 0,
            fin: false,
            window_end: 1,
            max_window: 0,
            window_from: (0, 0),
            segment: 536,
            sack: false,
            board: Scoreboard::default(),
            rtt: Rtt::default(),
            cubic: Cubic::new(536),
            recovery: None,
            undo: None,
            timers: Timers::default(),
            probe: None,
            ack_delay: ACK_DELAY,
            repeated: 0,
            persist_backoff: 0,
            forced: false,
            limited: false,
            last_sent: now,
            progress: now,
        }
    }

    /// What the other side's SYN said: its largest segment and whether it reports what it has.
    pub(super) fn agree(&mut self, segment: usize, sack: bool) {
        self.segment = segment as u64;
        self.sack = sack;
        self.cubic = Cubic::new(self.segment);
    }

    pub(super) fn unacknowledged(&self) -> u64 {
        self.unacknowledged
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Where a segment without data stands. The other side takes none from beyond its window, so if that has shrunk,
    /// at its end; not if only its last bits got lost in scaling (as Linux does it in `tcp_acceptable_seq`).
    pub(super) fn position(&self, scale: u8) -> u64 {
        let end = self.window_end.max(self.unacknowledged);
        if self.next < end + (1 << scale) {
            self.next
        } else {
            end
        }
    }

    pub(super) fn max_window(&self) -> u64 {
        self.max_window
    }

    pub(super) fn rtt(&self) -> &Rtt {
        &self.rtt
    }

    pub(super) fn congestion_window(&self) -> u64 {
        match &self.recovery {
            Some(Recovery {
                reduction: Some(reduction),
                ..
            }) => reduction.window,
            _ => self.cubic.window(),
        }
    }

    /// Bytes that wait to be sent or acknowledged.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Since when the other side has acknowledged nothing of what is under way.
    pub(super) fn stalled_since(&self) -> Option<Instant> {
        (!self.board.is_empty()).then_some(self.progress)
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.queue.push(data);
    }

    /// `len` bytes from `start` on, as they are queued.
    pub(super) fn data(&self, start: u64, len: usize) -> [&[u8]; 2] {
        self.queue.slices((start - self.first) as usize, len)
    }

    /// A FIN after what is queued.
    pub(super) fn finish(&mut self) {
        self.fin = true;
    }

    /// The FIN was sent and has arrived.
    pub(super) fn is_finished(&self) -> bool {
        self.fin && self.unacknowledged > self.data_end()
    }

    /// The SYN is sent (again) at once.
    pub(super) fn repeat_syn(&mut self) {
        if self.unacknowledged == 0 {
            self.board.all_lost();
        }
    }

    fn data_end(&self) -> u64 {
        self.first + self.queue.len() as u64
    }

    // What comes in.

    /// Takes an acknowledgement, which must not be of something that was never sent.
    pub(super) fn acknowledged(&mut self, now: Instant, ack: Acknowledgement) {
        let min_rtt = self.rtt.min().unwrap_or(Duration::ZERO);
        let mut delivered = Delivered::at(now, min_rtt);
        let flight = self.board.in_flight();
        let window_moved = self.update_window(&ack);
        let advanced = ack.until > self.unacknowledged;
        let reported = self.take_duplicate_report(&ack);
        if advanced {
            self.board.acknowledged(ack.until, &mut delivered);
            self.unacknowledged = ack.until;
            let taken = ack.until.min(self.data_end()).saturating_sub(self.first);
            self.queue.take(taken as usize);
            self.first += taken;
            self.progress = now;
            self.rtt.reset_backoff();
            self.repeated = 0;
        } else if ack.bare && !window_moved && !self.board.is_empty() && ack.until == self.unacknowledged {
            self.repeated += 1;
        }
        if self.sack {
            self.board.sacked(reported.blocks, &mut delivered);
        }
        self.needless(ack.until, delivered.needless);
        self.undo();
        if let Some(rtt) = delivered.rtt {
            self.rtt.measured(now, rtt);
        }
        self.end_probe(&ack, advanced, reported.duplicate, flight);
        let partial = advanced
            && self
                .recovery
                .as_ref()
                .is_some_and(|recovery| recovery.reduction.is_some() && ack.until < recovery.end);
        let lost = self.find_losses(now, partial);
        self.recover(now, &delivered, advanced, lost, flight);
        if advanced {
            self.timers.retransmit = None;
        }
        self.arm(now, advanced);
    }

    /// RFC 9293 §3.10.7.4, and as Linux does it (`tcp_may_update_window`): a smaller window in an ACK that repeats
    /// another one is an older window, unless it is closed.
    fn update_window(&mut self, ack: &Acknowledgement) -> bool {
        let end = ack.until + ack.window;
        let repeats = (ack.seq, ack.until) == self.window_from;
        if ack.until < self.unacknowledged
            || (ack.seq, ack.until) < self.window_from
            || repeats && end < self.window_end && ack.window > 0
        {
            return false;
        }
        let moved = end != self.window_end;
        self.window_from = (ack.seq, ack.until);
        self.window_end = end;
        self.max_window = self.max_window.max(ack.window);
        if ack.window > 0 {
            self.persist_backoff = 0;
        }
        if moved {
            self.timers.persist = None;
        }
        moved
    }

    /// Finds a report of a duplicate in front of the others (RFC 2883 §4).
    fn take_duplicate_report(&mut self, ack: &Acknowledgement) -> Reported {
        let mut blocks = ack.sacked;
        let [first, second, _] = blocks;
        let duplicate = first.is_some_and(|(start, end)| {
            end <= ack.until || second.is_some_and(|(outer, until)| outer <= start && end <= until)
        });
        if let Some(twice) = first.filter(|_| duplicate) {
            self.board.duplicated(ack.until, self.next);
            self.needless(twice.0, twice.1.saturating_sub(twice.0));
            blocks = [second, blocks[2], None];
        }
        // Nothing but what was sent can have arrived.
        let sent = |(start, end): &(u64, u64)| ack.until < *end && start < end && *end <= self.next;
        Reported {
            blocks: blocks.map(|block| block.filter(sent)),
            duplicate,
        }
    }

    /// So many bytes from `start` on were sent again for nothing.
    fn needless(&mut self, start: u64, bytes: u64) {
        if let Some(undo) = &mut self.undo
            && start >= undo.from
        {
            undo.doubtful = undo.doubtful.saturating_sub(bytes);
        }
    }

    /// Takes back what a recovery did if nothing was lost: everything that was sent again had arrived, or the rest
    /// came before it could be sent again (Go hands a new connection its first segments in disorder).
    fn undo(&mut self) {
        if self.board.lost() == 0
            && let Some(undo) = self.undo.take_if(|undo| undo.doubtful == 0)
        {
            self.cubic = undo.before;
            self.recovery = None;
        }
    }

    /// RFC 8985 §7.4.
    fn end_probe(&mut self, ack: &Acknowledgement, advanced: bool, duplicate: bool, flight: u64) {
        let Some(Probe::Sent { end, resent }) = self.probe else {
            return;
        };
        if ack.until < end {
            return;
        }
        // What the probe repeated arrived twice if a duplicate is reported or the ACK is.
        let needless = resent && (duplicate || ack.bare && !advanced);
        if needless {
            self.ack_delay = (self.ack_delay * 2).min(MAX_ACK_DELAY);
        }
        let harmless = !resent || needless;
        if harmless || ack.until > end {
            self.probe = None;
        }
        if !harmless && ack.until > end && self.recovery.is_none() {
            self.cubic.lost(self.used(flight)); // it repaired a loss
        }
    }

    /// `partial`: an ACK within a recovery, which without SACK shows the next hole.
    fn find_losses(&mut self, now: Instant, partial: bool) -> bool {
        if !self.sack {
            if self.repeated == 3 && self.recovery.is_none() || partial {
                self.board.first_is_lost();
                return true;
            }
            return false;
        }
        if !self.board.has_sacked() && self.recovery.is_none() {
            self.timers.reorder = None;
            return false;
        }
        let min_rtt = self.rtt.min().unwrap_or(Duration::ZERO);
        let smoothed = self.rtt.smoothed().unwrap_or(Duration::ZERO);
        let longest = self.rtt.timeout() * 3 / 4;
        let recovering = self.recovery.is_some();
        let (lost, again) = self
            .board
            .find_losses(now, min_rtt, smoothed, longest, recovering);
        self.timers.reorder = again;
        lost
    }

    /// Begins, goes on with or ends a recovery; otherwise the window grows.
    fn recover(&mut self, now: Instant, delivered: &Delivered, advanced: bool, lost: bool, flight: u64) {
        if let Some(recovery) = &self.recovery
            && self.unacknowledged >= recovery.end
        {
            self.recovery = None;
            self.repeated = 0;
            self.board.recovered();
        }
        if lost && self.recovery.is_none() {
            self.begin_undo();
            self.cubic.lost(self.used(flight));
            self.recovery = Some(Recovery {
                end: self.next,
                reduction: Some(Reduction {
                    flight: (self.next - self.unacknowledged).max(1),
                    delivered: 0,
                    sent: 0,
                    window: 0,
                }),
            });
            self.probe = None;
        }
        let threshold = self.cubic.threshold();
        match &mut self.recovery {
            Some(Recovery {
                reduction: Some(reduction),
                ..
            }) => {
                // Without SACK, an ACK that repeats the last one stands for a segment.
                let bytes = if self.sack || advanced {
                    delivered.bytes
                } else {
                    self.segment
                };
                let pipe = self.board.in_flight();
                reduction.delivered += bytes;
                let more = if pipe > threshold {
                    let due = (reduction.delivered * threshold).div_ceil(reduction.flight);
                    due.saturating_sub(reduction.sent)
                } else {
                    let unspent = reduction.delivered.saturating_sub(reduction.sent);
                    // One more only if this ACK is a sign of success (RFC 6937bis).
                    let bonus = if advanced && !lost { self.segment } else { 0 };
                    (threshold - pipe).min(unspent.max(bytes) + bonus)
                };
                // The first retransmission doesn't wait.
                let more = if reduction.sent == 0 {
                    more.max(self.segment)
                } else {
                    more
                };
                reduction.window = pipe + more;
            }
            _ => {
                let slow = self.cubic.is_slow_start() && flight * 2 > self.cubic.window();
                if delivered.bytes > 0 && (self.limited || slow) {
                    let rtt = self.rtt.smoothed().unwrap_or(Duration::ZERO);
                    self.cubic.acknowledged(now, delivered.bytes, rtt);
                }
            }
        }
    }

    /// How much of the congestion window is in use: all of it if it held something back, though ACKs that came in a row
    /// have made room since.
    fn used(&self, flight: u64) -> u64 {
        if self.limited { self.cubic.window() } else { flight }
    }

    fn begin_undo(&mut self) {
        self.undo = Some(Undo {
            from: self.unacknowledged,
            doubtful: 0,
            before: self.cubic.clone(),
        });
    }

    // Time.

    /// When [`Self::run_timers`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let Timers {
            retransmit,
            reorder,
            probe,
            persist,
        } = self.timers;
        [retransmit, reorder, probe, persist].into_iter().flatten().min()
    }

    /// Does what is due. `true` if the other side has to be asked for its window.
    pub(super) fn run_timers(&mut self, now: Instant) -> bool {
        let due = |timer: &mut Option<Instant>| timer.take_if(|at| *at <= now).is_some();
        if due(&mut self.timers.reorder) {
            let flight = self.board.in_flight();
            let lost = self.find_losses(now, false);
            self.recover(now, &Delivered::at(now, Duration::ZERO), false, lost, flight);
        }
        if due(&mut self.timers.probe) && self.probe.is_none() {
            self.probe = Some(Probe::Due);
        }
        if due(&mut self.timers.retransmit) {
            self.time_out();
        }
        if !due(&mut self.timers.persist) {
            return false;
        }
        self.persist_backoff = (self.persist_backoff + 1).min(10);
        self.forced = self.window_end > self.next;
        !self.forced
    }

    /// RFC 6298 §5.
    fn time_out(&mut self) {
        if self.board.is_empty() {
            return;
        }
        // A lost SYN says nothing about how much fits the path.
        if self.unacknowledged > 0 && !matches!(self.recovery, Some(Recovery { reduction: None, .. })) {
            self.begin_undo();
            self.cubic.timed_out(self.board.in_flight() + self.board.lost());
        }
        self.rtt.back_off();
        self.board.all_lost();
        self.recovery = Some(Recovery {
            end: self.next,
            reduction: None,
        });
        self.probe = None;
        self.repeated = 0;
        self.timers.reorder = None;
        self.timers.probe = None;
    }

    /// Sets the timers after something was sent or acknowledged.
    fn arm(&mut self, now: Instant, anew: bool) {
        if self.board.is_empty() {
            self.timers = Timers {
                persist: self.timers.persist,
                ..Timers::default()
            };
            return;
        }
        let timeout = self.rtt.timeout();
        let retransmit = *self.timers.retransmit.get_or_insert(now + timeout);
        let probes =
            self.sack && self.unacknowledged > 0 && self.recovery.is_none() && !self.board.has_sacked();
        if !probes || self.probe.is_some() {
            self.timers.probe = None;
        } else if anew || self.timers.probe.is_none() {
            let smoothed = self.rtt.smoothed().unwrap_or(timeout / 2);
            let single = self.board.in_flight() <= self.segment;
            let slack = if single { self.ack_delay } else { Duration::ZERO };
            let at = now + (smoothed * 2 + slack).max(MIN_PROBE);
            self.timers.probe = (at < retransmit).then_some(at);
        }
    }

    /// Gives back memory that holds nothing.
    pub(super) fn release(&mut self) {
        self.queue.release();
        self.board.release();
    }

    /// Bytes of memory.
    pub(super) fn held(&self) -> usize {
        self.queue.held() + self.board.held()
    }
}

/// What an acknowledgement reports.
struct Reported {
    blocks: [Option<(u64, u64)>; 3],
    duplicate: bool,
}
