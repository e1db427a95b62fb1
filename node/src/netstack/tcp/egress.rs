//! Packets out: what is due, and how it is put together.

use bytes::BytesMut;
use smoltcp::{
    time::{Duration, Instant},
    wire::{TcpControl, TcpRepr, TcpSeqNumber},
};

use super::{
    State, Tcp,
    receiver::{self, Allowance},
    segment::{bare, emit, max_payload},
    sender::Transmission,
};

/// How long the opening handshake may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(12);
/// An idle connection asks this often whether the other side is still there…
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// …and gives up when it has heard nothing for this long (three probes lost). What was sent has to be
/// acknowledged in this time, too.
pub(super) const SILENCE_TIMEOUT: Duration = Duration::from_secs(240);
/// How long the end of a connection is remembered, for a FIN that comes again. Twice the life of a segment is
/// not needed: WireGuard lets no old one through.
const TIME_WAIT: Duration = Duration::from_secs(2);

impl Tcp {
    /// Emits everything that is due: data, ACKs, window updates, retransmissions, probes.
    pub(crate) fn egress(&mut self, now: Instant, out: &mut Vec<BytesMut>) {
        self.run_timers(now);
        if std::mem::take(&mut self.reset) {
            let packet = self.packet(TcpControl::Rst, self.sender.next());
            out.push(packet);
        }
        if matches!(self.state, State::Closed | State::Listen) {
            return;
        }
        let hears = self.state != State::SynSent;
        self.receiver.adapt(now, self.sender.rtt().smoothed());
        let allowance = Allowance::of(&self.share);
        // What is reported doesn't fit behind a full segment, so it goes first.
        if hears && self.receiver.has_report() && self.receiver.owes_ack(now, allowance) {
            self.acknowledge(out);
        }
        while let Some(transmission) = self.sender.transmit(now) {
            let packet = self.data_packet(&transmission);
            out.push(packet);
        }
        self.sender.wait_for_window(now);
        if std::mem::take(&mut self.ask) {
            // An old position is answered with an ACK, whatever the window (RFC 9293 §3.8.4).
            let packet = self.packet(TcpControl::None, self.sender.unacknowledged().saturating_sub(1));
            out.push(packet);
        }
        while hears && self.state != State::SynReceived && self.receiver.owes_ack(now, allowance) {
            self.acknowledge(out);
        }
        self.account();
    }

    pub(super) fn run_timers(&mut self, now: Instant) {
        let since = |then: Instant| if now > then { now - then } else { Duration::ZERO };
        match self.state {
            State::Closed | State::Listen => return,
            State::SynSent | State::SynReceived if since(self.began) >= OPEN_TIMEOUT => {
                self.state = State::Closed;
                return;
            }
            State::SynSent | State::SynReceived => {}
            State::TimeWait => {
                if since(self.ended) >= TIME_WAIT {
                    self.state = State::Closed;
                }
                return;
            }
            _ => {
                let silent = since(self.heard) >= SILENCE_TIMEOUT;
                if silent
                    || self
                        .sender
                        .stalled_since()
                        .is_some_and(|then| since(then) >= SILENCE_TIMEOUT)
                {
                    return self.abort();
                }
                if since(self.heard.max(self.asked)) >= KEEP_ALIVE {
                    self.ask = true;
                }
            }
        }
        self.ask |= self.sender.run_timers(now);
        if self.ask {
            self.asked = now;
        }
    }

    /// When [`Self::egress`] has something to do next, if nothing happens until then.
    pub(crate) fn poll_at(&self) -> Option<Instant> {
        let own = match self.state {
            State::Closed | State::Listen => return None,
            State::SynSent | State::SynReceived => self.began + OPEN_TIMEOUT,
            State::TimeWait => self.ended + TIME_WAIT,
            _ => {
                let asks = self.heard.max(self.asked) + KEEP_ALIVE;
                let stalled = self.sender.stalled_since().unwrap_or(self.heard).min(self.heard);
                asks.min(stalled + SILENCE_TIMEOUT)
            }
        };
        [Some(own), self.sender.deadline(), self.receiver.ack_at()]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn acknowledge(&mut self, out: &mut Vec<BytesMut>) {
        let report = if self.sack {
            self.receiver.report()
        } else {
            [None; 3]
        };
        let position = self.sender.position(self.scale.unwrap_or(0));
        let mut ack = self.segment(TcpControl::None, position);
        let wire = |(start, end)| (self.other.wire(start), self.other.wire(end));
        ack.sack_ranges = report.map(|block| block.map(wire));
        out.push(emit(self.key.local.ip(), self.key.remote.ip(), &ack, [&[], &[]]));
    }

    pub(super) fn data_packet(&mut self, transmission: &Transmission) -> BytesMut {
        let Transmission {
            start,
            len,
            syn,
            fin,
            push,
        } = *transmission;
        let control = match () {
            () if syn => TcpControl::Syn,
            () if fin => TcpControl::Fin,
            () if push => TcpControl::Psh,
            () => TcpControl::None,
        };
        let segment = self.segment(control, start);
        let data = if len > 0 {
            self.sender.data(start, len)
        } else {
            [&[][..], &[]]
        };
        emit(self.key.local.ip(), self.key.remote.ip(), &segment, data)
    }

    /// A packet without data.
    pub(super) fn packet(&mut self, control: TcpControl, start: u64) -> BytesMut {
        let segment = self.segment(control, start);
        emit(self.key.local.ip(), self.key.remote.ip(), &segment, [&[], &[]])
    }

    /// A segment that begins at `start`, with our acknowledgement and window.
    pub(super) fn segment(&mut self, control: TcpControl, start: u64) -> TcpRepr<'static> {
        let mut segment = bare(&self.key, control, self.own.wire(start), None);
        let allowance = Allowance::of(&self.share);
        let syn = control == TcpControl::Syn;
        let first = self.state == State::SynSent;
        if syn {
            segment.max_seg_size = Some(max_payload(self.key.remote) as u16);
            segment.window_scale = (first || self.scale.is_some()).then_some(receiver::SHIFT);
            segment.sack_permitted = first || self.sack;
        }
        let scales = !syn && self.scale.is_some();
        segment.window_len = self
            .receiver
            .announce(allowance, if scales { receiver::SHIFT } else { 0 });
        if !first {
            segment.ack_number = Some(TcpSeqNumber(self.other.wire(self.receiver.next()) as i32));
            self.receiver.acknowledged();
        }
        segment
    }
}
