//! What is under way: which segments were sent when, which have arrived, which are lost.
//!
//! Loss is found by time, as RACK does (RFC 8985 §6), whose first rule is that three segments delivered out of
//! order mean a loss as long as no reordering has been seen (RFC 6675 §5, `DupThresh`).

use std::collections::VecDeque;

use smoltcp::time::{Duration, Instant};

/// Segments delivered out of order that mean a loss (RFC 6675 §2).
const DUP_THRESH: usize = 3;
/// The window for reordering grows for spurious retransmissions, and shrinks after this many recoveries
/// without any (RFC 8985 §6.2, step 4).
const REORDERING_PERSIST: u32 = 16;

/// A segment that was sent and not yet acknowledged cumulatively.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) start: u64,
    pub(super) end: u64,
    /// When it left first, and last.
    first: Instant,
    at: Instant,
    resent: bool,
    /// The other side has it.
    sacked: bool,
    /// It waits for being sent again.
    lost: bool,
}

impl Sent {
    fn len(&self) -> u64 {
        self.end - self.start
    }
}

/// What an acknowledgement tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivered {
    now: Instant,
    min_rtt: Duration,
    /// Bytes that are known to have arrived since the one before.
    pub(super) bytes: u64,
    /// Of a segment that was sent once.
    pub(super) rtt: Option<Duration>,
    /// Bytes that were sent again although they had arrived: they are acknowledged sooner than can be.
    pub(super) needless: u64,
}

impl Delivered {
    /// Nothing yet. An answer to a second transmission that comes in less than `min_rtt` is one to the first.
    pub(super) fn at(now: Instant, min_rtt: Duration) -> Self {
        Self {
            now,
            min_rtt,
            bytes: 0,
            rtt: None,
            needless: 0,
        }
    }
}

/// The segments, by position, without gaps.
#[derive(Debug, Default)]
pub(super) struct Scoreboard {
    sent: VecDeque<Sent>,
    in_flight: u64,
    lost: u64,
    sacked: u64,
    sacked_segments: usize,
    /// No segment that starts before is lost.
    lost_from: u64,
    /// SACK blocks as they came last: only what they have grown by needs a look.
    blocks: [Option<(u64, u64)>; 3],
    /// The end of what has arrived.
    highest: u64,
    rack: Rack,
}

/// RACK's state (RFC 8985 §5.2).
#[derive(Debug, Default)]
struct Rack {
    /// Of the segment that was sent last among those that arrived: when it was sent, its end, its round trip.
    newest: Option<(Instant, u64, Duration)>,
    reordering: bool,
    window: u32,
    persist: u32,
    /// By how much overtaken segments come later than those that overtake them let expect, and whether one came in
    /// this recovery.
    late: Duration,
    overtaken: bool,
    /// Duplicates reported until this is acknowledged count once.
    round: u64,
}

impl Scoreboard {
    /// Bytes that are on their way, as far as is known.
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Bytes that wait for being sent again.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    pub(super) fn has_sacked(&self) -> bool {
        self.sacked > 0
    }

