//! The receiving half: bytes in order, segments that came too early, the window, and when to acknowledge.

use smoltcp::time::{Duration, Instant};

use super::{
    memory::{Pressure, Share},
    queue::Queue,
};

/// An ACK waits this long for data to travel with.
const ACK_DELAY: Duration = Duration::from_millis(10);
/// The window that every connection gets: the first flight of a sender fits (RFC 6928). Nothing is reserved for it,
/// else idle connections would use up all memory.
const LEAST_WINDOW: usize = 16 << 10;
/// Up to here a window grows faster than the sender's, which doubles in a round trip.
const QUICK_WINDOW: usize = 256 << 10;
/// Windows are announced in units of `1 << SHIFT` bytes to those who know it (RFC 7323 §2).
pub(super) const SHIFT: u8 = 6;
/// Ranges of bytes that came too early. A path that loses 2 % makes a few dozen of a full window.
const MAX_AHEAD: usize = 128;

/// How much may be promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowance {
    /// So many bytes more than the least window.
    More(usize),
    /// The least window.
    Least,
    /// Nothing but what is needed to go on.
    None,
    /// What was promised before isn't there any more: it is thrown away unless it is needed to go on.
    Exhausted,
}

impl Allowance {
    pub(super) fn of(share: &Share) -> Self {
        match share.pressure() {
            Pressure::Low => Self::More(share.grant()),
            Pressure::High => Self::Least,
            Pressure::Critical => Self::None,
            Pressure::Full => Self::Exhausted,
        }
    }
}

/// Bytes that came too early.
#[derive(Debug)]
struct Range {
    start: u64,
    bytes: Queue,
}

