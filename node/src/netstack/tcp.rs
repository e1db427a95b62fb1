//! One TCP connection (RFC 9293): packets and calls in, packets out. No clock, no lock, no wakers.
//!
//! [`Tcp`] is the state machine; the data in both directions has its own: [`Sender`] with what it knows of the
//! path, [`Receiver`] with what came too early. Positions in the streams are 64 bits wide ([`Origin`]), so that
//! nothing in here thinks about wrapping.

use bytes::BytesMut;
use smoltcp::{
    time::{Duration, Instant},
    wire::{IpAddress, TcpControl, TcpRepr},
};

pub(crate) use self::memory::{Pool, Share};
use self::{
    memory::Pressure,
    receiver::{Allowance, Receiver},
    segment::{max_payload, parse},
    sender::{Acknowledgement, Sender},
    sequence::Origin,
};
use super::packet::FlowKey;

mod cubic;
mod egress;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod memory;
mod queue;
mod receiver;
mod rtt;
mod scoreboard;
mod segment;
mod sender;
mod sequence;

/// Answers to segments that make no sense, per second (RFC 5961 §7).
const MAX_CHALLENGES: u32 = 10;
/// The smallest segments that are sent, whatever the other side asks for.
const MIN_SEGMENT: u16 = 64;
/// The most that is buffered for sending; less while memory is short.
const SEND_BUFFER: usize = 4 << 20;
const LEAN_SEND_BUFFER: usize = 64 << 10;
const LEAST_SEND_BUFFER: usize = 8 << 10;
/// From this round trip on, buffers have to hold what is under way.
const LONG_PATH: Duration = Duration::from_millis(5);

/// A connection.
pub(crate) struct Tcp {
    key: FlowKey,
    state: State,
    /// Our stream, and the other side's (once its SYN has come).
    own: Origin,
    other: Origin,
    sender: Sender,
    receiver: Receiver,
    share: Share,
    /// The other side scales its windows by this; `None`: nobody scales.
    scale: Option<u8>,
    sack: bool,
    began: Instant,
    heard: Instant,
    asked: Instant,
    /// Since when TIME-WAIT lasts.
    ended: Instant,
    challenges: (i64, u32),
    /// A RST has to leave.
    reset: bool,
    /// The other side has to be asked for an ACK: is it there, and how large is its window?
    ask: bool,
}

/// RFC 9293 §3.3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Listen,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// This many bytes.
    Data(usize),
    /// Nothing yet.
    Empty,
    /// The other side has closed its half.
    Eof,
    /// The connection has ended without a FIN from the other side.
    Reset,
}

impl Tcp {
    /// Waits for the SYN of `key`. `None` if that names an address that no host can have. `seed` makes the
    /// initial sequence number, so nobody may know it beforehand (RFC 6528).
    pub(crate) fn listening(key: &FlowKey, share: Share, now: Instant, seed: u64) -> Option<Self> {
        let is_host = |ip| IpAddress::from(ip).is_unicast();
        (is_host(key.local.ip()) && is_host(key.remote.ip())).then(|| Self {
            key: *key,
            state: State::Listen,
            own: Origin::new(seed as u32),
            other: Origin::new(0),
            sender: Sender::new(now),
            receiver: Receiver::new(),
            share,
            scale: None,
            sack: false,
            began: now,
            heard: now,
            asked: now,
            ended: now,
            challenges: (0, 0),
            reset: false,
            ask: false,
        })
    }

    /// Will open the connection `key` with the next [`Self::egress`].
    pub(crate) fn connecting(key: &FlowKey, share: Share, now: Instant, seed: u64) -> Option<Self> {
        let mut tcp = Self::listening(key, share, now, seed)?;
        tcp.state = State::SynSent;
        Some(tcp)
    }

    // Packets in.

    /// Processes one packet. An immediate answer (a RST) lands in `out`; everything else waits for
    /// [`Self::egress`], so that a burst of packets is answered once.
    pub(crate) fn ingress(&mut self, now: Instant, packet: &[u8], out: &mut Vec<BytesMut>) {
        let Some(segment) = parse(packet) else { return };
        match self.state {
            State::Closed => out.extend(segment::refusal(&self.key, &segment)),
            State::Listen => self.while_listening(now, &segment, out),
            State::SynSent => self.while_connecting(now, &segment, out),
            _ => self.while_synchronized(now, &segment, out),
        }
        self.account();
    }

    fn while_listening(&mut self, now: Instant, segment: &TcpRepr<'_>, out: &mut Vec<BytesMut>) {
        if segment.ack_number.is_some() {
            out.extend(segment::refusal(&self.key, segment));
        } else if segment.control == TcpControl::Syn {
            self.heard = now;
            self.meet(segment);
            self.state = State::SynReceived;
        }
    }