    pub(super) fn segments(&self) -> usize {
        self.sent.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    pub(super) fn last(&self) -> Option<(u64, u64)> {
        self.sent.back().map(|last| (last.start, last.end))
    }

    /// A segment leaves for the first time.
    pub(super) fn push(&mut self, start: u64, end: u64, at: Instant) {
        self.in_flight += end - start;
        self.sent.push_back(Sent {
            start,
            end,
            first: at,
            at,
            resent: false,
            sacked: false,
            lost: false,
        });
    }

    /// The first segment that waits for being sent again.
    pub(super) fn first_lost(&mut self) -> Option<(u64, u64)> {
        if self.lost == 0 {
            return None;
        }
        let from = self.index(self.lost_from);
        let lost = self.sent.range(from..).find(|sent| sent.lost)?;
        self.lost_from = lost.start;
        Some((lost.start, lost.end))
    }

    /// The segment that starts here leaves once more.
    pub(super) fn resent(&mut self, start: u64, at: Instant) {
        let index = self.index(start);
        if let Some(sent) = self.sent.get_mut(index) {
            let len = sent.len();
            if sent.lost {
                sent.lost = false;
                self.lost -= len;
                self.in_flight += len;
            }
            sent.resent = true;
            sent.at = at;
        }
    }

    /// Everything before `until` has arrived.
    pub(super) fn acknowledged(&mut self, until: u64, delivered: &mut Delivered) {
        while let Some(first) = self.sent.front_mut() {
            if first.start >= until {
                break;
            }
            let (whole, mut part) = (first.end <= until, *first);
            if whole {
                self.sent.pop_front();
            } else {
                first.start = until;
                part.end = until;
            }
            let len = part.len();
            match (part.sacked, part.lost) {
                (true, _) => {
                    self.sacked -= len;
                    self.sacked_segments -= usize::from(whole);
                    continue;
                }
                (_, true) => self.lost -= len,
                _ => self.in_flight -= len,
            }
            delivered.bytes += len;
            self.arrived(&part, delivered);
        }
        self.highest = self.highest.max(until);
    }

    /// The other side has these ranges (RFC 2018 §4).
    pub(super) fn sacked(&mut self, blocks: [Option<(u64, u64)>; 3], delivered: &mut Delivered) {
        let before = std::mem::replace(&mut self.blocks, blocks);
        let mut ascending = blocks; // or what arrived last would seem to have overtaken what an ACK told that got lost
        ascending.sort_unstable();
        for (start, end) in ascending.into_iter().flatten() {
            let known = before
                .into_iter()
                .flatten()
                .find(|old| old.0 <= start && start <= old.1);
            let from = match known {
                Some((_, known)) => self.sent.partition_point(|sent| sent.end <= known.max(start)),
                None => self.sent.partition_point(|sent| sent.start < start),
            };
            for i in from..self.sent.len() {
                let sent = &mut self.sent[i];
                if sent.end > end {
                    break;
                }
                if sent.sacked || sent.start < start {
                    continue;
                }
                let len = sent.len();
                if sent.lost {
                    self.lost -= len;
                } else {
                    self.in_flight -= len;
                }
                sent.sacked = true;
                sent.lost = false;
                self.sacked += len;
                self.sacked_segments += 1;
                delivered.bytes += len;
                let sent = *sent;
                self.arrived(&sent, delivered);
            }
        }
    }

    /// A segment has arrived (RFC 8985 §6.2, steps 1 to 3).
    fn arrived(&mut self, sent: &Sent, delivered: &mut Delivered) {
        let rtt = delivered.now - sent.at;
        if sent.resent && rtt < delivered.min_rtt {
            delivered.needless += sent.len();
            self.rack.overtaken(delivered.now - sent.first);
            return;
        }
        if !sent.resent {
            delivered.rtt = Some(delivered.rtt.map_or(rtt, |other| other.min(rtt)));
            if sent.end < self.highest {
                self.rack.overtaken(rtt);
            }
        }
        self.highest = self.highest.max(sent.end);
        if self
            .rack
            .newest
            .is_none_or(|(at, end, _)| (at, end) < (sent.at, sent.end))
        {
            self.rack.newest = Some((sent.at, sent.end, rtt));
        }
    }

    /// The other side has got something twice: what was resent was not lost but late, so wait longer next time.
    pub(super) fn duplicated(&mut self, acknowledged: u64, next: u64) {
        if acknowledged >= self.rack.round {
            self.rack.round = next;
            self.rack.reordering = true;
            self.rack.window = (self.rack.window + 1).min(64);
            self.rack.persist = REORDERING_PERSIST;
        }
    }

    /// A recovery is over.
    pub(super) fn recovered(&mut self) {
        self.rack.persist = self.rack.persist.saturating_sub(1);
        if self.rack.persist == 0 {
            self.rack.window = 0;
        }
        if !std::mem::take(&mut self.rack.overtaken) {
            self.rack.late /= 2;
        }
    }

    /// Marks what is lost by now (RFC 8985 §6.2, step 5). Says whether there was any, and when to look again.
    ///
    /// RFC 8985 gives no segment more than the smoothed round trip to arrive out of order. But where segments overtake,
    /// round trips are measured too short, and those that come later are resent again and again, for nothing: so
    /// what has been seen to be late sets the window too, up to `longest`, which must be less than a timeout.
    pub(super) fn find_losses(
        &mut self,
        now: Instant,
        min_rtt: Duration,
        smoothed: Duration,
        longest: Duration,
        recovering: bool,
    ) -> (bool, Option<Instant>) {
        let Some((newest, newest_end, rtt)) = self.rack.newest else {
            return (false, None);
        };
        let patience = if !self.rack.reordering && (recovering || self.sacked_segments >= DUP_THRESH) {
            Duration::ZERO
        } else {
            let usual = (min_rtt / 4 * (1 + self.rack.window)).min(smoothed);
            usual.max((self.rack.late * 5 / 4).min(longest))
        };
        let (mut found, mut again) = (false, None::<Instant>);
        for sent in &mut self.sent {
            if sent.sacked || sent.lost || (sent.at, sent.end) >= (newest, newest_end) {
                continue;
            }
            let due = sent.at + rtt + patience;
            if due <= now {
                sent.lost = true;
                self.in_flight -= sent.len();
                self.lost += sent.len();
                self.lost_from = self.lost_from.min(sent.start);
                found = true;
            } else {
                again = Some(again.map_or(due, |other| other.max(due)));
            }
        }
        (found, again)
    }

    /// Marks the first segment: without SACK nothing more is known (RFC 6582).
    pub(super) fn first_is_lost(&mut self) {
        if let Some(first) = self.sent.front_mut()
            && !first.lost
            && !first.sacked
        {
            first.lost = true;
            self.in_flight -= first.len();
            self.lost += first.len();
            self.lost_from = first.start;
        }
    }

    /// Nothing has come back for too long: whatever isn't known to have arrived is taken for lost. If the
    /// other side has thrown away what it had reported (RFC 2018 §8), so is the rest.
    pub(super) fn all_lost(&mut self) {
        let reneged = self.sent.front().is_some_and(|first| first.sacked);
        if reneged {
            self.blocks = [None; 3];
            (self.sacked, self.sacked_segments) = (0, 0);
        }
        (self.lost, self.in_flight) = (0, 0);
        for sent in &mut self.sent {
            sent.sacked &= !reneged;
            sent.lost = !sent.sacked;
            self.lost += if sent.lost { sent.len() } else { 0 };
        }
        self.lost_from = self.sent.front().map_or(0, |first| first.start);
    }

    /// Gives back memory that holds nothing.
    pub(super) fn release(&mut self) {
        self.sent.shrink_to_fit();
    }

    /// Bytes of memory.
    pub(super) fn held(&self) -> usize {
        self.sent.capacity() * size_of::<Sent>()
    }

    /// The index of the segment that starts at `start`, or the next one.
    fn index(&self, start: u64) -> usize {
        self.sent.partition_point(|sent| sent.start < start)
    }
}

impl Rack {
    /// A segment arrived late, after this round trip.
    fn overtaken(&mut self, rtt: Duration) {
        self.reordering = true;
        let newest = self.newest.map_or(Duration::ZERO, |(_, _, rtt)| rtt);
        if rtt > newest {
            self.late = self.late.max(rtt - newest);
            self.overtaken = true;
        }
    }
}

#[cfg(test)]
mod tests;