impl Range {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

#[derive(Debug)]
pub(super) struct Receiver {
    /// What the other side sends next.
    next: u64,
    unread: Queue,
    /// By position; no two of them touch.
    ahead: Vec<Range>,
    /// Start of the range that grew last: it is reported first (RFC 2018 §4).
    latest: u64,
    /// What came again, for one report (RFC 2883).
    duplicate: Option<(u64, u64)>,
    /// Position of the FIN.
    fin: Option<u64>,
    /// The end of the window as announced last, and the furthest that ever was.
    announced: u64,
    promised: u64,
    /// The window's size when nothing is unread, and how large it may become.
    window: usize,
    most: usize,
    growth: Growth,
    /// The largest segment that has come, and that we asked for.
    segment: usize,
    asked: usize,
    delays: bool,
    ack: Ack,
}

/// What has to be acknowledged.
#[derive(Debug, Default)]
struct Ack {
    /// Bytes since the last ACK.
    bytes: usize,
    /// ACKs that are due now. More than one only tell something to a sender without SACK.
    owed: u32,
    at: Option<Instant>,
}

/// Whether the window is about to hold the sender back: then half of one passes in a round trip.
#[derive(Debug)]
struct Growth {
    /// What had come when, as was seen last.
    seen: u64,
    at: Instant,
    /// It is measured from here on, until so much was read.
    since: Instant,
    until: u64,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            next: 0,
            unread: Queue::default(),
            ahead: Vec::new(),
            latest: 0,
            duplicate: None,
            fin: None,
            announced: 0,
            promised: 0,
            window: LEAST_WINDOW,
            most: u16::MAX.into(),
            growth: Growth {
                seen: 0,
                at: Instant::ZERO,
                since: Instant::ZERO,
                until: 0,
            },
            segment: 536,
            asked: usize::MAX,
            delays: true,
            ack: Ack::default(),
        }
    }

    /// The SYN has come. `shift` is that of the windows that will be announced, `asked` the largest segment that the other
    /// side may send.
    pub(super) fn open(&mut self, shift: u8, asked: usize) {
        self.next = 1;
        self.promised = 1;
        self.announced = 1;
        self.most = usize::from(u16::MAX) << shift;
        self.asked = asked;
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// The other side has closed its half, and everything before has come.
    pub(super) fn is_finished(&self) -> bool {
        self.fin.is_some_and(|fin| self.next > fin)
    }

    pub(super) fn front(&self) -> &[u8] {
        self.unread.front()
    }

    pub(super) fn take(&mut self, count: usize) {
        self.unread.take(count);
    }

    /// Whether a segment is worth a look (RFC 9293 §3.10.7.4): part of it could be new. One that begins where
    /// the window ends counts, since it may carry an acknowledgement; so does one that ends where we are.
    pub(super) fn accepts(&self, start: u64, end: u64) -> bool {
        end >= self.next && start <= self.promised
    }

    /// A RST with this position is one of somebody who knows where we are (RFC 5961 §3.2).
    pub(super) fn is_exact(&self, start: u64) -> bool {
        start == self.next
    }

    /// A segment that is worth no look: say where we are, and what came again (RFC 2883).
    pub(super) fn reject(&mut self, start: u64, end: u64) {
        if start < end && end <= self.next {
            self.duplicate = Some((start, end));
        }
        self.acknowledge_now();
    }

    /// Takes the data of a segment. `true` if the FIN has come and nothing before it is missing.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        start: u64,
        data: &[u8],
        fin: bool,
        allowance: Allowance,
        sack: bool,
    ) -> bool {
        // More than was asked for would be more than was counted on when memory is scarce.
        let (data, rest) = data.split_at(data.len().min(self.asked));
        let fin = fin && rest.is_empty();
        if !rest.is_empty() {
            self.acknowledge_now();
        }
        let end = start + data.len() as u64;
        if data.is_empty() && !fin {
            return false;
        }
        self.segment = self.segment.max(data.len());
        if fin && end <= self.promised && self.fin.is_none() {
            self.fin = Some(end);
        }
        // A FIN is final: nothing stands behind it.
        let limit = self.fin.map_or(self.promised, |fin| fin.min(self.promised));
        let first = self.next.max(start);
        let last = end.min(limit);
        let useful = first < last && self.has_room(first, allowance);
        if useful && start <= self.next {
            self.append(
                first,
                &data[(first - start) as usize..(last - start) as usize],
                now,
            );
        } else if useful {
            self.keep(start, &data[..(last - start) as usize]);
            self.ack.owed = if sack { 1 } else { self.ack.owed + 1 };
        } else {
            // Something old, or something that has no place: say where we are.
            self.reject(start, end);
        }
        let finished = self.fin == Some(self.next);
        if finished {
            self.next += 1;
            self.ack.owed = self.ack.owed.max(1);
        }
        finished
    }

    fn has_room(&self, first: u64, allowance: Allowance) -> bool {
        allowance != Allowance::Exhausted || first == self.next && self.unread.len() < 2 * self.segment
    }

    /// Takes bytes that are next, and what they connect to.
    fn append(&mut self, first: u64, data: &[u8], now: Instant) {
        self.unread.push(data);
        self.next = first + data.len() as u64;
        let fills = !self.ahead.is_empty();
        let reached = self.ahead.partition_point(|range| range.start <= self.next);
        for mut range in self.ahead.drain(..reached) {
            let known = self.next.saturating_sub(range.start) as usize;
            range.bytes.take(known);
            self.next += range.bytes.len() as u64;
            self.unread.append(range.bytes);
        }
        self.ack.bytes += data.len();
        if fills || !self.delays || self.ack.bytes >= 2 * self.segment {
            self.ack.owed = self.ack.owed.max(1);
        } else if self.ack.at.is_none() {
            self.ack.at = Some(now + ACK_DELAY);
        }
    }

    /// Keeps bytes that came too early.
    fn keep(&mut self, start: u64, data: &[u8]) {
        let end = start + data.len() as u64;
        // All ranges that the new one overlaps or touches.
        let from = self.ahead.partition_point(|range| range.end() < start);
        let to = self.ahead.partition_point(|range| range.start <= end);
        if from == to {
            if self.ahead.len() < MAX_AHEAD {
                let mut bytes = Queue::default();
                bytes.push(data);
                self.ahead.insert(from, Range { start, bytes });
                self.latest = start;
            }
            return;
        }
        let known = |range: &Range| range.start <= start && end <= range.end();
        if to == from + 1 && known(&self.ahead[from]) {
            self.duplicate = Some((start, end));
            return;
        }
        if start < self.ahead[from].start {
            let mut bytes = Queue::default();
            bytes.push(&data[..(self.ahead[from].start - start) as usize]);
            self.ahead.insert(from, Range { start, bytes });
            return self.join(from, to + 1, start, data);
        }
        self.join(from, to, start, data);
    }

    /// Makes one of the ranges `from..to`, between which `data` has what is missing.
    fn join(&mut self, from: usize, to: usize, start: u64, data: &[u8]) {
        let end = start + data.len() as u64;
        let (first, others) = self.ahead.split_at_mut(from + 1);
        let first = &mut first[from];
        let fill = |first: &mut Range, until: u64| {
            let until = until.min(end);
            if first.end() < until {
                first
                    .bytes
                    .push(&data[(first.end() - start) as usize..(until - start) as usize]);
            }
        };
        for other in &mut others[..to - from - 1] {
            fill(first, other.start);
            first.bytes.append(std::mem::take(&mut other.bytes));
        }
        fill(first, end);
        self.latest = first.start;
        self.ahead.drain(from + 1..to);
    }

    /// There is something to report beside the acknowledgement.
    pub(super) fn has_report(&self) -> bool {
        self.duplicate.is_some() || !self.ahead.is_empty()
    }

    /// What to report with the next segment: a duplicate, then what came too early, the latest first.
    pub(super) fn report(&mut self) -> [Option<(u64, u64)>; 3] {
        let duplicate = self.duplicate.take();
        let latest = self.ahead.iter().find(|range| range.start == self.latest);
        let others = self.ahead.iter().filter(|range| range.start != self.latest).rev();
        let ranges = latest.into_iter().chain(others);
        let mut all = duplicate
            .into_iter()
            .chain(ranges.map(|range| (range.start, range.end())));
        std::array::from_fn(|_| all.next())
    }

    /// The window to announce now, as a position. Its end never goes back, and moves on only by steps that are
    /// worth it (RFC 9293 §3.8.6.2.2).
    fn window_end(&self, allowance: Allowance) -> u64 {
        let (window, more) = match allowance {
            Allowance::More(more) => (self.window, more),
            Allowance::Least => (LEAST_WINDOW, 0),
            Allowance::None | Allowance::Exhausted => (2 * self.segment, 0),
        };
        let room = window.saturating_sub(self.unread.len()).min(LEAST_WINDOW + more);
        let end = self.next + room as u64;
        let step = self.segment.min(window / 2) as u64;
        if end >= self.promised + step {
            end
        } else {
            self.promised.max(self.next)
        }
    }

    /// The window field of a segment that leaves now; `shift` is 0 in a SYN and for a peer without scaling.
    pub(super) fn announce(&mut self, allowance: Allowance, shift: u8) -> u16 {
        let end = self.window_end(allowance);
        let units = ((end - self.next) >> shift).min(u16::MAX.into());
        self.announced = self.next + (units << shift);
        self.promised = self.promised.max(self.announced);
        units as u16
    }

    /// A segment with an acknowledgement has left.
    pub(super) fn acknowledged(&mut self) {
        self.ack.owed = self.ack.owed.saturating_sub(1);
        self.ack.bytes = 0;
        self.ack.at = None;
    }

    pub(super) fn acknowledge_now(&mut self) {
        self.ack.owed = self.ack.owed.max(1);
    }

    /// From now on no ACK waits for data.
    pub(super) fn stop_delaying(&mut self) {
        self.delays = false;
        if self.ack.at.is_some() {
            self.acknowledge_now();
        }
    }

    /// An ACK has to leave, or one that opens a window which was almost closed.
    pub(super) fn owes_ack(&self, now: Instant, allowance: Allowance) -> bool {
        self.ack.owed > 0 || self.ack.at.is_some_and(|at| at <= now) || self.opens_window(allowance)
    }

    fn opens_window(&self, allowance: Allowance) -> bool {
        let left = self.announced.saturating_sub(self.next);
        let gained = self.window_end(allowance).saturating_sub(self.announced);
        !self.is_finished() && left < self.window as u64 / 8 && gained >= 2 * self.segment as u64
    }

    /// When [`Self::owes_ack`] becomes true.
    pub(super) fn ack_at(&self) -> Option<Instant> {
        self.ack.at
    }

    /// Lets the window grow before it holds the sender back, which may send twice as much in each round trip: when half of
    /// one was read in a round trip, and, as long as it is small, when that took two or it is used up at once.
    pub(super) fn adapt(&mut self, now: Instant, rtt: Option<Duration>) {
        let small = self.window < QUICK_WINDOW;
        let used_up = self.next + 2 * self.segment as u64 > self.promised;
        if small && used_up && self.unread.len() >= self.window / 2 {
            self.window = (self.window * 4).min(self.most);
        }
        let Some(rtt) = rtt else { return };
        let growth = &mut self.growth;
        if growth.seen < self.next {
            if now - growth.at > rtt * 2 {
                // After a pause.
                growth.since = now;
                growth.until = growth.seen + self.window as u64 / 2;
            }
            growth.seen = self.next;
            growth.at = now;
        }
        let read = self.next - self.unread.len() as u64;
        if read < growth.until {
            return;
        }
        let (patience, factor) = if small { (rtt * 2, 4) } else { (rtt, 2) };
        if now - growth.since <= patience {
            self.window = (self.window * factor).min(self.most);
        }
        growth.since = now;
        growth.until = read + self.window as u64 / 2;
    }

    /// Gives back memory that holds nothing.
    pub(super) fn release(&mut self) {
        self.unread.release();
        if self.ahead.is_empty() {
            self.ahead = Vec::new();
        }
    }

    /// Bytes of memory.
    pub(super) fn held(&self) -> usize {
        let ahead: usize = self.ahead.iter().map(|range| range.bytes.held()).sum();
        self.unread.held() + ahead + self.ahead.capacity() * size_of::<Range>()
    }

    /// Bytes that were promised beyond the least window and haven't come.
    pub(super) fn reserved(&self) -> usize {
        let ahead: usize = self.ahead.iter().map(|range| range.bytes.len()).sum();
        ((self.promised.saturating_sub(self.next)) as usize).saturating_sub(ahead + LEAST_WINDOW)
    }
}

#[cfg(test)]
mod tests;