    fn while_connecting(&mut self, now: Instant, segment: &TcpRepr<'_>, out: &mut Vec<BytesMut>) {
        let ack = segment
            .ack_number
            .map(|ack| self.own.position(ack.0 as u32, self.sender.unacknowledged()));
        if ack.is_some_and(|ack| ack != Some(1) || self.sender.next() == 0) {
            out.extend(segment::refusal(&self.key, segment));
            return;
        }
        match segment.control {
            // Refused.
            TcpControl::Rst if ack.is_some() => self.state = State::Closed,
            TcpControl::Syn if ack.is_some() => {
                self.heard = now;
                self.meet(segment);
                self.state = State::Established;
                self.acknowledged(now, segment, 0, 1);
                self.receiver.acknowledge_now();
            }
            // Both sides connect to each other at once.
            TcpControl::Syn => {
                self.heard = now;
                self.meet(segment);
                self.state = State::SynReceived;
                self.sender.repeat_syn();
            }
            _ => {}
        }
    }

    /// Takes what the other side's SYN says.
    fn meet(&mut self, syn: &TcpRepr<'_>) {
        self.other = Origin::new(syn.seq_number.0 as u32);
        self.scale = syn.window_scale;
        let shift = self.scale.map_or(0, |_| receiver::SHIFT);
        self.receiver.open(shift, max_payload(self.key.remote));
        self.sack = syn.sack_permitted;
        // RFC 9293 §3.7.1.
        let default = if self.key.remote.is_ipv4() { 536 } else { 1220 };
        let wanted = syn.max_seg_size.unwrap_or(default).max(MIN_SEGMENT);
        self.sender
            .agree(max_payload(self.key.remote).min(wanted.into()), self.sack);
    }

    /// RFC 9293 §3.10.7.4, with the checks of RFC 5961.
    fn while_synchronized(&mut self, now: Instant, segment: &TcpRepr<'_>, out: &mut Vec<BytesMut>) {
        let seq = segment.seq_number.0 as u32;
        let Some(start) = self.other.position(seq, self.receiver.next()) else {
            return self.challenge(now);
        };
        let end = start + segment.segment_len() as u64;
        let acceptable = self.receiver.accepts(start, end);
        let opening = self.state == State::SynReceived && start == 0;
        match segment.control {
            TcpControl::Rst if self.receiver.is_exact(start) => return self.state = State::Closed,
            TcpControl::Rst if acceptable => return self.challenge(now),
            TcpControl::Rst => return,
            // The answer of somebody who connects to us as we do to him.
            TcpControl::Syn if opening && segment.ack_number.is_some() => {}
            // Our answer got lost.
            TcpControl::Syn if opening => return self.sender.repeat_syn(),
            TcpControl::Syn => return self.challenge(now),
            _ if !acceptable && start == end => return self.challenge(now),
            _ if !acceptable => {
                self.heard = now;
                self.ended = now;
                return self.receiver.reject(start, end);
            }
            _ => {}
        }
        let Some(ack) = segment.ack_number else { return };
        let una = self.sender.unacknowledged();
        let opens = self.state == State::SynReceived;
        let valid = |until: &u64| {
            let old = until + self.sender.max_window() < una || opens && *until == 0;
            !old && *until <= self.sender.next()
        };
        let Some(until) = self.own.position(ack.0 as u32, una).filter(valid) else {
            if opens {
                out.extend(segment::refusal(&self.key, segment));
            } else {
                self.challenge(now);
            }
            return;
        };
        if opens {
            self.state = State::Established;
        }
        self.heard = now;
        self.acknowledged(now, segment, start, until);
        if self.sender.is_finished() {
            self.state = match self.state {
                State::FinWait1 => State::FinWait2,
                State::Closing => self.wait(now),
                State::LastAck => State::Closed,
                other => other,
            };
        }
        if segment.control != TcpControl::Syn {
            self.receive(now, segment, start);
        }
    }

    fn receive(&mut self, now: Instant, segment: &TcpRepr<'_>, start: u64) {
        let fin = segment.control == TcpControl::Fin;
        if !matches!(self.state, State::Established | State::FinWait1 | State::FinWait2) {
            if segment.segment_len() > 0 && self.state != State::Closed {
                self.ended = now;
                self.receiver.reject(start, start + segment.segment_len() as u64);
            }
            return;
        }
        let allowance = Allowance::of(&self.share);
        let finished = self
            .receiver
            .receive(now, start, segment.payload, fin, allowance, self.sack);
        if finished {
            self.state = match self.state {
                State::Established => State::CloseWait,
                State::FinWait1 => State::Closing,
                _ => self.wait(now),
            };
        }
    }

    fn acknowledged(&mut self, now: Instant, segment: &TcpRepr<'_>, seq: u64, until: u64) {
        let syn = segment.control == TcpControl::Syn;
        let scale = if syn { 0 } else { self.scale.unwrap_or(0) };
        let position = |wire| self.own.position(wire, self.sender.unacknowledged());
        let block = |block: Option<(u32, u32)>| {
            let (start, end) = block?;
            Some((position(start)?, position(end)?))
        };
        let ack = Acknowledgement {
            seq,
            until,
            window: u64::from(segment.window_len) << scale,
            sacked: segment.sack_ranges.map(block),
            bare: segment.segment_len() == 0,
        };
        self.sender.acknowledged(now, ack);
    }

