//! What goes out: lost segments first, then new data as far as both windows let it, and probes.

use smoltcp::time::{Duration, Instant};

use super::{Probe, Recovery, Sender, Transmission};

/// Segments under way. Beyond it the owner's small writes are gathered into larger segments.
const MAX_SEGMENTS: usize = 8192;
/// The longest time between probes of a closed window.
const MAX_PERSIST: Duration = Duration::from_secs(60);

impl Sender {
    /// The next segment to send now, if any. It counts as sent.
    pub(in crate::netstack::tcp) fn transmit(&mut self, now: Instant) -> Option<Transmission> {
        if self.probe == Some(Probe::Due) {
            return self.send_probe(now);
        }
        let room = self.congestion_window().saturating_sub(self.board.in_flight());
        if let Some((start, end)) = self.board.first_lost() {
            let first = self.board.in_flight() == 0;
            if end - start > room && !first {
                return None;
            }
            return Some(self.send_again(start, end, now));
        }
        if self.next == 0 {
            return Some(self.send_new(1, now));
        }
        let len = self.sendable()?;
        if self.board.in_flight() == 0 && self.board.is_empty() {
            if now - self.last_sent > self.rtt.timeout() {
                self.cubic.idle();
            }
        } else if len > room || self.board.segments() >= MAX_SEGMENTS {
            self.limited = true;
            return None;
        }
        self.forced = false;
        self.timers.persist = None;
        Some(self.send_new(len, now))
    }

    /// Positions of new data (and the FIN) that the other side's window lets us send in one segment.
    fn sendable(&mut self) -> Option<u64> {
        if self.unacknowledged == 0 {
            return None; // until the SYN is acknowledged
        }
        let end = self.data_end();
        let waiting = end.saturating_sub(self.next);
        let usable = self.window_end.saturating_sub(self.next);
        let fin = self.fin && self.next <= end;
        let len = waiting.min(self.segment).min(usable);
        if len == 0 && !(fin && waiting == 0 && usable > 0) {
            self.limited = false;
            return None;
        }
        // Nothing silly (RFC 9293 §3.8.6.2.1): a segment is full, the last one, or half of the window.
        if len < self.segment && len < waiting && len < self.max_window / 2 && !self.forced {
            self.limited = false;
            return None;
        }
        let with_fin = fin && len == waiting && usable > len;
        Some(len + u64::from(with_fin))
    }

    fn send_new(&mut self, len: u64, now: Instant) -> Transmission {
        let start = self.next;
        if self.board.is_empty() {
            self.progress = now;
        }
        self.board.push(start, start + len, now);
        self.next += len;
        self.sent(start, start + len, now)
    }

    fn send_again(&mut self, start: u64, end: u64, now: Instant) -> Transmission {
        self.board.resent(start, now);
        if let Some(undo) = &mut self.undo {
            undo.doubtful += end - start;
        }
        if start == self.unacknowledged {
            self.timers.retransmit = None; // counts from here
        }
        self.sent(start, end, now)
    }

    fn sent(&mut self, start: u64, end: u64, now: Instant) -> Transmission {
        if let Some(Recovery {
            reduction: Some(reduction),
            ..
        }) = &mut self.recovery
        {
            reduction.sent += end - start;
        }
        self.last_sent = now;
        self.arm(now, true);
        let data_end = self.data_end();
        let syn = start == 0;
        let fin = self.fin && end > data_end;
        Transmission {
            start,
            len: if syn {
                0
            } else {
                (end.min(data_end) - start) as usize
            },
            syn,
            fin,
            push: end >= data_end,
        }
    }

    /// New data if there is some, else the last segment once more (RFC 8985 §7.3).
    fn send_probe(&mut self, now: Instant) -> Option<Transmission> {
        self.probe = None;
        let (start, end) = self.board.last()?;
        let new = self.sendable();
        self.probe = Some(Probe::Sent {
            end: self.next + new.unwrap_or(0),
            resent: new.is_none(),
        });
        // The timeout counts from the probe on.
        self.timers.retransmit = None;
        Some(match new {
            Some(len) => self.send_new(len, now),
            None => self.send_again(start, end, now),
        })
    }

    /// Everything that may be sent was. If a closed (or too small) window is what holds back the rest, it must
    /// be asked for.
    pub(in crate::netstack::tcp) fn wait_for_window(&mut self, now: Instant) {
        let waits = self.unacknowledged > 0
            && self.board.is_empty()
            && (self.next < self.data_end() || self.fin && self.next == self.data_end());
        if waits && self.timers.persist.is_none() {
            let wait = self.rtt.timeout() * (1 << self.persist_backoff);
            self.timers.persist = Some(now + wait.min(MAX_PERSIST));
        }
    }
}