    fn wait(&mut self, now: Instant) -> State {
        self.ended = now;
        State::TimeWait
    }

    /// Says where we are to somebody who may have lost his way, or is none of the two.
    fn challenge(&mut self, now: Instant) {
        let (second, count) = &mut self.challenges;
        if *second != now.secs() {
            (*second, *count) = (now.secs(), 0);
        }
        *count += 1;
        if *count <= MAX_CHALLENGES {
            self.receiver.acknowledge_now();
        }
    }

    // The owner.

    /// Takes received bytes: `take` gets a contiguous piece and says how much of it it took; it is asked
    /// again while it takes all and there is more.
    pub(crate) fn read(&mut self, mut take: impl FnMut(&[u8]) -> usize) -> Read {
        let mut total = 0;
        while self.receiver.has_unread() {
            let offered = self.receiver.front().len();
            let taken = take(self.receiver.front()).min(offered);
            self.receiver.take(taken);
            total += taken;
            if taken < offered {
                break;
            }
        }
        match self.state {
            _ if total > 0 => {
                self.account();
                Read::Data(total)
            }
            _ if self.receiver.has_unread() => Read::Empty,
            _ if self.receiver.is_finished() => Read::Eof,
            State::Closed => Read::Reset,
            _ => Read::Empty,
        }
    }

    /// Appends to the send buffer as much as fits. [`Self::may_send`] must hold, else nothing does.
    pub(crate) fn write(&mut self, data: &[u8]) -> usize {
        if !self.may_send() {
            return 0;
        }
        let room = self.send_capacity().saturating_sub(self.sender.queued());
        let taken = data.len().min(room);
        self.sender.push(&data[..taken]);
        self.account();
        taken
    }

    /// FIN after the queued data; receiving goes on.
    pub(crate) fn close(&mut self) {
        self.state = match self.state {
            State::Listen | State::SynSent => State::Closed,
            State::SynReceived | State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            other => return self.state = other,
        };
        self.sender.finish();
    }

    /// Ends the connection; the next [`Self::egress`] emits a RST.
    pub(crate) fn abort(&mut self) {
        self.reset = !matches!(
            self.state,
            State::Closed | State::Listen | State::SynSent | State::TimeWait
        );
        self.state = State::Closed;
    }

    /// The last ACK must not wait for data that will never come.
    pub(crate) fn ack_at_once(&mut self) {
        self.receiver.stop_delaying();
    }

    /// Both directions are up, or were until the other side closed its own.
    pub(crate) fn may_send(&self) -> bool {
        matches!(self.state, State::Established | State::CloseWait)
    }

    /// A read would not say [`Read::Empty`].
    pub(crate) fn is_readable(&self) -> bool {
        self.receiver.has_unread() || self.receiver.is_finished() || self.state == State::Closed
    }

    /// Unread bytes wait.
    pub(crate) fn has_unread(&self) -> bool {
        self.receiver.has_unread()
    }

    /// The handshake is over (successfully).
    pub(crate) fn is_synchronized(&self) -> bool {
        !matches!(
            self.state,
            State::Closed | State::Listen | State::SynSent | State::SynReceived
        )
    }

    /// Nothing will happen any more. LISTEN: what came was no SYN, and the next one makes a connection of its own.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Closed | State::Listen)
    }

    /// Bytes that wait to be sent or acknowledged.
    pub(crate) fn send_queue(&self) -> usize {
        self.sender.queued()
    }

    /// How much may be buffered for sending.
    pub(crate) fn send_capacity(&self) -> usize {
        match self.share.pressure() {
            Pressure::Low => SEND_BUFFER,
            Pressure::High => LEAN_SEND_BUFFER,
            Pressure::Critical | Pressure::Full => LEAST_SEND_BUFFER,
        }
    }

    /// How much has to be buffered for sending so that a long path is kept full: twice what may be under way.
    pub(crate) fn send_demand(&self) -> usize {
        match self.sender.rtt().min() {
            Some(rtt) if rtt >= LONG_PATH => 2 * self.sender.congestion_window() as usize,
            _ => 0,
        }
    }

    /// Gives back memory that holds nothing.
    pub(crate) fn release(&mut self) {
        self.sender.release();
        self.receiver.release();
        self.account();
    }

    /// There may be memory to give back.
    pub(crate) fn holds_memory(&self) -> bool {
        self.share.held() > 0
    }

    fn account(&mut self) {
        let held = self.sender.held() + self.receiver.held();
        self.share.set(held, self.receiver.reserved());
    }
}

/// What a host without any connection answers to `packet`, which is a TCP segment of `key`: a RST, or nothing.
pub(crate) fn refusal(key: &FlowKey, packet: &[u8]) -> Option<BytesMut> {
    let is_host = |ip| IpAddress::from(ip).is_unicast();
    if !is_host(key.local.ip()) || !is_host(key.remote.ip()) {
        return None;
    }
    segment::refusal(key, &parse(packet)?)
}

#[cfg(test)]
mod tests;
